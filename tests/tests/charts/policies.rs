//! The charts `tenant` and `netpol`: which pods may talk to each other by the policies that they render, and
//! which values are refused.

use serde_json::{Value, json};
use tests::network_policy::{Blocks, Cluster, End, Flow, Pod, Protocol};

use super::{NAMESPACE, Refused, names, notes, one, refuse, render, warns};

const YES: bool = true;
const NO: bool = false;

/// Who, whom, port, whether it passes. An end is the name of a pod, or an address.
type Row = (&'static str, &'static str, u16, bool);

/// Pods of the tenants `web` and `data`, both closed, and of others.
fn pods() -> Vec<Pod> {
    let name = "app.kubernetes.io/name";
    let row = |namespace: &str, name: &str, labels: &[(&str, &str)], last: u8| {
        Pod::new(namespace, name, labels, &format!("10.244.0.{last}"))
    };
    vec![
        row("web", "a", &[("app", "a")], 2),
        row("web", "foo", &[("app", "foo"), (name, "foo")], 3).port("http", 8080, Protocol::Tcp),
        row("web", "bar", &[("app", "bar")], 4),
        row("web", "operator", &[("app", "operator")], 5),
        row("data", "b", &[("app", "b")], 6),
        row("data", "named", &[("app", "named")], 7).port("http", 8080, Protocol::Tcp),
        row("data", "redis", &[("app", "redis"), (name, "redis")], 8),
        row("kube-system", "dns", &[("k8s-app", "kube-dns")], 10),
        row("kube-system", "other", &[("k8s-app", "other")], 11),
        row("rogue", "impostor", &[("k8s-app", "kube-dns")], 12),
        row("ingress", "traefik", &[(name, "traefik")], 13),
        row("ingress", "neighbour", &[], 14),
        row("bastion", "bastion", &[("app.kubernetes.io/component", "bastion")], 15),
        row("bastion", "test", &[("app.kubernetes.io/component", "test")], 16),
        row("linkerd", "destination", &[], 17),
        row("monitoring", "prometheus", &[], 18),
    ]
}

/// The tenants `web`, made of these values, and `data`, and what a release of `netpol` in `web` opens.
fn cluster(tenant: &str, netpol: &str) -> Cluster {
    let spaces = ["web", "data", "kube-system", "rogue", "ingress", "bastion", "linkerd", "monitoring"];
    spaces
        .iter()
        .fold(Cluster::new(), |cluster, name| cluster.namespace(name, &[]))
        .apply(&render("tenant", &format!("namespace: {{name: web}}\n{tenant}")), "web")
        .apply(&render("tenant", "namespace: {name: data}"), "data")
        .apply(&render("netpol", netpol), NAMESPACE)
}

fn check(what: &str, cluster: &Cluster, protocol: Protocol, rows: &[Row]) {
    let pods = pods();
    let end = |name: &str| match pods.iter().find(|pod| pod.name == name) {
        Some(pod) => End::Pod(pod),
        None => End::address(name),
    };
    for (from, to, port, expected) in rows {
        for blocks in Blocks::ALL {
            let flow = Flow { from: end(from), to: end(to), port: *port, protocol };
            let verdict = cluster.decide(&flow, blocks);
            assert_eq!(
                verdict.passes(),
                *expected,
                "{what}: {from} to {to}:{port} {protocol:?}: {verdict:?} ({blocks:?})"
            );
        }
    }
}

