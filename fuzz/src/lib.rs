//! What Ladon does with bytes from outside: from a switch, a database, a virtual machine, a container runtime, a peer, a client.
//!
//! Each [`Target`] is one border. It takes any bytes, hands them to the very code that reads them in production, goes on with
//! what came out as far as that needs no socket, and panics when something is wrong: a panic inside, or an answer that must not
//! be. `tests/corpus.rs` runs every target over its corpus and a fixed number of seeded [`mutate`]d inputs as an ordinary test;
//! the programs in `fuzz_targets` hand the same functions to libFuzzer.
//!
//! Deliberately *not* here: a decoder, or anything that production uses.

mod api;
mod containers;
mod database;
pub mod mutate;
mod packets;
mod switch;
pub mod views;

/// A border of Ladon.
#[derive(Clone, Copy)]
pub struct Target {
    /// The folder of its corpus, and `fuzz-<name>` for cargo-fuzz.
    pub name: &'static str,
    /// Panics if the bytes do harm.
    pub run: fn(&[u8]),
    /// Mutated inputs in an ordinary test: some seconds' worth.
    pub rounds: u32,
}

/// All borders.
pub const TARGETS: &[Target] = &[
    Target { name: "openflow", run: switch::stream, rounds: 20_000 },
    Target { name: "ovsdb", run: database::stream, rounds: 5_000 },
    Target { name: "dhcp", run: packets::dhcp, rounds: 10_000 },
    Target { name: "dhcpv6", run: packets::dhcpv6, rounds: 10_000 },
    Target { name: "nd", run: packets::nd, rounds: 10_000 },
    Target { name: "packet-in", run: packets::packet_in, rounds: 10_000 },
    Target { name: "cni", run: containers::lines, rounds: 300 },
    Target { name: "views", run: views::messages, rounds: 500 },
    Target { name: "api", run: api::requests, rounds: 200 },
];

/// Runs the target of the name.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("the programs name targets that there are");
    (target.run)(bytes);
}
