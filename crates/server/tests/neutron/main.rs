//! The Neutron API over the in-process router: what it answers, and what it refuses.

#[path = "../common/mod.rs"]
mod common;

mod api;
mod bad_input;
mod clients;
mod goldens;
mod idempotent;
mod lists;
mod networks;
mod policy;
mod ports;
mod random;
mod routers;
mod security;
