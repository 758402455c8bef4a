//! The view on the disk: one file of text, replaced as a whole.
//!
//! ```text
//! ladon-view <SHA-256 of what follows, in hexadecimal>
//! {"format":1,"node":"n1","store":"6e0c…","revision":42,"objects":2}
//! {"network":{…}}
//! {"port":{…}}
//! ```
//!
//! A file that is not exactly that is ignored: the view is a copy, the servers have the original.

use std::fs::{self, File};
use std::io::{self, Write};
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use model::{NodeName, Object, Revision, StoreId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stream::VIEW_FORMAT;

/// Where the view is kept unless the configuration says otherwise.
pub const DEFAULT_PATH: &str = "/var/lib/ladon/view";

const MAGIC: &str = "ladon-view ";
/// A thread is worth its while from so many lines on.
const LINES_OF_THREAD: usize = 1_000;

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    node: NodeName,
    /// Views of before stores had identities have none.
    #[serde(default)]
    store: Option<StoreId>,
    /// The journal's last line that is in it. Views of before there were journals have none.
    #[serde(default)]
    last: String,
    revision: Revision,
    objects: usize,
}

/// A view as it is on the disk.
#[derive(Clone, PartialEq, Debug)]
pub struct Saved {
    pub objects: Vec<Arc<Object>>,
    pub revision: Revision,
    pub store: Option<StoreId>,
    /// See [`Journal`](super::journal::Journal).
    pub last: String,
}

/// Why the disk gives no view, or takes none.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("there is none yet")]
    Missing,
    #[error("it cannot be read: {0}")]
    Read(io::Error),
    #[error("it is no file of Ladon's")]
    Foreign,
    #[error("it is damaged: its checksum is wrong")]
    Damaged,
    #[error("it is of view format {0}, and this is format {VIEW_FORMAT}")]
    Format(u32),
    #[error("it is the view of node {0}")]
    OtherNode(NodeName),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// The view of `node` as it was last saved.
pub fn load(path: &Path, node: &NodeName) -> Result<Saved, DiskError> {
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => DiskError::Missing,
        io::ErrorKind::InvalidData => DiskError::Damaged,
        _ => DiskError::Read(error),
    })?;
    let (sum, body) = text.strip_prefix(MAGIC).and_then(|rest| rest.split_once('\n')).ok_or(DiskError::Foreign)?;
    if sum != checksum(body.as_bytes()) {
        return Err(DiskError::Damaged);
    }
    let mut lines = body.lines();
    let header: Header = lines.next().and_then(|line| serde_json::from_str(line).ok()).ok_or(DiskError::Foreign)?;
    if header.format != VIEW_FORMAT {
        return Err(DiskError::Format(header.format));
    }
    if header.node != *node {
        return Err(DiskError::OtherNode(header.node));
    }
    let lines: Vec<&str> = lines.collect();
    // A checksum that is right over objects that cannot be read: another version of Ladon wrote them.
    let objects = objects(&lines).map_err(|_| DiskError::Foreign)?;
    let saved = Saved { objects, revision: header.revision, store: header.store, last: header.last };
    if saved.objects.len() == header.objects { Ok(saved) } else { Err(DiskError::Damaged) }
}

/// The objects of these lines. Many are read by as many threads as there are processors: traffic does not wait for it, but changes do.
fn objects(lines: &[&str]) -> Result<Vec<Arc<Object>>, serde_json::Error> {
    let read = |lines: &[&str]| lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<Vec<_>, _>>();
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let part = lines.len().div_ceil(processors).max(LINES_OF_THREAD);
    if lines.len() <= part {
        return read(lines);
    }
    let parts: Vec<Vec<Arc<Object>>> = thread::scope(|scope| {
        let threads: Vec<_> = lines.chunks(part).map(|lines| scope.spawn(move || read(lines))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect::<Result<_, _>>()
    })?;
    Ok(parts.into_iter().flatten().collect())
}

/// Puts the view on the disk in place of the one that is there. Either of them is there whenever power fails.
pub fn save(path: &Path, node: &NodeName, view: &Saved) -> Result<(), DiskError> {
    let fail = |source| DiskError::Write { path: path.to_path_buf(), source };
    let Saved { objects, revision, store, last } = view;
    let (format, node, last, count) = (VIEW_FORMAT, node.clone(), last.clone(), objects.len());
    let header = Header { format, node, store: *store, last, revision: *revision, objects: count };
    let mut body = serde_json::to_vec(&header).map_err(|error| fail(error.into()))?;
    for object in objects {
        body.push(b'\n');
        serde_json::to_writer(&mut body, object).map_err(|error| fail(error.into()))?;
    }
    body.push(b'\n');
    write(path, &body).map_err(fail)
}

fn write(path: &Path, body: &[u8]) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let mut file = crate::record::create(Path::new(&unfinished), crate::record::PRIVATE)?;
    file.write_all(format!("{MAGIC}{}\n", checksum(body)).as_bytes())?;
    file.write_all(body)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(parent)?.sync_all()
}

pub fn checksum(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Node, TunnelType};

    fn name() -> NodeName {
        NodeName("n1".into())
    }

    fn saved() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/view");
        let node = |n: u8| {
            Arc::new(Object::from(Node {
                name: NodeName(format!("n{n}")),
                tunnel_addresses: vec![],
                tunnel: TunnelType::Vxlan,
                bridge: String::new(),
                datapath: String::new(),
                stream: None,
            }))
        };
        let store = Some(StoreId(uuid::Uuid::from_u128(9)));
        save(&path, &name(), &Saved { objects: vec![node(1), node(2)], revision: Revision(7), store, last: "x".into() }).unwrap();
        (dir, path)
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let (_dir, path) = saved();
        let Saved { objects, revision, store, last } = load(&path, &name()).unwrap();
        assert_eq!((objects.len(), revision, store.is_some(), &*last), (2, Revision(7), true, "x"));
        let less = Saved { objects: objects[..1].to_vec(), revision: Revision(8), store, last };
        save(&path, &name(), &less).unwrap();
        assert_eq!(load(&path, &name()).unwrap(), less);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions()) & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_no_view() {
        let (_dir, path) = saved();
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x81;
            fs::write(&path, bytes).unwrap();
            assert!(load(&path, &name()).is_err(), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(load(&path, &name()).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_view_of_before_stores_had_identities_is_loaded() {
        let (_dir, path) = saved();
        let body = "{\"format\":1,\"node\":\"n1\",\"revision\":42,\"objects\":0}\n";
        fs::write(&path, format!("{MAGIC}{}\n{body}", checksum(body.as_bytes()))).unwrap();
        let view = Saved { objects: vec![], revision: Revision(42), store: None, last: String::new() };
        assert_eq!(load(&path, &name()).unwrap(), view);
    }

    #[test]
    fn another_nodes_view_is_not_taken() {
        let (_dir, path) = saved();
        assert!(matches!(load(&path, &NodeName("n2".into())), Err(DiskError::OtherNode(_))));
        assert!(matches!(load(&path.with_extension("none"), &name()), Err(DiskError::Missing)));
    }
}
