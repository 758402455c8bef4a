//! Whose a port is, and its status, from reports alone.

use bytes::Bytes;
use model::*;
use stream::wire::{Interface, Report, port_bytes};

use super::world::*;
use crate::views::reports::{ERROR_BYTES_MAX, INTERFACES_MAX, ReportError, Reports};

/// A full report of ports that are present and, if said so, installed.
fn full(present: &[u32], installed: &[u32]) -> Report {
    let present = present.iter().map(|n| Interface { iface_id: port_id(*n).to_string(), ..Interface::default() });
    let installed = installed.iter().map(|n| port_bytes(port_id(*n)));
    Report { is_full: true, present: present.collect(), installed: installed.collect(), ..Report::default() }
}

/// The port after everything that follows from the reports was written.
fn settled(reports: &Reports, port: Port) -> Port {
    let settled = reports.settled(&port).unwrap_or(port);
    assert_eq!(reports.settled(&settled), None, "written once, it is not written again");
    settled
}

fn report(reports: &mut Reports, node: u32, report: Report) {
    reports.update(&name(node), &report).unwrap();
}

#[test]
fn a_port_is_active_when_its_home_has_its_flows_and_down_when_it_says_they_are_gone() {
    let mut reports = Reports::default();
    report(&mut reports, 1, full(&[11], &[]));
    assert_eq!(settled(&reports, vm(11, 1, 1)).status, PortStatus::Down);
    report(&mut reports, 1, Report { installed: vec![port_bytes(port_id(11))], ..Report::default() });
    assert_eq!(settled(&reports, vm(11, 1, 1)).status, PortStatus::Active);
    assert_eq!(settled(&reports, vm(11, 1, 2)).status, PortStatus::Down, "another node's flows do not count");
    assert_eq!(settled(&reports, Port { is_admin_up: false, ..vm(11, 1, 1) }).status, PortStatus::Down);
    report(&mut reports, 1, full(&[], &[]));
    assert_eq!(settled(&reports, Port { status: PortStatus::Active, ..vm(11, 1, 1) }).status, PortStatus::Down);
}

#[test]
fn a_node_that_has_not_reported_turns_no_port_down_unless_the_port_moved_there() {
    let mut reports = Reports::default();
    let active = Port { status: PortStatus::Active, ..vm(11, 1, 1) };
    assert_eq!(reports.settled(&active), None);
    reports.moved(&active);
    assert_eq!(settled(&reports, active.clone()).status, PortStatus::Down);
    report(&mut reports, 1, full(&[11], &[11]));
    assert_eq!(settled(&reports, vm(11, 1, 1)).status, PortStatus::Active);
}

#[test]
fn the_first_node_that_has_the_interface_gets_a_port_without_host_and_the_second_is_a_conflict() {
    let mut reports = Reports::default();
    report(&mut reports, 2, full(&[11], &[]));
    report(&mut reports, 1, full(&[11], &[11]));
    let claimed = settled(&reports, port(11, 1));
    assert_eq!((claimed.home(), claimed.status), (Some(&name(2)), PortStatus::Down));
    assert_eq!(reports.conflicts(&claimed).collect::<Vec<_>>(), [&name(1)]);
    // The claimant says that the interface is gone: the port goes to who has it.
    report(&mut reports, 2, Report { absent: vec![port_id(11).to_string()], ..Report::default() });
    let claimed = settled(&reports, claimed);
    assert_eq!((claimed.home(), claimed.status), (Some(&name(1)), PortStatus::Active));
    assert_eq!(reports.conflicts(&claimed).count(), 0);
    report(&mut reports, 1, full(&[], &[]));
    let free = settled(&reports, claimed);
    assert_eq!((free.claimed_by, free.status), (None, PortStatus::Down));
}

#[test]
fn a_claim_outlives_a_restart_of_the_server() {
    let claimed = Port { claimed_by: Some(name(1)), status: PortStatus::Active, ..port(11, 1) };
    let mut reports = Reports::default();
    report(&mut reports, 2, full(&[11], &[11]));
    assert_eq!(reports.settled(&claimed), None, "node 1 has not said that it has lost the port");
    assert_eq!(reports.conflicts(&claimed).collect::<Vec<_>>(), [&name(2)]);
}

