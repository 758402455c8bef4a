//! Reading etcd's history: where a revision was made, and what came after it.

use std::collections::BTreeMap;
use std::time::Duration;

use model::Revision;
use uuid::Uuid;

use super::follow::modified;
use super::layout::{Head, Place, object};
use super::wire::{self, CompactRequest, CompactResponse, DELETED, Event, RangeRequest, RangeResponse, WatchCreate};
use super::{Cluster, Failure, Known, Problem};
use crate::time::unix_secs;
use crate::{Change, ChangesError, Commit, DecodeError, Key, check_length};

/// How often what is too old is forgotten.
const FORGET_PERIOD: Duration = Duration::from_secs(300);

impl Cluster {
    pub async fn changes(&self, from: Revision, most: usize) -> Result<Vec<Commit>, ChangesError> {
        let failed = |problem: Problem| problem.while_("reading etcd's history");
        self.read_head().await.map_err(failed)?;
        // What is committed and not applied yet would be half in the history.
        let known = self.settled(Uuid::nil()).await.map_err(failed)?;
        let latest = known.head.revision();
        if from > latest {
            return Err(ChangesError::Future(from));
        }
        if from == latest {
            return Ok(Vec::new());
        }
        check_length(from, latest, most)?;
        let (at, found) = self.find(from, known).await.map_err(failed)?;
        if found.head.revision() != from {
            return Err(ChangesError::Compacted { oldest: found.head.revision() });
        }
        match self.told_between(at, known, most).await {
            Err(problem) if problem.is_compacted() => Err(ChangesError::Compacted { oldest: latest }),
            told => told.map_err(failed)?.ok_or(ChangesError::TooMany { most }),
        }
    }

    /// Whose transaction made `revision`; None: etcd does not keep it.
    pub(super) async fn transaction_of(&self, revision: Revision, known: Known) -> Result<Option<Uuid>, Problem> {
        let (_, found) = self.find(revision, known).await?;
        Ok((found.head.revision() == revision).then_some(found.head.transaction))
    }

    /// The first of etcd's revisions that it keeps and at which the head is at `revision` or later; and that head. `known` is later.
    async fn find(&self, revision: Revision, known: Known) -> Result<(i64, Known), Problem> {
        // Each of ours is at least one of etcd's.
        let behind = known.head.revision.saturating_sub(revision.0) as i64;
        self.first(known, known.modified - behind, |head| head.revision() >= revision).await
    }

