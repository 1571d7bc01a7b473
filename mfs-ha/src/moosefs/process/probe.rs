//! Is there a mfsmaster that works? Asked on its port for clients.
//!
//! The kernel accepts connections for a program that hangs, so it is asked something: its version
//! (`ANTOAN_GET_VERSION`), which needs no registration and leaves no trace in its log.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

pub use super::packet::ProbeError;
use super::packet::{Connection, Failure, Question, within};

/// `ANTOAN_GET_VERSION`, and the answer `ANTOAN_VERSION`: 13 bytes long with `3.0.117-1`.
const VERSION: Question = Question {
    asks: 10,
    answer: 11,
    answer_bytes_max: 256,
};

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

/// Asks a mfsmaster for its version, on its port for clients.
///
/// # Errors
/// There is no answer within the limit, or none that makes sense.
pub async fn probe(addr: SocketAddr, limit: Duration) -> Result<Version, ProbeError> {
    within(limit, addr, async {
        let content = Connection::open(addr).await?.ask(VERSION).await?;
        let bytes = content.len();
        Version::parse(&content)
            .ok_or_else(|| Failure::Nonsense(format!("a version of {bytes} bytes")))
    })
    .await
}

/// Whether somebody accepts a connection there. It is closed at once, in good order.
pub async fn accepts(addr: SocketAddr, limit: Duration) -> bool {
    matches!(timeout(limit, TcpStream::connect(addr)).await, Ok(Ok(_)))
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

    use super::super::packet::fake;
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn answering(bytes: &[u8]) -> SocketAddr {
        fake::answering(vec![(VERSION, bytes.to_vec())]).await
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