#[test]
fn a_node_that_has_another_hosts_port_is_a_conflict_and_never_an_owner() {
    let mut reports = Reports::default();
    report(&mut reports, 2, full(&[11], &[11]));
    report(&mut reports, 1, full(&[], &[]));
    let bound = settled(&reports, vm(11, 1, 1));
    assert_eq!((bound.home(), bound.claimed_by.as_ref(), bound.status), (Some(&name(1)), None, PortStatus::Down));
    assert_eq!(reports.conflicts(&bound).collect::<Vec<_>>(), [&name(2)]);
}

#[test]
fn ports_that_are_everywhere_are_nobodys() {
    let mut reports = Reports::default();
    report(&mut reports, 1, full(&[21], &[21]));
    assert_eq!(reports.settled(&Port { status: PortStatus::Active, ..interface(21, 1, 1) }), None);
}

#[test]
fn a_report_that_makes_no_sense_changes_nothing() {
    let mut reports = Reports::default();
    report(&mut reports, 1, full(&[11], &[11]));
    let before = reports.clone();
    let bad = Report { is_full: true, installed: vec![Bytes::from_static(b"no id")], ..Report::default() };
    assert!(reports.update(&name(1), &bad).is_err());
    assert_eq!(reports, before);
}

#[test]
fn a_forgotten_nodes_claim_ends_and_its_ports_are_down_until_it_comes_back() {
    let mut reports = Reports::default();
    report(&mut reports, 1, full(&[11, 12], &[11, 12]));
    report(&mut reports, 2, full(&[11], &[11]));
    let claimed = settled(&reports, port(11, 1));
    let bound = settled(&reports, vm(12, 1, 1));
    assert_eq!((claimed.home(), bound.status), (Some(&name(1)), PortStatus::Active));
    let touched = reports.forget(&name(1));
    assert!(touched.contains(&port_id(11)) && touched.contains(&port_id(12)) && reports.node(&name(1)).is_none());
    let claimed = settled(&reports, claimed);
    assert_eq!((claimed.home(), claimed.status), (Some(&name(2)), PortStatus::Active), "the next one gets it");
    assert_eq!(settled(&reports, bound).status, PortStatus::Down, "whose host is gone has no traffic");
    let alone = Port { claimed_by: Some(name(1)), status: PortStatus::Active, ..port(13, 1) };
    let free = settled(&reports, alone);
    assert_eq!((free.claimed_by, free.status), (None, PortStatus::Down));
    reports.returned(&name(1));
    report(&mut reports, 1, full(&[12, 13], &[12, 13]));
    assert_eq!(settled(&reports, vm(12, 1, 1)).status, PortStatus::Active);
    assert_eq!(settled(&reports, port(13, 1)).home(), Some(&name(1)));
}

#[test]
fn no_number_of_reports_makes_the_server_keep_more_of_one_node() {
    const EACH: u32 = 32_768;
    let (mut reports, per_report) = (Reports::default(), EACH as usize);
    for n in 0..(INTERFACES_MAX / per_report) as u32 {
        let interfaces = (n * EACH..(n + 1) * EACH).map(|n| Interface { iface_id: format!("tap{n}"), ..Interface::default() });
        let installed = (n * EACH..(n + 1) * EACH).map(|n| port_bytes(port_id(n)));
        report(&mut reports, 1, Report { present: interfaces.collect(), installed: installed.collect(), ..Report::default() });
    }
    let before = reports.clone();
    let present = vec![Interface { iface_id: "one more".into(), ..Interface::default() }];
    let more = Report { present, ..Report::default() };
    assert_eq!(reports.update(&name(1), &more), Err(ReportError::TooMany));
    let more = Report { installed: vec![port_bytes(port_id(u32::MAX))], ..Report::default() };
    assert_eq!(reports.update(&name(1), &more), Err(ReportError::TooMany));
    assert_eq!(reports, before);
    let present = vec![Interface { iface_id: "x".repeat(stream::wire::IFACE_ID_BYTES_MAX + 1), ..Interface::default() }];
    assert_eq!(reports.update(&name(2), &Report { present, ..Report::default() }), Err(ReportError::LongId));
}

#[test]
fn an_endless_error_of_an_interface_is_cut() {
    let mut reports = Reports::default();
    let present = vec![Interface { iface_id: "tap".into(), error: "ü".repeat(10_000), ..Interface::default() }];
    report(&mut reports, 1, Report { present, ..Report::default() });
    assert_eq!(reports.node(&name(1)).unwrap().present["tap"].error.len(), ERROR_BYTES_MAX - 1, "no half letter");
}
