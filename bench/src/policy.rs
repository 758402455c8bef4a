//! What policies let in, the same for both systems: which addresses, on which TCP ports.

/// The first TCP port of the policies.
const FIRST_POLICY: usize = 8_000;
/// The first TCP port of rules that overlap.
const FIRST_RULE: usize = 10_000;

/// The TCP port on which a policy lets in.
pub fn tcp_port(policy: usize) -> usize {
    FIRST_POLICY + policy
}

/// Rules that overlap: `sets` different sets of these addresses, and so many rules for each.
#[derive(Clone, Copy)]
pub struct Overlap {
    pub addresses: usize,
    pub sets: usize,
    pub rules_each: usize,
}

impl Overlap {
    /// How many rules there are.
    pub fn count(self) -> usize {
        self.sets * self.rules_each
    }

    /// Whether the address is in the set.
    pub fn is_in(self, address: usize, set: usize) -> bool {
        address % self.sets != set
    }

    /// The rules: which set may reach which TCP port.
    pub fn rules(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.count()).map(move |rule| (rule % self.sets, FIRST_RULE + rule))
    }
}
