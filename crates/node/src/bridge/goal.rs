//! One request on its way: what to do next, as a function of the replica.
//!
//! Planning compares what is wanted with what is there. While they differ, a transaction is due; after it the goal plans
//! again, because another writer may have come in between. Bridges and ports are then awaited: `next_cfg` was raised in
//! the same transaction, and ovs-vswitchd sets `cur_cfg` to it when it has taken that configuration in force. A bridge or
//! port that is as wanted but that ovs-vswitchd has not made, or failed to make earlier, gets one nudge: `next_cfg` alone
//! is raised, so that the verdict is of now.

use super::columns::{BRIDGE, INTERFACE, named, root};
use super::error::BridgeError;
use super::interfaces::{OfPort, ofport};
use super::plan;
use super::spec::{BridgeSpec, PortSpec};
use ovsdb::{Operation, Outcome, Replica, Transaction, TransactionError};

/// How often a goal writes what it wants before it gives up against other writers.
const TRIES_MAX: u32 = 5;

/// What a caller asked for.
#[derive(Clone, PartialEq, Debug)]
pub enum Want {
    Bridge(BridgeSpec),
    Port(PortSpec),
    NoPort { bridge: String, port: String },
}

/// What a caller gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Granted {
    Done,
    Port(OfPort),
}

/// A request and how far it got.
#[derive(Debug)]
pub struct Goal {
    want: Want,
    stage: Stage,
    tries: u32,
    /// `next_cfg` was raised on this goal's behalf.
    is_awaited: bool,
}

#[derive(Debug)]
enum Stage {
    Planning,
    Committing {
        id: u64,
        transaction: Transaction,
    },
    /// Until ovs-vswitchd has taken this configuration in force.
    Awaiting {
        cfg: i64,
    },
}

/// What is to be done now.
#[derive(Debug)]
pub enum Step {
    Transact(Vec<Operation>),
    /// Nothing before the replica changes or a reply comes.
    Wait,
    Finish(Result<Granted, BridgeError>),
}

/// What ovs-vswitchd made of a bridge or port.
enum Verdict {
    Made(Granted),
    Refused(BridgeError),
    Undecided,
    /// Another writer took the row away.
    Vanished,
}

impl Goal {
    pub fn new(want: Want) -> Self {
        Goal { want, stage: Stage::Planning, tries: 0, is_awaited: false }
    }

    /// What the goal needs now. After [`Step::Transact`] the caller sends the operations and calls [`Goal::sent`].
    pub fn step(&mut self, replica: &Replica) -> Step {
        match self.stage {
            Stage::Planning => self.plan(replica),
            Stage::Committing { .. } => Step::Wait,
            Stage::Awaiting { cfg } => self.judge(replica, cfg),
        }
    }

    fn plan(&mut self, replica: &Replica) -> Step {
        let mut operations = match self.want.plan(replica) {
            Ok(operations) => operations,
            Err(error) => return Step::Finish(Err(error)),
        };
        if operations.is_empty() {
            return self.await_vswitchd(replica);
        }
        if self.tries == TRIES_MAX {
            return Step::Finish(Err(BridgeError::Contended { what: self.want.describe(), tries: self.tries }));
        }
        self.tries += 1;
        let nudge = plan::nudge(replica);
        self.is_awaited |= nudge.is_some();
        operations.extend(nudge);
        Step::Transact(operations)
    }

    /// The rows are as wanted: is the switch?
    fn await_vswitchd(&mut self, replica: &Replica) -> Step {
        if !self.is_awaited {
            if let Verdict::Made(granted) = self.want.verdict(replica) {
                return Step::Finish(Ok(granted));
            }
            if let Some(nudge) = plan::nudge(replica) {
                self.is_awaited = true;
                return Step::Transact(vec![nudge]);
            }
        }
        let cfg = cfg(replica, "next_cfg");
        self.stage = Stage::Awaiting { cfg };
        self.judge(replica, cfg)
    }

    fn judge(&mut self, replica: &Replica, awaited: i64) -> Step {
        if cfg(replica, "cur_cfg") < awaited {
            return Step::Wait;
        }
        match self.want.verdict(replica) {
            Verdict::Made(granted) => Step::Finish(Ok(granted)),
            Verdict::Refused(error) => Step::Finish(Err(error)),
            Verdict::Undecided => Step::Wait,
            Verdict::Vanished => {
                self.stage = Stage::Planning;
                self.plan(replica)
            }
        }
    }

    /// The operations are on their way as request `id`.
    pub fn sent(&mut self, id: u64, transaction: Transaction) {
        self.stage = Stage::Committing { id, transaction };
    }

    /// Says in the log what of a bridge or port that was there is written over: somebody else may have changed it, and would
    /// wonder.
    pub fn tell_overwritten(&self, replica: &Replica, operations: &[Operation]) {
        let columns = plan::overwritten(operations);
        if columns.is_empty() {
            return;
        }
        let (what, columns) = (self.want.describe(), columns.join(", "));
        match &self.want {
            Want::Bridge(spec) if plan::is_fresh(replica, &spec.name) => {
                tracing::info!(columns, "{what} was made by somebody else and is programmed for the first time");
            }
            Want::Bridge(_) => tracing::warn!(
                columns,
                "{what} was not as Ladon programs it and is put right; with another fail mode, datapath or protocol the switch may \
                 have dropped or leaked packets until now; find who else configures it (ovsdb-tool show-log)"
            ),
            _ => tracing::info!(columns, "{what} was not as wanted and is put right"),
        }
    }

