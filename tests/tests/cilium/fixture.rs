//! Pods of several namespaces, two addresses outside of the cluster, and a bastion whose own rules let every
//! client reach all of them: a flow that does not pass was stopped by the network.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tests::{
    bastion::LOGIN,
    cluster::{Cluster, Namespace, image},
    forge::Forge,
    key::Key,
    network_policy::Pod,
    rogue::Client,
    target::Target,
    wait,
};

/// How long a client waits for an answer before it is said that the network drops what is sent.
const PATIENCE: Duration = Duration::from_secs(2);
const A_MINUTE: Duration = Duration::from_secs(60);
const RELEASE: &str = "bastion";
/// Where the bastion listens, for SSH and for health and metrics.
pub const SSH: u16 = 2222;
pub const ADMIN: u16 = 8080;

/// Namespace, pod, a label of it, and where it listens.
type Inhabitant = (&'static str, &'static str, (&'static str, &'static str), &'static [u16]);

const PODS: [Inhabitant; 7] = [
    ("databases", "orders", ("app", "postgres"), &[5432, 22]),
    ("databases", "wiki", ("app", "wiki"), &[5432]),
    ("queues", "nats", ("app", "nats"), &[4222]),
    ("monitoring", "prometheus", ("app", "prometheus"), &[]),
    ("ci", "runner", ("tunnel", "yes"), &[]),
    ("ci", "stranger", ("tunnel", "no"), &[]),
    ("vault", "vault", ("app", "vault"), &[8200]),
];

/// An end of a flow: the bastion, a pod, or an address outside, by the name that this has or as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Bastion,
    Pod(&'static str),
    /// The first or the second address outside.
    Outside(usize),
    /// The same, by its name.
    Name(usize),
    /// The second one, by a name in [`Fixture::zone`].
    InZone,
}

pub struct Fixture {
    pub cluster: &'static Cluster,
    namespaces: BTreeMap<&'static str, Namespace<'static>>,
    addresses: BTreeMap<&'static str, IpAddr>,
    /// The bastion's only pod.
    bastion: String,
    outside: [Vec<Target>; 2],
    authority: Key,
    key: Key,
}

/// The cluster of this run, which must have Cilium.
pub fn cluster() -> &'static Cluster {
    let cluster = Cluster::shared();
    assert!(
        cluster.has_cilium(),
        "this cluster has no Cilium: `make test-cluster CNI=cilium`, or `make cluster CNI=cilium` first"
    );
    cluster
}

impl Fixture {
    /// All of it, and a bastion whose chart makes no policy.
    pub fn start() -> Self {
        let cluster = cluster();
        cluster.image(image::BUSYBOX);
        let names: Vec<_> = PODS.iter().map(|pod| pod.0).chain([RELEASE]).collect();
        let mut fixture = Self {
            cluster,
            namespaces: names.into_iter().map(|name| (name, cluster.namespace(name))).collect(),
            addresses: BTreeMap::new(),
            bastion: String::new(),
            outside: cluster
                .outside()
                .map(|address| vec![Target::echo_on(address), Target::echo_on(address)]),
            authority: Key::ed25519(),
            key: Key::ed25519(),
        };
        for (namespace, name, label, ports) in PODS {
            fixture.namespaces[namespace].apply(&pod(name, label, ports).to_string());
        }
        for (namespace, name, ..) in PODS {
            fixture.namespaces[namespace].wait_for_pod(name);
            let object = fixture.namespaces[namespace].get(&["pod", name]);
            fixture.addresses.insert(name, object["status"]["podIP"].as_str().unwrap().parse().unwrap());
        }
        let authority = fixture.authority.public_line();
        let literal = format!("--from-literal=ca.pub={authority}");
        fixture.own().kubectl(&["create", "configmap", "bastion-user-ca", &literal]);
        fixture.helm("install", &json!({"enabled": false}));
        fixture.own().wait_for_rollout("deployment/bastion");
        let pods = fixture.own().get(&["pods", "--selector=app.kubernetes.io/component=bastion"]);
        fixture.bastion = pods["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
        let address = pods["items"][0]["status"]["podIP"].as_str().unwrap().parse().unwrap();
        fixture.addresses.insert(RELEASE, address);
        fixture
    }

    /// The bastion's own namespace.
    fn own(&self) -> &Namespace<'static> {
        &self.namespaces[RELEASE]
    }

