//! Addresses change: the client's.

use std::time::Duration;

use crate::{peer::Peer, report::Report, scene::Scene};

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
