//! Has processes stand still, as those of a laptop that sleeps: the freezer of control groups.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tests::wait;

use crate::peer::descendants;

/// A control group of processes; removed when dropped.
#[derive(Debug)]
pub struct Freezer {
    folder: PathBuf,
    /// Of version 1, or of version 2.
    old: bool,
}

impl Freezer {
    /// One with a process and all that it started.
    ///
    /// # Panics
    /// Without root, or a freezer.
    #[must_use]
    pub fn of(process: u32) -> Self {
        let mounted = Path::new("/sys/fs/cgroup");
        let old = !mounted.join("cgroup.controllers").exists();
        let parent = if old { mounted.join("freezer") } else { mounted.to_owned() };
        let freezer = Self { folder: parent.join(format!("tunnel-chaos-{process}")), old };
        fs::create_dir(&freezer.folder).expect("root, and a freezer");
        for one in [vec![process], descendants(process)].concat() {
            fs::write(freezer.folder.join("cgroup.procs"), one.to_string()).unwrap();
        }
        freezer
    }

    /// Stops them, and waits until they stand still.
    pub fn freeze(&self) {
        let (file, value, state, frozen) = if self.old {
            ("freezer.state", "FROZEN", "freezer.state", "FROZEN")
        } else {
            ("cgroup.freeze", "1", "cgroup.events", "frozen 1")
        };
        fs::write(self.folder.join(file), value).unwrap();
        wait::until_true("they stand still", Duration::from_secs(10), || {
            fs::read_to_string(self.folder.join(state)).unwrap().contains(frozen)
        });
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        let (file, value) = if self.old { ("freezer.state", "THAWED") } else { ("cgroup.freeze", "0") };
        fs::write(self.folder.join(file), value).unwrap();
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.thaw();
        // Only an empty group can be removed: its processes go back to the first.
        let parent = self.folder.parent().unwrap();
        for process in fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write(parent.join("cgroup.procs"), process);
        }
        let _ = fs::remove_dir(&self.folder);
    }
}