    /// Whether the reply to request `id` is this goal's.
    pub fn expects(&self, id: u64) -> bool {
        matches!(self.stage, Stage::Committing { id: mine, .. } if mine == id)
    }

    /// The reply to the goal's transaction. The replica already holds what the transaction changed: ovsdb-server sends a
    /// client's own update before the reply. An error ends the goal, unless a newer plan may work.
    pub fn replied(&mut self, reply: Result<ovsdb::Json, ovsdb::Json>) -> Option<BridgeError> {
        let Stage::Committing { transaction, .. } = std::mem::replace(&mut self.stage, Stage::Planning) else {
            return None;
        };
        let source = transaction.outcomes(reply).map(|_: Vec<Outcome>| ()).err()?;
        let is_final = !is_overtaken(&source) || self.tries == TRIES_MAX;
        is_final.then(|| BridgeError::Transaction { what: self.want.describe(), source })
    }

    /// The connection is gone, and with it whatever reply was due: plan again on the next.
    pub fn disconnected(&mut self) {
        self.stage = Stage::Planning;
        self.is_awaited = false;
    }

    /// Whether the database is as wanted, and only ovs-vswitchd is waited for.
    pub fn is_written(&self) -> bool {
        matches!(self.stage, Stage::Awaiting { .. })
    }

    /// What the goal is, and what it lacks: for the error at its deadline.
    pub fn lack(&self) -> (String, &'static str) {
        let waiting_for = match self.stage {
            Stage::Planning => "no connection to ovsdb-server (is it running, and is the socket's path right?)",
            Stage::Committing { .. } => "no answer from ovsdb-server",
            Stage::Awaiting { .. } => "not yet in force in ovs-vswitchd (is it running? its log may say more)",
        };
        (self.want.describe(), waiting_for)
    }
}

/// Whether another writer's change can be what made a transaction fail.
fn is_overtaken(error: &TransactionError) -> bool {
    matches!(error.code(), Some("constraint violation" | "referential integrity violation" | "timed out"))
}

fn cfg(replica: &Replica, column: &str) -> i64 {
    root(replica).and_then(|(_, row)| row.integer(column)).unwrap_or(0)
}

impl Want {
    fn plan(&self, replica: &Replica) -> Result<Vec<Operation>, BridgeError> {
        match self {
            Want::Bridge(spec) => Ok(plan::bridge(replica, spec)),
            Want::Port(spec) => plan::port(replica, spec),
            Want::NoPort { bridge, port } => Ok(plan::no_port(replica, bridge, port)),
        }
    }

    fn verdict(&self, replica: &Replica) -> Verdict {
        match self {
            Want::Bridge(spec) => bridge_verdict(replica, &spec.name),
            Want::Port(spec) => port_verdict(replica, &spec.name),
            Want::NoPort { .. } => Verdict::Made(Granted::Done),
        }
    }

    fn describe(&self) -> String {
        match self {
            Want::Bridge(spec) => format!("bridge {}", spec.name),
            Want::Port(spec) => format!("port {} on bridge {}", spec.name, spec.bridge),
            Want::NoPort { bridge, port } => format!("removal of port {port} from bridge {bridge}"),
        }
    }
}

/// ovs-vswitchd gives a bridge its datapath id when it has made it.
fn bridge_verdict(replica: &Replica, name: &str) -> Verdict {
    match named(replica, BRIDGE, name) {
        None => Verdict::Vanished,
        Some((_, row)) if row.string("datapath_id").is_some() => Verdict::Made(Granted::Done),
        Some(_) => Verdict::Undecided,
    }
}

/// ovs-vswitchd gives an interface its number, or -1 and mostly an error.
fn port_verdict(replica: &Replica, name: &str) -> Verdict {
    let Some((_, row)) = named(replica, INTERFACE, name) else {
        return Verdict::Vanished;
    };
    if let Some(ofport) = ofport(row) {
        return Verdict::Made(Granted::Port(ofport));
    }
    let reason = match (row.string("error"), row.integer("ofport")) {
        (Some(error), _) => error,
        (None, Some(_)) => "ovs-vswitchd gives no reason",
        (None, None) => return Verdict::Undecided,
    };
    Verdict::Refused(BridgeError::PortRefused { port: name.to_owned(), reason: reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::super::columns::empty_replica;
    use super::*;

    #[test]
    fn a_goal_gives_up_against_others_after_so_many_tries() {
        let replica = empty_replica();
        let mut goal = Goal::new(Want::Bridge(BridgeSpec::new("br-int")));
        for _ in 0..TRIES_MAX {
            assert!(matches!(goal.step(&replica), Step::Transact(_)));
        }
        assert!(matches!(goal.step(&replica), Step::Finish(Err(BridgeError::Contended { tries: TRIES_MAX, .. }))));
    }
}
