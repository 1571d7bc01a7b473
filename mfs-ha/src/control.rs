//! The control socket: one request line in, one JSON document out.
//!
//! It listens with mode 0600, so only the daemon's user can talk to it. A connection has a limit in
//! bytes and time, and there is a limit to connections.

use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::status::Status;

/// A request is a short word.
const REQUEST_BYTES_MAX: u64 = 4096;
/// So much of a request that is not understood is repeated in the answer.
const SHOWN_CHARS_MAX: usize = 60;
/// A status is a few kilobytes, a recording some megabytes.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Connections at a time.
const CONNECTIONS_MAX: usize = 8;
/// A client that takes longer is cut off.
const CONNECTION_LIMIT: Duration = Duration::from_secs(2);

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The status document.
    // With braces, or serde would let unknown keys pass.
    Status {},
    /// What the flight recorder holds.
    Recording {},
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The status document.
    Status(Box<Status>),
    /// JSON lines.
    Recording(String),
    /// The request could not be served.
    Error(String),
}

/// The listening socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Listens at `path`. A file that a dead daemon left there is replaced: the instance lock says that
    /// there is no living one.
    ///
    /// # Errors
    /// The directory is not writable, or something that is no socket is in the way.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        remove_stale(path)?;
        // No other thread creates files yet.
        let umask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        nix::sys::stat::umask(umask);
        let listener = listener.with_context(|| format!("listen at {}", path.display()))?;
        let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
        anyhow::ensure!(mode == 0o600, "{} has mode {mode:o}", path.display());
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Serves requests until cancelled. `answer` is called once for each.
    pub async fn serve<F, R>(&self, answer: F)
    where
        F: Fn(Request) -> R + Clone + Send + 'static,
        R: Future<Output = Answer> + Send,
    {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let answer = answer.clone();
                    tokio::spawn(async move {
                        let served =
                            tokio::time::timeout(CONNECTION_LIMIT, serve_one(stream, answer)).await;
                        if !matches!(served, Ok(Ok(()))) {
                            tracing::debug!(?served, "a control connection ended early");
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a control connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the control socket stays behind");
        }
    }
}

fn remove_stale(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)
            .with_context(|| format!("remove the stale socket {}", path.display())),
        Ok(_) => anyhow::bail!(
            "{} is in the way of the control socket and no socket: move it away",
            path.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("look at {}", path.display())),
    }
}

async fn serve_one<F, R>(stream: UnixStream, answer: F) -> anyhow::Result<()>
where
    F: Fn(Request) -> R,
    R: Future<Output = Answer>,
{
    let (reader, mut writer) = stream.into_split();
    let mut line = Vec::new();
    BufReader::new(reader.take(REQUEST_BYTES_MAX))
        .read_until(b'\n', &mut line)
        .await?;
    let answer = match serde_json::from_slice(&line) {
        Ok(request) => answer(request).await,
        Err(error) => Answer::Error(refusal(&line, &error)),
    };
    writer.write_all(&serde_json::to_vec(&answer)?).await?;
    writer.shutdown().await?;
    Ok(())
}

/// Says what is wrong with a request, and what would be right.
fn refusal(line: &[u8], error: &serde_json::Error) -> String {
    let text = String::from_utf8_lossy(line);
    let shown: String = text.trim_end().chars().take(SHOWN_CHARS_MAX).collect();
    let is_cut = !line.ends_with(b"\n") && line.len() as u64 == REQUEST_BYTES_MAX;
    let why = if is_cut {
        format!("it is longer than {REQUEST_BYTES_MAX} bytes")
    } else {
        error.to_string()
    };
    let known = [r#"{"command":"status"}"#, r#"{"command":"recording"}"#].join(" or ");
    format!("this daemon does not know the request {shown:?} ({why}): send {known}")
}

/// Asks the daemon behind `path`.
///
/// # Errors
/// Nobody listens, or the answer is not understood.
pub async fn ask(path: &Path, request: Request) -> anyhow::Result<Answer> {
    let exchange = async {
        let stream = UnixStream::connect(path)
            .await
            .with_context(|| format!("no daemon answers at {}", path.display()))?;
        let (reader, mut writer) = stream.into_split();
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        writer.write_all(&line).await?;
        let mut answer = Vec::new();
        reader
            .take(ANSWER_BYTES_MAX)
            .read_to_end(&mut answer)
            .await?;
        serde_json::from_slice(&answer).context("the daemon's answer is not understood")
    };
    tokio::time::timeout(CONNECTION_LIMIT, exchange)
        .await
        .with_context(|| format!("the daemon at {} does not answer", path.display()))?
}
