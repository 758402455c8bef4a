//! The task that reads, asks and flushes.
//!
//! What a change affects comes first, then zones that could not be read and are due again, one at a time; the ports of a complete
//! check wait until nothing else does. A zone that fails (its connections are too many to be read in time, say) keeps nobody
//! else's waiting. After every zone the task rests for a multiple of the time that reading took, so that ovs-vswitchd spends most
//! of its own on packets.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use apps::Attachment;
use model::PortId;
use stream::describe;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Affected, Case, Mailbox, Memory, Unixctl, UnixctlError, listing};
use crate::agent::Ask;
use crate::pauses::Pauses;
use crate::switch::{Switch, SwitchError};

/// Rest after a zone that a change affects, as a multiple of the time that it took.
const REST: u32 = 2;
/// Rest after a zone of a complete check.
const REST_UNHURRIED: u32 = 20;
/// Longest rest between two zones of a complete check.
const REST_MAX: Duration = Duration::from_secs(5);
/// Cached flows are checked by Open vSwitch at least so often, where it cannot tell when they were (`max-revalidator`).
const REVALIDATION: Duration = Duration::from_secs(1);
/// Pause after a failure; doubled each time, up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest pause after a failure that took no time. One that took some is followed by a multiple of that.
const RETRY_CEILING: Duration = Duration::from_secs(30);
/// Connections that are flushed in one exchange; the others follow in the next.
const FLUSHES_MAX: usize = 512;

/// One zone: whose connections, of which memory.
type Place = (PortId, Memory);