#[test]
fn a_tenant_is_closed_but_for_itself_and_for_names() {
    let tenant = cluster("", "");
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        check(
            "defaults",
            &tenant,
            protocol,
            &[
                ("a", "dns", 53, YES),
                ("a", "169.254.20.10", 53, YES),
                ("a", "dns", 8080, NO),
                ("a", "other", 53, NO),
                ("a", "impostor", 53, NO),
                ("a", "8.8.8.8", 53, NO),
                ("a", "169.254.25.10", 53, NO),
            ],
        );
    }
    let rows: &[Row] = &[
        ("a", "foo", 8080, YES),
        ("foo", "a", 1, YES),
        ("a", "b", 8080, NO),
        ("b", "a", 8080, NO),
        ("traefik", "foo", 8080, NO),
        ("203.0.113.9", "foo", 8080, NO),
        ("bastion", "redis", 6379, NO),
        ("a", "10.0.0.1", 6443, NO),
        ("a", "1.1.1.1", 443, NO),
        ("a", "2606:4700::1111", 443, NO),
        ("a", "169.254.169.254", 80, NO),
        ("a", "destination", 8086, NO),
        ("prometheus", "a", 4191, NO),
    ];
    check("defaults", &tenant, Protocol::Tcp, rows);
    let cache = cluster("dns: {nodeLocal: [169.254.20.10, 169.254.25.10]}", "");
    let both: &[Row] =
        &[("a", "169.254.20.10", 53, YES), ("a", "169.254.25.10", 53, YES), ("a", "dns", 53, YES)];
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        check("two caches", &cache, protocol, both);
    }
    check(
        "apart",
        &cluster("isolation: {withinNamespace: false}", ""),
        Protocol::Tcp,
        &[("a", "foo", 8080, NO)],
    );
    check("open", &cluster("isolation: {enabled: false}", ""), Protocol::Tcp, &[("a", "1.1.1.1", 1, YES)]);
    // One that others opened is closed again: policies do not take away, they add.
    let proxies: &[Row] = &[
        ("a", "destination", 8080, YES),
        ("a", "destination", 8086, YES),
        ("a", "destination", 8090, YES),
        ("a", "destination", 22, NO),
        ("prometheus", "a", 4191, YES),
        ("prometheus", "a", 8080, NO),
        ("a", "foo", 4143, YES),
        ("a", "b", 4143, NO),
    ];
    check("meshed", &cluster("mesh: {inject: enabled}", ""), Protocol::Tcp, proxies);
}

#[test]
fn the_internet_is_neither_the_cluster_nor_what_is_private() {
    let everything =
        cluster("", "internetEgress: [{pods: {app: foo}}]\nclusterCIDRs: [172.32.0.0/16, '2001:db8:1::/48']");
    let rows: &[Row] = &[
        ("foo", "1.1.1.1", 443, YES),
        ("foo", "1.1.1.1", 80, YES),
        ("foo", "2606:4700::1111", 443, YES),
        ("foo", "10.1.2.3", 443, NO),
        ("foo", "172.16.0.1", 443, NO),
        ("foo", "172.32.9.1", 443, NO),
        ("foo", "172.33.9.1", 443, YES),
        ("foo", "192.168.1.1", 443, NO),
        ("foo", "100.64.0.1", 443, NO),
        ("foo", "169.254.169.254", 80, NO),
        ("foo", "168.63.129.16", 80, NO),
        ("foo", "fd00:ec2::254", 80, NO),
        ("foo", "fe80::1", 443, NO),
        ("foo", "2001:db8:1::1", 443, NO),
        ("foo", "2001:db8:2::1", 443, YES),
        // 10.1.2.3, 169.254.169.254 and 1.1.1.1 through NAT64.
        ("foo", "64:ff9b::a01:203", 443, NO),
        ("foo", "64:ff9b::a9fe:a9fe", 80, NO),
        ("foo", "64:ff9b::101:101", 443, YES),
        ("foo", "b", 8080, NO),
        ("bar", "1.1.1.1", 443, NO),
    ];
    check("everything", &everything, Protocol::Tcp, rows);
    let web = cluster("", "internetEgress: [{pods: {app: foo}, ports: [443]}]");
    check("443", &web, Protocol::Tcp, &[("foo", "1.1.1.1", 443, YES), ("foo", "1.1.1.1", 80, NO)]);
    check("443", &web, Protocol::Udp, &[("foo", "1.1.1.1", 443, NO)]);
}

#[test]
fn no_metadata_service_that_the_bastion_knows_is_of_the_internet() {
    let foo = pods().into_iter().find(|pod| pod.name == "foo").unwrap();
    let cluster = cluster("", "internetEgress: [{pods: {app: foo}}]");
    for address in bastion_server::CLOUD_METADATA {
        let to = End::Address(address);
        let flow = Flow { from: End::Pod(&foo), to, port: 80, protocol: Protocol::Tcp };
        assert!(!cluster.decide(&flow, Blocks::EveryAddress).passes(), "{address}");
    }
}

