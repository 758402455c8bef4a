//! `ladon store restore`: a copy of the embedded store takes the store's place.
//!
//! A copy has forgotten revisions that nodes have seen. It is looked through and made to leap beyond them beside the store, and
//! only then put there: whatever fails leaves everything as it was. Nothing is thrown away.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use model::Revision;
use store::{OpenError, Options, Redb, Store};

use super::file::{directory, give, sync};
use crate::failure::{Failure, Result};

/// Puts the copy there; says what came of it.
pub fn restore(config: &server::Config, copy: &Path) -> Result<String> {
    let in_etcd = || {
        failed(
            "the store is an etcd cluster".into(),
            "restore etcd's own snapshot, `ladon store export` from it, and `ladon store import --restore` under a new `store.etcd.prefix`",
        )
    };
    let store = config.store.file().ok_or_else(in_etcd)?;
    check_closed(store)?;
    let (new, old) = (beside(store, "new"), unused(store));
    let revision = prepare(copy, &new, store).inspect_err(|_| drop(fs::remove_file(&new)))?;
    let has_old = store.exists();
    let moved = if has_old { fs::rename(store, &old) } else { Ok(()) };
    let moved = moved.and_then(|()| fs::rename(&new, store)).and_then(|()| sync(directory(store)));
    moved.map_err(|error| failed(format!("{} cannot be moved to {}: {error}", new.display(), store.display()), "move it there by hand"))?;
    let mut text = format!("store     {}\nrevision  {revision}\n", store.display());
    if has_old {
        text.push_str(&format!("replaced  {}\n", old.display()));
    }
    Ok(text)
}

fn failed(what_happened: String, what_to_do: &str) -> Failure {
    Failure::new(format!("nothing is restored: {what_happened}"), "not affected; nodes go on with what they have", what_to_do)
}

/// A store that a server has open is not replaced. One that cannot be opened otherwise is why somebody restores.
fn check_closed(store: &Path) -> Result<()> {
    match store.exists().then(|| Redb::open(store, Options::default())) {
        Some(Err(error @ OpenError::InUse { .. })) => Err(failed(error.to_string(), "stop the server")),
        _ => Ok(()),
    }
}

/// `store.new`, say.
fn beside(store: &Path, what: &str) -> PathBuf {
    let mut name = store.as_os_str().to_os_string();
    name.push(format!(".{what}"));
    name.into()
}

/// `store.replaced`, or `store.replaced-2` and so on where an earlier restore has left that.
fn unused(store: &Path) -> PathBuf {
    let names = (1..).map(|n: u32| if n == 1 { "replaced".to_string() } else { format!("replaced-{n}") });
    names.map(|name| beside(store, &name)).find(|path| !path.exists()).expect("a directory holds fewer files")
}

/// Copies the copy, sees that all of it can be read, and makes it leap. The file is whose the store is.
fn prepare(copy: &Path, new: &Path, store: &Path) -> Result<Revision> {
    let unusable = |error: &(dyn std::error::Error + 'static)| {
        failed(
            format!("{} cannot be used: {}", copy.display(), stream::describe(error)),
            "name a copy of a store's file; see that the disk has room",
        )
    };
    fs::copy(copy, new).map_err(|error| unusable(&error))?;
    let opened = Redb::open(new, Options::default()).map_err(|error| unusable(&error))?;
    opened.load().map_err(|error| unusable(&error))?;
    let revision = opened.leap().map_err(|error| unusable(&error))?;
    give(new, if store.exists() { store } else { directory(store) }).map_err(|error| unusable(&error))?;
    fs::set_permissions(new, fs::Permissions::from_mode(0o600)).map_err(|error| unusable(&error))?;
    Ok(revision)
}
