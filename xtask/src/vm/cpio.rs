//! The guest's file system as one archive, in the "newc" form of cpio that Linux unpacks at boot
//! (Documentation/driver-api/early-userspace/buffer-format.rst). Writing it ourselves takes no root for its devices.

use std::collections::BTreeSet;
use std::path::Path;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive under construction; folders appear before what is in them.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// A file that can be run, at an absolute path.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.parents(path);
        self.entry(path, PROGRAM, (0, 0), content);
    }

    /// A folder and those above it.
    pub fn folder(&mut self, path: &str) {
        self.parents(&format!("{path}/x"));
    }

    /// A character device, by its two numbers.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.parents(path);
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("/TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        let mut above: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
        above.retain(|folder| *folder != Path::new("/") && *folder != Path::new(""));
        for folder in above.into_iter().rev() {
            let folder = folder.display().to_string();
            if self.folders.insert(folder.clone()) {
                self.entry(&folder, FOLDER, (0, 0), &[]);
            }
        }
    }

    /// One header of 13 hexadecimal fields, the name, the content; each of the two padded to four bytes.
    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let name = path.trim_start_matches('/');
        self.entries += 1;
        let (length, name_length) = (content.len() as u32, name.len() as u32 + 1);
        // inode, mode, owner, group, links, time, length, device twice, length of the name, checksum (unused)
        let fields = [self.entries, mode, 0, 0, 1, 0, length, 0, 0, device.0, device.1, name_length, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_first_and_once_and_everything_is_aligned() {
        let mut archive = Archive::default();
        archive.file("/bin/a", b"abcde");
        archive.file("/bin/b", b"x");
        archive.folder("/proc");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).expect("nothing but text here");
        let at = |name: &str| text.find(&format!("{name}\0")).expect(name);
        assert!(at("bin") < at("bin/a") && at("bin/a") < at("bin/b"));
        assert_eq!(text.matches("070701").count(), 5, "bin, a, b, proc and the trailer");
    }
}