#[test]
fn the_ingress_controller_comes_in_at_the_named_port_and_its_neighbours_do_not() {
    let rows: &[Row] = &[
        ("traefik", "foo", 8080, YES),
        ("traefik", "foo", 9090, NO),
        ("traefik", "bar", 8080, NO),
        ("neighbour", "foo", 8080, NO),
        ("203.0.113.9", "foo", 8080, NO),
    ];
    check("by name", &cluster("", "fromIngress: [{pods: {app: foo}, ports: [http]}]"), Protocol::Tcp, rows);
    // The same by the tenant's own word.
    let tenant = cluster("fromIngress: [{pods: {app: foo}, ports: [http]}]", "");
    check("by the tenant", &tenant, Protocol::Tcp, rows);
    let open =
        render("tenant", "isolation: {enabled: false}\nfromIngress: [{pods: {app: foo}, ports: [http]}]");
    assert_eq!(names(&open, "NetworkPolicy"), Vec::<&str>::new());
    let neighbours = cluster(
        "",
        "fromIngress: [{pods: {app: foo}, ports: [8080]}]\ningressController: {podLabels: {app.kubernetes.io/name: null}}",
    );
    check("null is no label", &neighbours, Protocol::Tcp, &[("neighbour", "foo", 8080, NO)]);
    let all = render("netpol", "fromIngress: [{pods: {app: foo}, ports: [http]}]");
    assert!(all[0].to_string().contains("kubernetes.io/metadata.name"), "{all:?}");
}

#[test]
fn a_way_between_namespaces_needs_both_halves() {
    let way = |more: &str| {
        format!(
            "crossNamespace: [{{from: {{pods: {{app: a}}}}, to: {{namespace: data, pods: {{app: b}}}}, ports: [8080]{more}}}]"
        )
    };
    let rows = |passes: bool| -> [Row; 7] {
        [
            ("a", "b", 8080, passes),
            // The Service's port is not the pods'.
            ("a", "b", 80, NO),
            ("a", "b", 4143, NO),
            ("bar", "b", 8080, NO),
            ("a", "named", 8080, NO),
            ("b", "a", 8080, NO),
            ("a", "impostor", 8080, NO),
        ]
    };
    check("both", &cluster("", &way("")), Protocol::Tcp, &rows(YES));
    for half in ["egress", "ingress"] {
        check(half, &cluster("", &way(&format!(", half: {half}"))), Protocol::Tcp, &rows(NO));
    }
    let objects = render("netpol", &way(""));
    let spaces: Vec<_> =
        objects.iter().map(|object| object["metadata"]["namespace"].as_str().unwrap()).collect();
    assert_eq!(spaces, ["data", "web"]);
    // Two releases make a half each.
    let (here, there) = (way(", half: egress"), way(", half: ingress"));
    let two = cluster("", &here).apply(&render("netpol", &there), NAMESPACE);
    check("half and half", &two, Protocol::Tcp, &rows(YES));
    let named = cluster(
        "",
        "crossNamespace: [{from: {pods: {app: a}}, to: {namespace: data, pods: {app: named}}, ports: [http]}]",
    );
    check(
        "by name",
        &named,
        Protocol::Tcp,
        &[("a", "named", 8080, YES), ("a", "named", 80, NO), ("a", "b", 8080, NO)],
    );
    let meshed = cluster("", &way(", mesh: true"));
    check(
        "meshed",
        &meshed,
        Protocol::Tcp,
        &[("a", "b", 8080, YES), ("a", "b", 4143, YES), ("bar", "b", 4143, NO)],
    );
}

#[test]
fn the_api_server_is_reached_at_its_addresses_or_as_what_it_is() {
    let values = "apiServer: [{pods: {app: operator}}]\napiServerEndpoints: {cidrs: [192.0.2.5/32]}";
    let rows: &[Row] = &[
        ("operator", "192.0.2.5", 6443, YES),
        ("operator", "192.0.2.5", 443, NO),
        ("operator", "192.0.2.6", 6443, NO),
        ("operator", "1.1.1.1", 6443, NO),
        ("bar", "192.0.2.5", 6443, NO),
    ];
    check("kubernetes", &cluster("", values), Protocol::Tcp, rows);
    let objects = render("netpol", "flavour: cilium\napiServer: [{pods: {app: operator}}]");
    let egress = &one(&objects, "CiliumNetworkPolicy", "shop-api-server-0")["spec"]["egress"];
    assert_eq!(egress[0]["toEntities"], json!(["kube-apiserver"]));
    // Never ports without a destination.
    assert_eq!(egress.as_array().unwrap().len(), 1);
}

