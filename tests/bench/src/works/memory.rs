//! Memory of what is open and does nothing.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use harness::rogue::Client;

use super::Bench;
use crate::{
    latency::connect,
    path::Path,
    peers::{Cipher, Servers},
    row::{Better, Row},
    usage::Tree,
};

/// How many idle connections, and idle streams, one figure is of.
const CONNECTIONS: usize = 50;
const STREAMS: usize = 200;

/// Fills new servers and new clients with what is idle: what was full once stays large.
pub(super) fn memory(bench: &Bench) -> Vec<Row> {
    let paths = &[Path::OO, Path::RR];
    let [connection] = bench.in_turn("memory of idle connections", paths, |path| {
        let servers = Servers::start();
        let (address, server) = servers.server(path, Cipher::Aes128Gcm);
        let attempt = servers.attempt();
        let login = || {
            let mut client = Client::connect(address).ok()?;
            client.attempt(&attempt).accepted.then_some(client)
        };
        drop(login()?);
        growth([&server], CONNECTIONS, login)
    });
    let [server, client] = bench.in_turn("memory of idle streams", paths, |path| {
        let servers = Servers::start();
        let route = servers.route(path, Cipher::Aes128Gcm, None, &[bench.targets.echo.address()]);
        let open = || used(route.local(0)).ok();
        drop(open()?);
        growth([&route.server, &route.client], STREAMS, open)
    });
    let row = |what: &str, samples| Row::new("memory", what, "KiB", Better::Lower, samples);
    vec![
        row("memory of an idle connection, server", connection).gate(Path::RR, 0.05, 0.025),
        row("memory of an idle stream, server", server).gate(Path::RR, 0.19, 0.1),
        row("memory of an idle stream, client", client).gate(Path::RR, 0.19, 0.1),
    ]
}

/// How much more memory programs have for each of some things that are made and kept.
fn growth<T, const N: usize>(
    trees: [&Tree; N],
    count: usize,
    make: impl FnMut() -> Option<T>,
) -> Option<[f64; N]> {
    let now = || trees.iter().map(|tree| tree.kib()).collect::<Option<Vec<_>>>();
    let before = now()?;
    let made: Option<Vec<T>> = std::iter::repeat_with(make).take(count).collect();
    let made = made?;
    let after = now()?;
    let mut growth = [0.0; N];
    for (at, growth) in growth.iter_mut().enumerate() {
        *growth = (after[at] - before[at]) / made.len() as f64;
    }
    Some(growth)
}

/// A connection that has carried something, so that it is open to its far end.
fn used(address: std::net::SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = connect(address)?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0; 1])?;
    Ok(stream)
}
