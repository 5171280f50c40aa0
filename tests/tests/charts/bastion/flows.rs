//! The bastion's network policies, as the chart renders them, decide a table of flows to it and from it.

use tests::{
    chart::{self, NAMESPACE, kinds, objects, rendered, template},
    network_policy::{Blocks, Cluster, End, Flow, Pod, Protocol},
};

const YES: bool = true;
const NO: bool = false;

/// Case, who, whom, port, whether it passes. An end is `bastion`, the name of another pod, or an address.
type Row = (&'static str, &'static str, &'static str, u16, bool);

const CONNECTIONS: &[Row] = &[
    // In: SSH from anywhere outside; metrics for monitoring; `helm test` both; and nothing else.
    ("default", "203.0.113.9", "bastion", 2222, YES),
    ("default", "2001:db8::9", "bastion", 2222, YES),
    ("default", "203.0.113.9", "bastion", 8080, NO),
    ("default", "203.0.113.9", "bastion", 22, NO),
    ("default", "prometheus", "bastion", 8080, YES),
    ("default", "orders", "bastion", 8080, NO),
    ("default", "test", "bastion", 2222, YES),
    ("default", "test", "bastion", 8080, YES),
    // Out: names, and the API server in networks that are private. No database, no Vault, no metadata, no
    // internet.
    ("default", "bastion", "dns", 53, YES),
    ("default", "bastion", "dns", 8080, NO),
    ("default", "bastion", "169.254.20.10", 53, YES),
    ("default", "bastion", "10.0.0.1", 6443, YES),
    ("default", "bastion", "10.0.0.1", 22, NO),
    ("default", "bastion", "203.0.113.9", 443, NO),
    ("default", "bastion", "169.254.169.254", 80, NO),
    ("default", "bastion", "orders", 5432, NO),
    ("default", "bastion", "vault", 8200, NO),
    ("default", "bastion", "prometheus", 9090, NO),
    // A listed namespace opens the way to its pods, and to those of no other.
    ("nodeport", "bastion", "orders", 5432, YES),
    ("nodeport", "bastion", "nats", 4222, NO),
    ("all-namespaces", "bastion", "orders", 5432, YES),
    ("all-namespaces", "bastion", "nats", 4222, YES),
    ("all-namespaces", "bastion", "203.0.113.9", 5432, NO),
    ("all-namespaces", "10.1.2.3", "bastion", 8080, YES),
    ("cluster-policies", "bastion", "orders", 5432, NO),
    // Vault where it is needed, and no API server where that is not.
    ("vault", "bastion", "vault", 8200, YES),
    ("vault", "bastion", "vault", 22, NO),
    ("vault", "bastion", "198.51.100.7", 8200, YES),
    ("vault", "bastion", "198.51.100.8", 8200, NO),
    ("vault", "bastion", "10.0.0.1", 6443, NO),
    ("files", "bastion", "10.0.0.1", 6443, NO),
    ("objects", "bastion", "172.20.0.1", 6443, YES),
    ("objects", "bastion", "172.20.0.2", 6443, NO),
    ("objects", "bastion", "dns", 53, NO),
    ("objects", "bastion", "169.254.20.10", 53, NO),
    // What is listed, and what is left out of it.
    ("networks", "203.0.113.9", "bastion", 2222, YES),
    ("networks", "198.51.100.9", "bastion", 2222, NO),
    ("networks", "prometheus", "bastion", 8080, YES),
    ("networks", "bastion", "orders", 5432, YES),
    ("networks", "bastion", "orders", 22, NO),
    ("networks", "bastion", "nats", 9999, YES),
    ("networks", "bastion", "10.20.1.1", 5432, YES),
    ("networks", "bastion", "10.20.9.1", 5432, NO),
    ("networks", "bastion", "10.30.1.1", 1, YES),
    ("networks", "bastion", "10.0.0.1", 6443, NO),
    ("networks", "bastion", "dns", 53, NO),
    ("networks", "bastion", "name-server", 53, YES),
    // Within the cluster alone.
    ("clusterip", "203.0.113.9", "bastion", 2022, NO),
    ("clusterip", "runner", "bastion", 2022, YES),
    ("clusterip", "prometheus", "bastion", 9090, NO),
    // Open is open, but for cloud metadata.
    ("open-egress", "bastion", "203.0.113.9", 5432, YES),
    ("open-egress", "bastion", "orders", 1, YES),
    ("open-egress", "bastion", "169.254.169.254", 80, NO),
    ("open-egress", "bastion", "100.100.100.200", 80, NO),
    ("open-egress", "203.0.113.9", "bastion", 2222, NO),
    // Beside Linkerd: its control plane, and where its proxies meet, in either direction only if they do.
    ("mesh-plain", "bastion", "destination", 8080, YES),
    ("mesh-plain", "bastion", "destination", 8086, YES),
    ("mesh-plain", "bastion", "destination", 8090, YES),
    ("mesh-plain", "bastion", "destination", 22, NO),
    ("mesh-plain", "203.0.113.9", "bastion", 4143, NO),
    ("mesh", "bastion", "orders", 5432, YES),
    ("mesh", "bastion", "orders", 4143, YES),
    ("mesh", "bastion", "nats", 4143, NO),
    ("mesh-opaque", "runner", "bastion", 2222, YES),
    ("mesh-opaque", "runner", "bastion", 4143, YES),
    ("mesh-opaque", "orders", "bastion", 4143, NO),
    ("mesh-opaque", "bastion", "orders", 4143, NO),
    ("default", "bastion", "destination", 8086, NO),
    ("networks", "bastion", "orders", 4143, NO),
    // Where the operator turned it off.
    ("given-account", "orders", "bastion", 8080, YES),
];

/// Questions to DNS, and no other.
const DATAGRAMS: &[Row] = &[
    ("default", "bastion", "dns", 53, YES),
    ("default", "bastion", "169.254.20.10", 53, YES),
    ("default", "bastion", "dns", 8080, NO),
    ("default", "bastion", "10.0.0.1", 6443, NO),
    ("default", "203.0.113.9", "bastion", 2222, NO),
    ("networks", "bastion", "name-server", 53, YES),
    ("networks", "bastion", "dns", 53, NO),
    ("objects", "bastion", "dns", 53, NO),
];

#[test]
fn each_flow_passes_or_does_not() {
    let pod = |namespace: &str, name: &str, labels: &[(&str, &str)], last: u8| {
        Pod::new(namespace, name, labels, &format!("10.244.0.{last}"))
    };
    let app = "app.kubernetes.io/";
    let test = [
        (format!("{app}name"), "bastion"),
        (format!("{app}instance"), "bastion"),
        (format!("{app}component"), "test"),
    ];
    let test: Vec<_> = test.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let others = [
        pod(NAMESPACE, "test", &test, 2),
        pod("monitoring", "prometheus", &[("app", "prometheus")], 3),
        pod("databases", "orders", &[("app", "postgres")], 4),
        pod("queues", "nats", &[("app", "nats")], 5),
        pod("vault", "vault", &[("app", "vault")], 6),
        pod("kube-system", "dns", &[("k8s-app", "kube-dns")], 7),
        pod("ci", "runner", &[], 8),
        pod("dns", "name-server", &[("app", "coredns")], 9),
        pod("linkerd", "destination", &[], 10),
    ];
    let connections = CONNECTIONS.iter().map(|row| (Protocol::Tcp, row));
    let datagrams = DATAGRAMS.iter().map(|row| (Protocol::Udp, row));
    for (protocol, (case, from, to, port, expected)) in connections.chain(datagrams) {
        let objects = rendered(&chart::folder().join(format!("ci/{case}-values.yaml")));
        let bastion = Pod::of(kinds(&objects, "Deployment")[0], NAMESPACE, "10.244.0.1");
        let spaces =
            [NAMESPACE, "monitoring", "databases", "queues", "vault", "kube-system", "ci", "dns", "linkerd"];
        let cluster = spaces
            .iter()
            .fold(Cluster::new(), |cluster, name| cluster.namespace(name, &[]))
            .apply(&objects, NAMESPACE);
        let end = |name: &str| match others.iter().find(|pod| pod.name == name) {
            Some(pod) => End::Pod(pod),
            None if name == "bastion" => End::Pod(&bastion),
            None => End::address(name),
        };
        for blocks in Blocks::ALL {
            let flow = Flow { from: end(from), to: end(to), port: *port, protocol };
            let verdict = cluster.decide(&flow, blocks);
            assert_eq!(
                verdict.passes(),
                *expected,
                "{case}: {from} to {to}:{port} {protocol:?}: {verdict:?} ({blocks:?})"
            );
        }
    }
    println!("{} flows", CONNECTIONS.len() + DATAGRAMS.len());
}

#[test]
fn what_another_node_passes_on_is_let_in_where_every_address_is() {
    let passed_on = |more: &[&str]| {
        let flavour =
            ["--set", "networkPolicy.flavour=cilium", "--set", "service.externalTrafficPolicy=Cluster"];
        let objects = objects(&template(&chart::folder(), &[], &[&flavour, more].concat()).unwrap());
        kinds(&objects, "CiliumNetworkPolicy")[0]["spec"]["ingress"].to_string().contains("remote-node")
    };
    assert!(passed_on(&[]));
    assert!(passed_on(&["--set-json", r#"networkPolicy.ingress.fromCIDRs=["10.0.0.0/8","::/0"]"#]));
    for fewer in [
        ["--set-json", r#"networkPolicy.ingress.fromCIDRs=["203.0.113.0/24"]"#],
        ["--set-json", "networkPolicy.ingress.fromCIDRs=[]"],
        ["--set", "service.aws.enabled=true"],
        ["--set", "service.externalTrafficPolicy=Local"],
        ["--set", "service.type=ClusterIP"],
    ] {
        assert!(!passed_on(&fewer), "{fewer:?}");
    }
}

#[test]
fn a_node_may_always_ask_its_pods_whether_they_are_well() {
    let objects = rendered(&chart::folder().join("ci/default-values.yaml"));
    let bastion = Pod::of(kinds(&objects, "Deployment")[0], NAMESPACE, "10.244.0.1");
    let cluster = Cluster::new().namespace(NAMESPACE, &[]).apply(&objects, NAMESPACE);
    let flow = Flow { from: End::OwnNode, to: End::Pod(&bastion), port: 8080, protocol: Protocol::Tcp };
    assert!(Blocks::ALL.into_iter().all(|blocks| cluster.decide(&flow, blocks).passes()));
}
