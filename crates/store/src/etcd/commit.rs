//! Committing: small transactions at once, large ones by way of parts.

use std::borrow::Cow;
use std::time::Duration;

use futures::{StreamExt, stream};
use model::Revision;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::layout::{BYTES_MAX, Entry, Head, OPS_MAX, decode_part, encode_part, pieces};
use super::wire::{self, Compare, DeleteRequest, DeleteResponse, PutRequest, PutResponse, TxnRequest, TxnResponse};
use super::{Cluster, Failure, Known, Problem, Tries};
use crate::time::unix_secs;
use crate::{TransactError, check_base};

/// Requests under way at once while parts are written or applied.
const AT_ONCE: usize = 8;
/// Whoever has committed a large transaction applies it itself, unless it takes so long.
const PATIENCE: Duration = Duration::from_secs(1);

/// A transaction on its way.
struct Attempt<'a> {
    id: Uuid,
    base: Revision,
    /// What it makes: the next one, unless an empty store is filled.
    revision: Revision,
    entries: &'a [Entry],
    /// 0: it goes into one of etcd's transactions.
    parts: usize,
}

impl Cluster {
    pub async fn transact(&self, base: Revision, revision: Revision, entries: Vec<Entry>) -> Result<Revision, TransactError> {
        let known = if entries.is_empty() { self.read_head().await.map(|(known, _)| known) } else { self.known().await };
        let known = known.map_err(failed)?;
        check_base(base, known.head.revision())?;
        if entries.is_empty() {
            return Ok(base);
        }
        if let Some((key, size)) =
            entries.iter().find_map(|(key, value)| Some((key, value.as_ref()?.len())).filter(|(_, size)| *size > BYTES_MAX))
        {
            return Err(failed(Problem::Broken(format!("{key} has {size} bytes, and etcd takes {BYTES_MAX} at most"))));
        }
        let is_large = pieces(&entries, OPS_MAX).len() > 1;
        let mut attempt = Attempt { id: Uuid::new_v4(), base, revision, entries: &entries, parts: 0 };
        if is_large {
            attempt.parts = self.stage(&attempt).await.map_err(|failure| failed(failure.into()))?;
        }
        let outcome = self.commit(&attempt).await;
        match &outcome {
            // It is done, whatever becomes of this: whoever commits next does it otherwise.
            Ok(known) if is_large => match self.apply(*known, Some(&entries)).await {
                Ok(_) => {}
                Err(problem) => {
                    tracing::warn!("a transaction of {} parts is committed and will be applied later: {problem}", attempt.parts)
                }
            },
            Err(TransactError::Unknown(_)) | Ok(_) => {}
            Err(_) if is_large => self.discard(attempt.id).await,
            Err(_) => {}
        }
        outcome.map(|_| revision)
    }

