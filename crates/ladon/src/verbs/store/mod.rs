//! `ladon store`: moving everything from one store to another, as a file; putting a copy back.

mod restore;

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use ::store::{DumpError, Dumped, Import, Store, export, import};

use crate::cli::{StoreArgs, StoreWhat};
use crate::failure::{Failure, Result};
use crate::parts;

const UNTOUCHED: &str = "not affected; switches go on with what they have";

/// Exports, imports or puts a copy back; says what it was.
pub fn store(args: &StoreArgs) -> Result<String> {
    let config = parts::server_config(args.config.as_deref())?;
    config
        .check()
        .map_err(|error| Failure::new(error.to_string(), UNTOUCHED, "name the server's configuration with --config, and correct it"))?;
    match &args.what {
        StoreWhat::Export { file } => {
            if let Some(path) = config.store.file().filter(|path| !path.exists()) {
                let what = format!("there is no store at {}", path.display());
                return Err(Failure::new(what, UNTOUCHED, "see that `store.path` is the server's, and that its volume is mounted"));
            }
            let store = open(&config)?;
            let out = File::options().write(true).create_new(true).mode(0o600).open(file).map_err(|error| named(file, &error))?;
            let dumped = export(&*store, BufWriter::new(&out)).map_err(|error| failed("exported", &error))?;
            out.sync_all().map_err(|error| named(file, &error))?;
            Ok(said("exported", dumped))
        }
        StoreWhat::Import { file, restore } => {
            let store = open(&config)?;
            let what = if *restore { Import::Restore } else { Import::Move };
            let from = File::open(file).map_err(|error| named(file, &error))?;
            Ok(said("imported", import(&*store, BufReader::new(from), what).map_err(|error| failed("imported", &error))?))
        }
        StoreWhat::Restore { copy } => restore::restore(&config, copy),
    }
}

fn open(config: &server::Config) -> Result<Arc<dyn Store>> {
    let what_to_do = "see that no server uses the embedded store meanwhile, and that `[store]` is as the server's is";
    server::open_store(&config.store).map_err(|error| Failure::new(stream::describe(&error), UNTOUCHED, what_to_do))
}

fn said(what: &str, Dumped { revision, objects, records }: Dumped) -> String {
    format!("{what} revision {revision}: {objects} objects and {records} records\n")
}

fn named(file: &Path, error: &std::io::Error) -> Failure {
    let what_to_do = "name a file that can be written (export makes a new one) or read";
    Failure::new(format!("{}: {error}", file.display()), UNTOUCHED, what_to_do)
}

fn failed(what: &str, error: &DumpError) -> Failure {
    Failure::new(format!("nothing was {what}: {}", stream::describe(error)), UNTOUCHED, "correct what the message names, then say it again")
}