    /// A namespace's name, which has some letters more than here.
    pub fn namespace(&self, name: &str) -> &str {
        self.namespaces[name].name()
    }

    /// Names that no pod has asked for before: Cilium remembers where names led.
    pub fn zone(&self) -> String {
        format!("{}.outside.test", self.own().name())
    }

    /// A port where a server listens outside: the first or the second one of this end's address.
    pub fn port(&self, end: End, number: usize) -> u16 {
        let which = self.cluster.outside().iter().position(|address| *address == self.address(end));
        self.outside[which.unwrap()][number].port()
    }

    /// Has the bastion's pod be subject to another policy. The pod stays the same.
    pub fn set_policy(&self, policy: &Value) {
        self.helm("upgrade", policy);
    }

    fn helm(&self, verb: &str, policy: &Value) {
        let everything = ["10.244.0.0/16:*", "198.18.0.0/15:*", "*.outside.test:*"];
        // A late answer is none that a policy keeps back.
        let patient = json!({"timeoutSeconds": 10});
        let values = json!({
            "replicaCount": 1,
            "minReadySeconds": 1,
            "probes": {"startup": patient, "liveness": patient, "readiness": patient},
            "service": {"type": "NodePort", "externalTrafficPolicy": "Local"},
            "config": {
                "rules": [{"name": "everything", "who": {"everybody": true}, "to": everything}],
                "timeouts": {"connect": "2s", "resolve": "5s"},
            },
            "networkPolicy": policy,
        });
        self.own().release(verb, &values, &[]);
    }

    /// What Kubernetes has of the bastion's network policies.
    pub fn policies(&self) -> Vec<Value> {
        let list = self.own().get(&["networkpolicies"]);
        list["items"].as_array().unwrap().clone()
    }