#[test]
fn names_come_with_a_look_at_the_answers_of_dns() {
    let objects = render(
        "netpol",
        "flavour: cilium\nfqdnEgress: [{pods: {app: foo}, names: [api.example.com], ports: [443]}]",
    );
    let egress = &one(&objects, "CiliumNetworkPolicy", "shop-names-0")["spec"]["egress"];
    assert_eq!(egress[0]["toPorts"][0]["rules"]["dns"], json!([{"matchPattern": "*"}]));
    assert_eq!(egress[0]["toEndpoints"][0]["matchLabels"]["k8s:io.kubernetes.pod.namespace"], "kube-system");
    assert_eq!(egress[1]["toFQDNs"], json!([{"matchName": "api.example.com"}]));
    assert_eq!(egress[1]["toPorts"][0]["ports"], json!([{"port": "443", "protocol": "TCP"}]));
}

#[test]
fn the_bastion_reaches_what_is_named_and_so_do_people_through_it() {
    let tenant = "tunnels: [{service: foo, ports: [8080], who: {principals: [dev]}}, {service: cache, ports: [80], podPorts: [9000], \
                  pods: {app: bar}, who: {principals: [dev]}}]";
    let rows: &[Row] = &[
        ("bastion", "foo", 8080, YES),
        ("bastion", "foo", 22, NO),
        ("bastion", "bar", 9000, YES),
        ("bastion", "bar", 80, NO),
        ("bastion", "a", 8080, NO),
        ("test", "foo", 8080, NO),
    ];
    check("tunnels", &cluster(tenant, ""), Protocol::Tcp, rows);
    let objects = render("tenant", tenant);
    let policy = &one(&objects, "TunnelPolicy", "tunnel-cache")["spec"];
    assert_eq!(policy["to"], json!([{"service": {"name": "cache", "ports": [80]}}]));
    assert_eq!(policy["who"], json!({"principals": ["dev"]}));
}

