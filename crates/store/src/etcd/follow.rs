//! Following what everybody commits: one watch, from the revision that was loaded, for ever.
//!
//! Every change of the head is a transaction; what changed at the same revision of etcd's are its operations, unless it is in parts,
//! which are then read as they were at that revision. Later puts of what was in parts are no news, nor is a head with the revision
//! that is known. A watch that breaks goes on where it was, at another member; where etcd does not keep that any more, or more
//! waits than [`WAITING_BYTES_MAX`], or whoever asks could not take in what it got, everything is read again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use model::Revision;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::layout::{Entry, Place, op};
use super::wire::{DELETED, Event, WatchCreate};
use super::{Cluster, Known, Problem};
use crate::{DecodeError, Update, Updates};

/// Bytes of news that nobody has taken.
pub(super) const WAITING_BYTES_MAX: usize = 64 << 20;
/// Updates that are known to exist are waited for so long before everything is read instead.
const PATIENCE: Duration = Duration::from_secs(3);
/// The pause before a watch that has brought something is opened again; doubled each time it brings nothing.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest pause before a watch is opened again.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A watch, and what it has brought.
pub struct Following {
    /// The latest revision that it has seen.
    at: Revision,
    news: VecDeque<News>,
    bytes: usize,
    /// Something was missed.
    is_lost: bool,
    task: AbortHandle,
}

