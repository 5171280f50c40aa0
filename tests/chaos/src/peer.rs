//! The programs that are compared: for each a client on one host, a server on the other, and a local port.

mod autossh;
mod pf_tunnel;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::ValueEnum;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use tests::{bastion, process::Process, sshd, tunnel, wait};

use crate::{
    conversation::Speaker,
    network::{Network, SERVER},
    switch::Switch,
};

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// `pf-tunnel` with `bastion-server`.
    Ours,
    /// `pf-tunnel` with OpenSSH's server.
    OursToSshd,
    /// `ssh` with OpenSSH's server, kept by `autossh`.
    Autossh,
}

impl Peer {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 3] = [Self::Ours, Self::OursToSshd, Self::Autossh];

    /// Whether connections are to outlive their carrier: between our own ends, and, for comparison, wherever
    /// nothing else was promised.
    #[must_use]
    pub fn resumes(self) -> bool {
        self != Self::OursToSshd
    }

    /// What stands above the column.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Ours => "pf-tunnel → bastion",
            Self::OursToSshd => "pf-tunnel → sshd",
            Self::Autossh => "ssh + autossh → sshd",
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.title())
    }
}

/// Settings of one case, where they differ from those of every other.
pub struct Setup {
    /// The bastion's.
    pub bastion: Rc<dyn Fn(bastion::Setup) -> bastion::Setup>,
    /// Those of OpenSSH's server.
    pub sshd: Rc<dyn Fn(sshd::Setup) -> sshd::Setup>,
    /// Those of `pf-tunnel`.
    pub project: Box<dyn FnOnce(tunnel::Setup) -> tunnel::Setup>,
    /// How long the life of a certificate is, in seconds.
    pub life: u64,
    /// Whether a switch stands before the server, as before replicas.
    pub through_switch: bool,
    /// The name by which the client knows the server, instead of its address.
    pub by_name: Option<&'static str>,
    /// Where further local ports lead.
    pub further: Vec<String>,
    /// Whether the local ports wait until something answers behind them.
    pub probes: bool,
}

impl fmt::Debug for Setup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Setup of certificates for {} s", self.life)
    }
}

impl Setup {
    /// Where the server listens: one that is known by a name may move.
    fn listens(&self) -> IpAddr {
        if self.by_name.is_some() { Ipv4Addr::UNSPECIFIED.into() } else { SERVER.into() }
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            bastion: Rc::new(|setup| setup),
            sshd: Rc::new(|setup| setup),
            project: Box::new(|setup| setup),
            life: 3600,
            through_switch: false,
            by_name: None,
            further: Vec::new(),
            probes: true,
        }
    }
}

/// A client with its server, and a local port that leads to the application.
#[derive(Debug)]
pub struct Tunnel {
    /// Which programs these are.
    pub peer: Peer,
    /// Where the application is reached, on the client's host.
    pub local: SocketAddr,
    /// Where the further destinations are.
    pub further: Vec<SocketAddr>,
    /// Where the server is, for the client.
    pub server_address: SocketAddr,
    /// The client.
    pub client: Client,
    /// The server.
    pub server: Server,
    /// What stands before it, if it was asked for.
    pub switch: Option<Switch>,
    /// Makes one more server with the same keys.
    replica: Replica,
}

/// Makes servers with the same keys, at an address of their own.
struct Replica(Box<dyn Fn() -> Server>);

impl fmt::Debug for Replica {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Replica")
    }
}

/// A server that runs, and how its clients reach it.
struct Serving {
    server: Server,
    replica: Replica,
    switch: Option<Switch>,
    /// Behind the switch, if there is one.
    address: SocketAddr,
    /// As the client is told.
    name: String,
}

impl Serving {
    fn start(make: impl Fn() -> Server + 'static, setup: &Setup) -> Self {
        let server = make();
        let switch = setup.through_switch.then(|| Switch::at(SERVER, server.address()));
        let mut address = switch.as_ref().map_or(server.address(), Switch::address);
        if address.ip().is_unspecified() {
            address.set_ip(SERVER.into());
        }
        let host = setup.by_name.map_or_else(|| address.ip().to_string(), str::to_owned);
        let name = format!("{host}:{}", address.port());
        Self { server, replica: Replica(Box::new(make)), switch, address, name }
    }
}

/// The client's program.
#[derive(Debug)]
pub enum Client {
    /// `pf-tunnel`, with what it was started in, and the authority that signs for it.
    PfTunnel(Box<pf_tunnel::PfTunnel>),
    /// `autossh`, which has an `ssh` as its child.
    Autossh(Box<autossh::Autossh>),
}

/// The server's program.
#[derive(Debug)]
pub enum Server {
    /// Ours.
    Bastion(Box<bastion::Bastion>),
    /// OpenSSH's.
    Sshd(Box<sshd::Sshd>),
}

impl Server {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Bastion(bastion) => bastion.address(),
            Self::Sshd(sshd) => sshd.address(),
        }
    }

    /// Whether it has no SSH session: none is open, or each that was has ended.
    pub fn has_no_session(&mut self) -> bool {
        match self {
            Self::Bastion(bastion) => {
                let records = bastion.audit();
                let count = |event: &str| records.iter().filter(|record| record["event"] == event).count();
                count("login_accepted") == count("session_closed")
            }
            Self::Sshd(sshd) => descendants(sshd.process().id()).is_empty(),
        }
    }
}

