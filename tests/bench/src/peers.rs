//! The servers, and the clients that make a path to a target through them.

use std::{collections::BTreeMap, net::SocketAddr};

use harness::{
    authority::DevAuthority,
    bastion::{self, Bastion},
    forge::Forge,
    key::Key,
    ports,
    process::{Process, Program, user},
    rogue::Attempt,
    ssh::Person,
    sshd::{self, Sshd},
    tunnel,
};
use serde_json::json;

use crate::{copy::Forward, path::Path, usage::Tree};

/// A cipher that both ends have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cipher {
    /// AES-128 in GCM.
    Aes128Gcm,
    /// ChaCha20 with Poly1305, as OpenSSH has it.
    ChaCha20,
}

impl Cipher {
    const fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes128-gcm@openssh.com",
            Self::ChaCha20 => "chacha20-poly1305@openssh.com",
        }
    }
}

/// Our bastion, and OpenSSH's server for each cipher: `pf-tunnel` has no setting for that.
#[derive(Debug)]
pub(crate) struct Servers {
    hosts: Key,
    users: Key,
    authority: DevAuthority,
    aes: Sshd,
    chacha: Sshd,
    bastion: Bastion,
    /// The bastion's process.
    bastion_id: u32,
}

/// A client and a server, with a local port for each target.
#[derive(Debug)]
pub(crate) struct Route {
    local: Vec<SocketAddr>,
    /// The client's processes.
    pub(crate) client: Tree,
    /// The server's.
    pub(crate) server: Tree,
    /// Everything that was started for it.
    _parts: Parts,
}

#[derive(Debug, Default)]
struct Parts {
    _tunnel: Option<(tunnel::Tunnel, tunnel::Setup)>,
    _ssh: Option<(Process, Person)>,
    _more: Vec<Process>,
}

impl Route {
    /// The local port that leads to the target at this place of the list.
    pub(crate) fn local(&self, target: usize) -> SocketAddr {
        self.local[target]
    }
}

impl Servers {
    /// Starts them, with limits that no measurement reaches.
    pub(crate) fn start() -> Self {
        let authority = DevAuthority::start_with(&["--principal", &user()]);
        let (hosts, users) = (Key::ed25519(), Key::ed25519());
        let sshd = |cipher: Cipher| {
            sshd::Setup::new()
                .trust(&users)
                .trust_line(authority.users())
                .certify(&hosts, "127.0.0.1")
                .option(&format!("Ciphers {}", cipher.name()))
                .start()
        };
        let many = 1_000_000;
        let mut bastion = bastion::Setup::new()
            .trust(&users)
            .trust_line(authority.users())
            .certify(&hosts, "127.0.0.1")
            .rule(&user(), &["127.0.0.1:*"])
            .set("/log/level", json!("info"))
            .set("/limits/max_startups", json!({"burst": many, "rate": many}))
            .set("/limits/per_identity/opens", json!(many))
            .set("/limits/per_identity/opens_per_second", json!(many))
            .start();
        let bastion_id = bastion.process().id();
        Self {
            aes: sshd(Cipher::Aes128Gcm),
            chacha: sshd(Cipher::ChaCha20),
            hosts,
            users,
            authority,
            bastion,
            bastion_id,
        }
    }

    /// The server of a path: its address and its processes.
    pub(crate) fn server(&self, path: Path, cipher: Cipher) -> (SocketAddr, Tree) {
        match (path, cipher) {
            (Path::OR | Path::RR, _) => (self.bastion.address(), Tree::of([self.bastion_id])),
            (_, Cipher::Aes128Gcm) => (self.aes.address(), Tree::of([self.aes.id()])),
            (_, Cipher::ChaCha20) => (self.chacha.address(), Tree::of([self.chacha.id()])),
        }
    }

    /// A client's only attempt to log in, with a key of its own.
    pub(crate) fn attempt(&self) -> Attempt {
        let key = Key::ed25519();
        let certificate = Forge::user(&key, &user()).sign(&self.users);
        Attempt::certificate(user(), &key, certificate)
    }

    /// One path for each name, to the same targets.
    pub(crate) fn routes(
        &self,
        paths: &[Path],
        cipher: Cipher,
        targets: &[SocketAddr],
    ) -> BTreeMap<Path, Route> {
        paths.iter().map(|path| (*path, self.route(*path, cipher, None, targets))).collect()
    }

