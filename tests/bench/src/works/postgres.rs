//! A database behind the path, and the load that it brings itself.

use harness::postgres::Postgres;

use super::Bench;
use crate::{
    generator::transactions,
    path::Path,
    peers::Cipher,
    row::{Better, Row},
};

/// Reads that fit into memory, so that the path and not the disk is what is measured.
const READS: &[&str] = &["-n", "-S", "-c", "1", "-T", "2"];

/// The same with a new connection for each.
const CONNECTIONS: &[&str] = &["-n", "-S", "-C", "-c", "1", "-t", "60"];

/// pgbench's transactions, and its connections.
pub(super) fn pgbench(bench: &Bench) -> Vec<Row> {
    let paths = &[Path::OO, Path::OR, Path::RO, Path::RR, Path::Raw];
    let postgres = Postgres::start();
    assert!(postgres.pgbench_at(postgres.address(), &["-i", "-q", "-s", "1"]).status.success());
    let routes = bench.servers.routes(paths, Cipher::Aes128Gcm, &[postgres.address()]);
    let rows = [("pgbench, reads", READS), ("pgbench, reads with a connection each", CONNECTIONS)];
    let rows = rows.map(|(what, words)| {
        let [tps] = bench.in_turn(what, paths, |path| {
            let output = postgres.pgbench_at(routes[&path].local(0), words);
            transactions(&String::from_utf8_lossy(&output.stdout)).map(|tps| [tps])
        });
        Row::new("pgbench", what, "/s", Better::Higher, tps)
    });
    rows.into()
}
