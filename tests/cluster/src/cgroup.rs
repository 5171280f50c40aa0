//! The cgroups below which all pods of one node are, so that they can be removed with it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

const MOUNTED: &str = "/sys/fs/cgroup";

/// A cgroup with a name of its own: one folder under version 2, one for each controller under version 1.
#[derive(Debug)]
pub struct Cgroup(String);

impl Cgroup {
    /// The cgroup of the node whose files are in `folder`: its name follows from the path, so that it can be
    /// found after a crash.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, folder.as_os_str().as_encoded_bytes());
        let letters: String = digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Self(format!("tunnel-cluster-{letters}"))
    }

    /// Its path, as the kubelet wants it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/{}", self.0)
    }

    /// Its folders, one for each hierarchy.
    fn folders(&self) -> Result<Vec<PathBuf>> {
        let mounted = Path::new(MOUNTED);
        if mounted.join("cgroup.controllers").exists() {
            return Ok(vec![mounted.join(&self.0)]);
        }
        let mut folders = Vec::new();
        for entry in fs::read_dir(mounted).context("no cgroups are mounted")? {
            let entry = entry?;
            // The links are other names of the same hierarchies.
            if entry.file_type()?.is_dir() {
                folders.push(entry.path().join(&self.0));
            }
        }
        Ok(folders)
    }

    /// Makes it, ready to have children.
    ///
    /// # Errors
    /// When the kernel says no.
    pub fn create(&self) -> Result<()> {
        let mounted = Path::new(MOUNTED);
        if let Ok(controllers) = fs::read_to_string(mounted.join("cgroup.controllers")) {
            for controller in controllers.split_whitespace() {
                // Not all can be handed on everywhere; the kubelet says which of them it misses.
                let _ = fs::write(mounted.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        for folder in self.folders()? {
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            // Without these two, a cpuset of version 1 takes no process.
            for file in ["cpuset.mems", "cpuset.cpus"] {
                let (own, parents) = (folder.join(file), folder.with_file_name(file));
                if parents.exists() {
                    fs::write(own, fs::read_to_string(parents)?)?;
                }
            }
        }
        Ok(())
    }

    /// Removes it and all below it, once the last process there has ended.
    ///
    /// # Errors
    /// When a process does not end within ten seconds.
    pub fn remove(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        for folder in self.folders()? {
            while folder.exists() && remove_tree(&folder).is_err() {
                ensure!(Instant::now() < end, "processes are left in {}", folder.display());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

/// Removes a cgroup after its children. Its files go by themselves.
fn remove_tree(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}
