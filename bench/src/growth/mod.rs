//! Ladon and OVN 25.03 under the same work at growing sizes: one node in the middle of up to 20,000 ports.
//!
//! ```text
//! system   what is asked of both, and what it costs          nodes    the rows: fresh start, ports, edits, memory
//! ladon    Ladon as such a system (crate::ovn: OVN)          alone    Ladon by itself up to 100,000 ports: what does not grow
//! ```
//!
//! The layout is that of the usual measurements of OVN: networks of 100 ports on one router, so that everything is within reach of
//! the node, or ten tenants of which the node serves one; a security group with five rules for each network, 50 ports on the node.

pub mod alone;
pub mod ladon;
pub mod nodes;
pub mod system;

/// A number as people read it.
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_are_set_off() {
        assert_eq!([7, 1_000, 20_000, 1_234_567].map(super::thousands), ["7", "1,000", "20,000", "1,234,567"]);
    }
}
