//! What a fault costs: every part killed, cut off, filled up, emptied or lied to while packets flow, on real Open vSwitch.
//!
//! Each test is one fault. It prints one line with what was measured; the lines are the table in `docs/operate.md`. `make test`
//! runs them with short times, `make test-faults` as long as they are meant (`LADON_FAULTS=long`) together with those that only
//! make sense then. One at a time: they measure.

mod certificates;
mod clock;
mod disks;
mod etcd;
mod kubernetes;
mod level;
mod servers;
mod switches;
mod underlay;
mod upgrade;
mod world;
