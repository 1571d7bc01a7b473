//! The TCP sockets of a process (IPv4), from the kernel's tables and without a connection to it.
//!
//! That a connection is accepted would not tell by whom.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Lines};
use std::net::SocketAddrV4;

use super::pidfd::is_gone;

/// `TCP_LISTEN` as it stands in the table.
const LISTEN: &str = "0A";
/// `TCP_ESTABLISHED`.
const ESTABLISHED: &str = "01";

/// Returns those of `ports` on which the process does not listen.
///
/// # Errors
/// The process is another user's and `CAP_SYS_PTRACE` is missing.
pub(super) fn missing(pid: i32, ports: &[u16]) -> io::Result<Vec<u16>> {
    let listening: Vec<Row> = match Table::open(pid)? {
        // They stand first: thousands of connections behind them need not be read.
        Some(table) => table.take_while(|row| row.is_listening).collect(),
        None => Vec::new(),
    };
    let listens = |port: &u16, belongs: &dyn Fn(u64) -> bool| {
        let mut rows = listening.iter();
        rows.any(|row| row.port == *port && belongs(row.inode))
    };
    let mut missing = ports.to_vec();
    missing.retain(|port| !listens(port, &|_| true));
    if missing.is_empty() {
        let own = sockets(pid)?;
        missing = ports.to_vec();
        missing.retain(|port| !listens(port, &|inode| own.contains(&inode)));
    }
    Ok(missing)
}

/// Returns whether the kernel holds bytes that the process has not read yet, or an end of a
/// connection that it has not noticed.
///
/// # Errors
/// As [`missing`].
pub(super) fn has_unread(pid: i32) -> io::Result<bool> {
    let Some(mut table) = Table::open(pid)? else {
        return Ok(false);
    };
    let own = sockets(pid)?;
    Ok(table.any(|row| !row.is_listening && row.unread > 0 && own.contains(&row.inode)))
}

/// Returns the own port of the process's established connection to `remote`.
///
/// # Errors
/// As [`missing`].
pub(super) fn connection(pid: i32, remote: SocketAddrV4) -> io::Result<Option<u16>> {
    let Some(mut table) = Table::open(pid)? else {
        return Ok(None);
    };
    let own = sockets(pid)?;
    let found = table.find(|row| row.peer == Some(remote) && own.contains(&row.inode));
    Ok(found.map(|row| row.port))
}

/// A line of `/proc/PID/net/tcp`.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    port: u16,
    is_listening: bool,
    /// The other end of an established connection.
    peer: Option<SocketAddrV4>,
    /// Bytes.
    unread: u32,
    inode: u64,
}

impl Row {
    fn parse(line: &str) -> Option<Self> {
        // `N: LOCAL:PORT REMOTE:PORT STATE UNSENT:UNREAD TIMER:WHEN RETRANSMITS UID PROBES INODE …`
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (_, port) = fields.next()?.rsplit_once(':')?;
        let remote = address(fields.next()?)?;
        let state = fields.next()?;
        let (_, unread) = fields.next()?.split_once(':')?;
        Some(Self {
            port: u16::from_str_radix(port, 16).ok()?,
            is_listening: state == LISTEN,
            peer: Some(remote).filter(|_| state == ESTABLISHED),
            unread: u32::from_str_radix(unread, 16).ok()?,
            inode: fields.nth(4)?.parse().ok()?,
        })
    }
}

/// Reads `ADDRESS:PORT`. The address is a number whose bytes stand in memory as on the wire.
fn address(text: &str) -> Option<SocketAddrV4> {
    let (address, port) = text.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(SocketAddrV4::new(address.into(), port))
}

/// The sockets of the network that a process is in, those that listen first.
struct Table<R>(Lines<R>);

