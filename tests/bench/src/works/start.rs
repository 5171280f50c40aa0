//! The start of a client until a first byte has come through it.

use std::{
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use super::Bench;
use crate::{
    latency::{Speaks, first_byte},
    path::Path,
    peers::{Cipher, free, ssh_words},
    row::{Better, Row},
};

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often it is tried whether a client listens yet.
const TRY: Duration = Duration::from_micros(200);

/// Starts a client, connects to its port as soon as it listens, and waits for the target's answer. For
/// `pf-tunnel` the login at Vault is cached as a token, and a certificate is signed each time; `ssh` has a
/// certificate.
pub(super) fn start(bench: &Bench) -> Vec<Row> {
    let target = bench.targets.echo.address();
    let what = "command start → first byte";
    let [took] = bench.in_turn(what, &Path::SSH, |path| {
        let (server, _) = bench.servers.server(path, Cipher::Aes128Gcm);
        let local = free();
        let took = match path {
            Path::OO | Path::OR => {
                let person = bench.servers.person();
                let words = ssh_words(Cipher::Aes128Gcm, &[local], &[target]);
                let words: Vec<&str> = ["-N"].into_iter().chain(words.iter().map(String::as_str)).collect();
                let program = person.ssh(server, &words);
                let start = Instant::now();
                let _ssh = program.start();
                until_first_byte(start, local)?
            }
            _ => {
                let project = bench.servers.project(server);
                let start = Instant::now();
                let _tunnel = project.start(&[&target.to_string(), &local.port().to_string()]);
                until_first_byte(start, local)?
            }
        };
        Some([took.as_secs_f64() * 1e3])
    });
    vec![Row::new("start", what, "ms", Better::Lower, took).gate(Path::RR, 0.10, 0.03)]
}

fn until_first_byte(start: Instant, local: SocketAddr) -> Option<Duration> {
    while start.elapsed() < PATIENCE {
        if first_byte(local, Speaks::Client).is_ok() {
            return Some(start.elapsed());
        }
        sleep(TRY);
    }
    None
}
