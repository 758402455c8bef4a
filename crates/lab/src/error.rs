//! What can go wrong in a lab, told as what was being done.

use std::io;
use std::time::Duration;

/// A failure of the lab or of the machine that it stands on.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The operating system refused something.
    #[error("{doing}")]
    Io {
        /// What was being done, and to what.
        doing: String,
        #[source]
        source: io::Error,
    },
    /// A program ran and said no.
    #[error("`{command}` ended with {status}: {output}")]
    Failed { command: String, status: String, output: String },
    /// A condition did not come true in time.
    #[error("gave up waiting for {what} after {} s; last seen: {last}", waited.as_secs_f32())]
    TimedOut { what: String, waited: Duration, last: String },
    /// The request or the machine is not fit for this; the text says what to do.
    #[error("{0}")]
    Unfit(String),
}

/// The result of everything in this crate.
pub type Result<T, E = LabError> = std::result::Result<T, E>;

/// Says what was being done when the operating system refused.
pub trait Doing<T> {
    /// Wrap the error with `doing`, a phrase such as "reading /etc/hosts".
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| LabError::Io { doing: doing(), source: error.into() })
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
