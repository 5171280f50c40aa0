//! The policies of the charts `tenant` and `netpol`, tried between real pods: each flow must pass without
//! them before it may count that it does not with them, and the evaluator says the same of each.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, Namespace, image},
    network_policy::{self, Blocks, Flow, Pod, Protocol},
    process::workspace,
    target::Target,
    wait,
};

use super::fixture;

/// How long a client waits for an answer before it is said that the network drops what is sent.
const PATIENCE: u8 = 2;
const TWO_MINUTES: Duration = Duration::from_secs(120);
/// How many flows are tried at the same time.
const AT_ONCE: usize = 6;

const YES: bool = true;
const NO: bool = false;

/// Namespace, pod, its labels, and where it listens; 8080 is called `http`.
type Inhabitant = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static [u16]);

const NAME: &str = "app.kubernetes.io/name";
const COMPONENT: &str = "app.kubernetes.io/component";
const PODS: [Inhabitant; 12] = [
    ("web", "a", &[("app", "a")], &[1000]),
    ("web", "foo", &[("app", "foo"), (NAME, "foo")], &[8080, 9090]),
    ("web", "bar", &[("app", "bar")], &[8080]),
    ("data", "b", &[("app", "b")], &[8080, 9090]),
    ("data", "named", &[("app", "named")], &[8080, 9090]),
    ("data", "redis", &[("app", "redis"), (NAME, "redis")], &[6379, 22]),
    ("rogue", "impostor", &[("k8s-app", "kube-dns")], &[53]),
    ("ingress", "traefik", &[(NAME, "traefik")], &[]),
    ("ingress", "neighbour", &[], &[]),
    ("bastion", "bastion", &[(COMPONENT, "bastion")], &[]),
    ("bastion", "test", &[(COMPONENT, "test")], &[]),
    ("web", "operator", &[("app", "operator")], &[]),
];

