//! A node from the outside: its namespaces, the daemons in it, and the way to it.

use std::{
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    network::Addresses,
    runner::{self, Answer, Request},
    supervisor,
};
use test_support::{
    process::{Program, ours},
    wait,
};

/// The name that the cluster knows the node by.
pub const NAME: &str = "node";

/// How long a node lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Until this process ends, however it ends.
    OfThisProcess,
    /// Until an operator takes it down.
    UntilTakenDown,
}

/// A node that lives.
#[derive(Debug)]
pub struct Node {
    folder: PathBuf,
    first: u32,
    addresses: Addresses,
    /// Only of one that dies with this process.
    supervisor: Option<Child>,
}

impl Node {
    /// Makes one: namespaces, and the way to them; no daemon runs yet.
    ///
    /// # Panics
    /// When the kernel says no.
    #[must_use]
    pub fn start(folder: &Path, life: Life) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let log = std::fs::File::create(folder.join("supervisor.log")).unwrap();
        let words: &[&str] = match life {
            Life::OfThisProcess => &["setpriv", "--pdeathsig", "TERM", "--"],
            Life::UntilTakenDown => &["setsid", "--"],
        };
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(program()).arg("supervise").arg(folder);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // In a group of its own, so that what kills this process and all of its group leaves it time to clean
        // up.
        if life == Life::OfThisProcess {
            command.process_group(0);
        }
        let mut child = test_support::process::spawn(command);
        let first = wait::until("the node's first process", wait::START, || {
            let ended = child.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "the supervisor ended ({ended:?}): {}",
                read(&folder.join("supervisor.log"))
            );
            supervisor::alive(folder)
        });
        let supervisor = (life == Life::OfThisProcess).then_some(child);
        // From here on, a panic takes the node down.
        let mut node = Self { folder: folder.to_owned(), first, addresses: Addresses::none(), supervisor };
        wait::until_true("the node's runner", wait::START, || node.socket().exists());
        node.addresses = Addresses::connect(first);
        node
    }

    /// The node that lives in this folder, if one does.
    #[must_use]
    pub fn find(folder: &Path) -> Option<Self> {
        let first = supervisor::alive(folder)?;
        let addresses = Addresses::read(folder)?;
        Some(Self { folder: folder.to_owned(), first, addresses, supervisor: None })
    }

    /// Takes a node down that lives in this folder, and removes what a dead one left there.
    ///
    /// # Errors
    /// When something is left.
    pub fn remove(folder: &Path) -> Result<()> {
        supervisor::terminate(folder)?;
        supervisor::clean(folder)?;
        ensure!(!folder.exists(), "{} is still there: see supervisor.log in it", folder.display());
        Ok(())
    }

    /// Where its files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The way between it and the machine.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Its own address, which the machine reaches.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.addresses.node
    }

    /// The machine's address, as the node and its pods reach it.
    #[must_use]
    pub fn host(&self) -> Ipv4Addr {
        self.addresses.host
    }

    pub(super) fn remember(&self) {
        self.addresses.write(&self.folder);
    }

    /// Its first process, as the machine sees it.
    #[must_use]
    pub fn first_process(&self) -> u32 {
        self.first
    }

    /// The process that dies with this one and takes the node along; none for a node that stays.
    #[must_use]
    pub fn supervisor(&self) -> Option<u32> {
        self.supervisor.as_ref().map(Child::id)
    }

    /// A path of the node, as the machine reaches it: one of `/run`, `/var/lib` or `/var/log`.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.first))
    }

    fn socket(&self) -> PathBuf {
        self.path(runner::SOCKET)
    }

    /// A command that runs in the node's network and sees its mounts, but is no process of it.
    #[must_use]
    pub fn enter(&self, words: &[&str]) -> Program {
        let first = self.first.to_string();
        Program::new("nsenter").args(["--target", &first, "--net", "--mount", "--"]).args(words)
    }

    /// Starts a daemon in the node. What it writes is in [`Node::log`].
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, name: &str, words: Vec<String>) {
        let start = Request::Start { name: name.to_owned(), words };
        match self.ask(&start) {
            Answer::Running => {}
            other => panic!("{name} does not start: {other:?}"),
        }
    }

    /// Starts a daemon that was stopped, as it was started before.
    ///
    /// # Panics
    /// When it never was.
    pub fn restart(&self, name: &str) {
        match self.ask(&Request::Restart { name: name.to_owned() }) {
            Answer::Running => {}
            other => panic!("{name} does not start again: {other:?}"),
        }
    }

    /// Stops a daemon.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn stop(&self, name: &str) {
        match self.ask(&Request::Stop { name: name.to_owned() }) {
            Answer::Ended(_) => {}
            other => panic!("{name} does not stop: {other:?}"),
        }
    }

    /// How a daemon ended, if it did.
    ///
    /// # Panics
    /// When the node is gone.
    #[must_use]
    pub fn ended(&self, name: &str) -> Option<String> {
        match self.ask(&Request::Status { name: name.to_owned() }) {
            Answer::Running => None,
            Answer::Ended(how) | Answer::Failed(how) => Some(how),
        }
    }

    /// What a daemon wrote until now.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        read(&self.folder.join("log").join(format!("{name}.log")))
    }

    fn ask(&self, request: &Request) -> Answer {
        runner::ask(&self.socket(), request)
            .unwrap_or_else(|error| panic!("the node does not answer: {error:#}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(supervisor) = &mut self.supervisor {
            let _ = kill(Pid::from_raw(supervisor.id().cast_signed()), Signal::SIGTERM);
            let _ = supervisor.wait();
        }
    }
}

/// The program that has the supervisor in it: this one, or the one beside the running test.
fn program() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    if this.file_name().is_some_and(|name| name == "cluster") { this } else { ours("cluster") }
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
