//! The task that reads, asks and flushes.
//!
//! What a change affects comes first; the ports of a complete check wait until nothing else does. After every zone it rests
//! for a multiple of the time that reading took, so that ovs-vswitchd spends most of its own on packets.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use apps::Attachment;
use model::PortId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Affected, Case, Mailbox, Memory, Unixctl, UnixctlError, listing};
use crate::agent::{Ask, describe};
use crate::switch::{Switch, SwitchError};

/// Rest after a zone that a change affects, as a multiple of the time that it took.
const REST: u32 = 2;
/// Rest after a zone of a complete check.
const REST_UNHURRIED: u32 = 20;
/// Longest rest.
const REST_MAX: Duration = Duration::from_secs(5);
/// Cached flows are checked by Open vSwitch at least so often, where it cannot tell when they were (`max-revalidator`).
const REVALIDATION: Duration = Duration::from_secs(1);
/// Pause after a failure; doubled each time,
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// up to this.
const RETRY_CEILING: Duration = Duration::from_secs(30);
/// Connections that are flushed in one exchange.
const FLUSHES_MAX: usize = 512;

/// What can go wrong with one zone; it is tried again.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("reading connections")]
    Read(#[from] UnixctlError),
    #[error("ending connections")]
    Flush(#[from] SwitchError),
    /// The agent is gone, and with it the node.
    #[error("the node is shutting down")]
    Over,
}

/// The task's state.
pub struct Connections {
    mailbox: Mailbox,
    unixctl: Unixctl,
    /// `netdev@ovs-netdev` or `system@ovs-system`: there may be both on a machine.
    datapath: &'static str,
    switch: Switch,
    asks: mpsc::Sender<Ask>,
    /// What is affected and not judged yet.
    urgent: Affected,
    /// Ports of a complete check that are not judged yet.
    unhurried: VecDeque<PortId>,
    retry: Duration,
}

impl Connections {
    pub fn new(mailbox: Mailbox, unixctl: Unixctl, is_userspace: bool, switch: Switch, asks: mpsc::Sender<Ask>) -> Connections {
        let datapath = if is_userspace { "netdev@ovs-netdev" } else { "system@ovs-system" };
        let (urgent, unhurried) = (Affected::default(), VecDeque::new());
        Connections { mailbox, unixctl, datapath, switch, asks, urgent, unhurried, retry: RETRY_FIRST }
    }

    /// Runs until the agent is gone.
    pub async fn run(mut self) {
        loop {
            // Looked at before waiting: a rest that news ended has heard the mailbox's bell already.
            self.urgent.merge(self.mailbox.take());
            if self.urgent.is_empty() && self.unhurried.is_empty() {
                self.mailbox.filled().await;
                continue;
            }
            match self.round().await {
                Ok(()) => self.retry = RETRY_FIRST,
                Err(Failure::Over) => return,
                Err(error) => {
                    tracing::warn!(error = describe(&error), "connections that should end may go on until they are idle; tried again");
                    tokio::time::sleep(self.retry).await;
                    self.retry = (self.retry * 2).min(RETRY_CEILING);
                }
            }
        }
    }

    /// Judges all that is urgent now, or else one port of a complete check.
    async fn round(&mut self) -> Result<(), Failure> {
        let attachments = self.attachments().await?;
        if std::mem::take(&mut self.urgent.everything) {
            self.unhurried = attachments.iter().map(|attachment| attachment.port).collect();
        }
        if self.urgent.is_empty() {
            return self.check_next(&attachments).await;
        }
        self.revalidated().await;
        let affected = std::mem::take(&mut self.urgent);
        let mut waiting = work(&affected, &attachments);
        while let Some((attachment, memory)) = waiting.pop_front() {
            if let Err(error) = self.judge(attachment, memory, REST).await {
                // Whatever is left waits for the next round.
                waiting.push_front((attachment, memory));
                self.urgent.merge(unfinished(waiting));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn check_next(&mut self, attachments: &[Attachment]) -> Result<(), Failure> {
        let Some(port) = self.unhurried.front() else { return Ok(()) };
        if let Some(attachment) = attachments.iter().find(|attachment| attachment.port == *port).copied() {
            for memory in [Memory::Rules, Memory::Members] {
                self.judge(attachment, memory, REST_UNHURRIED).await?;
            }
        }
        self.unhurried.pop_front();
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
    async fn judge(&self, attachment: Attachment, memory: Memory, rest: u32) -> Result<(), Failure> {
        let began = Instant::now();
        let zone = memory.zone(&attachment);
        let text = self.unixctl.call("dpctl/dump-conntrack", &[self.datapath, &format!("zone={zone}")]).await?;
        let took = began.elapsed();
        // Reading takes as long as there are connections: not on a thread that others wait for.
        let read = tokio::task::spawn_blocking(move || listing(&text)).await.map_err(|_| Failure::Over)?;
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

    async fn attachments(&self) -> Result<Arc<[Attachment]>, Failure> {
        self.ask(Ask::Attachments).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.map_err(|_| Failure::Over)?;
        answer.await.map_err(|_| Failure::Over)
    }
}

/// The zones to read, those of rules first: who is shut out must not wait for who merely has to look elsewhere.
fn work(affected: &Affected, attachments: &[Attachment]) -> VecDeque<(Attachment, Memory)> {
    let of = |ports: &BTreeSet<PortId>, memory| {
        let concerned = attachments.iter().filter(|attachment| ports.contains(&attachment.port));
        concerned.map(|attachment| (*attachment, memory)).collect::<Vec<_>>()
    };
    [of(&affected.rules, Memory::Rules), of(&affected.members, Memory::Members)].concat().into()
}

fn unfinished(waiting: VecDeque<(Attachment, Memory)>) -> Affected {
    let mut affected = Affected::default();
    for (attachment, memory) in waiting {
        match memory {
            Memory::Rules => affected.rules.insert(attachment.port),
            Memory::Members => affected.members.insert(attachment.port),
        };
    }
    affected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::mailbox;
    use crate::switch::Options;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    const PATIENCE: Duration = Duration::from_secs(10);
    /// A connection in every zone, so that every zone is judged.
    const ENTRY: &str = "tcp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=40000,dport=80),reply=(src=10.0.0.2,dst=10.0.0.1,sport=80,dport=40000),\
                         zone=1,protoinfo=(state=ESTABLISHED)";

    fn attachment(n: u16) -> Attachment {
        let port = PortId(uuid::Uuid::from_u128(n.into()));
        Attachment { port, ofport: pipeline::OfPort(n.into()), rules_zone: n, nat_zone: n + 10, hairpin_zone: n + 20 }
    }

    /// Takes its time with every answer, so that the task rests after it.
    async fn slow_vswitchd(listener: UnixListener) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = vec![0; 4096];
            let length = stream.read(&mut question).await.unwrap();
            let is_dump = String::from_utf8_lossy(&question[..length]).contains("dump-conntrack");
            tokio::time::sleep(Duration::from_millis(if is_dump { 300 } else { 0 })).await;
            let answer = serde_json::json!({"id": 0, "result": if is_dump { ENTRY } else { "" }, "error": null});
            stream.write_all(answer.to_string().as_bytes()).await.unwrap();
        }
    }

    /// Answers what the task asks, and returns the port that was judged next.
    async fn judged(asked: &mut mpsc::Receiver<Ask>) -> PortId {
        let all: Arc<[Attachment]> = [attachment(1), attachment(2)].into();
        loop {
            match tokio::time::timeout(PATIENCE, asked.recv()).await.expect("the task asks in time").expect("the task lives") {
                Ask::Attachments(answer) => drop(answer.send(all.clone())),
                Ask::Judge(case, answer) => {
                    drop(answer.send(Vec::new()));
                    return case.attachment.port;
                }
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_is_put_in_during_a_rest_is_judged_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("vswitchd.ctl");
        let vswitchd = tokio::spawn(slow_vswitchd(UnixListener::bind(&socket).unwrap()));
        let (switch, _events) = Switch::start(Options::new(folder.path().join("br.mgmt")));
        let (outbox, inbox) = mailbox();
        let (asks, mut asked) = mpsc::channel(1);
        let task = tokio::spawn(Connections::new(inbox, Unixctl::new(Some(socket), folder.path()), true, switch, asks).run());
        for n in 1..=2 {
            let port = attachment(n).port;
            outbox.put(Affected { rules: [port].into(), ..Affected::default() });
            // Once it is judged the task rests, for twice the time that reading took.
            assert_eq!(judged(&mut asked).await, port);
        }
        task.abort();
        vswitchd.abort();
    }
}
