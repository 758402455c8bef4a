//! What becomes of a file that was made: it is whose it should be, and it stays.

use std::fs::{self, File};
use std::io::Result;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

/// The file is the owner's of `like` from now on: the server is seldom root, as whom people type.
pub fn give(file: &Path, like: &Path) -> Result<()> {
    let like = fs::metadata(like)?;
    chown(file, Some(like.uid()), Some(like.gid()))
}

/// What was made, moved or removed in there is so after a power cut, too.
pub fn sync(directory: &Path) -> Result<()> {
    File::open(directory)?.sync_all()
}

/// Where the file is.
pub fn directory(file: &Path) -> &Path {
    file.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
