//! What can go wrong between bytes and values.
//!
//! A peer's bytes never panic this crate: every read is checked and every failure is one of these. Encoding can fail
//! only because OpenFlow's lengths are 16 bits wide.

/// Bytes that are not the OpenFlow 1.5 message that they claim to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the structure needs.
    #[error("{what}: {needed} bytes needed, {have} left")]
    Truncated { what: &'static str, needed: usize, have: usize },
    /// A length field that is smaller than its own structure, or not aligned as the format demands.
    #[error("{what}: length {length} is not possible")]
    BadLength { what: &'static str, length: usize },
    /// The header names another protocol version. (Hello and error messages are accepted of any version.)
    #[error("OpenFlow version {0:#04x} instead of 0x06 (1.5)")]
    Version(u8),
    /// Actions nested deeper than [`crate::MAX_NESTING`].
    #[error("actions nested deeper than {} levels", crate::MAX_NESTING)]
    TooDeep,
    /// A value that has no meaning in this place.
    #[error("{what}: value {value:#x} has no meaning")]
    BadValue { what: &'static str, value: u64 },
}

/// A value that does not fit OpenFlow's wire format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// OpenFlow counts a message, a group's buckets or an action in 16 bits; split the flow or group.
    #[error("{what} takes {length} bytes, more than the {} that OpenFlow can count", crate::MAX_MESSAGE_LEN)]
    TooLong { what: &'static str, length: usize },
    /// A text or value that the format has no room for.
    #[error("{what}: {reason}")]
    Invalid { what: &'static str, reason: &'static str },
}

/// A set of match fields that no switch could hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatchError {
    /// Two statements about the same bits that disagree, or a prerequisite that contradicts an explicit field.
    #[error("{field} is required to be {wanted:#x} and {found:#x} at once")]
    Conflict { field: &'static str, wanted: u128, found: u128 },
    /// A field that only some packets have, without saying which packets.
    #[error("{field} needs {needs}")]
    MissingPrerequisite { field: &'static str, needs: &'static str },
    /// A mask on a field that must be matched whole.
    #[error("{0} cannot be masked")]
    NotMaskable(&'static str),
    /// A value or mask with more bits than the field has.
    #[error("{field} has {bits} bits, the value {value:#x} has more")]
    TooWide { field: &'static str, bits: u16, value: u128 },
}