    /// Has etcd forget what is older than `keep`, Ladon's history and everybody else's.
    pub async fn forget(&self, keep: Duration) -> Result<(), Problem> {
        let (known, _) = self.read_head().await?;
        let oldest = unix_secs().saturating_sub(keep.as_secs());
        let (revision, found) = self.first(known, known.modified, |head| head.at >= oldest).await?;
        // Nothing was written for so long: the latest is the oldest that anybody can ask for. Otherwise the state before counts, too.
        let revision = if keep.is_zero() || found.head.at < oldest { known.modified } else { revision - 1 };
        if revision < 1 {
            return Ok(());
        }
        match self.ask::<_, CompactResponse>(wire::COMPACT, CompactRequest { revision }).await {
            Ok(_) | Err(Failure::Compacted) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Has etcd forget what is too old, if that is wished for. Several servers that do so do no harm.
    pub async fn forget_for_ever(self: std::sync::Arc<Self>) {
        let Some(keep) = self.client.options().keep else { return };
        let mut period = tokio::time::interval(FORGET_PERIOD);
        loop {
            period.tick().await;
            if let Err(problem) = self.forget(keep).await {
                tracing::warn!(
                    "etcd's history is not compacted: {problem}; it grows until that succeeds, which is tried every {FORGET_PERIOD:?}"
                );
            }
        }
    }

    /// The first of etcd's revisions that it keeps and at which `is_so`, which stays so; and the head there. It is looked for from
    /// `probe` on. Where it never is: the latest.
    async fn first(&self, known: Known, probe: i64, is_so: impl Fn(&Head) -> bool) -> Result<(i64, Known), Problem> {
        let (mut low, mut high, mut found) = (0, known.modified, known);
        let (mut probe, mut step) = (probe.clamp(1, high.max(1)), 1);
        while high - low > 1 {
            match self.head_at(probe).await? {
                Some(past) if is_so(&past.head) => {
                    (high, found) = (probe, past);
                    // What is looked for is near: with widening steps first, then by halves.
                    probe = if low == 0 { (probe - step).max(1) } else { low + (high - low) / 2 };
                    step *= 2;
                }
                _ => {
                    low = probe;
                    probe = low + (high - low) / 2;
                }
            }
        }
        Ok((high, found))
    }

    /// The head as it was; None: etcd does not keep that.
    async fn head_at(&self, at: i64) -> Result<Option<Known>, Problem> {
        let question = RangeRequest { key: self.layout.head(), revision: at, ..RangeRequest::default() };
        match self.ask::<_, RangeResponse>(wire::RANGE, question).await {
            Err(failure) => match Problem::from(failure) {
                problem if problem.is_compacted() => Ok(None),
                problem => Err(problem),
            },
            Ok(answer) => Ok(Some(Known::of(answer.kvs.first())?)),
        }
    }

    /// The commits after etcd's revision `at`, up to the head that is known. None: more than `most` objects changed in them.
    async fn told_between(&self, at: i64, known: Known, most: usize) -> Result<Option<Vec<Commit>>, Problem> {
        let first = self.head_at(at).await?.unwrap_or_default().head.revision();
        let (key, end) = self.layout.everything();
        let create = WatchCreate { key, end, start: at + 1, before: true, fragment: true };
        let mut watch = self.client.watch(create).await?;
        let mut story = Story { at: first, commits: Vec::new(), changes: 0, unfinished: None };
        loop {
            let answer = watch.next().await?;
            for at_once in answer.events.chunk_by(|a, b| modified(a) == modified(b)) {
                self.tell(&mut story, at_once)?;
                if story.length() > most {
                    return Ok(None);
                }
                if modified(&at_once[0]) >= known.modified {
                    return Ok(Some(story.commits));
                }
            }
        }
    }

    /// What happened at one of etcd's revisions.
    fn tell(&self, story: &mut Story, events: &[Event]) -> Result<(), Problem> {
        let (mut head, mut changes) = (None, BTreeMap::new());
        for event in events {
            let Some(kv) = &event.kv else { continue };
            match self.layout.place(&kv.key)? {
                Place::Head => head = Some(Known::of((event.kind != DELETED).then_some(kv))?.head),
                Place::Part(..) => {}
                Place::Entry(key) => {
                    if let Some(change) = change(&key, event)? {
                        changes.insert(key, change);
                    }
                }
            }
        }
        match head {
            Some(head) if head.revision() > story.at && head.parts > 0 => {
                story.at = head.revision();
                story.unfinished = Some(BTreeMap::new());
            }
            Some(head) if head.revision() > story.at => {
                story.at = head.revision();
                story.push(changes);
            }
            // All its parts are applied.
            Some(_) => {
                if let Some(changes) = story.unfinished.take() {
                    story.push(changes);
                }
            }
            // Applied by two servers, the first time counts.
            None => {
                if let Some(unfinished) = &mut story.unfinished {
                    for (key, change) in changes {
                        unfinished.entry(key).or_insert(change);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The commits of a stretch of history.
struct Story {
    at: Revision,
    commits: Vec<Commit>,
    /// How many there are in the commits.
    changes: usize,
    /// A transaction in parts, as far as it is applied.
    unfinished: Option<BTreeMap<String, Change>>,
}

impl Story {
    fn push(&mut self, changes: BTreeMap<String, Change>) {
        self.changes += changes.len();
        self.commits.push(Commit { revision: self.at, changes: changes.into_values().collect() });
    }

    fn length(&self) -> usize {
        self.changes + self.unfinished.as_ref().map_or(0, BTreeMap::len)
    }
}

/// None where it is about a record.
fn change(key: &str, event: &Event) -> Result<Option<Change>, DecodeError> {
    let Some(Key::Object(named)) = Key::parse(key) else { return Ok(None) };
    let after = event.kv.as_ref().filter(|_| event.kind != DELETED);
    let [before, after] = [event.before.as_ref(), after].map(|kv| kv.map(|kv| object(key, &kv.value)).transpose());
    Ok(Some(Change { key: named, before: before?, after: after? }))
}
