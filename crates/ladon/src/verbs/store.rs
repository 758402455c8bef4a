//! `ladon store`: moving everything from one store to another, as a file.

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ::store::{DumpError, Dumped, Import, export, import};

use crate::cli::{StoreArgs, StoreWhat};
use crate::daemon::read_config;
use crate::failure::{Failure, Result};

const UNTOUCHED: &str = "not affected; switches go on with what they have";

/// Exports or imports; says what it was.
pub fn store(args: &StoreArgs) -> Result<String> {
    let config = config(args.config.as_deref())?;
    let opened = server::open_store(&config.store).map_err(|error| {
        Failure::new(
            text(&error),
            UNTOUCHED,
            "see that no server uses the embedded store meanwhile, and that `[store]` is as the server's is",
        )
    })?;
    match &args.what {
        StoreWhat::Export { file } => {
            let out = File::options().write(true).create_new(true).mode(0o600).open(file).map_err(|error| named(file, &error))?;
            let dumped = export(&*opened, BufWriter::new(&out)).map_err(|error| failed("exported", &error))?;
            out.sync_all().map_err(|error| named(file, &error))?;
            Ok(said("exported", dumped))
        }
        StoreWhat::Import { file, restore } => {
            let what = if *restore { Import::Restore } else { Import::Move };
            let from = File::open(file).map_err(|error| named(file, &error))?;
            Ok(said("imported", import(&*opened, BufReader::new(from), what).map_err(|error| failed("imported", &error))?))
        }
    }
}

fn config(path: Option<&Path>) -> Result<server::Config> {
    let failed = |reason: String| Failure::new(reason, UNTOUCHED, "name the server's configuration with --config");
    let text = read_config(path).map_err(|error| failed(format!("{error:#}")))?;
    let config: server::Config = toml::from_str(&text).map_err(|error| failed(error.to_string()))?;
    config.check().map_err(|error| failed(error.to_string()))?;
    Ok(config)
}

fn said(what: &str, Dumped { revision, objects, records }: Dumped) -> String {
    format!("{what} revision {revision}: {objects} objects and {records} records\n")
}

fn named(file: &Path, error: &std::io::Error) -> Failure {
    let what_to_do = "name a file that can be written (export makes a new one) or read";
    Failure::new(format!("{}: {error}", file.display()), UNTOUCHED, what_to_do)
}

fn failed(what: &str, error: &DumpError) -> Failure {
    Failure::new(format!("nothing was {what}: {}", text(error)), UNTOUCHED, "correct what the message names, then say it again")
}

/// An error with its causes.
fn text(error: &(dyn Error + 'static)) -> String {
    stream::describe(error)
}
