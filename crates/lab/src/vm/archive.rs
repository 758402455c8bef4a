//! The archive that Linux unpacks at boot: cpio in its "newc" form (kernel documentation, initramfs buffer format).

use std::collections::BTreeSet;

/// File types in a mode (stat(2)).
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive that grows. Parents of what is added are made by themselves.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    /// An empty folder.
    pub fn folder(&mut self, path: &str) {
        self.parents(&format!("{path}/."));
    }

    /// A file; paths are relative, without a leading slash.
    pub fn file(&mut self, path: &str, content: &[u8], permissions: u32) {
        self.parents(path);
        self.entry(path, FILE | permissions, content);
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, to: &str) {
        self.parents(path);
        self.entry(path, LINK | 0o777, to.as_bytes());
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            let folder = &path[..at];
            if self.folders.insert(folder.to_owned()) {
                self.entry(folder, FOLDER | 0o755, &[]);
            }
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let links = 1;
        let fields = [self.inode, mode, 0, 0, links, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        fields.iter().for_each(|field| self.bytes.extend(format!("{field:08X}").as_bytes()));
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    /// Names and contents end on a multiple of four.
    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_starts_on_a_multiple_of_four() {
        let mut archive = Archive::default();
        archive.file("a/b", b"xyz", 0o644);
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let headers = bytes.windows(6).enumerate().filter(|(_, six)| six == b"070701").map(|(at, _)| at);
        let headers: Vec<usize> = headers.collect();
        assert_eq!(headers.len(), 3, "the folder, the file and the trailer");
        assert!(headers.iter().all(|at| at % 4 == 0));
    }
}
