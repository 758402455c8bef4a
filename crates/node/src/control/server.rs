//! Answers the operator on this machine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use model::{NodeName, Object, PortId};
use pipeline::{Flow, Generation};
use stream::describe;
use tokio::sync::{mpsc, oneshot, watch};

use super::protocol::{Because, FLOWS_PER_LINE, FlowLine, LINE_MAX, PlugRequest, PluggedInterface, Reply, Request, Status, Work};
use crate::agent::explain::{Explained, Whole};
use crate::agent::{Ask, Counts, Desired, InForce};
use crate::bridge::Connection;
use crate::host::{HostError, Wish};
use crate::switch::{Switch, SwitchError};

/// How long ovsdb-server is waited for, which may be starting.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves the operator's socket.
#[derive(Clone)]
pub struct Control {
    pub node: NodeName,
    pub asks: mpsc::Sender<Ask>,
    pub wishes: mpsc::Sender<Wish>,
    pub database: watch::Receiver<Connection>,
    pub in_force: watch::Receiver<Arc<InForce>>,
    /// The server that the node follows.
    pub server: watch::Receiver<Option<String>>,
    pub switch: Switch,
    /// The half of the switch's tables that is in force.
    pub half: watch::Receiver<Option<Generation>>,
}

fn error(what_happened: impl Into<String>, what_it_means: &str, what_to_do: &str) -> Reply {
    Reply::Error { what_happened: what_happened.into(), what_it_means: what_it_means.into(), what_to_do: what_to_do.into() }
}

fn gone() -> Reply {
    error("the node is shutting down", "forwarding goes on as it is", "try again when it is back")
}

impl Control {
    /// Serves until the task is dropped.
    pub async fn serve(self, socket: &Path) -> std::io::Result<()> {
        let answer = move |line: Vec<u8>| {
            let control = self.clone();
            async move { control.answer_line(&line).await }
        };
        crate::socket::serve(socket, LINE_MAX, answer).await
    }

    /// The answers to a line of the socket.
    pub async fn answer_line(&self, line: &[u8]) -> Vec<Reply> {
        match serde_json::from_slice(line) {
            Ok(request) => self.answer(request).await,
            Err(cause) => {
                vec![error(format!("the question cannot be read: {cause}"), "nothing changed", "use the same release of `ladon`")]
            }
        }
    }

    async fn answer(&self, request: Request) -> Vec<Reply> {
        match request {
            Request::Status => vec![self.status().await],
            Request::Flows { table, object, with_packets } => self.flows(table, object, with_packets).await,
            Request::Plug(request) => {
                let name = request.interface.clone();
                vec![self.plug(request).await.map_or_else(|error| refused(&error, &name), Reply::Plugged)]
            }
            Request::Unplug { interface_or_port } => {
                let name = interface_or_port.clone();
                let unplugged = |(interface, port)| Reply::Unplugged { interface, port };
                vec![self.unplug(interface_or_port).await.map_or_else(|error| refused(&error, &name), unplugged)]
            }
            Request::Interfaces => {
                vec![
                    self.wish(Wish::List)
                        .await
                        .map_or_else(|error| refused(&error, "the list"), |interfaces| Reply::Interfaces { interfaces }),
                ]
            }
        }
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (answer, wait) = oneshot::channel();
        self.asks.send(ask(answer)).await.ok()?;
        wait.await.ok()
    }

    async fn wish<T>(&self, wish: impl FnOnce(oneshot::Sender<T>) -> Wish) -> Result<T, HostError> {
        let (answer, wait) = oneshot::channel();
        self.wishes.send(wish(answer)).await.map_err(|_| HostError::Ended)?;
        wait.await.map_err(|_| HostError::Ended)
    }

    /// Wishes for the interface and waits until its port's flows are in force; an interface that nobody was told of must not
    /// appear later.
    async fn plug(&self, request: PlugRequest) -> Result<PluggedInterface, HostError> {
        let (interface, port) = (request.interface.clone(), request.port);
        let deadline = Duration::from_millis(request.deadline_ms);
        self.wait_for_database().await?;
        let is_new = self.wish(|answer| Wish::Plug(request, answer)).await??;
        let mut in_force = self.in_force.clone();
        let seen = tokio::time::timeout(deadline, in_force.wait_for(|now| now.ports.contains_key(&port))).await;
        if seen.is_ok_and(|seen| seen.is_ok()) {
            let all = self.wish(Wish::List).await?;
            return all.into_iter().find(|one| one.link.interface == interface).ok_or(HostError::Deadline(port));
        }
        if is_new {
            self.unplug(interface).await?;
        }
        Err(HostError::Deadline(port))
    }

    /// Without it nothing can be plugged in or out, and whoever asks should hear that instead of nothing for long.
    async fn wait_for_database(&self) -> Result<(), HostError> {
        let mut database = self.database.clone();
        let wait = database.wait_for(|connection| *connection == Connection::Connected);
        if tokio::time::timeout(DATABASE_TIMEOUT, wait).await.is_ok() {
            return Ok(());
        }
        match &*self.database.borrow() {
            Connection::Connected => Ok(()),
            Connection::Disconnected { reason } => Err(HostError::NoDatabase(reason.clone())),
        }
    }

