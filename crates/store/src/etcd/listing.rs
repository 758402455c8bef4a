//! Reading everything: one picture at one revision of etcd's, in pages.

use std::collections::BTreeMap;

use model::Revision;
use uuid::Uuid;

use super::commit::whole;
use super::layout::{Place, decode_part, object};
use super::wire::{self, KeyValue, RangeRequest, RangeResponse};
use super::{Cluster, Known, Loaded, Problem};
use crate::{DecodeError, Key, Snapshot};

/// Keys in one answer: of parts, which are the largest values, it has a few hundred MiB at most.
const PAGE: i64 = 200;
/// Listings that are begun again because etcd was compacted in the middle.
const TRIES_MAX: usize = 3;

/// What was found under the prefix.
#[derive(Default)]
struct Found {
    entries: BTreeMap<String, Vec<u8>>,
    parts: BTreeMap<Uuid, BTreeMap<usize, Vec<u8>>>,
}

impl Cluster {
    pub async fn load(self: std::sync::Arc<Self>) -> Result<Snapshot, Problem> {
        let (snapshot, loaded) = self.snapshot().await?;
        self.shared().loaded = Some(loaded);
        if !self.shared().wakes.is_empty() {
            self.begin_to_follow();
        }
        Ok(snapshot)
    }

    /// Everything, and where the watch is to begin.
    pub(super) async fn snapshot(&self) -> Result<(Snapshot, Loaded), Problem> {
        let mut tries = 0..TRIES_MAX;
        loop {
            match self.snapshot_once().await {
                Err(problem) if problem.is_compacted() && tries.next().is_some() => {}
                other => return other,
            }
        }
    }

    async fn snapshot_once(&self) -> Result<(Snapshot, Loaded), Problem> {
        let (known, at) = self.read_head().await?;
        let found = self.found(at).await?;
        self.clean(known, &found.parts).await?;
        let revision = known.head.revision();
        Ok((decoded(found.overlaid(known)?, revision)?, Loaded { revision, at }))
    }

    async fn found(&self, at: i64) -> Result<Found, Problem> {
        let mut found = Found::default();
        for KeyValue { key, value, .. } in self.list(self.layout.everything(), at).await? {
            match self.layout.place(&key)? {
                Place::Head => {}
                Place::Part(transaction, number) => drop(found.parts.entry(transaction).or_default().insert(number, value)),
                Place::Entry(key) => drop(found.entries.insert(key, value)),
            }
        }
        Ok(found)
    }

    /// All keys from `first` to `end` at a revision of etcd's; 0: now.
    pub(super) async fn list(&self, (first, end): (Vec<u8>, Vec<u8>), at: i64) -> Result<Vec<KeyValue>, Problem> {
        let (mut kvs, mut question) = (Vec::<KeyValue>::new(), RangeRequest { key: first, end, limit: PAGE, revision: at });
        loop {
            let answer: RangeResponse = self.ask(wire::RANGE, question.clone()).await?;
            kvs.extend(answer.kvs);
            let Some(last) = kvs.last().filter(|_| answer.more) else { return Ok(kvs) };
            question.key = [&last.key[..], &[0]].concat();
            if question.revision == 0 {
                question.revision = answer.header.map_or(0, |header| header.revision);
            }
        }
    }

    /// Parts whose transaction was not committed, and cannot be any more because its base is past.
    async fn clean(&self, known: Known, parts: &BTreeMap<Uuid, BTreeMap<usize, Vec<u8>>>) -> Result<(), Problem> {
        for (transaction, parts) in parts {
            let Some(first) = parts.values().next().filter(|_| *transaction != known.head.transaction) else { continue };
            if decode_part(first)?.0 < known.head.revision() {
                self.discard(*transaction).await;
            }
        }
        Ok(())
    }
}

impl Found {
    /// The entries as they are when what is committed is applied.
    fn overlaid(mut self, known: Known) -> Result<BTreeMap<String, Vec<u8>>, Problem> {
        if known.head.parts > 0 {
            let parts = self.parts.remove(&known.head.transaction).unwrap_or_default();
            for (key, value) in whole(known, parts.values().map(Vec::as_slice))? {
                match value {
                    Some(value) => drop(self.entries.insert(key, value)),
                    None => drop(self.entries.remove(&key)),
                }
            }
        }
        Ok(self.entries)
    }
}

fn decoded(entries: BTreeMap<String, Vec<u8>>, revision: Revision) -> Result<Snapshot, DecodeError> {
    let mut snapshot = Snapshot { revision, ..Snapshot::default() };
    for (key, value) in entries {
        match Key::parse(&key).ok_or_else(|| DecodeError::Key(key.clone()))? {
            Key::Object(_) => snapshot.objects.push(object(&key, &value)?),
            Key::Record(name) => snapshot.records.push((name, value)),
        }
    }
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tonic::Status;

    use super::super::tests::by_hand::{asked, etcd, refused, said};
    use super::super::tests::cluster;
    use super::*;

    #[tokio::test]
    async fn a_listing_that_etcd_compacts_under_is_begun_again_a_few_times() {
        let listings = Arc::new(AtomicUsize::new(0));
        let counted = listings.clone();
        let member = etcd(move |question| {
            let counted = counted.clone();
            async move {
                if asked::<RangeRequest>(question).await.limit == 0 {
                    return said(&RangeResponse::default());
                }
                counted.fetch_add(1, Ordering::SeqCst);
                refused(Status::out_of_range("etcdserver: mvcc: required revision has been compacted"))
            }
        })
        .await;
        let problem = cluster(member).snapshot().await.unwrap_err();
        assert!(problem.is_compacted(), "{problem}");
        assert_eq!(listings.load(Ordering::SeqCst), 1 + TRIES_MAX);
    }
}