    /// Makes a path to some targets, over a line that delays by so many milliseconds each way, if it does.
    pub(crate) fn route(
        &self,
        path: Path,
        cipher: Cipher,
        one_way_ms: Option<u64>,
        targets: &[SocketAddr],
    ) -> Route {
        let (mut address, server) = self.server(path, cipher);
        let mut more = Vec::new();
        if let Some(one_way_ms) = one_way_ms {
            let forward = Forward { listen: free(), to: address };
            more.push(own(&["delay", &forward.to_string(), &one_way_ms.to_string()], &[forward.listen]));
            address = forward.listen;
        }
        match path {
            Path::OO | Path::OR => {
                let (ssh, person, local) = self.ssh(address, cipher, targets);
                let client = Tree::of([ssh.id()]);
                Route {
                    local,
                    client,
                    server,
                    _parts: Parts { _ssh: Some((ssh, person)), _tunnel: None, _more: more },
                }
            }
            Path::RO | Path::RR => {
                let setup = self.project(address);
                let words = targets.iter().flat_map(|to| [to.to_string(), "0".to_owned()]);
                let words: Vec<String> = words.collect();
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                let mut tunnel = setup.start(&words);
                let local = tunnel.ready(targets.len());
                let client = Tree::of([tunnel.process.id()]);
                Route {
                    local,
                    client,
                    server,
                    _parts: Parts { _tunnel: Some((tunnel, setup)), _ssh: None, _more: more },
                }
            }
            Path::Proxies => {
                let near: Vec<_> = targets.iter().map(|_| Forward { listen: free(), to: free() }).collect();
                let far = near.iter().zip(targets).map(|(near, to)| Forward { listen: near.to, to: *to });
                let (far, near) = (copies(far.collect()), copies(near));
                let (client, server) = (Tree::of([near.1.id()]), Tree::of([far.1.id()]));
                more.extend([near.1, far.1]);
                Route { local: near.0, client, server, _parts: Parts { _more: more, ..Parts::default() } }
            }
            Path::Raw => {
                let (client, server) = (Tree::default(), Tree::default());
                Route { local: targets.to_vec(), client, server, _parts: Parts::default() }
            }
        }
    }

    /// `ssh` with a local port for each target.
    fn ssh(
        &self,
        server: SocketAddr,
        cipher: Cipher,
        targets: &[SocketAddr],
    ) -> (Process, Person, Vec<SocketAddr>) {
        let local: Vec<_> = targets.iter().map(|_| free()).collect();
        let person = self.person();
        let words = ssh_words(cipher, &local, targets);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ssh = person.forward(server, &words, &local);
        (ssh, person, local)
    }

    /// A user of `ssh`, with a key of its own.
    pub(crate) fn person(&self) -> Person {
        let key = Key::ed25519();
        let certificate = Forge::user(&key, &user()).sign(&self.users);
        Person::new(&user(), &key, &certificate).believes(&self.hosts)
    }

    /// A user of `pf-tunnel`.
    pub(crate) fn project(&self, server: SocketAddr) -> tunnel::Setup {
        tunnel::Setup::new(server)
            .set("/bastion/user", json!(user()))
            .host_authority(&self.hosts.public_line())
            .vault(self.authority.url(), self.authority.token())
    }
}

/// What `ssh` is told beside where to go.
pub(crate) fn ssh_words(cipher: Cipher, local: &[SocketAddr], targets: &[SocketAddr]) -> Vec<String> {
    let mut words = vec!["-c".to_owned(), cipher.name().to_owned()];
    for (local, to) in local.iter().zip(targets) {
        words.extend(["-L".to_owned(), format!("{local}:{to}")]);
    }
    words
}

/// A free port of the loopback interface.
pub(crate) fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], ports::free()))
}

/// A proxy for some connections, and where it listens.
fn copies(forwards: Vec<Forward>) -> (Vec<SocketAddr>, Process) {
    let listen: Vec<_> = forwards.iter().map(|forward| forward.listen).collect();
    let mut words = vec!["copy".to_owned()];
    words.extend(forwards.iter().map(ToString::to_string));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let process = own(&words, &listen);
    (listen, process)
}

/// A part of this program, once it listens.
fn own(words: &[&str], listen: &[SocketAddr]) -> Process {
    let mut process = Program::new(std::env::current_exe().unwrap()).args(words).start();
    process.wait_until_up(|| listen.iter().all(|address| ports::is_listening(*address)));
    process
}