    async fn unplug(&self, interface_or_port: String) -> Result<(String, PortId), HostError> {
        self.wait_for_database().await?;
        self.wish(|answer| Wish::Unplug(interface_or_port, answer)).await?
    }

    async fn status(&self) -> Reply {
        let Some(Counts { flows, local_ports, work, is_in_force }) = self.ask(Ask::Counts).await else { return gone() };
        let revision = self.in_force.borrow().revision;
        Reply::Status(Status {
            host: self.node.clone(),
            release: env!("CARGO_PKG_VERSION").into(),
            revision,
            server: self.server.borrow().clone(),
            is_in_force,
            local_ports,
            flows,
            work: Work { runs: work.runs, reads: work.reads, made: work.made, written: work.written },
        })
    }

    async fn flows(&self, table: Option<String>, object: Option<String>, with_packets: bool) -> Vec<Reply> {
        // Looked at before the agent is asked: what is compared in between is in force, and not lost.
        let has_compared = self.in_force.borrow().is_complete;
        let Some(Desired { mut flows, is_in_force }) = self.ask(Ask::Flows).await else { return vec![gone()] };
        let is_starting = !is_in_force && !has_compared;
        flows.sort_by(|Explained { flow: a, .. }, Explained { flow: b, .. }| {
            (a.key.table, b.key.priority.number(), &a.key.tests).cmp(&(b.key.table, a.key.priority.number(), &b.key.tests))
        });
        let packets = match with_packets {
            true => match self.packets().await {
                Ok(packets) => packets,
                Err(cause) => {
                    let what_to_do = "see the logs of ovs-vswitchd and of `ladon node`; without --packets the flows are told";
                    return vec![error(describe(&cause), "what the switch has counted is not known", what_to_do)];
                }
            },
            false => Default::default(),
        };
        let is_wanted = |line: &FlowLine, wholes: &[Whole]| {
            table.as_ref().is_none_or(|table| table.eq_ignore_ascii_case(&line.table))
                && object.as_ref().is_none_or(|object| is_for(&line.because, object) || wholes.iter().any(|whole| is_called(whole, object)))
        };
        let half = self.half.borrow().unwrap_or_default();
        let lines = flows.iter().map(|told| (line(&told.flow, half, told.object.as_deref(), &packets), &told.wholes));
        let lines: Vec<FlowLine> = lines.filter(|(line, wholes)| is_wanted(line, wholes)).map(|(line, _)| line).collect();
        let chunks: Vec<&[FlowLine]> = if lines.is_empty() { vec![&[]] } else { lines.chunks(FLOWS_PER_LINE).collect() };
        let last = chunks.len() - 1;
        let reply = |chunk: &[FlowLine], is_last| Reply::Flows { flows: chunk.to_vec(), is_last, is_in_force, is_starting };
        chunks.iter().enumerate().map(|(n, chunk)| reply(chunk, n == last)).collect()
    }

    async fn packets(&self) -> Result<std::collections::HashMap<openflow::FlowKey, u64>, SwitchError> {
        let installed = self.switch.dump_flows().await?;
        Ok(installed.into_iter().filter_map(|flow| Some((flow.key(), flow.stats.packets?))).collect())
    }
}

fn refused(cause: &HostError, name: &str) -> Reply {
    let what_to_do = match cause {
        HostError::Refused(_) => "change the request",
        HostError::Ended => "try again when the node is back",
        HostError::NoDatabase(_) => "see that ovsdb-server runs and that `ovs.db_socket` is its socket, then say it again",
        HostError::Deadline(_) => "check the port's binding:host_id, `ladon nodes` and `ladon ports`",
        HostError::Bridge { .. } | HostError::Netlink { .. } | HostError::Record(_) => "see the log of `ladon node` and of ovs-vswitchd",
    };
    error(format!("{name}: {}", describe(cause)), "the interface is not on the network", what_to_do)
}

fn line(flow: &Flow, half: Generation, object: Option<&Object>, packets: &std::collections::HashMap<openflow::FlowKey, u64>) -> FlowLine {
    let text = flow.to_string();
    let (head, actions) = text.split_once(" -> ").expect("a flow prints its actions after an arrow");
    let matching = head.splitn(3, ' ').nth(2).unwrap_or_default().to_string();
    let installed = crate::translate::flow_key(&flow.key, half).ok();
    FlowLine {
        table: flow.key.table.name().into(),
        priority: flow.key.priority.to_string(),
        matching,
        actions: actions.into(),
        packets: installed.and_then(|key| packets.get(&key).copied()),
        because: because(flow, object),
    }
}

/// True if the flow is there for what an operator calls `object`.
fn is_for(because: &Because, object: &str) -> bool {
    because.kind == object || because.name == object || because.id.starts_with(object)
}