impl Tunnel {
    /// Starts both, and returns when the application answers through them.
    #[must_use]
    pub fn start(peer: Peer, network: &Network, speaker: &Speaker, setup: Setup) -> Self {
        match peer {
            Peer::Ours => pf_tunnel::to_bastion(network, speaker, setup),
            Peer::OursToSshd => pf_tunnel::to_sshd(network, speaker, setup),
            Peer::Autossh => autossh::to_sshd(network, speaker, setup),
        }
    }

    /// Kills the server and all that it started, as the loss of its machine would.
    pub fn kill_server(&mut self) {
        let process = self.server_process();
        let others = descendants(process.id());
        process.kill();
        kill_all(&others);
    }

    /// When the certificate ends by which the client is logged in.
    pub fn expiry(&mut self) -> Instant {
        let until = match &mut self.client {
            Client::PfTunnel(ours) => {
                let signed = ours.tunnel.event("certificate", wait::START);
                humantime::parse_rfc3339(signed["until"].as_str().unwrap()).unwrap()
            }
            Client::Autossh(autossh) => UNIX_EPOCH + Duration::from_secs(autossh.until),
        };
        Instant::now() + until.duration_since(SystemTime::now()).unwrap_or_default()
    }

    /// The key id of the certificate by which the client is logged in.
    pub fn key_id(&mut self) -> String {
        match &mut self.client {
            Client::PfTunnel(ours) => {
                ours.tunnel.event("certificate", wait::START)["key_id"].as_str().unwrap().to_owned()
            }
            Client::Autossh(autossh) => autossh.key_id.clone(),
        }
    }

    /// Starts one more server with the same keys, to which the switch leads from now on.
    ///
    /// # Panics
    /// Without a switch.
    #[must_use]
    pub fn start_replica(&self) -> Server {
        let replica = (self.replica.0)();
        self.switch.as_ref().expect("a switch").lead_to(replica.address());
        replica
    }

    /// Whether the client has given up a carrier since it was started.
    pub fn has_lost_carrier(&mut self) -> bool {
        match &mut self.client {
            Client::PfTunnel(ours) => ours.tunnel.count("lost") > 0,
            Client::Autossh(autossh) => descendants(autossh.process.id()) != autossh.first,
        }
    }

    /// Starts the server again, where it was.
    pub fn start_server(&mut self) {
        match &mut self.server {
            Server::Bastion(bastion) => bastion.start_again(),
            Server::Sshd(sshd) => sshd.start_again(),
        }
    }

    /// The server's process.
    pub fn server_process(&mut self) -> &mut Process {
        match &mut self.server {
            Server::Bastion(bastion) => bastion.process(),
            Server::Sshd(sshd) => sshd.process(),
        }
    }

    /// The client's process.
    pub fn client_process(&mut self) -> &mut Process {
        match &mut self.client {
            Client::PfTunnel(ours) => &mut ours.tunnel.process,
            Client::Autossh(autossh) => &mut autossh.process,
        }
    }

    /// Sends a signal to the server and all that it started.
    pub fn signal_server(&mut self, signal: Signal) {
        signal_all(self.server_process().id(), signal);
    }

    /// Sends a signal to the client and all that it started.
    pub fn signal_client(&mut self, signal: Signal) {
        signal_all(self.client_process().id(), signal);
    }

    /// Our client, where it is one.
    ///
    /// # Panics
    /// When it is another's.
    pub fn pf_tunnel(&mut self) -> &mut pf_tunnel::PfTunnel {
        match &mut self.client {
            Client::PfTunnel(ours) => ours,
            Client::Autossh(_) => panic!("{} is asked for what only ours has", self.peer),
        }
    }

    /// Our bastion, where the server is one.
    ///
    /// # Panics
    /// When it is another's.
    pub fn bastion(&mut self) -> &mut bastion::Bastion {
        match &mut self.server {
            Server::Bastion(bastion) => bastion,
            Server::Sshd(_) => panic!("{} is asked for what only ours has", self.peer),
        }
    }
}

/// The application, and whatever else a case leads to.
fn destinations(speaker: &Speaker, setup: &Setup) -> Vec<String> {
    [vec![speaker.target().address().to_string()], setup.further.clone()].concat()
}

fn pid(process: u32) -> Pid {
    Pid::from_raw(process.cast_signed())
}

/// Kills those of these processes that are still there.
pub fn kill_all(processes: &[u32]) {
    for one in processes {
        let _ = kill(pid(*one), Signal::SIGKILL);
    }
}

fn signal_all(process: u32, signal: Signal) {
    for one in [vec![process], descendants(process)].concat() {
        let _ = kill(pid(one), signal);
    }
}

/// The processes that a process started, and those that these did.
#[must_use]
pub fn descendants(process: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> = lists
        .flat_map(|list| list.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<_>>())
        .collect();
    children.into_iter().flat_map(|child| [vec![child], descendants(child)].concat()).collect()
}