/// What can go wrong with one zone; it is tried again.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("reading connections")]
    Read(#[from] UnixctlError),
    #[error("ending connections")]
    Flush(#[from] SwitchError),
    #[error(transparent)]
    Over(#[from] Over),
}

/// The agent is gone, and with it the node.
#[derive(Debug, thiserror::Error)]
#[error("the node is shutting down")]
struct Over;

/// Zones that could not be judged.
#[derive(Debug)]
struct Failed {
    places: BTreeSet<Place>,
    /// The first that failed since the last report, and why.
    first: Option<(Place, Failure)>,
    /// Those of `places` whose turn it is.
    due: VecDeque<Place>,
    retry_at: Option<Instant>,
    retries: Pauses,
    /// What they cost since the last report.
    spent: Duration,
}

/// The task's state.
pub struct Connections {
    mailbox: Mailbox,
    unixctl: Unixctl,
    switch: Switch,
    asks: mpsc::Sender<Ask>,
    /// What is affected and not judged yet.
    urgent: Affected,
    /// Ports of a complete check that are not judged yet.
    unhurried: VecDeque<PortId>,
    failed: Failed,
}

impl Connections {
    pub fn new(mailbox: Mailbox, unixctl: Unixctl, switch: Switch, asks: mpsc::Sender<Ask>) -> Connections {
        let (urgent, unhurried, failed) = (Affected::default(), VecDeque::new(), Failed::default());
        Connections { mailbox, unixctl, switch, asks, urgent, unhurried, failed }
    }

    /// Runs until the agent is gone.
    pub async fn run(mut self) {
        loop {
            // Looked at before waiting: a rest that news ended has heard the mailbox's bell already.
            self.urgent.merge(self.mailbox.take());
            self.failed.look_at_the_clock();
            if self.urgent.is_empty() && self.unhurried.is_empty() && self.failed.due.is_empty() {
                tokio::select! {
                    () = self.mailbox.filled() => {}
                    () = at(self.failed.retry_at) => {}
                }
                continue;
            }
            if let Err(Over) = self.round().await {
                return;
            }
            self.failed.report();
        }
    }

    /// Judges all that is urgent now; or else one zone that failed before; or else one port of a complete check.
    async fn round(&mut self) -> Result<(), Over> {
        let attachments = self.attachments().await?;
        if std::mem::take(&mut self.urgent.everything) {
            self.check_all(&attachments);
        }
        if !self.urgent.is_empty() {
            self.revalidated().await;
            let affected = std::mem::take(&mut self.urgent);
            for place in work(&affected, &attachments) {
                self.judge(&attachments, place, REST).await?;
            }
        } else if let Some(place) = self.failed.due.pop_front() {
            self.judge(&attachments, place, REST).await?;
        } else if let Some(port) = self.unhurried.pop_front() {
            for memory in [Memory::Rules, Memory::Members] {
                self.judge(&attachments, (port, memory), REST_UNHURRIED).await?;
            }
        }
        Ok(())
    }

    /// All ports, those that wait already in the places that they have: somebody who asks again and again keeps none from its turn.
    fn check_all(&mut self, attachments: &[Attachment]) {
        let waiting: BTreeSet<PortId> = self.unhurried.iter().copied().collect();
        let ports = attachments.iter().map(|attachment| attachment.port);
        self.unhurried.extend(ports.filter(|port| !waiting.contains(port)));
    }

    /// Judges one zone, if its port is attached; a failure is noted.
    async fn judge(&mut self, attachments: &[Attachment], place: Place, rest: u32) -> Result<(), Over> {
        let (port, memory) = place;
        let Some(attachment) = attachments.iter().find(|attachment| attachment.port == port).copied() else {
            self.failed.places.remove(&place);
            return Ok(());
        };
        let began = Instant::now();
        match self.end(attachment, memory, rest).await {
            Ok(()) => drop(self.failed.places.remove(&place)),
            Err(Failure::Over(over)) => return Err(over),
            Err(failure) => {
                let took = began.elapsed();
                self.failed.note(place, failure, took);
                self.rest((took * rest).min(REST_MAX)).await;
            }
        }
        Ok(())
    }

    /// Returns when no packet passes by a cached flow that is older than the flows in force: it could begin a connection anew
    /// that was just ended.
    async fn revalidated(&self) {
        if let Err(error) = self.unixctl.call("revalidator/wait", &[]).await {
            tracing::debug!(error = describe(&error), "waiting for cached flows by the clock");
            tokio::time::sleep(REVALIDATION).await;
        }
    }

    /// Reads one zone, ends what has to end, and rests.
    async fn end(&self, attachment: Attachment, memory: Memory, rest: u32) -> Result<(), Failure> {
        let began = Instant::now();
        let zone = memory.zone(&attachment);
        let text = self.unixctl.call("dpctl/dump-conntrack", &[self.unixctl.datapath(), &format!("zone={zone}")]).await?;
        let took = began.elapsed();
        // Reading takes as long as there are connections: not on a thread that others wait for.
        let read = tokio::task::spawn_blocking(move || listing(&text)).await.map_err(|_| Over)?;
        if read.unknown > 0 {
            tracing::warn!(
                zone,
                lines = read.unknown,
                "connections that this version cannot read are not ended by changes; they end when they are idle"
            );
        }
        let connections = read.entries.len();
        let case = Case { attachment, memory, entries: read.entries };
        let flushes = if connections == 0 { Vec::new() } else { self.ask(|answer| Ask::Judge(case, answer)).await? };
        if !flushes.is_empty() {
            tracing::info!(port = %attachment.port, ?memory, connections, ended = flushes.len(), "ended connections that are not allowed any more");
        }
        for some in flushes.chunks(FLUSHES_MAX) {
            self.switch.ct_flush_all(some.to_vec()).await?;
        }
        self.rest((took * rest).min(REST_MAX)).await;
        Ok(())
    }

    /// Rests, until something is affected that nobody knew of.
    async fn rest(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.mailbox.filled(), if self.urgent.is_empty() => {}
        }
    }

    async fn attachments(&self) -> Result<Arc<[Attachment]>, Over> {
        self.ask(Ask::Attachments).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Over> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.map_err(|_| Over)?;
        answer.await.map_err(|_| Over)
    }
}

impl Default for Failed {
    fn default() -> Failed {
        let retries = Pauses::new(RETRY_FIRST, RETRY_CEILING);
        Failed { places: BTreeSet::new(), first: None, due: VecDeque::new(), retry_at: None, retries, spent: Duration::ZERO }
    }
}

impl Failed {
    fn note(&mut self, place: Place, failure: Failure, took: Duration) {
        self.spent += took;
        self.places.insert(place);
        self.first.get_or_insert((place, failure));
    }

    /// Says what failed since the last time and sets the time to try it again, unless that is set or the last try is not over.
    fn report(&mut self) {
        if self.places.is_empty() {
            *self = Failed::default();
        }
        if self.places.is_empty() || !self.due.is_empty() || self.retry_at.is_some() {
            return;
        }
        if let Some(((port, memory), error)) = self.first.take() {
            let (zones, error) = (self.places.len(), describe(&error));
            tracing::warn!(zones, %port, ?memory, error, "connections that should end may go on until they are idle; tried again");
        }
        // What takes long and comes to nothing must not be all that ovs-vswitchd does.
        let pause = self.retries.after_failure().max(std::mem::take(&mut self.spent) * REST);
        self.retry_at = Some(Instant::now() + pause);
    }

    fn look_at_the_clock(&mut self) {
        if self.due.is_empty() && self.retry_at.is_some_and(|at| at <= Instant::now()) {
            self.retry_at = None;
            self.due = self.places.iter().copied().collect();
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The zones to read, those of rules first: who is shut out must not wait for who merely has to look elsewhere.
fn work(affected: &Affected, attachments: &[Attachment]) -> Vec<Place> {
    let of = |ports: &BTreeSet<PortId>, memory| {
        let attached = attachments.iter().map(|attachment| attachment.port);
        attached.filter(|port| ports.contains(port)).map(|port| (port, memory)).collect::<Vec<_>>()
    };
    [of(&affected.rules, Memory::Rules), of(&affected.members, Memory::Members)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::mailbox;
    use crate::switch::Options;
    use std::sync::atomic::{AtomicU16, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    const PATIENCE: Duration = Duration::from_secs(120);
    /// A connection in every zone, so that every zone is judged.
    const ENTRY: &str = "tcp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=40000,dport=80),reply=(src=10.0.0.2,dst=10.0.0.1,sport=80,dport=40000),\
                         zone=1,protoinfo=(state=ESTABLISHED)";

    fn attachment(n: u16) -> Attachment {
        let port = PortId(uuid::Uuid::from_u128(n.into()));
        Attachment { port, ofport: pipeline::OfPort(n.into()), rules_zone: n, nat_zone: n + 10, hairpin_zone: n + 20 }
    }

    /// Takes `pace` for every answer, so that the task rests after it, and refuses to read a zone while that is in `refused`.
    async fn vswitchd(listener: UnixListener, pace: Duration, refused: Arc<AtomicU16>) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = vec![0; 4096];
            let length = stream.read(&mut question).await.unwrap();
            let question = String::from_utf8_lossy(&question[..length]).into_owned();
            let is_dump = question.contains("dump-conntrack");
            let is_refused = is_dump && question.contains(&format!("\"zone={}\"", refused.load(Ordering::Relaxed)));
            tokio::time::sleep(if is_dump { pace } else { Duration::ZERO }).await;
            let answer = match is_refused {
                true => serde_json::json!({"id": 0, "result": null, "error": "too many"}),
                false => serde_json::json!({"id": 0, "result": if is_dump { ENTRY } else { "" }, "error": null}),
            };
            stream.write_all(answer.to_string().as_bytes()).await.unwrap();
        }
    }

    /// The task with a vswitchd of its own, what it is told and what it asks.
    struct Bench {
        folder: tempfile::TempDir,
        outbox: crate::connections::Outbox,
        asked: mpsc::Receiver<Ask>,
        refused: Arc<AtomicU16>,
        tasks: tokio::task::JoinSet<()>,
    }

    fn bench(pace: Duration) -> Bench {
        // Nobody answers it.
        bench_with(pace, Switch::start(Options::new("/nonexistent/br.mgmt")).0)
    }

    fn bench_with(pace: Duration, switch: Switch) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("vswitchd.ctl");
        let refused = Arc::new(AtomicU16::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(vswitchd(UnixListener::bind(&socket).unwrap(), pace, refused.clone()));
        let (outbox, inbox) = mailbox();
        let (asks, asked) = mpsc::channel(1);
        tasks.spawn(Connections::new(inbox, Unixctl::new(Some(socket), folder.path(), true), switch, asks).run());
        Bench { folder, outbox, asked, refused, tasks }
    }

    impl Bench {
        async fn end(mut self) {
            self.tasks.shutdown().await;
            self.folder.close().unwrap();
        }
    }

    /// Answers what the task asks, and returns the zone that was judged next.
    async fn judged(asked: &mut mpsc::Receiver<Ask>) -> Place {
        let all: Arc<[Attachment]> = [attachment(1), attachment(2)].into();
        loop {
            match tokio::time::timeout(PATIENCE, asked.recv()).await.expect("the task asks in time").expect("the task lives") {
                Ask::Attachments(answer) => drop(answer.send(all.clone())),
                Ask::Judge(case, answer) => {
                    drop(answer.send(Vec::new()));
                    return (case.attachment.port, case.memory);
                }
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    fn port(n: u16) -> PortId {
        attachment(n).port
    }

    fn rules(of: impl IntoIterator<Item = u16>) -> Affected {
        Affected { rules: of.into_iter().map(port).collect(), ..Affected::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_ever_more_seldom_and_leaves_ovs_vswitchd_time() {
        let (mut failed, mut pauses) = (Failed::default(), Vec::new());
        let mut fail = |took: Duration| {
            failed.look_at_the_clock();
            failed.due.clear();
            failed.note((port(1), Memory::Rules), Failure::Over(Over), took);
            failed.report();
            failed.retry_at.unwrap() - Instant::now()
        };
        while pauses.last() != Some(&RETRY_CEILING) {
            pauses.push(fail(Duration::ZERO));
            tokio::time::advance(*pauses.last().unwrap()).await;
        }
        assert_eq!(pauses[0], RETRY_FIRST);
        assert!(pauses.windows(2).all(|two| two[1] == (two[0] * 2).min(RETRY_CEILING)), "{pauses:?}");
        assert_eq!(fail(RETRY_CEILING), RETRY_CEILING * REST);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_between_two_zones_is_not_endless() {
        const PACE: Duration = Duration::from_secs(10);
        let mut bench = bench(PACE);
        // It waits for something to do.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        bench.outbox.put(Affected::everything());
        let mut seen = Vec::new();
        for _ in 0..4 {
            judged(&mut bench.asked).await;
            seen.push(Instant::now());
        }
        let between: Vec<u64> = seen.windows(2).map(|two| (two[1] - two[0]).as_secs()).collect();
        assert!(PACE * REST > REST_MAX);
        assert_eq!(between, [(PACE + REST_MAX).as_secs(); 3]);
        bench.end().await;
    }

    #[tokio::test]
    async fn many_connections_are_flushed_in_several_exchanges() {
        let (switch, by_hand) = Switch::by_hand();
        let mut bench = bench_with(Duration::ZERO, switch);
        let (flushed, mut exchanges) = mpsc::channel(16);
        bench.tasks.spawn(by_hand.serve(move |messages| {
            let flushes = messages.iter().filter(|message| matches!(message, openflow::Message::CtFlush(_))).count();
            flushed.try_send(flushes).unwrap();
            Ok(())
        }));
        bench.outbox.put(rules([1]));
        loop {
            match bench.asked.recv().await.unwrap() {
                Ask::Attachments(answer) => drop(answer.send([attachment(1)].into())),
                Ask::Judge(_, answer) => break drop(answer.send(vec![openflow::CtFlush::default(); 2 * FLUSHES_MAX + 1])),
                other => panic!("unexpected: {other:?}"),
            }
        }
        for expected in [FLUSHES_MAX, FLUSHES_MAX, 1] {
            assert_eq!(tokio::time::timeout(PATIENCE, exchanges.recv()).await.expect("an exchange"), Some(expected));
        }
        bench.end().await;
    }

    #[tokio::test]
    async fn what_is_put_in_during_a_rest_is_judged_after_it() {
        let mut bench = bench(Duration::from_millis(300));
        for n in 1..=2 {
            bench.outbox.put(rules([n]));
            // Once it is judged the task rests, for twice the time that reading took.
            assert_eq!(judged(&mut bench.asked).await, (port(n), Memory::Rules));
        }
        bench.end().await;
    }

    #[tokio::test]
    async fn a_zone_that_cannot_be_read_keeps_no_other_from_being_judged() {
        let mut bench = bench(Duration::ZERO);
        bench.refused.store(1, Ordering::Relaxed);
        for _ in 0..3 {
            bench.outbox.put(rules([1, 2]));
            assert_eq!(judged(&mut bench.asked).await, (port(2), Memory::Rules));
        }
        bench.outbox.put(Affected::everything());
        for expected in [(1, Memory::Members), (2, Memory::Rules), (2, Memory::Members)] {
            assert_eq!(judged(&mut bench.asked).await, (port(expected.0), expected.1));
        }
        // It is not forgotten.
        bench.refused.store(0, Ordering::Relaxed);
        assert_eq!(judged(&mut bench.asked).await, (port(1), Memory::Rules));
        bench.end().await;
    }

    #[tokio::test]
    async fn a_complete_check_goes_on_where_it_is_however_often_it_is_asked_for() {
        let mut bench = bench(Duration::from_millis(1));
        for n in [1, 2, 1, 2] {
            bench.outbox.put(Affected::everything());
            assert_eq!(judged(&mut bench.asked).await, (port(n), Memory::Rules));
            bench.outbox.put(Affected::everything());
            assert_eq!(judged(&mut bench.asked).await, (port(n), Memory::Members));
        }
        bench.end().await;
    }
}