impl Table<BufReader<File>> {
    /// `None` when there is no such process.
    fn open(pid: i32) -> io::Result<Option<Self>> {
        match File::open(format!("/proc/{pid}/net/tcp")) {
            Ok(file) => Ok(Some(Self(BufReader::new(file).lines()))),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl<R: io::BufRead> Iterator for Table<R> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        loop {
            // Where it cannot be read any more, the process has ended.
            let line = self.0.next()?.ok()?;
            // The heading is no row.
            if let Some(row) = Row::parse(&line) {
                return Some(row);
            }
        }
    }
}

/// The inodes of the sockets that a process has open.
fn sockets(pid: i32) -> io::Result<HashSet<u64>> {
    let mut found = HashSet::new();
    let files = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(files) => files,
        Err(error) if is_gone(&error) => return Ok(found),
        Err(error) => return Err(error),
    };
    for file in files {
        // What was closed meanwhile is no socket any more.
        let Ok(target) = file.and_then(|file| fs::read_link(file.path())) else {
            continue;
        };
        let inode: Option<u64> = target
            .to_str()
            .and_then(|target| target.strip_prefix("socket:["))
            .and_then(|rest| rest.strip_suffix(']'))
            .and_then(|inode| inode.parse().ok());
        found.extend(inode);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::process::{Command, Stdio};

    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:24CB 00000000:0000 0A 00000000:00000003 00:00000000 00000000   420        0 1642094 1 000000001acfb27f 100 0 0 10 0
   1: 0100007F:8EC6 0100007F:24CC 01 00000000:00000a01 03:0000176C 00000000     0        0 7 3 000000007fb0a16f
   rubbish
   2: 0100007F:8EC7 0100007F:24CC 08 00000000:00000000 03:0000176C 00000000     0        0 8 3 000000007fb0a16f
";

    #[test]
    fn the_table_is_read() {
        let row = |port, is_listening, peer: Option<&str>, unread, inode| Row {
            port,
            is_listening,
            peer: peer.map(|peer| peer.parse().unwrap()),
            unread,
            inode,
        };
        let rows: Vec<_> = Table(TABLE.as_bytes().lines()).collect();
        assert_eq!(
            rows,
            [
                row(9419, true, None, 3, 1_642_094),
                row(36550, false, Some("127.0.0.1:9420"), 2561, 7),
                row(36551, false, None, 0, 8)
            ]
        );
    }

    #[test]
    fn only_the_own_sockets_listen_for_a_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(missing(own, &[port]).unwrap().is_empty());
        let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(other.id()).unwrap();
        assert_eq!(missing(pid, &[port]).unwrap(), [port]);
        drop(other.stdin.take());
        other.wait().unwrap();
        drop(listener);
        assert_eq!(missing(own, &[port]).unwrap(), [port]);
        assert_eq!(missing(i32::MAX, &[port]).unwrap(), [port]);
    }

    #[test]
    fn connections_are_found_by_their_other_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(remote) = listener.local_addr().unwrap() else {
            panic!("IPv4 was asked for");
        };
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(connection(own, remote).unwrap(), None);
        let stream = TcpStream::connect(remote).unwrap();
        let port = stream.local_addr().unwrap().port();
        assert_eq!(connection(own, remote).unwrap(), Some(port));
        drop(stream);
        drop(listener);
        assert_eq!(connection(own, remote).unwrap(), None);
    }

    #[test]
    fn what_was_not_read_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut writing = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (reading, _) = listener.accept().unwrap();
        // The socket belongs to another process too: the tests of this one have sockets as well.
        let mut holder = Command::new("sleep")
            .arg("1000")
            .stdin(OwnedFd::from(reading.try_clone().unwrap()))
            .spawn()
            .unwrap();
        let pid = i32::try_from(holder.id()).unwrap();
        assert!(!has_unread(pid).unwrap());
        writing.write_all(b"x").unwrap();
        assert!(has_unread(pid).unwrap());
        (&reading).read_exact(&mut [0]).unwrap();
        assert!(!has_unread(pid).unwrap());
        drop(writing);
        assert!(has_unread(pid).unwrap(), "the end of the connection");
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert!(!has_unread(pid).unwrap());
    }
}
