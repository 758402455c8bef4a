//! The same work for two systems, and what it costs each.
//!
//! Every piece of work begins with a write (to the API, to the northbound database, or to the switch's own database where an
//! interface is plugged) and ends when the writer is told that the node's switch has the flows: OVN's `hv_cfg`, Ladon's `wait` for
//! the node; where a port comes up, when the port itself says so. Both are told after an OpenFlow barrier.

use std::ops::{AddAssign, Range};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Process;

use crate::world::Shape;

/// Whose work a process does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// There is one for all nodes.
    Central,
    /// Every node has one.
    Node,
    /// Open vSwitch itself.
    Switch,
}

/// Something that is added.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Edit {
    /// A rule of a security group that local ports have.
    Rule,
    /// A router with nothing on it.
    Router,
    /// A network (a switch) with a subnet and DHCP, and nothing on it.
    Network,
    /// The network of the same number becomes one of the first router's.
    Interface,
}

/// A control plane with one node that is looked at.
pub trait System {
    fn name(&self) -> &'static str;
    fn shape(&self) -> Shape;
    fn processes(&self) -> Vec<(Role, &Process)>;
    /// Something is going to be measured: what was idle for long, and may have been closed, is connected anew.
    fn begin(&mut self) -> Result<()>;
    /// How many flows the node's switch has.
    fn flows(&self) -> Result<u64>;
    /// Makes the interfaces `x0`, … that are the ports which `add_local` makes, and `y0`, … that `plug` makes ports, and those ports.
    fn prepare(&mut self, adds: usize, plugs: usize) -> Result<()>;
    /// Takes from the node all that it knows and has: its program is not running, its switch is empty, its interfaces are there.
    fn empty(&mut self) -> Result<()>;
    /// Starts it: until everything is in force, and every local port is up.
    fn start(&mut self) -> Result<Duration>;
    /// One more port whose interface is there.
    fn add_local(&mut self, number: usize) -> Result<Duration>;
    /// An interface becomes a port that is there: until the port is up.
    fn plug(&mut self, number: usize) -> Result<Duration>;
    fn add(&mut self, edit: Edit, number: usize) -> Result<Duration>;
}

/// Processor time of a system.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Cost {
    pub central: Duration,
    pub node: Duration,
    pub switch: Duration,
}

impl Cost {
    /// So far, by the processes that run.
    pub fn of(system: &dyn System) -> Cost {
        let mut cost = Cost::default();
        for (role, process) in system.processes() {
            let used = process.cpu_time().unwrap_or_default();
            match role {
                Role::Central => cost.central += used,
                Role::Node => cost.node += used,
                Role::Switch => cost.switch += used,
            }
        }
        cost
    }

    /// What was used since then. A process that was replaced meanwhile would be counted wrongly: mostly as less than nothing.
    pub fn since(self, before: Cost) -> Result<Cost> {
        let used = |now: Duration, then: Duration| {
            now.checked_sub(then).context("less processor time was used than before: a process was replaced meanwhile")
        };
        Ok(Cost {
            central: used(self.central, before.central)?,
            node: used(self.node, before.node)?,
            switch: used(self.switch, before.switch)?,
        })
    }

    /// Of the control plane: without the switch.
    pub fn control(self) -> Duration {
        self.central + self.node
    }

    fn all(self) -> Duration {
        self.control() + self.switch
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, more: Cost) {
        self.central += more.central;
        self.node += more.node;
        self.switch += more.switch;
    }
}

/// What a series of equal pieces of work took.
#[derive(Default)]
pub struct Series {
    pub times: Vec<Duration>,
    pub cost: Cost,
}

impl Series {
    /// Does some more of it. What the system does afterwards, until it rests, is counted.
    pub fn run(
        &mut self,
        system: &mut dyn System,
        numbers: Range<usize>,
        work: impl Fn(&mut dyn System, usize) -> Result<Duration>,
    ) -> Result<()> {
        system.begin()?;
        let before = Cost::of(system);
        for number in numbers {
            self.times.push(work(system, number)?);
        }
        rest(system)?;
        self.cost += Cost::of(system).since(before)?;
        Ok(())
    }
}

/// Nothing may have been done for so long.
const REST: Duration = Duration::from_millis(150);
/// What is nothing.
const NOTHING: Duration = Duration::from_millis(5);
/// How long it may take until there is nothing left to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// Until the system has done all that follows from what it was told.
pub fn rest(system: &dyn System) -> Result<()> {
    let begun = Instant::now();
    let mut before = Cost::of(system);
    loop {
        thread::sleep(REST);
        let now = Cost::of(system);
        if now.since(before)?.all() <= NOTHING {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "{} is still busy after {PATIENCE:?}", system.name());
        before = now;
    }
}
