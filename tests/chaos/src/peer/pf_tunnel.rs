//! `pf-tunnel`, to our bastion or to a stock sshd.

use std::{net::SocketAddr, rc::Rc};

use serde_json::json;
use tests::{
    authority::DevAuthority,
    bastion::{self, LOGIN},
    key::Key,
    ports,
    process::user,
    scratch::Scratch,
    sshd,
    tunnel::{self, Tunnel as Program},
};

use super::{Client, Peer, Server, Serving, Setup, Tunnel, destinations};
use crate::{
    conversation::Speaker,
    network::{Network, SERVER},
    switch::Switch,
};

/// A running `pf-tunnel`.
#[derive(Debug)]
pub struct PfTunnel {
    /// The program, which tells what happens.
    pub tunnel: Program,
    /// What it was started in.
    pub project: tunnel::Setup,
    /// Stands in for Vault.
    pub authority: DevAuthority,
    /// Leads from the wire to that, which listens on the loopback interface alone.
    pub way_to_vault: Switch,
}

/// Starts `pf-tunnel` with our bastion.
pub(super) fn to_bastion(network: &Network, speaker: &Speaker, setup: Setup) -> Tunnel {
    let authority = DevAuthority::start();
    let key = Key::ed25519();
    let keys = Scratch::new("host-key");
    keys.write("host_key", key.private_pem());
    let destinations = destinations(speaker, &setup);
    let (users, adjust, listen) = (authority.users().to_owned(), Rc::clone(&setup.bastion), setup.listens());
    let make = move || {
        let bastion = bastion::Setup::new()
            .set("/listen", json!(SocketAddr::from((listen, ports::free())).to_string()))
            .set("/host_key", json!({"file": keys.join("host_key")}))
            .trust_line(&users)
            .rule(LOGIN, &destinations.iter().map(String::as_str).collect::<Vec<_>>());
        Server::Bastion(Box::new(adjust(bastion).start()))
    };
    let serving = Serving::start(make, &setup);
    start(Peer::Ours, network, speaker, setup, authority, serving, &key, LOGIN)
}

/// Starts `pf-tunnel` with OpenSSH's server.
pub(super) fn to_sshd(network: &Network, speaker: &Speaker, setup: Setup) -> Tunnel {
    let authority = DevAuthority::start_with(&["--principal", &user()]);
    let key = Key::ed25519();
    let (host_key, users) = (key.clone(), authority.users().to_owned());
    let (adjust, listen) = (Rc::clone(&setup.sshd), setup.listens());
    let make = move || {
        let sshd = sshd::Setup::new().listen(listen).host_key(host_key.clone()).trust_line(&users);
        Server::Sshd(Box::new(adjust(sshd).start()))
    };
    let serving = Serving::start(make, &setup);
    start(Peer::OursToSshd, network, speaker, setup, authority, serving, &key, &user())
}

#[expect(clippy::too_many_arguments, reason = "each is a part of the one path that is built here")]
fn start(
    peer: Peer,
    network: &Network,
    speaker: &Speaker,
    setup: Setup,
    authority: DevAuthority,
    serving: Serving,
    host_key: &Key,
    login: &str,
) -> Tunnel {
    let inside: SocketAddr = authority.url().trim_start_matches("http://").parse().unwrap();
    let way_to_vault = Switch::at(SERVER, inside);
    let project = tunnel::Setup::new(serving.address)
        .set("/bastion/address", json!(serving.name))
        .set("/bastion/user", json!(login))
        .set("/bastion/host_key", json!(host_key.public_line()))
        .vault(&format!("http://{}", way_to_vault.address()), authority.token())
        // The wire is a namespace's.
        .set("/vault/dangerously_allow_plain_http", json!(true))
        .set("/vault/ttl", json!(format!("{}s", setup.life)));
    let destinations = destinations(speaker, &setup);
    let project = (setup.project)(project);
    let pairs = destinations.iter().flat_map(|destination| [destination.as_str(), "0"]);
    let flags: &[&str] = if setup.probes { &["--json"] } else { &["--json", "--no-probe"] };
    let program = project.program("pf-tunnel", flags).args(pairs);
    let mut tunnel = Program { process: network.client.program(program).start() };
    tunnel.ready(destinations.len());
    // Each is ready when it is.
    let local = |destination: &String| {
        let ready = tunnel
            .events()
            .into_iter()
            .find(|event| event["event"] == "ready" && event["destination"] == destination.as_str());
        ready.unwrap()["listen"].as_str().unwrap().parse().unwrap()
    };
    let mut locals: Vec<SocketAddr> = destinations.iter().map(local).collect();
    let local = locals.remove(0);
    Tunnel {
        peer,
        local,
        further: locals,
        server_address: serving.address,
        client: Client::PfTunnel(Box::new(PfTunnel { tunnel, project, authority, way_to_vault })),
        server: serving.server,
        switch: serving.switch,
        replica: serving.replica,
    }
}
