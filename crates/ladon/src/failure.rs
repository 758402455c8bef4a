//! Why a command failed: what happened, what it means for traffic, what to do.

use std::fmt;

use crate::output::visible;

/// A message for an operator in its three parts.
#[derive(Debug)]
pub struct Failure {
    pub what_happened: String,
    pub what_it_means: String,
    pub what_to_do: String,
    /// Lines of a file, as they could be.
    pub example: Vec<String>,
    pub exit_code: u8,
    /// The server knows nothing of what was asked about.
    pub is_unknown: bool,
}

pub type Result<T> = std::result::Result<T, Failure>;

/// `wait` ran out of time.
pub const EXIT_TIMEOUT: u8 = 3;

impl Failure {
    pub fn new(what_happened: impl Into<String>, what_it_means: impl Into<String>, what_to_do: impl Into<String>) -> Failure {
        let (what_happened, what_it_means, what_to_do) = (what_happened.into(), what_it_means.into(), what_to_do.into());
        Failure { what_happened, what_it_means, what_to_do, example: Vec::new(), exit_code: 1, is_unknown: false }
    }

    pub fn exit_code(self, exit_code: u8) -> Failure {
        Failure { exit_code, ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ladon: {}", visible(&self.what_happened))?;
        writeln!(f, "  traffic: {}", visible(&self.what_it_means))?;
        write!(f, "  to do:   {}", visible(&self.what_to_do))?;
        self.example.iter().try_for_each(|line| write!(f, "\n           {}", visible(line)))
    }
}
