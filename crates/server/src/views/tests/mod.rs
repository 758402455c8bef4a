//! Claims about views: by example, by random edits against the definition, and over real streams.

mod cost;
mod edits;
mod named;
mod reports;
mod sent;
mod servers;
mod streams;
pub mod world;
