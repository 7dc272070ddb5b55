//! An archive in the kernel's own format (cpio, "newc"), written here so that no program is needed for it. The same entries
//! in the same order are the same bytes: no clock, no owner and no inode of this machine is in it.

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;
const DEVICE: u32 = 0o020_600;

/// Entries in the order in which they were added. A folder comes before what is in it.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: usize,
}

impl Archive {
    /// A folder.
    pub fn folder(&mut self, name: &str) {
        self.entry(name, FOLDER, (0, 0), &[]);
    }

    /// A file that can be run.
    pub fn program(&mut self, name: &str, content: &[u8]) {
        self.entry(name, PROGRAM, (0, 0), content);
    }

    /// A file.
    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, PLAIN, (0, 0), content);
    }

    /// `dev/console`: the kernel opens it for init before anything is mounted.
    pub fn console(&mut self) {
        self.entry("dev/console", DEVICE, (5, 1), &[]);
    }

    /// Without its end: more can be written behind it.
    #[must_use]
    pub fn open(&self) -> &[u8] {
        &self.bytes
    }

    /// With its end.
    #[must_use]
    pub fn closed(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let (major, minor) = device;
        // inode, mode, user, group, links, time, size, device of the file system, device, length of the name, checksum
        let fields = [
            self.entries,
            mode as usize,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            major as usize,
            minor as usize,
            name.len() + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
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
    fn an_entry_is_what_the_kernel_documents() {
        let mut archive = Archive::default();
        archive.file("a/bc", b"12345");
        let bytes = archive.open();
        let header = "070701000000010000 81a4".replace(' ', "");
        assert!(bytes.starts_with(header.as_bytes()), "{}", String::from_utf8_lossy(bytes));
        // 110 bytes of header, 5 of name, one of padding; 5 of content, 3 of padding.
        assert_eq!(bytes.len(), 116 + 8);
        assert_eq!(&bytes[110..116], b"a/bc\0\0");
        assert_eq!(&bytes[116..], b"12345\0\0\0");
    }

    #[test]
    fn nothing_of_the_moment_is_in_it() {
        let written = || {
            let mut archive = Archive::default();
            archive.folder("a");
            archive.program("a/b", b"1");
            archive.console();
            archive.closed()
        };
        let first = written();
        assert_eq!(first, written());
        // Times, the 6th field of each header of 13 after the magic.
        for (at, _) in first.windows(6).enumerate().filter(|(_, window)| window == b"070701") {
            assert_eq!(&first[at + 6 + 5 * 8..at + 6 + 6 * 8], b"00000000");
        }
        assert_eq!(first.len() % 4, 0);
    }
}
