//! A clock that can be set for one program, without touching that of the machine.

use std::path::{Path, PathBuf};

use crate::scratch::Scratch;

/// The clock of the programs that run by it.
#[derive(Debug)]
pub struct Clock {
    scratch: Scratch,
}

impl Clock {
    /// One that is right.
    #[must_use]
    pub fn new() -> Self {
        let clock = Self { scratch: Scratch::new("clock") };
        clock.set(0);
        clock
    }

    /// Sets it to so many seconds after the machine's.
    pub fn set(&self, seconds: i64) {
        // In one step: half a file would be another time.
        let next = self.scratch.write("next", format!("{seconds:+}\n"));
        std::fs::rename(next, self.file()).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.scratch.join("time")
    }

    /// The variables of a program that runs by it. Its timers do not: those of a laptop, too, go on when its
    /// user sets the clock.
    ///
    /// # Panics
    /// When faketime is not installed.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path());
    folders
        .map(|folder| folder.join("faketime/libfaketimeMT.so.1"))
        .find(|path| Path::is_file(path))
        .expect("faketime is not installed: run tests/install first")
}
