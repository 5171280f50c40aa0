//! The README's way to a bastion in Kubernetes, walked in a new cluster as it is written there, command by command.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::authority::DevAuthority;
use tests::cluster::{Cluster, image};
use tests::ports;
use tests::process::{Program, installed, workspace};
use tests::wait;

const A_MINUTE: Duration = Duration::from_secs(60);
/// What pf-tunnel ends with when the bastion permits no such destination.
const NOT_PERMITTED: i32 = 8;
const SECTION: &str = "## In Kubernetes, in five minutes";

/// The blocks of commands of a section of the README, in order.
fn commands(section: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(workspace().join("README.md")).unwrap();
    let lines = readme.lines().skip_while(|line| *line != section).skip(1);
    let lines: Vec<_> = lines.take_while(|line| !line.starts_with("## ")).collect();
    let blocks = lines.split(|line| !line.starts_with("    ")).filter(|block| !block.is_empty());
    blocks.map(|block| block.iter().map(|line| format!("{}\n", &line[4..])).collect()).collect()
}

#[test]
fn the_readme_leads_to_a_database() {
    // What the README says is there: a cluster with the image, and a Service `orders` in the namespace `databases`.
    let cluster = Cluster::for_this_process();
    cluster.image(image::BASTION);
    let databases = cluster.namespace_called("databases");
    databases.run_postgres();
    let orders = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders"},
        "spec": {"selector": databases.get(&["service", "postgres"])["spec"]["selector"], "ports": [{"port": 5432}]},
    });
    databases.apply(&orders.to_string());
    let authority = DevAuthority::start();
    let shell = |commands: &str| {
        cluster
            .shell(commands)
            .env("NODE", cluster.node_address().to_string())
            .env("VAULT_ADDR", authority.url())
            .env("VAULT_TOKEN", authority.token())
    };
    let mut commands = commands(SECTION);
    let tunnel = commands.pop().expect("a command that opens a tunnel");
    let start = Instant::now();
    for block in &commands {
        println!("{block}{}", shell(block).succeed());
    }
    // Another local port: this machine may have a PostgreSQL of its own.
    let words = tunnel.trim_end().strip_suffix(" 5432").expect("a tunnel to port 5432 of this machine");
    let local = ports::free().to_string();
    // The other bastion may hear of the policy a moment later than the one that says so.
    let _tunnel = wait::until("a tunnel", A_MINUTE, || {
        let mut tunnel = shell(&format!("exec {words} {local}")).start();
        if tunnel.says("ready", A_MINUTE) {
            return Some(tunnel);
        }
        assert_eq!(tunnel.code(A_MINUTE), NOT_PERMITTED, "{}", tunnel.stderr());
        None
    });
    let address = format!("postgresql://admin:admin@127.0.0.1:{local}/orders");
    let answer = Program::new(installed("psql")).args(["-XAtqc", "select version()", &address]).succeed();
    assert!(answer.starts_with("PostgreSQL "), "{answer}");
    println!("from nothing to an answer of the database: {:?}", start.elapsed());
    print!("{}", cluster.kubectl(&["get", "all,tunnelpolicy", "--all-namespaces"]));
}
