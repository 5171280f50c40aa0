//! Archives in the ustar format of POSIX, without anything that depends on when or by whom they were made.

/// A tar archive under construction.
#[derive(Default)]
pub(crate) struct Tar(Vec<u8>);

const BLOCK: usize = 512;

impl Tar {
    /// A folder that all users may read.
    pub(crate) fn folder(&mut self, name: &str) {
        self.entry(&format!("{name}/"), 0o755, b'5', &[]);
    }

    /// A file of root's.
    pub(crate) fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entry(name, mode, b'0', content);
        let rest = content.len() % BLOCK;
        if rest != 0 {
            self.0.resize(self.0.len() + BLOCK - rest, 0);
        }
    }

    /// The archive, with the two empty blocks that end it.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }

    fn entry(&mut self, name: &str, mode: u32, kind: u8, content: &[u8]) {
        assert!(name.len() <= 100, "{name} is too long for this format");
        let octal = |number: usize, width: usize| format!("{number:0width$o}\0", width = width - 1);
        // Name, mode, owner, group, size, time; then the sum, counted with blanks in its own place.
        let numbers = format!(
            "{mode:07o}\0{owner}{owner}{size}{time}",
            owner = octal(0, 8),
            size = octal(content.len(), 12),
            time = octal(0, 12)
        );
        let mut header = Vec::with_capacity(BLOCK);
        header.extend(name.as_bytes());
        header.resize(100, 0);
        header.extend(numbers.as_bytes());
        header.extend(b"        ");
        header.push(kind);
        header.resize(257, 0);
        header.extend(b"ustar\x0000");
        header.resize(BLOCK, 0);
        let sum = header.iter().map(|byte| usize::from(*byte)).sum();
        header.splice(148..156, format!("{} ", octal(sum, 7)).into_bytes());
        self.0.extend(header);
        self.0.extend(content);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn tar_reads_it() {
        let mut tar = Tar::default();
        tar.folder("a");
        tar.file("a/b", 0o644, &[b'x'; 513]);
        tar.file("c", 0o755, b"");
        let archive = tar.finish();
        let mut program = Command::new("tar")
            .args(["--utc", "--numeric-owner", "-tv"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        program.stdin.take().unwrap().write_all(&archive).unwrap();
        let out = program.wait_with_output().unwrap();
        assert!(out.status.success());
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let listed = String::from_utf8(out.stdout).unwrap();
        assert_eq!(
            listed.lines().map(words).collect::<Vec<_>>(),
            [
                "drwxr-xr-x 0/0 0 1970-01-01 00:00 a/",
                "-rw-r--r-- 0/0 513 1970-01-01 00:00 a/b",
                "-rwxr-xr-x 0/0 0 1970-01-01 00:00 c",
            ]
            .map(words)
        );
    }
}
