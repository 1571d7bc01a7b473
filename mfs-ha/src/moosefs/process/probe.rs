//! Is there a mfsmaster that works? Asked on its port for clients.
//!
//! The kernel accepts connections for a program that hangs, so it is asked something: its version
//! (`ANTOAN_GET_VERSION`), which needs no registration and leaves no trace in its log.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// `ANTOAN_NOP`: comes now and then on a connection.
const NOP: u32 = 0;
/// `ANTOAN_GET_VERSION`, and the answer `ANTOAN_VERSION`.
const GET_VERSION: u32 = 10;
const VERSION: u32 = 11;

/// The answer is 13 bytes long with `3.0.117-1`.
const ANSWER_BYTES_MAX: usize = 256;

/// Packets that may come before the answer.
const NOPS_MAX: u32 = 4;

/// What a mfsmaster says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// 3
    pub major: u16,
    /// 0
    pub middle: u8,
    /// Twice the last number of the version, for 3.0.117: 234.
    pub minor: u8,
    /// In words: `3.0.117-1`.
    pub text: String,
}

/// Why there was no proper answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody listens.
    #[error("nobody listens on {addr}")]
    Refused {
        /// Who was asked.
        addr: SocketAddr,
    },
    /// The kernel or the network keep silent, or the program hangs.
    #[error("no answer from {addr} within {} ms", limit.as_millis())]
    NoAnswer {
        /// Who was asked.
        addr: SocketAddr,
        /// How long it was waited.
        limit: Duration,
    },
    /// Something else than mfsmaster.
    #[error("{addr} answers as no mfsmaster does ({what}): another program has its port")]
    Nonsense {
        /// Who was asked.
        addr: SocketAddr,
        /// What is wrong with the answer.
        what: String,
    },
    /// The connection broke, or there is no way.
    #[error("cannot ask {addr}")]
    Failed {
        /// Who was asked.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Asks a mfsmaster for its version, on its port for clients.
///
/// # Errors
/// There is no answer within the limit, or none that makes sense.
pub async fn probe(addr: SocketAddr, limit: Duration) -> Result<Version, ProbeError> {
    match timeout(limit, ask(addr)).await {
        Ok(Ok(version)) => Ok(version),
        Ok(Err(Failure::Nonsense(what))) => Err(ProbeError::Nonsense { addr, what }),
        Ok(Err(Failure::Io(error))) if error.kind() == ErrorKind::ConnectionRefused => {
            Err(ProbeError::Refused { addr })
        }
        Ok(Err(Failure::Io(source))) => Err(ProbeError::Failed { addr, source }),
        Err(_elapsed) => Err(ProbeError::NoAnswer { addr, limit }),
    }
}

/// Whether somebody accepts a connection there. It is closed at once, in good order.
pub async fn accepts(addr: SocketAddr, limit: Duration) -> bool {
    matches!(timeout(limit, TcpStream::connect(addr)).await, Ok(Ok(_)))
}

enum Failure {
    Io(io::Error),
    Nonsense(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

async fn ask(addr: SocketAddr) -> Result<Version, Failure> {
    let mut stream = TcpStream::connect(addr).await?;
    let mut request = [0; 8];
    let (kind, _length) = request.split_at_mut(4);
    kind.copy_from_slice(&GET_VERSION.to_be_bytes());
    stream.write_all(&request).await?;
    for _ in 0..=NOPS_MAX {
        let kind = stream.read_u32().await?;
        let length = stream.read_u32().await?;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= ANSWER_BYTES_MAX)
            .ok_or_else(|| Failure::Nonsense(format!("a packet of {length} bytes")))?;
        let mut content = vec![0; length];
        stream.read_exact(&mut content).await?;
        match kind {
            NOP => {}
            VERSION => {
                return Version::parse(&content)
                    .ok_or_else(|| Failure::Nonsense(format!("a version of {length} bytes")));
            }
            other => return Err(Failure::Nonsense(format!("a packet of type {other}"))),
        }
    }
    Err(Failure::Nonsense("only empty packets".to_owned()))
}

impl Version {
    fn parse(content: &[u8]) -> Option<Self> {
        let (numbers, text) = content.split_first_chunk::<4>()?;
        let [high, low, middle, minor] = *numbers;
        Some(Self {
            major: u16::from_be_bytes([high, low]),
            middle,
            minor,
            text: text.escape_ascii().to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Answers one connection with bytes and closes it.
    async fn answering(bytes: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 8];
            stream.read_exact(&mut request).await.unwrap();
            assert_eq!(request, [0, 0, 0, 10, 0, 0, 0, 0]);
            stream.write_all(bytes).await.unwrap();
        });
        addr
    }

    #[tokio::test]
    async fn the_answer_of_3_0_117_is_understood() {
        let answer = b"\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x0b\0\0\0\x0d\0\x03\0\xea3.0.117-1";
        let version = probe(answering(answer).await, LIMIT).await.unwrap();
        assert_eq!(
            version,
            Version {
                major: 3,
                middle: 0,
                minor: 234,
                text: "3.0.117-1".to_owned()
            }
        );
    }

    #[tokio::test]
    async fn nonsense_is_told_from_a_broken_connection() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            b"\0\0\0\x0c\0\0\0\0",
            b"\0\0\0\x0b\0\0\0\x03abc",
            b"\0\0\0\x0b\xff\xff\xff\xff",
            &[0; 8 * 5],
        ] {
            let error = probe(answering(bytes).await, LIMIT).await.unwrap_err();
            assert!(matches!(error, ProbeError::Nonsense { .. }), "{error:?}");
        }
        for bytes in [&b""[..], b"\0\0\0\x0b\0\0\0\x0d\0\x03"] {
            let error = probe(answering(bytes).await, LIMIT).await.unwrap_err();
            assert!(matches!(error, ProbeError::Failed { .. }), "{error:?}");
        }
    }

    #[tokio::test]
    async fn silence_and_refusal_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let error = probe(addr, Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, ProbeError::NoAnswer { .. }), "{error:?}");
        assert!(accepts(addr, LIMIT).await);
        drop(listener);
        let error = probe(addr, LIMIT).await.unwrap_err();
        assert!(matches!(error, ProbeError::Refused { .. }), "{error:?}");
        assert!(!accepts(addr, LIMIT).await);
    }
}
