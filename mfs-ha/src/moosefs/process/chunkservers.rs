//! The chunkservers of a mfsmaster, asked on its port for clients.
//!
//! It knows them from its metadata: one that took over lists all that its predecessor had, disconnected until they
//! come. A client that comes before them waits long for what they have.
//!
//! A chunkserver is connected once its registration has *begun*; the list has no field for the end. Then it reports its
//! chunks, packet by packet, and a chunk that was not reported does not exist for clients: with 10 000 chunks that takes
//! 50 to 100 ms more. So the counts are compared: the copies that the connected chunkservers say they have, in the list,
//! with those that the master has, in the matrix of its chunks. The state that comes with the matrix is of no use here:
//! "connections in progress" goes out 3 s after the last chunk was reported.
//!
//! One that was just started itself registers without chunks and space, before it has read its disks. It is not waited
//! for: that can take minutes.

mod patience;

use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use bytemuck::{Pod, Zeroable};
use tokio::time::{Instant, sleep, timeout};

use self::patience::{Look, Patience};

pub use self::patience::Outcome;
use super::packet::{Connection, Failure, ProbeError, Question, within};

/// mfsmaster has no room for more connected ones.
const CHUNKSERVERS_MAX: usize = 10_000;

/// `CLTOMA_CSERV_LIST`, and the answer `MATOCL_CSERV_LIST`.
const LIST: Question = Question {
    asks: 500,
    answer: 501,
    answer_bytes_max: CHUNKSERVERS_MAX * size_of::<Record>(),
};

/// A chunkserver in the list, in the format of MooseFS 3.0.38 to 3.0.117.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct Record {
    flags: u8,
    _version: [u8; 3],
    address: [u8; 4],
    port: [u8; 2],
    _id: [u8; 2],
    _used: [u8; 8],
    space: [u8; 8],
    chunks: [u8; 4],
    _used_to_be_removed: [u8; 8],
    space_to_be_removed: [u8; 8],
    chunks_to_be_removed: [u8; 4],
    _errors_load_grace_labels: [u8; 16],
    _removal: u8,
}

/// In [`Record::flags`].
const DISCONNECTED: u8 = 1;
/// In [`Record::flags`].
const MAINTAINED: u8 = 2;

/// `CLTOMA_CHUNKS_MATRIX`, and the answer `MATOCL_CHUNKS_MATRIX`.
const MATRIX: Question = Question {
    asks: 516,
    answer: 517,
    answer_bytes_max: size_of::<Matrix>(),
};

/// How many chunks there are of a goal with so many valid copies; each from 0 to 10 and more.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct Matrix {
    _state: u8,
    by_goal_and_copies: [[[u8; 4]; 11]; 11],
    _without_copies_to_be_removed: [[[u8; 4]; 11]; 11],
}

/// Between an answer and the next question: a wait ends at most so much late.
const PAUSE: Duration = Duration::from_millis(15);

/// A chunkserver, as its mfsmaster sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunkserver {
    /// Where clients find it.
    pub address: SocketAddrV4,
    /// It has at least begun to register.
    pub is_connected: bool,
    /// An administrator has it in maintenance, or it was stopped in good order within the last half hour: its absence
    /// is meant.
    pub is_maintained: bool,
    /// Copies of chunks that it says it has; 0 when it is not connected.
    pub copies: u64,
    /// Bytes of its disks; 0 when it is not connected or has not read them yet.
    pub space: u64,
}

/// What a wait for chunkservers came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// Chunkservers that were waited for: all but those in maintenance.
    pub known: usize,
    /// How many of them are connected.
    pub connected: usize,
    /// Copies of chunks that the connected ones have.
    pub copies: u64,
    /// How many of those the master knows; nearly all, unless the time ran out.
    pub reported: u64,
    /// For how long it was waited.
    pub waited: Duration,
    /// Why no longer.
    pub outcome: Outcome,
}

/// Asks a mfsmaster for all chunkservers that it knows, on its port for clients.
///
/// # Errors
/// There is no answer within the limit, or none that makes sense.
pub async fn list(addr: SocketAddr, limit: Duration) -> Result<Vec<Chunkserver>, ProbeError> {
    within(limit, addr, async {
        ask_list(&mut Connection::open(addr).await?).await
    })
    .await
}

