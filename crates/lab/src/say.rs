//! Lines for a person. Whoever reads them may go away (`| head`): lines are lost then, and nothing else is.

use std::io::{self, Write};

/// A line on standard output: an answer.
pub fn answer(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// A line on standard error: what happens meanwhile, or what went wrong.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
