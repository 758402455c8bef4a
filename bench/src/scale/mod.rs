//! Benchmarks at growing sizes.

pub mod hitless;