fn is_called(whole: &Whole, object: &str) -> bool {
    whole.object.as_deref().is_some_and(|whole| name_of(whole) == object) || whole.key.id.to_string().starts_with(object)
}

fn because(flow: &Flow, object: Option<&Object>) -> Because {
    match flow.reason {
        pipeline::Reason::Pipeline => Because { kind: flow.key.table.app().into(), id: String::new(), name: String::new() },
        pipeline::Reason::Object(key) => {
            Because { kind: key.kind.word().into(), id: key.id.to_string(), name: object.map(name_of).unwrap_or_default() }
        }
    }
}

fn name_of(object: &Object) -> String {
    match object {
        Object::Node(node) => node.name.0.clone(),
        Object::Network(network) => network.name.clone(),
        Object::Subnet(subnet) => subnet.name.clone(),
        Object::Router(router) => router.name.clone(),
        Object::SecurityGroup(group) => group.name.clone(),
        Object::Rule(rule) => rule.description.clone(),
        Object::Block(block) => block.v4.to_string(),
        Object::Port(port) => port.name.clone(),
        Object::LoadBalancer(balancer) => balancer.name.clone(),
        Object::Listener(listener) => listener.name.clone(),
        Object::Pool(pool) => pool.name.clone(),
        Object::Member(member) => member.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::UnixStream;
    use tokio::time::Instant;

    use super::*;
    use crate::switch::Options;

    /// A node without ovsdb-server, and those who would grant wishes.
    fn control(database: watch::Receiver<Connection>) -> (Control, mpsc::Receiver<Wish>) {
        let (wishes, granted) = mpsc::channel(1);
        let control = Control {
            node: NodeName("n1".into()),
            asks: mpsc::channel(1).0,
            wishes,
            database,
            in_force: watch::channel(Arc::default()).1,
            server: watch::channel(None).1,
            switch: Switch::start(Options::new("/nonexistent/br.mgmt")).0,
            half: watch::channel(None).1,
        };
        (control, granted)
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_no_question() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.sock");
        let (control, _granted) = control(watch::channel(Connection::Connected).1);
        let served = path.clone();
        tokio::spawn(async move { control.serve(&served).await });
        let stream = tokio::time::timeout(Duration::from_secs(120), async {
            loop {
                match UnixStream::connect(&path).await {
                    Ok(stream) => return stream,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        });
        let (read, mut write) = stream.await.expect("the node listens").into_split();
        let mut replies = BufReader::new(read).lines();
        let question = "{\"request\":\"status\"}\n";
        for (length, answers) in [(LINE_MAX, &["the node is shutting down"][..]), (LINE_MAX + 2, &["the question cannot be read"; 2][..])] {
            write.write_all(format!("{}{question}", " ".repeat(length - question.len())).as_bytes()).await.unwrap();
            for answer in answers {
                let reply: Reply = serde_json::from_str(&replies.next_line().await.unwrap().unwrap()).unwrap();
                assert!(matches!(&reply, Reply::Error { what_happened, .. } if what_happened.starts_with(answer)), "{reply:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_node_that_has_just_started_is_told_from_one_whose_switch_is_away() {
        let (mut control, _granted) = control(watch::channel(Connection::Connected).1);
        let (asks, mut asked) = mpsc::channel(1);
        let (in_force, seen) = watch::channel(Arc::<InForce>::default());
        (control.asks, control.in_force) = (asks, seen);
        tokio::spawn(async move {
            while let Some(Ask::Flows(answer)) = asked.recv().await {
                let _ = answer.send(Desired { flows: Vec::new(), is_in_force: false });
            }
        });
        for has_compared in [false, true] {
            in_force.send_replace(Arc::new(InForce { is_complete: has_compared, ..InForce::default() }));
            let replies = control.flows(None, None, false).await;
            assert_eq!(replies, [Reply::Flows { flows: Vec::new(), is_last: true, is_in_force: false, is_starting: !has_compared }]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_database_who_asks_hears_so_and_with_one_that_starts_nothing() {
        let (database, seen) = watch::channel(Connection::Disconnected { reason: "connection refused".into() });
        let (control, mut granted) = control(seen);
        let began = Instant::now();
        let answer = control.answer(Request::Unplug { interface_or_port: "plug0".into() }).await;
        assert!(matches!(&answer[..], [Reply::Error { what_happened, .. }] if what_happened.ends_with("not reached: connection refused")));
        assert_eq!(began.elapsed(), DATABASE_TIMEOUT);
        assert!(granted.try_recv().is_err(), "nothing was asked for");
        let ask = tokio::spawn(async move { control.unplug("plug0".into()).await });
        tokio::time::sleep(DATABASE_TIMEOUT / 2).await;
        database.send_replace(Connection::Connected);
        assert!(matches!(granted.recv().await, Some(Wish::Unplug(name, _)) if name == "plug0"));
        assert!(matches!(ask.await.unwrap(), Err(HostError::Ended)));
    }
}
