//! A table of flows, each tried with no policy, when all of them must pass, and then with the policies that
//! the chart makes.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    network_policy::{self, Blocks, Flow, Protocol},
    wait,
};

use super::fixture::{ADMIN, End, Fixture, SSH};

/// How long a policy may take to be obeyed: Cilium compiles for the first one that looks at DNS.
const IN_FORCE: Duration = Duration::from_secs(30);
const TWO_MINUTES: Duration = Duration::from_secs(120);
/// How many flows are tried at the same time.
const AT_ONCE: usize = 4;

const YES: bool = true;
const NO: bool = false;

/// One of an end's ports: a number, or the first or second one of an address outside.
#[derive(Debug, Clone, Copy)]
enum Port {
    Is(u16),
    Outside(usize),
}
use Port::{Is, Outside};

/// Who, whom, where.
type Row = (End, End, Port);

const BASTION: End = End::Bastion;
const FIRST: End = End::Outside(0);
const SECOND: End = End::Outside(1);

/// Whether it passes where something is listed, under either kind of policy.
const LISTED: &[(Row, bool)] = &[
    // In: SSH from the network and the pods that are listed, metrics for those who are, and nothing else.
    ((FIRST, BASTION, Is(SSH)), YES),
    ((SECOND, BASTION, Is(SSH)), NO),
    ((End::Pod("runner"), BASTION, Is(SSH)), YES),
    ((End::Pod("stranger"), BASTION, Is(SSH)), NO),
    ((End::Pod("orders"), BASTION, Is(SSH)), NO),
    ((End::Pod("prometheus"), BASTION, Is(SSH)), NO),
    ((End::Pod("prometheus"), BASTION, Is(ADMIN)), YES),
    ((End::Pod("runner"), BASTION, Is(ADMIN)), NO),
    ((End::Pod("orders"), BASTION, Is(ADMIN)), NO),
    // Out: pods and networks that are listed, at the ports that are listed.
    ((BASTION, End::Pod("orders"), Is(5432)), YES),
    ((BASTION, End::Pod("orders"), Is(22)), NO),
    ((BASTION, End::Pod("wiki"), Is(5432)), NO),
    ((BASTION, End::Pod("nats"), Is(4222)), YES),
    ((BASTION, End::Pod("vault"), Is(8200)), NO),
    ((BASTION, FIRST, Outside(0)), YES),
    ((BASTION, End::Name(0), Outside(0)), YES),
    ((BASTION, FIRST, Outside(1)), NO),
    ((BASTION, SECOND, Outside(0)), NO),
    ((BASTION, SECOND, Outside(1)), NO),
];

/// Whether it passes with `mode: open`, and without a word about who may come in.
const OPEN: &[(Row, bool)] = &[
    ((FIRST, BASTION, Is(SSH)), YES),
    ((SECOND, BASTION, Is(SSH)), YES),
    ((End::Pod("runner"), BASTION, Is(ADMIN)), NO),
    ((BASTION, End::Pod("orders"), Is(22)), YES),
    ((BASTION, End::Pod("wiki"), Is(5432)), YES),
    ((BASTION, FIRST, Outside(1)), YES),
    ((BASTION, SECOND, Outside(0)), YES),
];

/// One after the other, where a zone's names are listed at one port: an address is open once a name has led
/// there.
const NAMES: &[(Row, bool)] = &[
    ((BASTION, SECOND, Outside(0)), NO),
    ((BASTION, End::Name(1), Outside(0)), NO),
    ((BASTION, End::InZone, Outside(1)), NO),
    ((BASTION, End::InZone, Outside(0)), YES),
    ((BASTION, SECOND, Outside(0)), YES),
    ((BASTION, FIRST, Outside(1)), NO),
];

fn listed(fixture: &Fixture, flavour: &str) -> Value {
    let network = format!("{}/32", fixture.address(FIRST));
    json!({
        "enabled": true,
        "flavour": flavour,
        "ingress": {
            "fromCIDRs": [network],
            "fromNamespaces": [{"namespace": fixture.namespace("ci"), "podLabels": {"tunnel": "yes"}}],
            "metricsFrom": [{"namespace": fixture.namespace("monitoring")}],
        },
        "egress": {
            "toNamespaces": [
                {"namespace": fixture.namespace("databases"), "podLabels": {"app": "postgres"}, "ports": [5432]},
                {"namespace": fixture.namespace("queues")},
            ],
            "toCIDRs": [{"cidr": network, "ports": [fixture.port(FIRST, 0)]}],
            "kubernetesApi": {"cidrs": [format!("{}/32", fixture.cluster.node_address())]},
        },
    })
}

fn port(fixture: &Fixture, (_, to, port): Row) -> u16 {
    match port {
        Is(number) => number,
        Outside(number) => fixture.port(to, number),
    }
}

