//! The plan, carried out bundle by bundle on a switch that is two maps, and broken off after every one of them.

use std::collections::BTreeMap;

use openflow::{Action, Bucket, FlowKey, GroupCommand, GroupKind, Instructions, Message};
use pipeline::GroupId;

use super::*;

#[test]
fn a_way_is_laid_from_its_end_and_taken_up_from_its_beginning() {
    let add = |table| FlowMod::add(table, 1, Match::any(), Instructions::drop(), 0);
    let gone = |table| FlowMod::delete(FlowKey { table, priority: 2, matching: Match::any() });
    let ordered = in_order(vec![gone(9), add(1), gone(2), add(5)]);
    assert_eq!(ordered, [add(5), add(1), gone(2), gone(9)]);
}

const OLD: Fingerprint = Fingerprint(1);
const NEW: Fingerprint = Fingerprint(2);
const NEWER: Fingerprint = Fingerprint(3);
/// Enough for several bundles.
const FLOWS: u16 = 1200;

#[derive(Clone, Default)]
struct Switch {
    flows: BTreeMap<FlowKey, FlowMod>,
    groups: BTreeMap<u32, InstalledGroup>,
}

/// All that a release with the pipeline `own` wants in `half`. Every release has flows with the same keys, a group with the same
/// number, and its own opinion of what they do.
fn desired(half: Generation, own: Fingerprint) -> (Vec<FlowMod>, Vec<InstalledGroup>) {
    let group = half.group_number(GroupId(1 << 31 | 5));
    let end = |n| FlowMod::add(half.base() + 30, n, Match::any(), Instructions::apply([Action::Group(group)]), own.0);
    let first = FlowMod::add(half.base(), 1, Match::any(), Instructions::drop().goto(half.base() + 30), own.0);
    let only_here = FlowMod::add(half.base() + 1 + own.0 as u8, 1, Match::any(), Instructions::drop(), own.0);
    let flows = (0..FLOWS).map(end).chain([first, only_here, translate::dispatch(half, own)]).collect();
    let buckets = vec![Bucket::new(1, [Action::resubmit(half.base() + own.0 as u8)])];
    (flows, vec![InstalledGroup { id: group, kind: GroupKind::Select, buckets, selection: None }])
}

impl Switch {
    fn of(half: Generation, own: Fingerprint) -> Switch {
        let (flows, groups) = desired(half, own);
        Switch {
            flows: flows.into_iter().map(|flow| (flow.key(), flow)).collect(),
            groups: groups.into_iter().map(|group| (group.id, group)).collect(),
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::FlowMod(flow) if flow.command == FlowCommand::Add => drop(self.flows.insert(flow.key(), flow)),
            Message::FlowMod(flow) => drop(self.flows.remove(&flow.key())),
            Message::GroupMod(group) if group.command == GroupCommand::Delete => {
                self.groups.remove(&group.id);
                self.flows.retain(|_, flow| !flow.instructions.apply.contains(&Action::Group(group.id)));
            }
            Message::GroupMod(group) => {
                let GroupMod { id, kind, buckets, selection, .. } = group;
                self.groups.insert(id, InstalledGroup { id, kind, buckets, selection });
            }
            other => panic!("{other:?}"),
        }
    }

    fn installed(&self) -> Vec<InstalledFlow> {
        let installed = |flow: &FlowMod| InstalledFlow {
            table: flow.table,
            priority: flow.priority,
            matching: flow.matching.clone(),
            instructions: flow.instructions.clone(),
            cookie: flow.cookie,
            idle_timeout_secs: 0,
            hard_timeout_secs: 0,
            importance: 0,
            flags: flow.flags,
            stats: Default::default(),
        };
        self.flows.values().map(installed).collect()
    }

    fn in_force(&self) -> Option<(Generation, Fingerprint)> {
        self.installed().iter().find_map(translate::dispatched)
    }

    /// The half that packets are led to holds a whole pipeline, that which table 0 says, and nothing of another one.
    fn assert_sound(&self) {
        let Some((half, whose)) = self.in_force() else { return };
        let whole = Switch::of(half, whose);
        assert!(self.of_half(half).flows == whole.of_half(half).flows, "{half:?} holds not exactly what belongs to {whose}");
        assert_eq!(self.of_half(half).groups, whole.groups);
    }

    fn of_half(&self, half: Generation) -> Switch {
        let mut part = self.clone();
        part.flows.retain(|key, _| Generation::of_table(key.table) == Some(half));
        part.groups.retain(|id, _| Generation::of_group(*id) == half);
        part
    }

