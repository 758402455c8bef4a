//! `ladon store`: moving everything from one store to another, as a file; putting a copy back.

mod file;
mod restore;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use ::store::{DumpError, Dumped, Import, Making, Options, Store, export, import};

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
            export_to(&*open(&config)?, file).map(|dumped| said("exported", dumped))
        }
        StoreWhat::Import { file, restore } => {
            let what = if *restore { Import::Restore } else { Import::Move };
            let from = BufReader::new(File::open(file).map_err(|error| named(file, &error))?);
            let imported = match config.store.file().map(|path| Making::begin(path, Options::default())) {
                Some(Ok(Some(making))) => import_into_new(making, from, what)?,
                Some(Err(error)) => return Err(unopened(&error)),
                Some(Ok(None)) | None => import(&*open(&config)?, from, what).map_err(|error| failed("imported", &error))?,
            };
            Ok(said("imported", imported))
        }
        StoreWhat::Restore { copy } => restore::restore(&config, copy),
    }
}

fn open(config: &server::Config) -> Result<Arc<dyn Store>> {
    server::open_store(&config.store).map_err(|error| unopened(&error))
}

fn unopened(error: &(dyn std::error::Error + 'static)) -> Failure {
    let what_to_do = "see that no server uses the embedded store meanwhile, and that `[store]` is as the server's is";
    Failure::new(stream::describe(error), UNTOUCHED, what_to_do)
}

/// Makes a store of what was exported; whatever fails, there is none. Where root makes it, it is the server's all the same.
fn import_into_new(making: Making, from: impl BufRead, what: Import) -> Result<Dumped> {
    let made = making.file().to_owned();
    let is_roots = fs::metadata(&made).map(|made| made.uid() == 0);
    let given = is_roots.and_then(|is_roots| if is_roots { file::give(&made, file::directory(&made)) } else { Ok(()) });
    given.map_err(|error| Failure::new(format!("{}: {error}", made.display()), UNTOUCHED, "make the store's folder the server's"))?;
    let imported = import(making.store(), from, what).map_err(|error| failed("imported", &error))?;
    making.finish().map_err(|error| unopened(&error))?;
    Ok(imported)
}

/// Exports into a new file, of which nothing is left if that fails.
fn export_to(store: &dyn Store, path: &Path) -> Result<Dumped> {
    let out = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(|error| named(path, &error))?;
    let exported = || {
        let dumped = export(store, BufWriter::new(&out)).map_err(|error| failed("exported", &error))?;
        out.sync_all().and_then(|()| file::sync(file::directory(path))).map_err(|error| named(path, &error))?;
        Ok(dumped)
    };
    exported().inspect_err(|_| drop(fs::remove_file(path)))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use ::store::{ChangesError, Commit, Memory, Op, Snapshot, StoreError, TransactError, Transaction};
    use model::Revision;

    use super::*;

    /// A store that cannot be read.
    struct Lost;

    impl Store for Lost {
        fn load(&self) -> std::result::Result<Snapshot, StoreError> {
            Err(StoreError::Failed { doing: "a test", source: "on purpose".into() })
        }

        fn changes(&self, _: Revision, _: usize) -> std::result::Result<Vec<Commit>, ChangesError> {
            Ok(Vec::new())
        }

        fn transact(&self, transaction: &Transaction) -> std::result::Result<Revision, TransactError> {
            Ok(transaction.base)
        }
    }

    #[test]
    fn an_export_that_fails_leaves_no_file_in_the_way_of_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump");
        export_to(&Lost, &path).unwrap_err();
        assert!(!path.exists());
        export_to(&Memory::new(), &path).unwrap();
        let exported = fs::read(&path).unwrap();
        export_to(&Lost, &path).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), exported, "a file that was there before stays as it is");
    }

    #[test]
    fn a_store_that_root_imports_into_is_the_servers() {
        const SERVER: (u32, u32) = (61_184, 61_185);
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let memory = Memory::new();
        memory.transact(&Transaction { base: Revision(0), ops: vec![Op::PutRecord("keys".into(), b"{}".to_vec())] }).unwrap();
        export_to(&memory, &at("dump")).unwrap();
        fs::create_dir(at("state")).unwrap();
        chown(at("state"), Some(SERVER.0), Some(SERVER.1)).expect("tests run as root");
        fs::write(at("server.toml"), format!("[store]\npath = '{}'\n", at("state/store").display())).unwrap();
        let import = |file: &str| {
            let what = StoreWhat::Import { file: at(file), restore: false };
            store(&StoreArgs { config: Some(at("server.toml")), what })
        };
        let owner = || {
            let file = fs::metadata(at("state/store")).unwrap();
            (file.uid(), file.gid())
        };
        // An import that fails leaves nothing that a server would take for a store with nothing in it.
        let whole = fs::read(at("dump")).unwrap();
        fs::write(at("cut-short"), &whole[..whole.len() / 2]).unwrap();
        for bad in ["absent", "cut-short"] {
            import(bad).unwrap_err();
            assert_eq!(fs::read_dir(at("state")).unwrap().count(), 0);
        }
        assert!(import("dump").unwrap().contains("imported revision 1"));
        assert_eq!(owner(), SERVER);
    }
}