impl Following {
    /// A watch that has brought nothing yet.
    pub(super) fn after(at: Revision, task: AbortHandle) -> Following {
        Following { at, news: VecDeque::new(), bytes: 0, is_lost: false, task }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One commit, as it came.
struct News {
    known: Known,
    /// Empty where it is in parts.
    entries: Vec<Entry>,
    bytes: usize,
}

/// What there is for whoever asks.
enum Waiting {
    Ready(Vec<News>),
    NotYet,
    Lost,
}

impl Cluster {
    /// Begins to watch after what was loaded last, unless nothing was.
    pub(super) fn begin_to_follow(self: &Arc<Self>) {
        let mut shared = self.shared();
        let Some(loaded) = shared.loaded else { return };
        let task = tokio::spawn(watch(self.clone(), loaded.at + 1)).abort_handle();
        shared.following = Some(Following::after(loaded.revision, task));
    }

    pub(super) async fn updates(self: Arc<Self>, from: Revision, until: Revision) -> Result<Updates, Problem> {
        let mut moved = self.moved.subscribe();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.waiting(from, until) {
                Waiting::Ready(news) => match self.expanded(news).await {
                    Err(problem) if problem.is_compacted() => break,
                    Err(problem) => {
                        self.shared().following.iter_mut().for_each(|following| following.is_lost = true);
                        return Err(problem);
                    }
                    Ok(updates) => return Ok(Updates::Each(updates)),
                },
                Waiting::NotYet if timeout_at(deadline, moved.changed()).await.is_ok() => {}
                Waiting::NotYet | Waiting::Lost => break,
            }
        }
        let (snapshot, loaded) = self.snapshot().await?;
        let is_followed = {
            let mut shared = self.shared();
            shared.loaded = Some(loaded);
            shared.following.is_some()
        };
        if is_followed {
            self.begin_to_follow();
        }
        Ok(Updates::All(snapshot))
    }

    fn waiting(&self, from: Revision, until: Revision) -> Waiting {
        let mut shared = self.shared();
        let Some(following) = &mut shared.following else {
            return if from >= until { Waiting::Ready(Vec::new()) } else { Waiting::Lost };
        };
        while following.news.front().is_some_and(|news| news.known.head.revision() <= from) {
            let old = following.news.pop_front().expect("seen right above");
            following.bytes -= old.bytes;
        }
        // What was handed out before and was not taken in is not here any more.
        let is_next = following.news.front().map_or(following.at <= from, |news| news.known.head.revision == from.0 + 1);
        if following.is_lost || !is_next {
            return Waiting::Lost;
        }
        if following.at.max(from) < until {
            return Waiting::NotYet;
        }
        following.bytes = 0;
        Waiting::Ready(following.news.drain(..).collect())
    }

    async fn expanded(&self, news: Vec<News>) -> Result<Vec<Update>, Problem> {
        let mut updates = Vec::with_capacity(news.len());
        for News { known, entries, .. } in news {
            let entries = if known.head.parts > 0 { self.staged(known, known.modified).await? } else { entries };
            let ops = entries.iter().map(op).collect::<Result<_, DecodeError>>()?;
            updates.push(Update { revision: known.head.revision(), ops });
        }
        Ok(updates)
    }

    /// Takes in what changed at one revision of etcd's; false: something was missed.
    pub(super) fn take_in(&self, events: &[Event]) -> Result<bool, DecodeError> {
        let Some((known, entries)) = self.told(events)? else { return Ok(true) };
        // First, since whoever takes the news commits on it at once: a head that is known too early is a conflict, one that is known too late
        // a store that has gone back.
        self.note(known);
        let mut shared = self.shared();
        let Some(following) = &mut shared.following else { return Ok(false) };
        if known.head.revision() != following.at {
            if known.head.revision != following.at.0 + 1 {
                return Ok(false);
            }
            let bytes = entries.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum();
            following.at = known.head.revision();
            following.bytes += bytes;
            following.news.push_back(News { known, entries, bytes });
        }
        let is_too_much = following.bytes > WAITING_BYTES_MAX;
        drop(shared);
        self.moved.send_replace(());
        self.shared().wakes.iter().for_each(|wake| wake());
        Ok(!is_too_much)
    }

    /// The head that was written, and what was written with it. None where it was not.
    fn told(&self, events: &[Event]) -> Result<Option<(Known, Vec<Entry>)>, DecodeError> {
        let (mut known, mut entries) = (None, Vec::new());
        for event in events {
            let Some(kv) = &event.kv else { continue };
            let value = (event.kind != DELETED).then(|| kv.value.clone());
            match self.layout.place(&kv.key)? {
                Place::Head => known = Some(Known::of(value.is_some().then_some(kv))?),
                Place::Part(..) => {}
                Place::Entry(key) => entries.push((key, value)),
            }
        }
        Ok(known.map(|known| (known, entries)))
    }

    fn lose(&self) {
        let mut shared = self.shared();
        if let Some(following) = &mut shared.following {
            following.is_lost = true;
            following.news.clear();
            following.bytes = 0;
        }
        drop(shared);
        self.moved.send_replace(());
        self.shared().wakes.iter().for_each(|wake| wake());
    }
}

/// Watches from a revision of etcd's on. Ends when something was missed.
async fn watch(cluster: Arc<Cluster>, mut from: i64) {
    let mut pause = PAUSE;
    loop {
        let before = from;
        match watch_once(&cluster, &mut from).await {
            Ok(()) => break,
            Err(problem @ Problem::Etcd(_)) if !problem.is_compacted() => {
                tracing::warn!("the watch on etcd is opened again: {problem}; until then this server does not see what others write");
            }
            Err(problem) => {
                tracing::warn!("everything in etcd is read again: {problem}");
                break;
            }
        }
        if from > before {
            pause = PAUSE;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    cluster.lose();
}

/// Ok: something was missed.
async fn watch_once(cluster: &Cluster, from: &mut i64) -> Result<(), Problem> {
    let (key, end) = cluster.layout.everything();
    let create = WatchCreate { key, end, start: *from, before: false, fragment: true };
    let mut watch = cluster.client.watch(create).await?;
    loop {
        let answer = watch.next().await?;
        for at_once in answer.events.chunk_by(|a, b| modified(a) == modified(b)) {
            if !cluster.take_in(at_once)? {
                return Ok(());
            }
            *from = modified(&at_once[0]) + 1;
        }
    }
}

/// The revision of etcd's at which it happened.
pub(super) fn modified(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;
    use tonic::Status;

    use super::super::tests::by_hand::{etcd, refused, said};
    use super::super::tests::cluster;
    use super::super::wire::{KeyValue, WatchResponse};
    use super::*;

    /// What etcd says of what is nobody's business here.
    fn something() -> WatchResponse {
        let kv = KeyValue { key: b"/ladon/v1/alloc/keys".to_vec(), mod_revision: 7, value: Vec::new() };
        WatchResponse { events: vec![Event { kv: Some(kv), ..Event::default() }], ..WatchResponse::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_breaks_is_opened_again_ever_more_seldom() {
        const FAILURES: usize = 9;
        let ((opened, mut times), opens) = (mpsc::channel(64), Arc::new(AtomicUsize::new(0)));
        let member = etcd(move |_| {
            opened.try_send(Instant::now()).unwrap();
            let is_good = opens.fetch_add(1, Ordering::SeqCst) + 1 == FAILURES;
            std::future::ready(if is_good { said(&something()) } else { refused(Status::unavailable("on purpose")) })
        })
        .await;
        let watching = tokio::spawn(watch(cluster(member), 1));
        let mut seen = Vec::new();
        while seen.len() < FAILURES + 2 {
            seen.push(times.recv().await.unwrap());
        }
        watching.abort();
        // Timers end at whole milliseconds.
        let pauses: Vec<u128> = seen.windows(2).map(|two| ((two[1] - two[0]).as_micros() + 500) / 1000).collect();
        let (failing, after_news) = pauses.split_at(FAILURES - 1);
        assert_eq!((failing[0], *failing.last().unwrap()), (PAUSE.as_millis(), PAUSE_MAX.as_millis()), "{pauses:?}");
        assert!(failing.windows(2).all(|two| two[1] == (two[0] * 2).min(PAUSE_MAX.as_millis())), "{pauses:?}");
        assert_eq!(after_news, [PAUSE.as_millis(), PAUSE.as_millis() * 2], "it brought something");
    }
}
