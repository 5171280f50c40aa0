//! Addresses change: the client's, and the one that the server's name leads to.

use std::time::Duration;

use tests::dns::Answer;

use crate::{
    names::Names,
    network::{Network, SERVER, SERVER_LATER},
    peer::{Peer, Setup},
    report::Report,
    scene::Scene,
};

/// F07.
pub fn client_moves(peer: Peer) -> Report {
    let mut scene = Scene::new(peer);
    let talk = scene.converse();
    let moved = scene.network.move_client();
    let usable = scene.usable(moved);
    scene.survives(&talk, moved, moved, Duration::from_secs(2));
    scene.report.at_most("new connection", Duration::from_secs(2), usable);
    scene.report
}

/// F08. Nothing is at the other address, and nothing says so.
pub fn name_moves(peer: Peer) -> Report {
    const NOTHING: &str = "10.77.0.99";
    let (network, later) = (Network::new(), SERVER_LATER.to_string());
    let names = Names::on(&network.client, Answer::at(&[&SERVER.to_string()]));
    let setup = Setup { by_name: Some("bastion.test"), ..Setup::default() };
    let mut scene = Scene::on(network, peer, setup);
    names.say(Answer::at(&[&later]));
    let moved = scene.network.move_server();
    let usable = scene.usable(moved);
    scene.report.at_most("new connection after the name has moved", Duration::from_secs(17), usable);
    names.say(Answer::at(&[NOTHING, &later]));
    let cut = scene.network.reset(scene.tunnel.server_address);
    let usable = scene.usable(cut);
    scene.report.at_most("where one of two addresses is dead", Duration::from_secs(5), usable);
    names.say(Answer::Silence);
    let cut = scene.network.reset(scene.tunnel.server_address);
    let usable = scene.usable(cut);
    scene.report.at_most("while the name server is silent", Duration::from_secs(10), usable);
    scene.report
}