/// An end that a pod connects to.
#[derive(Debug, Clone, Copy)]
enum To {
    Pod(&'static str),
    /// The cluster's name server.
    Dns,
    /// The first or the second address outside, at the first or the second port there.
    Outside(usize, usize),
    /// The first port of the second address, by a name that is listed; or of the first one, by another.
    Name(&'static str),
    ApiServer,
}
use To::{ApiServer, Dns, Name, Outside};

/// Who, whom, at which port of a pod, and whether it passes.
type Row = (&'static str, To, u16, bool);

/// Closed tenants, and nothing else.
const CLOSED: &[Row] = &[
    ("a", To::Pod("foo"), 8080, YES),
    ("foo", To::Pod("a"), 1000, YES),
    ("a", Dns, 53, YES),
    ("a", To::Pod("impostor"), 53, NO),
    ("a", To::Pod("b"), 8080, NO),
    ("b", To::Pod("a"), 1000, NO),
    ("traefik", To::Pod("foo"), 8080, NO),
    ("bastion", To::Pod("redis"), 6379, NO),
    ("impostor", To::Pod("foo"), 8080, NO),
    ("a", Outside(0, 0), 0, NO),
    ("foo", Outside(1, 0), 0, NO),
    ("operator", ApiServer, 443, NO),
];

/// The same with what is opened.
const OPENED: &[Row] = &[
    // The internet, without a network of it that is the company's.
    ("foo", Outside(0, 0), 0, YES),
    ("foo", Outside(0, 1), 0, YES),
    ("foo", Outside(1, 0), 0, NO),
    ("foo", To::Pod("b"), 8080, NO),
    ("bar", Outside(0, 0), 0, NO),
    // The ingress controller, at a named port; by the tenant's own word too.
    ("traefik", To::Pod("foo"), 8080, YES),
    ("traefik", To::Pod("foo"), 9090, NO),
    ("traefik", To::Pod("bar"), 8080, YES),
    ("traefik", To::Pod("a"), 1000, NO),
    ("neighbour", To::Pod("foo"), 8080, NO),
    // Across namespaces, by number and by name, and with a half that was not made.
    ("a", To::Pod("b"), 8080, YES),
    ("a", To::Pod("b"), 9090, NO),
    ("bar", To::Pod("b"), 8080, NO),
    ("b", To::Pod("a"), 1000, NO),
    ("a", To::Pod("named"), 8080, YES),
    ("a", To::Pod("named"), 9090, NO),
    ("bar", To::Pod("named"), 8080, NO),
    // The bastion, where a tunnel leads.
    ("bastion", To::Pod("redis"), 6379, YES),
    ("bastion", To::Pod("redis"), 22, NO),
    ("bastion", To::Pod("b"), 8080, NO),
    ("test", To::Pod("redis"), 6379, NO),
    // A policy of one's own.
    ("operator", Outside(1, 0), 0, YES),
    ("operator", Outside(1, 1), 0, NO),
    ("a", To::Pod("foo"), 8080, YES),
    ("a", Dns, 53, YES),
];

/// What Cilium alone knows: names, and the API server.
const CILIUM: &[Row] = &[
    ("a", Name("listed"), 0, YES),
    ("a", Name("first"), 0, NO),
    ("bar", Name("listed"), 0, NO),
    ("operator", ApiServer, 443, YES),
    ("bar", ApiServer, 443, NO),
];

struct Fixture {
    cluster: &'static Cluster,
    namespaces: BTreeMap<&'static str, Namespace<'static>>,
    pods: BTreeMap<&'static str, Pod>,
    dns: Pod,
    outside: [[Target; 2]; 2],
}

impl Fixture {
    fn start() -> Self {
        let cluster = fixture::cluster();
        cluster.image(image::TOOLS);
        // What a tenant says of its tunnels.
        let crds = workspace().join("deploy/charts/bastion/crds");
        cluster.kubectl_program(&["apply", "--server-side", "--filename"]).arg(crds).succeed();
        let names = PODS.iter().map(|pod| pod.0);
        let namespaces: BTreeMap<_, _> = names.map(|name| (name, name)).collect();
        let namespaces = namespaces.into_keys().map(|name| (name, cluster.namespace(name))).collect();
        let outside = cluster.outside().map(|address| [Target::echo_on(address), Target::echo_on(address)]);
        let dns = cluster.get(&["pods", "--namespace=kube-system", "--selector=k8s-app=kube-dns"]);
        let dns = Pod::alive(&dns["items"][0]);
        let mut this = Self { cluster, namespaces, pods: BTreeMap::new(), dns, outside };
        for (namespace, name, labels, ports) in PODS {
            this.namespaces[namespace].apply(&pod(name, labels, ports).to_string());
        }
        for (namespace, name, ..) in PODS {
            this.namespaces[namespace].wait_for_pod(name);
            this.pods.insert(name, Pod::alive(&this.namespaces[namespace].get(&["pod", name])));
        }
        this
    }

    fn namespace(&self, name: &str) -> &str {
        self.namespaces[name].name()
    }

    /// A name that no pod has asked for before: Cilium remembers where names led.
    fn name(&self, name: &str) -> String {
        format!("{name}.{}.outside.test", self.namespace("web"))
    }

    /// What it is connected to by, and the port.
    fn place(&self, (_, to, port, _): Row) -> (String, u16) {
        match to {
            To::Pod(name) => (self.pods[name].ip.to_string(), port),
            Dns => (self.dns.ip.to_string(), port),
            Outside(address, number) => {
                let address = self.outside[address][number].address();
                (address.ip().to_string(), address.port())
            }
            Name(name) => (self.name(name), self.outside[usize::from(name != "first")][0].address().port()),
            ApiServer => ("kubernetes.default.svc".to_owned(), port),
        }
    }

    /// Whether a connection comes about; nothing else may happen to one than that no answer comes.
    fn passes(&self, row: Row) -> bool {
        let (host, port) = self.place(row);
        let connect = format!("timeout {PATIENCE} bash -c 'exec 3<>/dev/tcp/{host}/{port}'; echo $?");
        let home = PODS.iter().find(|pod| pod.1 == row.0).unwrap().0;
        wait::until("a word on what becomes of a connection", TWO_MINUTES, || {
            match self.namespaces[home].exec(row.0, &["bash", "-c", &connect]).trim() {
                "0" => Some(true),
                // Ended by timeout.
                "143" => Some(false),
                // It has not come to that yet: Cilium, through which names are asked for, is at something
                // else.
                "1" if matches!(row.1, Name(_) | ApiServer) => None,
                other => panic!("{row:?}: {other}"),
            }
        })
    }

    /// The rows that are not as they should be. What must pass may need more than one try on a busy machine.
    fn wrong(&self, rows: &[Row]) -> Vec<Row> {
        let end = Instant::now() + TWO_MINUTES;
        let next = Mutex::new(rows.iter());
        let take = || next.lock().unwrap().next();
        let holds = |row: Row| loop {
            match (self.passes(row), row.3) {
                (true, expected) => break expected,
                (false, NO) => break true,
                (false, YES) if Instant::now() > end => break false,
                (false, YES) => {}
            }
        };
        let work = || std::iter::from_fn(take).filter(|row| !holds(**row)).copied().collect::<Vec<_>>();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        })
    }

    fn check(&self, what: &str, rows: &[Row]) {
        let wrong = self.wrong(rows);
        assert!(wrong.is_empty(), "{what}: {wrong:#?} are not so");
        let yes = rows.iter().filter(|row| row.3).count();
        println!("{what}: {yes} flows pass, {} do not", rows.len() - yes);
    }

    /// Our evaluator says the same to each row.
    fn evaluate(&self, what: &str, rows: &[Row]) {
        let spaces = self.namespaces.values().map(Namespace::name).chain(["kube-system"]);
        let mut cluster =
            spaces.fold(network_policy::Cluster::new(), |cluster, name| cluster.namespace(name, &[]));
        for namespace in self.namespaces.values() {
            let policies = namespace.get(&["networkpolicies"])["items"].as_array().unwrap().clone();
            cluster = cluster.apply(&policies, namespace.name());
        }
        for row in rows {
            let (host, port) = self.place(*row);
            let to = match row.1 {
                To::Pod(name) => network_policy::End::Pod(&self.pods[name]),
                Dns => network_policy::End::Pod(&self.dns),
                Outside(..) => network_policy::End::Address(host.parse::<IpAddr>().unwrap()),
                ApiServer => network_policy::End::Address(self.cluster.node_address()),
                Name(_) => panic!("a policy of Kubernetes knows no names: {row:?}"),
            };
            let from = network_policy::End::Pod(&self.pods[row.0]);
            let flow = Flow { from, to, port, protocol: Protocol::Tcp };
            let verdict = cluster.decide(&flow, Blocks::OnlyOutside);
            assert_eq!(verdict.passes(), row.3, "{what}: the evaluator: {row:?}: {verdict:?}");
        }
    }

    /// Waits until the policies are obeyed: until this flow no longer passes.
    fn until_stopped(&self, row: Row) {
        wait::until_true("the policies are obeyed", TWO_MINUTES, || !self.passes(row));
    }
}

fn pod(name: &str, labels: &[(&str, &str)], ports: &[u16]) -> Value {
    let listen: String = ports.iter().map(|port| format!("nc -ll -p {port} -e echo hello & ")).collect();
    let declared: Vec<_> = ports
        .iter()
        .map(|port| match port {
            8080 => json!({"name": "http", "containerPort": port}),
            _ => json!({"containerPort": port}),
        })
        .collect();
    let container = json!({
        "name": name,
        "image": image::TOOLS,
        "imagePullPolicy": "Never",
        "ports": declared,
        "command": ["sh", "-c", format!("{listen} trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done")],
    });
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": network_policy::labels(labels)},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    })
}

#[test]
fn each_flow_of_a_tenant_passes_or_does_not() {
    let fixture = Fixture::start();
    let rows = [CLOSED, OPENED, CILIUM].concat();
    let control: Vec<_> = rows.iter().map(|(from, to, port, _)| (*from, *to, *port, YES)).collect();
    fixture.check("no policy", &control);

    let tenant = |name: &str, more: Value| {
        let mut values = json!({
            "namespace": {"name": fixture.namespace(name), "create": false},
            "bastion": {"namespace": fixture.namespace("bastion")},
            "ingressController": {"namespace": fixture.namespace("ingress")},
        });
        values.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        values
    };
    for name in ["web", "data"] {
        fixture.namespaces[name].helm("install", "tenant", "tenant", &tenant(name, json!({})));
    }
    for row in [("a", To::Pod("b"), 8080, NO), ("b", To::Pod("a"), 1000, NO), ("a", Outside(0, 0), 0, NO)] {
        fixture.until_stopped(row);
    }
    fixture.check("closed", CLOSED);
    fixture.evaluate("closed", CLOSED);

    let (web, data) = (fixture.namespace("web"), fixture.namespace("data"));
    let tunnels = json!({"tunnels": [{"service": "redis", "ports": [6379], "who": {"principals": ["dev"]}}]});
    fixture.namespaces["data"].helm("upgrade", "tenant", "tenant", &tenant("data", tunnels));
    let page = json!({"fromIngress": [{"pods": {"app": "bar"}, "ports": ["http"]}]});
    fixture.namespaces["web"].helm("upgrade", "tenant", "tenant", &tenant("web", page));
    let second = fixture.outside[1][0].address();
    let own = json!({
        "podSelector": {"matchLabels": {"app": "operator"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": {"cidr": format!("{}/32", second.ip())}}], "ports": [{"port": second.port()}]}],
    });
    let opened = json!({
        "flavour": "kubernetes",
        "clusterCIDRs": [format!("{}/32", second.ip())],
        "internetEgress": [{"pods": {"app": "foo"}}],
        "fromIngress": [{"pods": {"app": "foo"}, "ports": ["http"]}],
        "ingressController": {"namespace": fixture.namespace("ingress")},
        "crossNamespace": [
            {"from": {"pods": {"app": "a"}}, "to": {"namespace": data, "pods": {"app": "b"}}, "ports": [8080]},
            {"from": {"pods": {"app": "a"}}, "to": {"namespace": data, "pods": {"app": "named"}}, "ports": ["http"]},
            {"from": {"namespace": web, "pods": {"app": "bar"}}, "to": {"namespace": data, "pods": {"app": "named"}}, "ports": [8080], "half": "egress"},
        ],
        "extraPolicies": [{"name": "own", "spec": own}],
    });
    fixture.namespaces["web"].helm("install", "netpol", "netpol", &opened);
    fixture.check("opened", OPENED);
    fixture.evaluate("opened", OPENED);

    // Whose flavour this is, the chart sees by itself.
    let names = json!({
        "fqdnEgress": [{"pods": {"app": "a"}, "names": [fixture.name("listed")], "ports": [second.port(), fixture.outside[0][0].address().port()]}],
        "apiServer": [{"pods": {"app": "operator"}}],
    });
    fixture.namespaces["web"].helm("install", "names", "netpol", &names);
    for row in CILIUM.iter().filter(|row| row.3) {
        fixture.check("cilium", &[*row]);
    }
    let others: Vec<_> = CILIUM.iter().filter(|row| !row.3).copied().collect();
    fixture.check("cilium", &others);
    fixture.check("closed still", &[("a", Outside(0, 0), 0, NO), ("a", Outside(1, 1), 0, NO)]);
}
