//! A switch as an older release of Ladon left it, made of what this one wrote: its flows, with every table but the first moved down
//! by one, as if a table had come in between, and with another pipeline's number in table 0. A packet that meets tables of both goes
//! wrong.

use std::path::Path;

use anyhow::{Context, Result};
use lab::Ovs;

const BRIDGE: &str = "br-int";
/// The first tables of the two halves.
pub const HALVES: [u8; 2] = [1, 121];
/// Tables of a half.
const TABLES: u8 = 120;

/// Every flow, without counters.
pub fn flows(ovs: &Ovs) -> Result<Vec<String>> {
    let dump = ovs.ofctl(&["--no-names", "--no-stats", "dump-flows", BRIDGE])?;
    Ok(dump.lines().filter(|line| line.contains("actions=")).map(|line| line.trim().to_string()).collect())
}

pub fn groups(ovs: &Ovs) -> Result<Vec<String>> {
    let dump = ovs.ofctl(&["--no-names", "dump-groups", BRIDGE])?;
    Ok(dump.lines().filter(|line| line.contains("group_id=")).map(|line| line.trim().to_string()).collect())
}

/// How many of its flows are in the half that begins with that table.
pub fn flows_of_half(ovs: &Ovs, half: u8) -> Result<usize> {
    let is_in = |line: &String| (half..half + TABLES).contains(&table(line));
    Ok(flows(ovs)?.iter().filter(|line| is_in(line)).count())
}

/// The first table of the half that packets pass.
pub fn half_in_force(ovs: &Ovs) -> Result<u8> {
    let dump = ovs.ofctl(&["--no-names", "--no-stats", "dump-flows", BRIDGE, "table=0"])?;
    let dispatch = dump.lines().find(|line| line.contains("actions=")).context("a flow in table 0")?;
    HALVES.into_iter().find(|half| dispatch.ends_with(&format!("goto_table:{half}"))).with_context(|| dispatch.to_string())
}

/// Makes the switch the older release's in the half in force, with nothing in the other one but `litter`, and tells its last table.
/// `file` is written meanwhile.
pub fn leave(ovs: &Ovs, file: &Path, litter: &[&str]) -> Result<u8> {
    let (half, flows) = (half_in_force(ovs)?, flows(ovs)?);
    let last = flows.iter().map(|line| table(line)).max().context("a switch with flows")? + 1;
    let groups = groups(ovs)?.into_iter().map(|line| format!("group add {}", moved(&line, half)));
    let flows = flows.into_iter().map(|line| match table(&line) {
        0 => format!("flow add cookie=0x77,table=0,priority=0,actions=goto_table:{half}"),
        _ => format!("flow add {}", moved(&line, half)),
    });
    let litter = litter.iter().map(|flow| format!("flow add {flow}"));
    let all: Vec<String> = ["flow delete".into(), "group delete".into()].into_iter().chain(groups).chain(flows).chain(litter).collect();
    std::fs::write(file, all.join("\n"))?;
    ovs.ofctl(&["bundle", BRIDGE, &file.to_string_lossy()])?;
    Ok(last)
}

/// The table of a flow as it is dumped: table 0 goes without saying.
fn table(line: &str) -> u8 {
    let head = line.split(" actions=").next().unwrap_or_default();
    let table = head.split([' ', ',']).find_map(|part| part.strip_prefix("table="));
    table.map_or(0, |number| number.parse().expect("a table's number"))
}

/// A flow or group with all tables of the half but its first moved down by one.
fn moved(line: &str, half: u8) -> String {
    let mut text = line.to_string();
    for word in ["table=", "goto_table:", "resubmit(,"] {
        let mut parts = text.split(word);
        let mut moved = parts.next().unwrap_or_default().to_string();
        for part in parts {
            let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            let number: u8 = part[..end].parse().expect("a table's number");
            let number = if number > half { number + 1 } else { number };
            moved += &format!("{word}{number}{}", &part[end..]);
        }
        text = moved;
    }
    text
}