fn passes(fixture: &Fixture, row: Row) -> bool {
    fixture.passes(row.0, row.1, port(fixture, row))
}

/// Tries all rows, and shows all that are wrong. What must pass may need more than one try on a busy machine;
/// what must not has one, once all of the others have shown that the network works.
fn check(fixture: &Fixture, what: &str, rows: &[(Row, bool)]) {
    let (yes, no): (Vec<_>, Vec<_>) = rows.iter().partition(|(_, expected)| *expected);
    let end = Instant::now() + TWO_MINUTES;
    let retried = |row| loop {
        match passes(fixture, row) {
            false if Instant::now() < end => {}
            passed => break passed,
        }
    };
    let stopped = wrong(&yes, &retried);
    assert!(stopped.is_empty(), "{what}: {stopped:#?} do not pass");
    let passing = wrong(&no, &|row| passes(fixture, row));
    assert!(passing.is_empty(), "{what}: {passing:#?} pass");
    println!("{what}: {} flows pass, {} do not", yes.len(), no.len());
}

/// The rows that are not as they should be. Some are tried at the same time, for each may take as long as its
/// patience.
fn wrong(rows: &[(Row, bool)], try_: &(impl Fn(Row) -> bool + Sync)) -> Vec<Row> {
    let next = Mutex::new(rows.iter());
    let take = || next.lock().unwrap().next();
    let work = || {
        let tried = std::iter::from_fn(take).filter(|(row, expected)| try_(*row) != *expected);
        tried.map(|(row, _)| *row).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

/// Changes the policy, and waits until it is obeyed: until this row is as it should be.
fn change(fixture: &Fixture, what: &str, policy: &Value, (row, expected): (Row, bool)) {
    fixture.set_policy(policy);
    let start = Instant::now();
    wait::until_true("the policy is obeyed", IN_FORCE, || passes(fixture, row) == expected);
    println!("{what}: obeyed after {:?}", start.elapsed());
}

/// Our evaluator says the same to each row, where a network goes by identities.
fn evaluate(fixture: &Fixture, rows: &[(Row, bool)]) {
    let spaces = fixture.namespaces();
    let cluster = spaces.fold(network_policy::Cluster::new(), |cluster, name| cluster.namespace(name, &[]));
    let cluster = cluster.apply(&fixture.policies(), fixture.namespace("bastion"));
    for (row, expected) in rows {
        assert_eq!(decide(fixture, &cluster, *row), *expected, "the evaluator: {row:?}");
    }
}

fn decide(fixture: &Fixture, cluster: &network_policy::Cluster, row: Row) -> bool {
    let pods = [row.0, row.1].map(|end| fixture.pod(end).ok_or(end));
    let [from, to] = pods.each_ref().map(|pod| match pod {
        Ok(pod) => network_policy::End::Pod(pod),
        Err(outside) => network_policy::End::Address(fixture.address(*outside)),
    });
    let flow = Flow { from, to, port: port(fixture, row), protocol: Protocol::Tcp };
    cluster.decide(&flow, Blocks::OnlyOutside).passes()
}

#[test]
fn each_flow_passes_or_does_not_as_the_policy_says() {
    let fixture = Fixture::start();
    let rows = [LISTED, OPEN, NAMES].concat();
    let control: Vec<_> = rows.iter().map(|(row, _)| (*row, YES)).collect();
    check(&fixture, "no policy", &control);

    let unhealthy = fixture.unhealthy();
    let last = LISTED[LISTED.len() - 1];
    for flavour in ["kubernetes", "cilium"] {
        let policy = listed(&fixture, flavour);
        change(&fixture, flavour, &policy, last);
        check(&fixture, flavour, LISTED);
        // To Cilium, the address of a node is no network: its API server has to be named as such. Who was cut
        // off takes a moment to notice that there is a way again.
        let (reaches, patience) = if flavour == "cilium" { (YES, TWO_MINUTES) } else { (NO, IN_FORCE / 5) };
        assert_eq!(fixture.follows_policies(patience), reaches, "{flavour}: the API server");
        if flavour == "kubernetes" {
            evaluate(&fixture, LISTED);
        }
        let open = json!({"enabled": true, "flavour": flavour, "egress": {"mode": "open"}});
        change(&fixture, "open", &open, (last.0, YES));
        check(&fixture, &format!("{flavour}, open"), OPEN);
    }

    // Where no value says which kind of policy to write, the chart sees which kind is obeyed.
    let mut policy = listed(&fixture, "auto");
    policy["egress"]["toFQDNs"] =
        json!([{"pattern": format!("*.{}", fixture.zone()), "ports": [fixture.port(SECOND, 0)]}]);
    change(&fixture, "names", &policy, NAMES[0]);
    for row in NAMES {
        check(&fixture, "names", &[*row]);
    }
    fixture.is_well(unhealthy);
}
