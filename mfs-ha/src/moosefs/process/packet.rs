//! Questions to a mfsmaster on its port for clients, as its own tools ask them: without a session.
//!
//! A packet is its type and the length of its content, 32 bits each and big endian, and the content.
//! What is asked, and what the answer means, is a matter of the modules that ask.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// `ANTOAN_NOP`: comes now and then on a connection.
const NOP: u32 = 0;

/// Packets that may come before the answer.
const NOPS_MAX: u32 = 4;

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

/// The same, before it is said who was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection broke, or there is none.
    Io(io::Error),
    /// No answer of mfsmaster.
    Nonsense(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Failure {
    /// Says who was asked.
    pub(super) fn of(self, addr: SocketAddr) -> ProbeError {
        match self {
            Self::Nonsense(what) => ProbeError::Nonsense { addr, what },
            Self::Io(error) if error.kind() == ErrorKind::ConnectionRefused => {
                ProbeError::Refused { addr }
            }
            Self::Io(source) => ProbeError::Failed { addr, source },
        }
    }
}

/// A question without content, and its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    /// Type of the question.
    pub(super) asks: u32,
    /// Type of the answer.
    pub(super) answer: u32,
    /// No answer has more content.
    pub(super) answer_bytes_max: usize,
}

/// A connection on which one question after the other is asked.
#[derive(Debug)]
pub(super) struct Connection(TcpStream);

impl Connection {
    /// Connects.
    pub(super) async fn open(addr: SocketAddr) -> Result<Self, Failure> {
        Ok(Self(TcpStream::connect(addr).await?))
    }

    /// Asks, and returns the content of the answer. Cancelled or failed, it leaves a connection that is of no use.
    pub(super) async fn ask(&mut self, question: Question) -> Result<Vec<u8>, Failure> {
        let mut request = [0; 8];
        let (kind, _length) = request.split_at_mut(4);
        kind.copy_from_slice(&question.asks.to_be_bytes());
        self.0.write_all(&request).await?;
        for _ in 0..=NOPS_MAX {
            let kind = self.0.read_u32().await?;
            let length = self.0.read_u32().await?;
            let length = usize::try_from(length)
                .ok()
                .filter(|length| *length <= question.answer_bytes_max)
                .ok_or_else(|| Failure::Nonsense(format!("a packet of {length} bytes")))?;
            let mut content = vec![0; length];
            self.0.read_exact(&mut content).await?;
            match kind {
                NOP => {}
                answer if answer == question.answer => return Ok(content),
                other => return Err(Failure::Nonsense(format!("a packet of type {other}"))),
            }
        }
        Err(Failure::Nonsense("only empty packets".to_owned()))
    }
}

/// Waits for an answer until the limit, and says who was asked when there is none.
pub(super) async fn within<T>(
    limit: Duration,
    addr: SocketAddr,
    asking: impl Future<Output = Result<T, Failure>>,
) -> Result<T, ProbeError> {
    match timeout(limit, asking).await {
        Ok(answer) => answer.map_err(|failure| failure.of(addr)),
        Err(_elapsed) => Err(ProbeError::NoAnswer { addr, limit }),
    }
}

#[cfg(test)]
pub(super) mod fake {
    //! A program that has mfsmaster's port.

    use tokio::net::TcpListener;

    use super::*;

    /// Takes one connection, expects these questions and answers each with the bytes beside it; closes it then.
    pub(crate) async fn answering(script: Vec<(Question, Vec<u8>)>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for (question, bytes) in script {
                assert_eq!(stream.read_u32().await.unwrap(), question.asks);
                assert_eq!(stream.read_u32().await.unwrap(), 0);
                stream.write_all(&bytes).await.unwrap();
            }
        });
        addr
    }

    /// A packet as mfsmaster sends it.
    pub(crate) fn packet(kind: u32, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap();
        [&kind.to_be_bytes()[..], &length.to_be_bytes(), content].concat()
    }
}
