//! A whole cluster in one process and one thread, without sockets and without time: a store, a server, three machines, faults.
//!
//! A seed decides everything that happens: what users change, which message arrives when, what breaks. While things break, no
//! packet may reach a network that no router joins with its own; when they stop breaking, every machine must have exactly what a
//! fresh one would have. `LADON_SEED=<seed> cargo test -p node --test cluster` repeats one run, `LADON_SEED=100..200` makes
//! others.

mod edits;
mod faulty;
mod host;
mod packets;
mod random;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use host::Host;
use world::{Seen, World};

/// Runs that are always made.
const SEEDS: u64 = 12;
/// Things that happen in a run, in several rounds of faults and rest.
const STEPS: usize = 6000;
const ROUNDS: usize = 6;
const PROBES: usize = 3;

fn run(seed: u64) -> Seen {
    let mut world = World::new(seed);
    (0..ROUNDS).for_each(|_| round(&mut world));
    world.seen
}

/// Faults, then rest.
fn round(world: &mut World) {
    for _ in 0..STEPS / ROUNDS {
        world.step();
        (0..PROBES).for_each(|_| world.probe());
    }
    world.settle();
    world.assert_converged();
    world.seen.heard += world.assert_reachable();
    world.seen.commits = world.latest().revision().0;
}

fn run_or_name(seed: u64) -> Seen {
    catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|failure| {
        eprintln!("repeat it with LADON_SEED={seed} cargo test --release -p node --test cluster");
        resume_unwind(failure)
    })
}

/// `LADON_SEED`: one seed, or a range of them to look for trouble: `100..200`.
fn asked_for() -> Option<std::ops::Range<u64>> {
    let text = std::env::var("LADON_SEED").ok()?;
    let number = |text: &str| text.parse::<u64>().expect("LADON_SEED is a number, or a range of numbers");
    Some(match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => number(&text)..number(&text) + 1,
    })
}

#[test]
fn nodes_converge_and_no_packet_crosses_networks_whatever_fails() {
    if let Some(seeds) = asked_for() {
        seeds.for_each(|seed| println!("{seed}: {:?}", run_or_name(seed)));
        return;
    }
    let began = std::time::Instant::now();
    let runs: Vec<Seen> = (0..SEEDS).map(run_or_name).collect();
    let total = |of: fn(&Seen) -> usize| runs.iter().map(of).sum::<usize>();
    println!("{} steps in {:?}", total(|seen| seen.steps), began.elapsed());
    runs.iter().for_each(|seen| println!("{seen:?}"));
    // Otherwise nothing was shown.
    assert!(total(|seen| seen.edits_done) > 1000 && total(|seen| seen.writes_failed) > 0);
    assert!(total(|seen| seen.server_restarts) > 0 && total(|seen| seen.node_restarts) > 0);
    assert!(total(|seen| seen.delivered_by_tunnel) > 0 && total(|seen| seen.delivered_by_router) > 0 && total(|seen| seen.heard) > 0);
}

#[test]
fn a_seed_repeats_its_run() {
    let text = |seed| {
        let mut world = World::new(seed);
        round(&mut world);
        format!("{:?}", world.seen)
    };
    assert_eq!(text(7), text(7));
    assert_ne!(text(7), text(8));
}

#[test]
fn a_leak_and_a_node_that_missed_a_change_are_seen() {
    let is_seen = |seed, spoil: fn(&mut Host)| {
        let mut world = World::new(seed);
        (0..3).for_each(|_| round(&mut world));
        world.hosts.iter_mut().for_each(spoil);
        let look = || {
            (0..5000).for_each(|_| world.probe());
            world.assert_converged();
        };
        catch_unwind(AssertUnwindSafe(look)).is_err()
    };
    // In some worlds no two networks are left that could be confused.
    let seeds = 10..14;
    assert!(!seeds.clone().any(|seed| is_seen(seed, |_| {})));
    assert!(seeds.clone().any(|seed| is_seen(seed, Host::confuse_networks)));
    assert!(seeds.clone().any(|seed| is_seen(seed, Host::miss_a_port)));
}