/// Waits until the chunkservers of a mfsmaster that listens have registered with it, at most until the limit. Some that
/// do not come while others do are not waited for so long. Cancel safe.
///
/// # Errors
/// At once when the answer makes no sense or the connection breaks; when there was not one answer within the limit.
pub async fn wait_registered(addr: SocketAddr, limit: Duration) -> Result<Registered, ProbeError> {
    let started = Instant::now();
    let mut last = None;
    let looking = async {
        let mut connection = Connection::open(addr).await?;
        let mut patience = Patience::default();
        loop {
            let look = look(&mut connection).await?;
            last = Some(look);
            if let Some(outcome) = patience.after(started.elapsed(), look) {
                return Ok(outcome);
            }
            sleep(PAUSE).await;
        }
    };
    let outcome = match timeout(limit, looking).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err::<_, Failure>(failure)) => return Err(failure.of(addr)),
        Err(_elapsed) => Outcome::OutOfTime,
    };
    let look = last.ok_or(ProbeError::NoAnswer { addr, limit })?;
    Ok(Registered {
        known: look.known,
        connected: look.connected,
        copies: look.copies,
        reported: look.reported,
        waited: started.elapsed(),
        outcome,
    })
}

async fn look(connection: &mut Connection) -> Result<Look, Failure> {
    // In this order: a chunkserver that comes in between is missing among the reported ones, never the other way.
    let reported = ask_matrix(connection).await?.copies();
    let chunkservers = ask_list(connection).await?;
    let awaited = || chunkservers.iter().filter(|one| !one.is_maintained);
    Ok(Look {
        known: awaited().count(),
        connected: awaited().filter(|one| one.is_connected).count(),
        copies: chunkservers.iter().map(|one| one.copies).sum(),
        reported,
    })
}

async fn ask_list(connection: &mut Connection) -> Result<Vec<Chunkserver>, Failure> {
    let content = connection.ask(LIST).await?;
    let bytes = content.len();
    let records: &[Record] = bytemuck::try_cast_slice(&content).map_err(|_mismatch| {
        Failure::Nonsense(format!("a list of chunkservers of {bytes} bytes"))
    })?;
    Ok(records.iter().map(Chunkserver::from).collect())
}

async fn ask_matrix(connection: &mut Connection) -> Result<Matrix, Failure> {
    let content = connection.ask(MATRIX).await?;
    let bytes = content.len();
    bytemuck::try_pod_read_unaligned(&content)
        .map_err(|_mismatch| Failure::Nonsense(format!("a matrix of chunks of {bytes} bytes")))
}

impl Matrix {
    /// All that the master can send clients to.
    fn copies(&self) -> u64 {
        self.by_goal_and_copies
            .iter()
            .flat_map(|by_copies| (0_u64..).zip(by_copies))
            .map(|(copies, chunks)| copies * u64::from(u32::from_be_bytes(*chunks)))
            .sum()
    }
}

impl From<&Record> for Chunkserver {
    fn from(record: &Record) -> Self {
        let copies = [record.chunks, record.chunks_to_be_removed].map(u32::from_be_bytes);
        let space = [record.space, record.space_to_be_removed].map(u64::from_be_bytes);
        Self {
            address: SocketAddrV4::new(record.address.into(), u16::from_be_bytes(record.port)),
            is_connected: record.flags & DISCONNECTED == 0,
            is_maintained: record.flags & MAINTAINED != 0,
            copies: copies.map(u64::from).iter().sum(),
            space: space.iter().fold(0, |all, one| all.saturating_add(*one)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::fake::{answering, packet};
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// An answer to the first question of a wait: no chunk at all.
    fn no_chunks() -> (Question, Vec<u8>) {
        (MATRIX, packet(MATRIX.answer, &[0; 969]))
    }

    #[test]
    fn the_records_are_as_long_as_those_of_3_0_117() {
        assert_eq!(size_of::<Record>(), 69);
        assert_eq!(size_of::<Matrix>(), 969);
    }

    #[tokio::test]
    async fn a_list_that_is_none_is_told() {
        let too_long = u32::try_from(LIST.answer_bytes_max + 1).unwrap();
        for answer in [
            packet(LIST.answer, &[0; 68]),
            packet(LIST.answer, &[0; 70]),
            packet(MATRIX.answer, &[0; 69]),
            [LIST.answer.to_be_bytes(), too_long.to_be_bytes()].concat(),
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        ] {
            let addr = answering(vec![(LIST, answer.clone())]).await;
            let error = list(addr, LIMIT).await.unwrap_err();
            assert!(matches!(error, ProbeError::Nonsense { .. }), "{error:?}");

            let addr = answering(vec![no_chunks(), (LIST, answer)]).await;
            let error = wait_registered(addr, LIMIT).await.unwrap_err();
            assert!(matches!(error, ProbeError::Nonsense { .. }), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_matrix_that_is_none_is_told() {
        for bytes in [0, 968, 970] {
            let answer = packet(MATRIX.answer, &vec![0; bytes]);
            let addr = answering(vec![(MATRIX, answer)]).await;
            let error = wait_registered(addr, LIMIT).await.unwrap_err();
            assert!(matches!(error, ProbeError::Nonsense { .. }), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_breaks_ends_the_wait() {
        let error = wait_registered(answering(vec![no_chunks()]).await, LIMIT).await;
        let error = error.unwrap_err();
        assert!(matches!(error, ProbeError::Failed { .. }), "{error:?}");
    }
}
