//! Supervises a node from outside, and leaves nothing of it behind; and is the first process inside.
//!
//! A node is one PID namespace, one mount namespace and one network namespace. Whatever runs in it, daemons
//! and pods alike, is below the first process of the PID namespace and dies with it, by the kernel's hand;
//! mounts and network devices go with their namespaces. What would stay, cgroups and files, the supervisor
//! removes. It ends on SIGTERM, which it also gets when the test that started it dies; and when it is killed
//! itself, the node dies all the same, and the next [`sweep`] removes the rest.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::{
        signal::{Signal, kill},
        wait::{WaitStatus, wait},
    },
    unistd::Pid,
};
use tokio::signal::unix::{SignalKind, signal};

use super::{cgroup::Cgroup, runner};

/// What temporary state folders are called, before some random letters.
pub const PREFIX: &str = "tunnel-cluster-";

/// Folders of the machine that daemons write to under fixed names; in the node, they are folders of its own.
const OWN_FOLDERS: [(&str, &str); 3] = [("run", "/run"), ("lib", "/var/lib"), ("log", "/var/log")];

/// Where a node's folder keeps the id of its first process, as the machine sees it.
fn pid_file(folder: &Path) -> PathBuf {
    folder.join("node.pid")
}

/// The first process of the node that lives in this folder, if one does.
#[must_use]
pub fn alive(folder: &Path) -> Option<u32> {
    let text = fs::read_to_string(pid_file(folder)).ok()?;
    lock(folder).is_none().then(|| text.trim().parse().ok()).flatten()
}

/// Takes a folder's lock, which its supervisor holds for as long as it lives.
fn lock(folder: &Path) -> Option<Flock<File>> {
    lock_file(folder.join("lock"), true)
}

fn lock_file(path: PathBuf, create: bool) -> Option<Flock<File>> {
    let file = File::options().create(create).truncate(false).write(true).open(path).ok()?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}

/// The lock of a new folder, which is locked as soon as it has its name: a [`sweep`] takes one that is not
/// for that of a dead node.
fn first_lock(folder: &Path) -> Option<Flock<File>> {
    let unnamed = folder.join(format!("lock.{}", std::process::id()));
    let lock = lock_file(unnamed.clone(), true)?;
    let named = fs::hard_link(&unnamed, folder.join("lock"));
    fs::remove_file(unnamed).ok()?;
    named.is_ok().then_some(lock)
}

/// Has the supervisor of this folder take its node down, if there is one.
///
/// # Errors
/// When it does not within half a minute.
pub fn terminate(folder: &Path) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    let mut told = false;
    while folder.exists() && lock(folder).is_none() {
        let supervisor = fs::read_to_string(folder.join("lock")).unwrap_or_default();
        if let (false, Ok(supervisor)) = (told, supervisor.parse()) {
            // It may have gone by now.
            told = kill(Pid::from_raw(supervisor), Signal::SIGTERM).is_ok();
        }
        ensure!(Instant::now() < end, "{} is not taken down: see supervisor.log in it", folder.display());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Makes a node in `folder`, and keeps it until SIGTERM, SIGINT or its own end; then removes all of it, the
/// folder included.
///
/// # Errors
/// When the node could not be made, or not be removed.
pub async fn supervise(folder: &Path) -> Result<()> {
    let there = folder.join("lock").exists();
    let lock = if there { lock(folder) } else { first_lock(folder) };
    let mut lock = lock.with_context(|| format!("another supervisor has {}", folder.display()))?;
    lock.set_len(0)?;
    write!(lock, "{}", std::process::id())?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    for (own, _) in OWN_FOLDERS {
        fs::create_dir_all(folder.join(own))?;
    }
    let cgroup = Cgroup::of(folder);
    cgroup.create()?;
    let result = async {
        let namespaces = "--net --mount --ipc --pid --fork --mount-proc --kill-child --";
        let mut unshare = tokio::process::Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "unshare"])
            .args(namespaces.split(' '))
            .arg(std::env::current_exe()?)
            .arg("hold")
            .arg(folder)
            .kill_on_drop(true)
            .spawn()
            .context("setpriv does not start")?;
        let first = first_process(unshare.id().context("unshare has ended")?).await?;
        fs::write(folder.join("node.pid.new"), first.to_string())?;
        fs::rename(folder.join("node.pid.new"), pid_file(folder))?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            status = unshare.wait() => bail!("the node ended by itself: {}", status?),
        }
        fs::remove_file(pid_file(folder))?;
        // Its end is the end of all that is in its namespace, and the kernel reports it only after that.
        kill(Pid::from_raw(first.cast_signed()), Signal::SIGKILL)?;
        unshare.wait().await?;
        Ok(())
    }
    .await;
    remove(folder, &cgroup)?;
    result
}

/// The child of `unshare`, which is the first process of the new namespaces.
async fn first_process(unshare: u32) -> Result<u32> {
    for _ in 0..1000 {
        let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"))?;
        if let Some(first) = children.split_whitespace().next() {
            return Ok(first.parse()?);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("unshare made no process");
}

fn remove(folder: &Path, cgroup: &Cgroup) -> Result<()> {
    cgroup.remove()?;
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

/// Removes what a killed supervisor left in this folder; does nothing where one lives.
///
/// # Errors
/// When something cannot be removed.
pub fn clean(folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    match lock(folder) {
        Some(_lock) => remove(folder, &Cgroup::of(folder)),
        None => Ok(()),
    }
}

/// [`clean`], for all temporary folders of nodes whose supervisor was killed.
///
/// # Errors
/// When something cannot be removed; whatever else can be is removed all the same.
pub fn sweep() -> Result<()> {
    let mut result = Ok(());
    for entry in fs::read_dir(std::env::temp_dir())? {
        let folder = entry?.path();
        if !folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)) {
            continue;
        }
        // One without a lock is being made, or removed by its supervisor.
        if let Some(_lock) = lock_file(folder.join("lock"), false)
            && let Err(error) = remove(&folder, &Cgroup::of(&folder))
            && folder.exists()
        {
            result = Err(error);
        }
    }
    result
}

/// The first process of a node: gives it folders of its own, starts its runner, and reaps orphans until the
/// runner ends.
///
/// # Errors
/// When it is not the first process of a namespace, or cannot mount.
pub fn hold(folder: &Path) -> Result<ExitCode> {
    ensure!(
        std::process::id() == 1,
        "`cluster hold` is for the supervisor, which makes the namespaces first"
    );
    let program = std::env::current_exe()?;
    for (own, usual) in OWN_FOLDERS {
        ensure!(
            !program.starts_with(usual),
            "{} cannot be in {usual}, which a node has of its own",
            program.display()
        );
        let own = folder.join(own);
        mount(Some(&own), usual, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("cannot mount {} at {usual}", own.display()))?;
    }
    let runner = std::process::Command::new(program).arg("runner").spawn()?;
    let runner = Pid::from_raw(runner.id().cast_signed());
    loop {
        match wait()? {
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) if pid == runner => {
                return Ok(ExitCode::FAILURE);
            }
            _ => {}
        }
    }
}

/// The runner, which [`hold`] starts.
///
/// # Errors
/// When it cannot listen.
pub fn run() -> Result<()> {
    runner::serve(Path::new(runner::SOCKET))
}