    /// What a release that starts now says, and the half that it writes.
    fn plan(&self, own: Fingerprint) -> (Generation, Plan) {
        let (half, _) = to_write(&self.installed(), own);
        let (flows, groups) = desired(half, own);
        (half, plan(half, flows, groups, &self.installed(), &self.groups.values().cloned().collect::<Vec<_>>()))
    }

    /// A release starts. The states of the switch after each bundle.
    fn start(mut self, own: Fingerprint) -> Vec<Switch> {
        let (_, Plan { half, turn, other_half }) = self.plan(own);
        let parts = [half, turn, other_half].into_iter();
        let mut states = vec![self.clone()];
        for bundle in parts.flat_map(|part| part.into_bundles()) {
            bundle.into_iter().for_each(|message| self.take(message));
            states.push(self.clone());
        }
        states
    }

    fn assert_is(&self, half: Generation, own: Fingerprint) {
        let whole = Switch::of(half, own);
        assert!(self.flows == whole.flows && self.groups == whole.groups, "the switch has not exactly what belongs to {own} in {half:?}");
    }
}

fn foreign(table: u8) -> FlowMod {
    FlowMod::add(table, 77, Match::any(), Instructions::drop(), 99)
}

#[test]
fn a_switch_that_is_right_is_told_nothing_in_either_half() {
    for half in Generation::ALL {
        let (writes, plan) = Switch::of(half, NEW).plan(NEW);
        assert_eq!((writes, plan.len()), (half, 0));
    }
}

#[test]
fn an_empty_switch_gets_the_first_half_and_table_0_last() {
    let states = Switch::default().start(NEW);
    states.last().unwrap().assert_is(Generation::A, NEW);
    let turned: Vec<bool> = states.iter().map(|state| state.in_force().is_some()).collect();
    assert_eq!(turned.iter().filter(|turned| **turned).count(), 1, "{turned:?}");
}

#[test]
fn another_pipeline_is_written_into_the_free_half_and_the_turn_is_one_bundle() {
    for half in Generation::ALL {
        let (writes, plan) = Switch::of(half, OLD).plan(NEW);
        assert_eq!(writes, half.other());
        assert_eq!((plan.turn.groups.len(), plan.turn.flows.len()), (0, 1));
        assert!(plan.half.flows.iter().all(|flow| Generation::of_table(flow.table) == Some(writes)));
        assert!(plan.half.groups.iter().all(|group| Generation::of_group(group.id) == writes));
        assert_eq!(plan.other_half.flows.len(), usize::from(FLOWS) + 2);
    }
}

#[test]
fn killed_after_any_bundle_packets_pass_a_whole_pipeline_and_any_release_ends_right() {
    let mut broken_off = 0;
    for half in Generation::ALL {
        for state in Switch::of(half, OLD).start(NEW) {
            state.assert_sound();
            for next in [OLD, NEW, NEWER] {
                let states = state.clone().start(next);
                states.iter().for_each(Switch::assert_sound);
                let end = states.last().expect("there is the state at the start");
                assert_eq!(end.in_force().map(|(_, whose)| whose), Some(next));
                end.assert_is(end.in_force().unwrap().0, next);
                broken_off += 1;
            }
        }
    }
    assert!(broken_off >= 2 * 3 * 8, "{broken_off}");
}

#[test]
fn what_an_older_release_without_a_number_left_is_another_pipeline() {
    let old = Switch::of(Generation::A, Fingerprint(0));
    let states = old.start(NEW);
    states.iter().for_each(Switch::assert_sound);
    states.last().unwrap().assert_is(Generation::B, NEW);
}

#[test]
fn what_somebody_else_did_is_mended_where_it_is() {
    for half in Generation::ALL {
        let mut disturbed = Switch::of(half, NEW);
        let (first, other) = (half.base(), half.other().base());
        for table in [Generation::DISPATCH, first, first + 119, other, 250] {
            disturbed.take(Message::FlowMod(foreign(table)));
        }
        disturbed.flows.retain(|key, _| (key.table, key.priority) != (first + 30, 9));
        let states = disturbed.start(NEW);
        states.last().unwrap().assert_is(half, NEW);
    }
}

#[test]
fn flows_of_others_in_table_0_go_with_the_turn_and_not_before() {
    let mut old = Switch::of(Generation::A, OLD);
    old.take(Message::FlowMod(foreign(Generation::DISPATCH)));
    let is_there = |state: &Switch| state.flows.contains_key(&foreign(Generation::DISPATCH).key());
    for state in old.start(NEW) {
        assert_eq!(is_there(&state), state.in_force() == Some((Generation::A, OLD)));
    }
}
