//! `ladon flows`: this machine's flows in names, each with the object that it is there for.

use node::control::{Because, FlowLine, Reply, Request};
use serde_json::json;

use crate::cli::{Flows, Format, Reach};
use crate::control::{Control, PROMPT, confused};
use crate::failure::{Failure, Result};
use crate::output;

/// What is said besides flows that the switch may not have.
const NOT_IN_FORCE: &str = "these flows should be and are NOT in force: ovs-vswitchd is not reached, or was not compared with them since it came \
                            back; meanwhile packets go as the datapath last had them, or nowhere; see that ovs-vswitchd runs, and the log of `ladon node`";

/// The same while the node has not compared them for the first time, which nobody has to fear.
const NOT_COMPARED: &str = "`ladon node` has started and has not compared these flows with the switch yet: until then packets go by the flows \
                            that the switch has from before; it takes seconds; if it lasts, see that ovs-vswitchd runs, that a node which has no view yet reaches a \
                            server (`ladon nodes`), and the log of `ladon node`";

/// Prints the flows as the node sends them: a switch may have 100,000.
pub async fn flows(reach: &Reach, wanted: &Flows) -> Result<()> {
    let mut control = Control::connect(&reach.control).await?;
    let request = Request::Flows { table: wanted.table.clone(), object: wanted.object.clone(), with_packets: wanted.packets };
    control.send(&request).await?;
    let (mut count, mut is_told) = (0, false);
    loop {
        let Reply::Flows { flows, is_last, is_in_force, is_starting } = control.receive(PROMPT).await? else { return Err(confused()) };
        if !is_in_force && !std::mem::replace(&mut is_told, true) {
            output::tell(if is_starting { NOT_COMPARED } else { NOT_IN_FORCE });
        }
        count += flows.len();
        let print = |flow: &FlowLine| match reach.output {
            Format::Table => line(flow),
            Format::Json => document(flow, is_in_force),
        };
        output::print(&flows.iter().map(print).collect::<String>()).map_err(|error| unprinted(&error))?;
        if is_last {
            break;
        }
    }
    if count == 0 && !is_told && (wanted.table.is_some() || wanted.object.is_some()) {
        output::tell("no flow of this machine fits; `ladon flows` prints all, `ladon ports` says where an object lives");
    }
    Ok(())
}

/// `L2Lookup  normal  eth_dst=…, network=7 -> dst_port:=4, goto Deliver  # port db`
fn line(flow: &FlowLine) -> String {
    let packets = flow.packets.map(|packets| format!(" packets={packets}")).unwrap_or_default();
    let matching = if flow.matching.is_empty() { "any" } else { &flow.matching };
    let text = format!("{:12} {:8} {matching} -> {}{packets}  # {}", flow.table, flow.priority, flow.actions, reason(&flow.because));
    output::visible(&text) + "\n"
}

/// The flow for programs.
fn document(flow: &FlowLine, is_in_force: bool) -> String {
    let mut document = json!(flow);
    document["is_in_force"] = is_in_force.into();
    format!("{document}\n")
}

fn reason(because: &Because) -> String {
    let Because { kind, id, name } = because;
    match (name.is_empty(), id.is_empty()) {
        (true, true) => kind.clone(),
        (true, false) => format!("{kind} {id}"),
        (false, true) => format!("{kind} {name}"),
        (false, false) => format!("{kind} {name} ({id})"),
    }
}

fn unprinted(error: &std::io::Error) -> Failure {
    Failure::new(format!("the flows cannot be printed: {error}"), "not affected", "see where standard output leads")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_reads_like_a_sentence_with_its_reason() {
        let flow = FlowLine {
            table: "L2Lookup".into(),
            priority: "normal".into(),
            matching: "eth_dst=0a:00:00:00:00:04, network=7".into(),
            actions: "dst_port:=4, goto Deliver".into(),
            packets: Some(3),
            because: Because { kind: "port".into(), id: "5e0f".into(), name: "db".into() },
        };
        assert_eq!(
            line(&flow),
            "L2Lookup     normal   eth_dst=0a:00:00:00:00:04, network=7 -> dst_port:=4, goto Deliver packets=3  # port db (5e0f)\n"
        );
    }
}