    /// All namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces.values().map(Namespace::name)
    }

    /// An end as policies know it, if it is a pod.
    pub fn pod(&self, end: End) -> Option<Pod> {
        let (namespace, name) = match end {
            End::Bastion => (RELEASE, self.bastion.as_str()),
            End::Pod(name) => (home(name), name),
            End::Outside(_) | End::Name(_) | End::InZone => return None,
        };
        Some(Pod::alive(&self.namespaces[namespace].get(&["pod", name])))
    }

    /// Whether the bastion says in this time what becomes of a new TunnelPolicy: whether it and the API
    /// server reach each other.
    pub fn follows_policies(&self, patience: Duration) -> bool {
        let name = format!("policy-{:08x}", rand::random::<u32>());
        let spec = json!({"who": {"principals": [LOGIN]}, "to": [{"service": {"name": "bastion-admin", "ports": [ADMIN]}}]});
        let policy = json!({"apiVersion": "tunnel-suite.internal/v1alpha1", "kind": "TunnelPolicy", "metadata": {"name": name}, "spec": spec});
        self.own().apply(&policy.to_string());
        let object = format!("tunnelpolicy/{name}");
        let words = ["wait", "--for=condition=Accepted", &object, "--timeout=5s"];
        let end = Instant::now() + patience;
        loop {
            if self.own().kubectl_program(&words).output().status.success() {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
        }
    }

    /// How often the kubelet has found that the bastion is not well: before it listens, that is so.
    pub fn unhealthy(&self) -> u64 {
        let events = self.own().get(&["events", "--field-selector=reason=Unhealthy"]);
        let counts = events["items"].as_array().unwrap().iter().map(|event| event["count"].as_u64());
        counts.map(|count| count.unwrap_or(1)).sum()
    }

    /// The kubelet was never kept from asking the bastion whether it is well, since it had been found not to
    /// be so often.
    pub fn is_well(&self, before: u64) {
        let pod = self.own().get(&["pod", &self.bastion]);
        let status = &pod["status"]["containerStatuses"][0];
        assert_eq!((&status["ready"], &status["restartCount"]), (&json!(true), &json!(0)), "{pod}");
        assert_eq!(self.unhealthy(), before, "{}", self.own().kubectl(&["get", "events"]));
    }

    /// Where something is.
    pub fn address(&self, end: End) -> IpAddr {
        match end {
            End::Bastion => self.addresses[RELEASE],
            End::Pod(name) => self.addresses[name],
            End::Outside(number) | End::Name(number) => self.cluster.outside()[number],
            End::InZone => self.cluster.outside()[1],
        }
    }

    /// Whether a connection comes about; nothing else may happen to one than that no answer comes.
    pub fn passes(&self, from: End, to: End, port: u16) -> bool {
        match from {
            End::Bastion => self.bastion_reaches(to, port),
            End::Pod(name) => self.pod_reaches(name, to, port),
            End::Outside(number) => self.machine_reaches(number, to, port),
            End::Name(_) | End::InZone => panic!("who connects has no name"),
        }
    }

    /// Where the bastion is reached from outside.
    fn node_port(&self) -> SocketAddr {
        self.own().node_port(RELEASE, None)
    }

    /// A client that has logged in.
    pub fn login(&self) -> Client {
        let certificate = Forge::user(&self.key, LOGIN).sign(&self.authority);
        wait::until("the bastion answers", A_MINUTE, || {
            TcpStream::connect_timeout(&self.node_port(), PATIENCE).ok()
        });
        Client::login(self.node_port(), LOGIN, &self.key, certificate)
    }

    fn bastion_reaches(&self, to: End, port: u16) -> bool {
        let host = match to {
            End::Name(number) => format!("{}.outside.test", ["first", "second"][number]),
            End::InZone => format!("a.{}", self.zone()),
            other => self.address(other).to_string(),
        };
        wait::until("a word on where the bastion connects to", A_MINUTE, || {
            match self.login().forward(&host, port.into()).unwrap() {
                Ok(_) => Some(true),
                Err(failure) if failure.text.starts_with("connect_timeout: ") => Some(false),
                // It has not come to that yet: Cilium, through which names are asked for, is at something
                // else.
                Err(failure) if failure.text.starts_with("resolve_timeout: ") => None,
                Err(failure) => panic!("the bastion to {host}:{port}: {}", failure.text),
            }
        })
    }

    fn pod_reaches(&self, name: &str, to: End, port: u16) -> bool {
        let (patience, address) = (PATIENCE.as_secs(), self.address(to));
        // A server says something, unasked or asked. A server may take the end of what it is asked
        // for the end of interest.
        let question = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep {patience}");
        let ask = format!("({question}) | nc -w {patience} {address} {port} | head -c 1 | wc -c");
        match self.namespaces[home(name)].exec(name, &["sh", "-c", &ask]).trim() {
            "1" => true,
            "0" => false,
            other => panic!("{name} to {address}:{port}: {other}"),
        }
    }

    fn machine_reaches(&self, number: usize, to: End, port: u16) -> bool {
        assert_eq!((to, port), (End::Bastion, SSH), "only the bastion has a port on the node");
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(self.cluster.outside()[number], 0).into()).unwrap();
        socket.connect_timeout(&self.node_port().into(), PATIENCE).is_ok()
    }
}

/// A pod's namespace.
fn home(pod: &str) -> &'static str {
    PODS.iter().find(|known| known.1 == pod).unwrap().0
}

/// A pod that says something to each client.
fn pod(name: &str, (key, value): (&str, &str), ports: &[u16]) -> Value {
    let listen: String = ports.iter().map(|port| format!("nc -ll -p {port} -e echo hello & ")).collect();
    let container = json!({
        "name": name,
        "image": image::BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", format!("{listen} trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done")],
    });
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {key: value}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    })
}
