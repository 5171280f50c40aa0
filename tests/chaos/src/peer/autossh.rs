//! `ssh`, kept by `autossh`, to a stock sshd: what careful users have today.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use tests::{
    forge::{Forge, now},
    key::Key,
    ports,
    process::{Process, Program, installed, user},
    ssh::Person,
    sshd, wait,
};

use super::{Client, Peer, Server, Serving, Setup, Tunnel, descendants, destinations};
use crate::{
    conversation::{Speaker, probe},
    network::Network,
};

/// What its manual advises: no monitoring port, and ssh's own probes, here as quick as ours.
const OPTIONS: [&str; 6] =
    ["-M", "0", "-N", "-oServerAliveInterval=5", "-oServerAliveCountMax=3", "-oConnectTimeout=10"];

/// A running `autossh`.
#[derive(Debug)]
pub struct Autossh {
    /// The process, whose child is an `ssh`.
    pub process: Process,
    /// The child that it had first.
    pub first: Vec<u32>,
    /// The person's files.
    pub person: Person,
    /// The end of the person's certificate, in seconds since 1970.
    pub until: u64,
    /// Its key id.
    pub key_id: String,
}

/// Starts it with OpenSSH's server.
pub(super) fn to_sshd(network: &Network, speaker: &Speaker, setup: Setup) -> Tunnel {
    let (authority, host_key, key) = (Key::ed25519(), Key::ed25519(), Key::ed25519());
    let (trusted, shown) = (authority.clone(), host_key.clone());
    let (adjust, listen) = (Rc::clone(&setup.sshd), setup.listens());
    let make = move || {
        let sshd = sshd::Setup::new().listen(listen).host_key(shown.clone()).trust(&trusted);
        Server::Sshd(Box::new(adjust(sshd).start()))
    };
    let serving = Serving::start(make, &setup);
    let forge = Forge::user(&key, &user()).with(|forge| {
        forge.valid_before = now() + setup.life;
        forge.key_id = b"a-person".to_vec();
    });
    let certificate = forge.sign(&authority);
    let (host, port) = serving.name.rsplit_once(':').unwrap();
    let known = format!("[{host}]:{port} {}", host_key.public_line());
    let person = Person::new(&user(), &key, &certificate).knows_line(&known);
    let destinations = destinations(speaker, &setup);
    let mut locals = Vec::new();
    let mut forwards = Vec::new();
    for destination in destinations {
        let local = SocketAddr::from(([127, 0, 0, 1], ports::free()));
        forwards.extend(["-L".to_owned(), format!("{local}:{destination}")]);
        locals.push(local);
    }
    let program = Program::new(installed("autossh"))
        // It gives up where the first attempt fails soon, unless told so.
        .env("AUTOSSH_GATETIME", "0")
        .args(OPTIONS)
        .args(person.options())
        .args(forwards)
        .args(["-p", port, host]);
    let process = network.client.program(program).start();
    let local = locals.remove(0);
    wait::until_true("ssh forwards", wait::START, || {
        probe(&network.client, local, Duration::from_secs(5)).is_ok()
    });
    let first = descendants(process.id());
    Tunnel {
        peer: Peer::Autossh,
        local,
        further: locals,
        server_address: serving.address,
        client: Client::Autossh(Box::new(Autossh {
            process,
            first,
            person,
            until: forge.valid_before,
            key_id: "a-person".to_owned(),
        })),
        server: serving.server,
        switch: serving.switch,
        replica: serving.replica,
    }
}