#[test]
fn a_policy_of_ones_own_is_taken_as_it_is() {
    let spec = json!({"podSelector": {"matchLabels": {"app": "bar"}}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.25/32"}}]}]});
    let values = format!("extraPolicies: [{{name: smtp, spec: {spec}}}]");
    assert_eq!(one(&render("netpol", &values), "NetworkPolicy", "shop-smtp")["spec"], spec);
    check(
        "custom",
        &cluster("", &values),
        Protocol::Tcp,
        &[("bar", "192.0.2.25", 25, YES), ("a", "192.0.2.25", 25, NO)],
    );
}

#[test]
fn the_namespace_stays_when_the_release_goes() {
    let objects = render("tenant", "");
    let namespace = one(&objects, "Namespace", "shop");
    assert_eq!(namespace["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
    let others = objects.iter().filter(|object| object["kind"] != "Namespace");
    assert!(others.clone().all(|object| object["metadata"]["annotations"] == Value::Null));
    assert!(others.clone().all(|object| object["metadata"]["namespace"] == "shop"));
    assert_eq!(names(&render("tenant", "namespace: {create: false}"), "Namespace"), Vec::<&str>::new());
}

#[test]
fn one_certificate_holds_for_the_namespace() {
    let objects = render("tenant", "certificate: {shared: {dnsNames: [a.example.com, b.example.com]}}");
    assert_eq!(names(&objects, "Certificate"), ["shared-tls"]);
    let spec = &one(&objects, "Certificate", "shared-tls")["spec"];
    assert_eq!(spec["dnsNames"], json!(["a.example.com", "b.example.com"]));
    assert_eq!(spec["secretName"], "shared-tls");
    assert_eq!(
        spec["issuerRef"],
        json!({"group": "cert-manager.io", "kind": "ClusterIssuer", "name": "letsencrypt"})
    );
    let many: Vec<_> = (0..101).map(|number| format!("n{number}.example.com")).collect();
    warns("tenant", &format!("certificate: {{shared: {{dnsNames: {many:?}}}}}"), "has 101 names");
    let said = notes("tenant", "certificate: {shared: {dnsNames: ['*.example.com']}}");
    assert!(said.contains("DNS-01") && !said.contains("Warning"), "{said}");
}

const REFUSED_TENANT: Refused = &[
    ("namespase: {name: x}", "'namespace'"),
    ("isolation: {withinNamespaces: false}", "'withinNamespace'"),
    ("tunnels: [{service: x, ports: [1], whom: {}}]", "'who'"),
    ("tunnels: [{service: x, ports: [1], who: {}}]", "/tunnels/0/who"),
    ("tunnels: [{service: x, who: {principals: [dev]}}]", "ports"),
    ("fromIngress: [{pods: {app: x}}]", "ports"),
    ("access: {admins: [platform]}", "/access/admins/0"),
    ("namespace: {podSecurity: {enforce: strict}}", "/namespace/podSecurity/enforce"),
    ("certificate: {shared: {dnsNames: ['https://a.example.com']}}", "/certificate/shared/dnsNames/0"),
    ("namespace: {name: kube-system}", "is of the cluster itself"),
    ("namespace: {name: default}", "is of the cluster itself"),
    ("fullnameOverride: x", "fullnameOverride"),
    ("namespace: {labels: {x: 1}}", "quote it"),
    ("namespace: {annotations: {linkerd.io/inject: enabled}}", "under mesh.inject"),
    ("commonAnnotations: {linkerd.io/inject: enabled}", "under mesh.inject"),
    ("namespace: {labels: {pod-security.kubernetes.io/enforce: baseline}}", "under namespace.podSecurity"),
    ("namespace: {labels: {kubernetes.io/metadata.name: x}}", "is set by the API server"),
    ("dns: {nodeLocal: [169.254.20.10/32]}", "/dns/nodeLocal/0"),
    ("dns: {nodeLocal: ['1:2:3']}", "is no address"),
    (
        "tunnels: [{service: x, ports: [1], who: {principals: [a]}}, {service: x, ports: [2], who: {principals: [b]}}]",
        "stands there twice",
    ),
    ("certificate: {shared: {duration: 90d}}", "/certificate/shared/duration"),
];

const REFUSED_NETPOL: Refused = &[
    ("internetEgres: []", "'internetEgress'"),
    ("internetEgress: [{pod: {app: x}}]", "'pods'"),
    ("internetEgress: [{ports: [443]}]", "pods"),
    ("internetEgress: [{pods: {app: 1}}]", "/internetEgress/0/pods/app"),
    ("internetEgress: [{pods: {}, ports: [70000]}]", "/internetEgress/0/ports/0"),
    ("fromIngress: [{pods: {}, ports: []}]", "/fromIngress/0/ports"),
    ("crossNamespace: [{from: {pods: {}}, to: {namespace: x, pods: {}}}]", "ports"),
    (
        "fqdnEgress: [{pods: {}, names: [api.example.com], ports: [443]}]",
        "Cilium does. Set flavour to cilium",
    ),
    ("flavour: kubernetes\nfqdnEgress: [{pods: {}, names: [api.example.com], ports: [443]}]", "Cilium does"),
    ("flavour: cilium\nfqdnEgress: [{pods: {}, names: ['*'], ports: [443]}]", "the name * is"),
    (
        "flavour: cilium\nfqdnEgress: [{pods: {}, names: ['https://a'], ports: [443]}]",
        "/fqdnEgress/0/names/0",
    ),
    ("apiServer: [{pods: {app: operator}}]", "kubectl -n default get endpointslices"),
    ("clusterCIDRs: [10.0.0.0/33]", "is no network"),
    ("clusterCIDRs: ['fd00/8']", "is no network"),
    ("clusterCIDRs: [0.0.0.0/0]", "nothing would be left"),
    (
        "crossNamespace: [{from: {pods: {app: a}}, to: {namespace: web, pods: {app: b}}, ports: [1]}]",
        "are both in web",
    ),
    ("extraPolicies: [{name: x}]", "either spec or cilium"),
    ("extraPolicies: [{name: x, spec: {podSelector: {}}, cilium: {}}]", "either spec or cilium"),
    ("extraPolicies: [{name: x, spec: {podSelecter: {}}}]", "podSelecter"),
    ("extraPolicies: [{name: x, cilium: {}}, {name: x, cilium: {}}]", "two are called x"),
];

#[test]
fn what_makes_no_sense_is_refused_with_a_sentence() {
    refuse("tenant", "{}", REFUSED_TENANT);
    refuse("netpol", "{}", REFUSED_NETPOL);
}
