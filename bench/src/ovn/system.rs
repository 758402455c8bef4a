//! OVN as one of the systems that are given the same work.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Process;
use serde_json::{Value, json};

use super::layout::{self, Layout};
use super::{Ovn, READY, acknowledged};
use crate::ovsdb::{Database, add_interfaces, only_row, plugging, uuid};
use crate::system::{Edit, Role, System};
use crate::world::Shape;

/// How often the switch is asked how many flows it has: asking costs it time.
const LOOK: Duration = Duration::from_millis(250);
/// So many equal answers in a row mean that there are no more flows to come.
const STILL: usize = 8;

impl System for Ovn {
    fn name(&self) -> &'static str {
        "OVN 25.03"
    }

    fn shape(&self) -> Shape {
        self.shape
    }

    fn processes(&self) -> Vec<(Role, &Process)> {
        let role = |process: &Process| match process.name() {
            name if name.ends_with("ovn-controller") => Role::Node,
            name if name.ends_with("ovs-vswitchd") || name.ends_with("ovsdb-conf") => Role::Switch,
            _ => Role::Central,
        };
        self.processes.iter().map(|process| (role(process), process)).collect()
    }

    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    fn flows(&self) -> Result<u64> {
        Ovn::flows(self)
    }

    fn prepare(&mut self, adds: usize, plugs: usize) -> Result<()> {
        for number in 0..plugs {
            let port = self.layout.port(self.plugged(number));
            self.north.transact(&port)?;
        }
        let added = (0..adds).map(|number| (format!("x{number}"), layout::name(self.added(number))));
        let interfaces: Vec<_> = added.chain((0..plugs).map(|number| (format!("y{number}"), format!("none{number}")))).collect();
        add_interfaces(&mut self.conf()?, &interfaces)?;
        self.settle("hv_cfg")
    }

    fn empty(&mut self) -> Result<()> {
        self.controller()?.kill9()?;
        for what in ["del-flows", "del-groups"] {
            let mut ofctl = self.ofctl();
            lab::command::run(ofctl.args(["-O", "OpenFlow15", what, &self.unix("br-int.mgmt")]), READY)?.ok()?;
        }
        self.north.transact(&[acknowledged::bump()])?;
        self.reached("sb_cfg")
    }

    /// The acknowledgement may come before the last flows ("measure the flow count too").
    fn start(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.controller()?.restart()?;
        self.reached("hv_cfg")?;
        let mut end = Instant::now();
        let (mut flows, mut still, mut looked) = (Ovn::flows(self)?, 0, end);
        while still < STILL {
            thread::sleep(LOOK);
            let before = std::mem::replace(&mut looked, Instant::now());
            match Ovn::flows(self)? {
                same if same == flows => still += 1,
                // It may have been done a moment after the look before.
                other => (flows, still, end) = (other, 0, before),
            }
        }
        for number in self.shape.local_ports() {
            let find =
                json!({"op": "select", "table": "Logical_Switch_Port", "where": [["name", "==", layout::name(number)]], "columns": ["up"]});
            let found = self.north.transact(&[find])?;
            ensure!(only_row(&found[0]).is_some_and(|row| row["up"] == true), "port {number} is not up after a start");
        }
        Ok(end - began)
    }

    fn add_local(&mut self, number: usize) -> Result<Duration> {
        let port = self.layout.port(self.added(number));
        Ok(self.change(&port)?.0)
    }

    fn plug(&mut self, number: usize) -> Result<Duration> {
        let name = layout::name(self.plugged(number));
        let mut conf = self.conf()?;
        let began = Instant::now();
        conf.transact(&[plugging(&format!("y{number}"), &name)])?;
        self.north.until(|update| {
            let rows = update["Logical_Switch_Port"].as_object().into_iter().flatten();
            rows.into_iter().any(|(_, row)| row["new"]["name"] == name.as_str() && row["new"]["up"] == true)
        })?;
        Ok(began.elapsed())
    }

    fn add(&mut self, edit: Edit, number: usize) -> Result<Duration> {
        let beyond = self.shape.networks + number;
        let operations = match edit {
            Edit::Rule => self.layout.rule(self.shape.local_network(number), 1_000 + number),
            Edit::Router => Layout::router(self.shape.routers + number),
            Edit::Network => Layout::switch(beyond),
            Edit::Interface => self.layout.interface(beyond, self.more.get(&number).context("its network was added before")?),
        };
        let (took, made) = self.change(&operations)?;
        if edit == Edit::Network {
            self.more.insert(number, uuid(&made[0]));
        }
        Ok(took)
    }
}

impl Ovn {
    /// The number of the port that `add_local` makes.
    fn added(&self, number: usize) -> usize {
        self.shape.ports + number * self.shape.routers
    }

    /// The number of the port that `plug` plugs.
    fn plugged(&self, number: usize) -> usize {
        self.shape.ports + (self.shape.networks * 20) + number * self.shape.routers
    }

    fn conf(&self) -> Result<Database> {
        Database::connect(&self.dir.join("conf.sock"), "Open_vSwitch")
    }

    /// How long changes take until the chassis has acknowledged them, and what they have answered.
    fn change(&mut self, operations: &[Value]) -> Result<(Duration, Vec<Value>)> {
        let began = Instant::now();
        let made = acknowledged::change(&mut self.north, operations)?;
        Ok((began.elapsed(), made))
    }
}