    /// Writes the parts, which mean nothing yet. Their number.
    async fn stage(&self, attempt: &Attempt<'_>) -> Result<usize, Failure> {
        let parts = pieces(attempt.entries, usize::MAX);
        let puts = parts.iter().enumerate().map(|(number, entries)| {
            let put = PutRequest { key: self.layout.part(attempt.id, number), value: encode_part(attempt.base, entries) };
            self.ask::<_, PutResponse>(wire::PUT, put)
        });
        let mut staged = stream::iter(puts.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        while let Some(answer) = staged.next().await {
            answer?;
        }
        drop(staged);
        Ok(parts.len())
    }

    /// Nobody will ever name these parts.
    pub(super) async fn discard(&self, transaction: Uuid) {
        let (key, end) = self.layout.parts(transaction);
        let deleted: Result<DeleteResponse, Failure> = self.ask(wire::DELETE, DeleteRequest { key, end }).await;
        if let Err(failure) = deleted {
            tracing::debug!("parts of a transaction that was not committed stay until a server starts: {failure}");
        }
    }

    /// The moment of commit. Tried again until it is known what came of it.
    async fn commit(&self, attempt: &Attempt<'_>) -> Result<Known, TransactError> {
        let mut tries = Tries::new(self.client.members());
        let mut may_be_done = false;
        loop {
            let tried = self.try_once(attempt, may_be_done).await;
            match tried {
                Ok(Some(known)) => return Ok(known),
                Ok(None) => {}
                Err(Refusal::Differs(known)) => return Err(differs(attempt.base, known)),
                Err(Refusal::Problem(problem)) => {
                    let (is_passing, lost) = match &problem {
                        Problem::Etcd(failure) => (failure.is_passing(), failure.may_be_done()),
                        _ => (false, false),
                    };
                    may_be_done |= lost;
                    if !is_passing || !tries.again().await {
                        return Err(if may_be_done { TransactError::Unknown(problem.to_string()) } else { failed(problem) });
                    }
                }
            }
        }
    }

    /// None: somebody else has written the head, and the transaction may be tried again.
    async fn try_once(&self, attempt: &Attempt<'_>, may_be_done: bool) -> Result<Option<Known>, Refusal> {
        let known = self.settled(attempt.id).await?;
        if known.head.transaction == attempt.id {
            return Ok(Some(known));
        }
        if known.head.revision() != attempt.base {
            let is_done = may_be_done && self.transaction_of(attempt.revision, known).await? == Some(attempt.id);
            return if is_done { Ok(Some(known)) } else { Err(Refusal::Differs(known)) };
        }
        let head = Head::new(attempt.revision, attempt.id, unix_secs(), attempt.parts);
        let mut success = vec![wire::put(self.layout.head(), head.encode())];
        if attempt.parts == 0 {
            success.extend(attempt.entries.iter().map(|entry| self.layout.request(entry)));
        }
        let answer = self.client.call(wire::TXN, self.if_head(known, success)).await.map_err(Problem::from)?;
        let (is_done, now) = self.took(answer, known, head)?;
        Ok(is_done.then_some(now))
    }

    /// If the head is as it is known to be, `success`; otherwise tell the head.
    fn if_head(&self, known: Known, success: Vec<wire::RequestOp>) -> TxnRequest {
        let compare = vec![Compare::modified(self.layout.head(), known.modified)];
        TxnRequest { compare, success, failure: vec![wire::range(self.layout.head())] }
    }

    /// Takes in what a transaction that writes `head` came to: true if it was done; and the head as it is now.
    fn took(&self, answer: TxnResponse, known: Known, head: Head) -> Result<(bool, Known), Problem> {
        let is_done = answer.succeeded;
        let now = if is_done {
            Known { head, modified: answer.header.map_or(0, |header| header.revision) }
        } else {
            Known::of(answer.into_range().as_ref())?
        };
        if now.modified <= known.modified {
            return Err(Problem::WentBack { from: known.head.revision(), to: now.head.revision() });
        }
        self.note(now);
        Ok((is_done, now))
    }

    /// The head, once no committed transaction is left to be applied, unless it is this one.
    pub(super) async fn settled(&self, own: Uuid) -> Result<Known, Problem> {
        loop {
            let known = self.known().await?;
            if known.head.parts == 0 || known.head.transaction == own {
                return Ok(known);
            }
            let mut moved = self.moved.subscribe();
            let deadline = Instant::now() + PATIENCE;
            while self.known().await? == known && timeout_at(deadline, moved.changed()).await.is_ok() {}
            if self.known().await? == known {
                tracing::info!("applying a large transaction whose server has not done so");
                self.apply(known, None).await?;
            }
        }
    }

    /// Puts a committed transaction's operations where they belong and removes its parts. Done twice, or by two at once, it is
    /// the same; whoever is late changes nothing. The head afterwards.
    async fn apply(&self, known: Known, entries: Option<&[Entry]>) -> Result<Known, Problem> {
        let entries = match entries {
            Some(entries) => Cow::Borrowed(entries),
            None => Cow::Owned(self.staged(known, 0).await?),
        };
        let applied = pieces(&entries, OPS_MAX).into_iter().map(|piece| {
            let success = piece.iter().map(|entry| self.layout.request(entry)).collect();
            self.ask::<_, TxnResponse>(wire::TXN, self.if_head(known, success))
        });
        let mut applied = stream::iter(applied.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        while let Some(answer) = applied.next().await {
            if !answer?.succeeded {
                break;
            }
        }
        drop(applied);
        let head = known.head.applied();
        let success = vec![wire::put(self.layout.head(), head.encode()), wire::delete_range(self.layout.parts(known.head.transaction))];
        let answer = self.ask(wire::TXN, self.if_head(known, success)).await?;
        self.took(answer, known, head).map(|(_, now)| now)
    }

    /// The operations in a committed transaction's parts, as they are at a revision of etcd's; 0: now.
    pub(super) async fn staged(&self, known: Known, at: i64) -> Result<Vec<Entry>, Problem> {
        let parts = self.list(self.layout.parts(known.head.transaction), at).await?;
        // Whoever applies them now has removed them: the guard on the head finds out.
        if at == 0 && self.read_head().await?.0 != known {
            return Ok(Vec::new());
        }
        whole(known, parts.iter().map(|kv| kv.value.as_slice()))
    }
}

/// The operations of all parts, in order. Not one may be missing.
pub(super) fn whole<'a>(known: Known, parts: impl ExactSizeIterator<Item = &'a [u8]>) -> Result<Vec<Entry>, Problem> {
    if parts.len() != known.head.parts {
        let (revision, found, parts) = (known.head.revision, parts.len(), known.head.parts);
        return Err(Problem::Broken(format!("revision {revision} has {parts} parts, of which etcd holds {found}")));
    }
    let mut entries = Vec::new();
    for part in parts {
        entries.extend(decode_part(part)?.1);
    }
    Ok(entries)
}

/// Why an attempt is over.
enum Refusal {
    Differs(Known),
    Problem(Problem),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Refusal {
        Refusal::Problem(problem)
    }
}

fn failed(problem: Problem) -> TransactError {
    match problem {
        Problem::Etcd(Failure::Full) => TransactError::Full,
        problem => TransactError::Store(problem.while_("writing to etcd")),
    }
}

fn differs(base: Revision, known: Known) -> TransactError {
    check_base(base, known.head.revision()).expect_err("only called where they differ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use http_body_util::BodyExt;
    use tokio::sync::{mpsc, oneshot};

    use super::super::tests::by_hand::{etcd, said};
    use super::super::tests::cluster;
    use super::super::wire::{Header, RangeResponse};
    use super::*;

    const PARTS: usize = AT_ONCE + 2;

    /// That of all requests for parts, each of which waits until it is let go, so many are under way at once.
    async fn see(coming: &mut mpsc::Receiver<oneshot::Sender<()>>) {
        let mut under_way = Vec::new();
        for _ in 0..AT_ONCE {
            under_way.push(coming.recv().await.unwrap());
        }
        for _ in AT_ONCE..PARTS {
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            assert!(coming.try_recv().is_err(), "it waits");
            drop(under_way.pop());
            under_way.push(coming.recv().await.unwrap());
        }
    }

    #[tokio::test]
    async fn so_many_parts_are_written_and_applied_at_once() {
        let (came, mut coming) = mpsc::channel(PARTS);
        let transactions = Arc::new(AtomicI64::new(0));
        let member = etcd(move |question| {
            let (came, transactions) = (came.clone(), transactions.clone());
            async move {
                let path = question.uri().path().to_owned();
                let done = match path.as_str() {
                    wire::TXN => transactions.fetch_add(1, Ordering::SeqCst),
                    _ => 0,
                };
                let (end, ended) = oneshot::channel::<()>();
                // The first transaction is the commit, the last says that all is applied.
                if path == wire::PUT || (1..=PARTS as i64).contains(&done) {
                    came.send(end).await.unwrap();
                } else {
                    drop(end);
                }
                drop(question.into_body().collect().await);
                let _ = ended.await;
                let header = Some(Header { revision: done + 1 });
                match path.as_str() {
                    wire::RANGE => said(&RangeResponse { header, ..RangeResponse::default() }),
                    wire::PUT => said(&PutResponse {}),
                    wire::TXN => said(&TxnResponse { header, succeeded: true, responses: Vec::new() }),
                    other => panic!("{other}"),
                }
            }
        })
        .await;
        let entries = (0..PARTS).map(|n| (format!("/ladon/v1/alloc/{n}"), Some(vec![0; BYTES_MAX - 64]))).collect();
        let cluster = cluster(member);
        let committed = tokio::spawn(async move { cluster.transact(Revision(0), Revision(1), entries).await });
        for _ in ["written", "applied"] {
            see(&mut coming).await;
        }
        assert_eq!(committed.await.unwrap().unwrap(), Revision(1));
    }
}
