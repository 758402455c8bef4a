//! A server and nodes, in one process, over real TLS on loopback: views come down, reports go up, and anything may be restarted
//! in the middle.

mod following;
mod operator;
mod restarts;
mod status;
mod stores;
mod world;
