//! Questions and answers over a unix socket: one JSON document per line, each way.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use stream::{accepted, describe};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Conversations at a time on one socket; more wait to be accepted.
const CONVERSATIONS_MAX: usize = 128;

/// Listens at `path`, for root alone, and answers every line of at most `line_max` bytes with what `answer` says of it, one line
/// per reply. Runs until the task is dropped.
pub async fn serve<R, F, A>(path: &Path, line_max: usize, answer: A) -> std::io::Result<()>
where
    R: Serialize + Send,
    F: Future<Output = Vec<R>> + Send,
    A: Fn(Vec<u8>) -> F + Clone + Send + Sync + 'static,
{
    let listener = private(path)?;
    let places = Arc::new(Semaphore::new(CONVERSATIONS_MAX));
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let failed =
            |error| tracing::warn!("a conversation is not accepted: {error}; traffic goes on; see the limit on open files; tried again");
        let (stream, _) = accepted(|| listener.accept(), failed).await;
        let answer = answer.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, line_max, answer).await {
                tracing::debug!(error = describe(&error), "a conversation broke off");
            }
            drop(place);
        });
    }
}

async fn converse<R, F, A>(stream: UnixStream, line_max: usize, answer: A) -> std::io::Result<()>
where
    R: Serialize,
    F: Future<Output = Vec<R>>,
    A: Fn(Vec<u8>) -> F,
{
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        if (&mut lines).take(line_max as u64).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        for reply in answer(line).await {
            let mut said = serde_json::to_vec(&reply).expect("replies are plain data");
            said.push(b'\n');
            write.write_all(&said).await?;
        }
    }
}

/// A listener that root alone can talk to. A socket that a killed node left behind is replaced: a node that lives holds the lock of
/// its state folder ([`crate::record::Lock`]).
fn private(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        crate::record::make_private_folder(folder)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_conversation_beyond_the_most_begins_when_another_one_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let served = path.clone();
        tokio::spawn(async move { serve(&served, 100, |line: Vec<u8>| std::future::ready(vec![line.len()])).await });
        while !path.exists() {
            tokio::task::yield_now().await;
        }
        let mut conversations = Vec::new();
        for _ in 0..=CONVERSATIONS_MAX {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(b"abc\n").await.unwrap();
            conversations.push(stream);
        }
        let mut next = conversations.pop().unwrap();
        let mut answer = [0; 2];
        for stream in &mut conversations {
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"4\n");
        }
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(next.try_read(&mut answer).is_err(), "it waits");
        drop(conversations.pop());
        next.read_exact(&mut answer).await.unwrap();
    }
}
