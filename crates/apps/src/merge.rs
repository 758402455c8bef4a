//! What several objects want of the same packets, as the flows that the switch gets.
//!
//! Two kinds of flows say "this too" and are merged where their matches are the same: clauses of conjunctions, and copies of a
//! packet. A match that thousands of rules share, such as "TCP port 80" or "a later fragment", would then be one flow too long
//! for a message, and written anew as a whole with every rule. So its clauses lie on pages: each page is a flow whose match has
//! one more test, which every packet passes, under a mask of its own. Open vSwitch collects clauses over all flows of one
//! priority, as long as their masks differ (ovs-fields(7), conj_id). Which page a clause lies on follows from the clauses
//! alone, and a clause that comes or goes changes three pages at most (linear hashing: Litwin, VLDB 1980).

use std::collections::BTreeSet;

use pipeline::{Action, Flow, fields::PAGE};

use crate::l2::COPIES_MAX;

/// Clauses on a page, on average. A message has room for about 4,000.
const PAGE_LEN: usize = 256;
/// One for every mask of the field.
const PAGES_MAX: usize = 1 << PAGE.bits;

/// The flows that the switch gets for what several units want of the same packets.
pub fn effective<'a>(wanted: impl Iterator<Item = &'a Flow> + Clone) -> Vec<Flow> {
    let Some(least) = wanted.clone().min() else { return Vec::new() };
    if wanted.clone().nth(1).is_none() {
        return vec![least.clone()];
    }
    if wanted.clone().all(is_clause) {
        let clauses: BTreeSet<&Action> = wanted.flat_map(|flow| &flow.actions).collect();
        return pages(least, &clauses);
    }
    let mut flow = least.clone();
    if wanted.clone().all(is_copy) {
        let copies: BTreeSet<&Vec<Action>> = wanted.map(|flow| &flow.actions).collect();
        flow.actions = copies.into_iter().take(COPIES_MAX).flatten().cloned().collect();
    }
    vec![flow]
}

/// How many flows [`effective`] makes of it.
pub fn count<'a>(wanted: impl Iterator<Item = &'a Flow> + Clone) -> usize {
    if wanted.clone().nth(1).is_none() { wanted.count() } else { effective(wanted).len() }
}

/// True if the two do not contradict each other, whatever they do.
pub fn is_merged(flow: &Flow, other: &Flow) -> bool {
    (is_clause(flow) && is_clause(other)) || (is_copy(flow) && is_copy(other))
}

/// A flow that only lets a copy of the packet go somewhere: several of them together let several copies go.
fn is_copy(flow: &Flow) -> bool {
    flow.goto.is_none() && matches!(flow.actions.last(), Some(Action::Copy(_) | Action::Output(_)))
}

fn is_clause(flow: &Flow) -> bool {
    !flow.actions.is_empty() && flow.actions.iter().all(|action| matches!(action, Action::Conjunction { .. }))
}

/// The clauses as flows with the match of `flow`.
fn pages(flow: &Flow, clauses: &BTreeSet<&Action>) -> Vec<Flow> {
    let count = clauses.len().div_ceil(PAGE_LEN).min(PAGES_MAX);
    let mut pages = vec![Vec::new(); count];
    for clause in clauses {
        pages[page_of(clause, count)].push((*clause).clone());
    }
    let of_page = |(page, actions): (usize, Vec<Action>)| {
        let tests = flow.key.tests.iter().copied().chain([PAGE.is_masked(0, page as u128)]);
        flow.key.table.when(tests).priority(flow.key.priority).acts(actions).because(flow.reason)
    };
    pages.into_iter().enumerate().filter(|(_, actions)| !actions.is_empty()).map(of_page).collect()
}

/// The page of a clause among `count` pages: with one page more, clauses of only one page move.
fn page_of(clause: &Action, count: usize) -> usize {
    let Action::Conjunction { id, .. } = clause else { return 0 };
    let mixed = id.wrapping_mul(0x9e37_79b1);
    let hash = (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ hash >> 13) as usize;
    let all = count.next_power_of_two();
    if hash % all < count { hash % all } else { hash % (all / 2) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pipeline::{Reason, Table, ipv6};
    use std::collections::BTreeMap;

    fn clause(id: u32) -> Flow {
        Table::IngressRules.when([ipv6()]).act(Action::Conjunction { id, clause: 1, of: 2 }).because(Reason::Pipeline)
    }

    fn of(ids: impl Iterator<Item = u32>) -> BTreeMap<pipeline::FlowKey, Flow> {
        let flows: Vec<Flow> = ids.map(clause).collect();
        effective(flows.iter()).into_iter().map(|flow| (flow.key.clone(), flow)).collect()
    }

    #[test]
    fn no_clause_is_lost_and_every_page_has_room_in_a_message() {
        for count in [1u32, 2, 256, 257, 5_000, 40_000] {
            // Numbers of conjunctions are not dense: identities have numbers too.
            let pages = of((0..count).map(|n| 2 * n));
            let clauses: BTreeSet<&Action> = pages.values().flat_map(|flow| &flow.actions).collect();
            assert_eq!(clauses.len(), count as usize);
            assert!(pages.values().all(|flow| flow.actions.len() < 1_000), "{count}");
        }
    }

    #[test]
    fn one_clause_more_or_less_changes_three_pages_at_most() {
        for count in (250..270).chain([511, 512, 513, 2_048, 5_000, 5_120]) {
            let (before, after) = (of(0..count), of(0..=count));
            let changed = after.iter().filter(|(key, flow)| before.get(*key) != Some(*flow)).count();
            let gone = before.keys().filter(|key| !after.contains_key(*key)).count();
            assert!(changed + gone <= 3, "{count}: {changed} changed, {gone} gone");
        }
    }

    #[test]
    fn few_clauses_are_one_flow_with_the_match_as_it_is() {
        let pages = of(0..3);
        assert_eq!(pages.keys().next(), Some(&clause(0).key));
        assert_eq!(pages.len(), 1);
    }
}
