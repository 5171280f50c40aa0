//! The programs that decide: etcd, the API server, the controllers and the scheduler.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    chart_of,
    network::{API_SERVICE, PODS, SERVICES},
    node::Node,
    pki::Pki,
};
use test_support::{
    ports,
    process::{Process, Program, workspace},
    scratch::Scratch,
    wait,
};

/// Where a Service of the API server is asked for, and who signs the tokens of service accounts.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Where an API server listens in a node.
pub const PORT: u16 = 6443;
/// How long an API server may take to start.
const START: Duration = Duration::from_secs(90);

/// Which minor of Kubernetes, of the two that are tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Minor {
    /// The one that clusters are made of.
    Newest,
    /// The one before.
    Before,
}

/// The path of a program that tests/cluster/install built.
///
/// # Panics
/// When it did not.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let path = workspace().join(".cluster/bin").join(name);
    assert!(path.is_file(), "{} is not there: run tests/cluster/install first", path.display());
    path
}

pub(super) fn built_word(name: &str) -> String {
    built(name).to_str().unwrap().to_owned()
}

fn etcd(folder: &str, client: SocketAddr, peer: SocketAddr) -> Vec<String> {
    let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
    vec![
        format!("--data-dir={folder}"),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        // No test needs it after a power failure.
        "--unsafe-no-fsync".to_owned(),
    ]
}

/// The certificates of an API server at this address.
fn certify(pki: &Pki, address: Ipv4Addr) {
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ];
    pki.server("apiserver", &names, &[address, API_SERVICE, Ipv4Addr::LOCALHOST].map(IpAddr::from));
    pki.client("apiserver-kubelet", "kube-apiserver-kubelet-client", Some("system:masters"));
}

fn api_server(pki: &Pki, listen: SocketAddr, etcd: SocketAddr, audit: &Path) -> Vec<String> {
    // Who asked for what, without what was said: enough to prove which permissions are used.
    let policy = pki.path("audit-policy.json");
    std::fs::write(&policy, r#"{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"rules":[{"level":"Metadata"}]}"#)
        .unwrap();
    vec![
        format!("--bind-address={}", listen.ip()),
        format!("--advertise-address={}", listen.ip()),
        format!("--secure-port={}", listen.port()),
        format!("--etcd-servers=http://{etcd}"),
        format!("--service-cluster-ip-range={SERVICES}"),
        format!("--client-ca-file={}", pki.path("ca.crt")),
        format!("--tls-cert-file={}", pki.path("apiserver.crt")),
        format!("--tls-private-key-file={}", pki.path("apiserver.key")),
        format!("--kubelet-certificate-authority={}", pki.path("ca.crt")),
        format!("--kubelet-client-certificate={}", pki.path("apiserver-kubelet.crt")),
        format!("--kubelet-client-key={}", pki.path("apiserver-kubelet.key")),
        // Or logs, exec and port-forward look the node's name up in DNS.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--service-account-issuer={ISSUER}"),
        format!("--service-account-key-file={}", pki.path("service-account.pub")),
        format!("--service-account-signing-key-file={}", pki.path("service-account.key")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged".to_owned(),
        "--profiling=false".to_owned(),
        format!("--audit-policy-file={policy}"),
        format!("--audit-log-path={}", audit.display()),
    ]
}

/// etcdctl, in a node.
pub(super) const ETCDCTL: [&str; 4] =
    ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints=http://127.0.0.1:2379"];

const ETCD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2379);

/// Makes an administrator's kubeconfig, and starts etcd and the API server in a node.
pub(super) fn start_api(node: &Node, pki: &Pki) -> PathBuf {
    let words = |name: &str, arguments: Vec<String>| [vec![name.to_owned()], arguments].concat();
    let peer = SocketAddr::new(ETCD.ip(), 2380);
    let etcd_program = test_support::process::installed("etcd").to_str().unwrap().to_owned();
    node.run("etcd", words(&etcd_program, etcd("/var/lib/etcd", ETCD, peer)));
    certify(pki, node.address());
    let admin = pki.kubeconfig("admin", &url(node), "admin", Some("system:masters"));
    let listen = SocketAddr::from((node.address(), PORT));
    let arguments = api_server(pki, listen, ETCD, Path::new("/var/log/audit.log"));
    node.run("kube-apiserver", words(&built_word("kube-apiserver"), arguments));
    wait_until_ready(&admin, || node.ended("kube-apiserver").map(|how| how + &node.log("kube-apiserver")));
    admin
}

/// The API server's address in a node.
pub(super) fn url(node: &Node) -> String {
    format!("https://{}:{PORT}", node.address())
}

/// Starts the controllers and the scheduler.
pub(super) fn start_controllers(node: &Node, pki: &Pki) {
    let kubeconfig = |name: &str| {
        let path = pki.kubeconfig(name, &url(node), &format!("system:{name}"), None);
        format!("--kubeconfig={}", path.display())
    };
    node.run(
        "kube-controller-manager",
        vec![
            built_word("kube-controller-manager"),
            kubeconfig("kube-controller-manager"),
            format!("--root-ca-file={}", pki.path("ca.crt")),
            format!("--service-account-private-key-file={}", pki.path("service-account.key")),
            format!("--cluster-signing-cert-file={}", pki.path("ca.crt")),
            format!("--cluster-signing-key-file={}", pki.path("ca.key")),
            "--use-service-account-credentials".to_owned(),
            // Each node's pods have a range of their own, for the CNI plugin to give out addresses by.
            "--allocate-node-cidrs".to_owned(),
            format!("--cluster-cidr={PODS}"),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
        ],
    );
    node.run(
        "kube-scheduler",
        vec![
            built_word("kube-scheduler"),
            kubeconfig("kube-scheduler"),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
        ],
    );
}

/// Waits until the API server says that it is ready; `ended` says how it ended, if it did.
pub(super) fn wait_until_ready(kubeconfig: &Path, mut ended: impl FnMut() -> Option<String>) {
    wait::until_true("the API server is ready", START, || {
        if let Some(how) = ended() {
            panic!("the API server ended: {how}");
        }
        let ask = kubectl(kubeconfig).args(["get", "--raw", "/readyz", "--request-timeout=5s"]);
        ask.output().status.success()
    });
}

/// kubectl with this kubeconfig, and no word yet. It finds no other setting of the user's.
#[must_use]
pub fn kubectl(kubeconfig: &Path) -> Program {
    Program::new(built("kubectl")).env("KUBECONFIG", kubeconfig)
}

/// What this kubectl finds: an object, or a list of them.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn get(kubectl: Program, words: &[&str]) -> Value {
    serde_json::from_str(&kubectl.args(["get", "--output=json"]).args(words).succeed()).unwrap()
}

/// Has this kubectl apply objects, as YAML or JSON.
///
/// # Panics
/// When the API server refuses.
pub fn apply(kubectl: Program, objects: &str) {
    kubectl.args(["apply", "--filename=-"]).input(objects).succeed();
}

/// An API server without a node, on this machine's loopback interface, for what needs no pod. Needs no root.
#[derive(Debug)]
pub struct ApiServer {
    // In the order in which they end: an API server without its etcd hangs.
    server: Option<Process>,
    _etcd: Process,
    program: PathBuf,
    arguments: Vec<String>,
    etcd: SocketAddr,
    kubeconfig: PathBuf,
    scratch: Scratch,
}

impl ApiServer {
    /// Starts one of this minor, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn alone(minor: Minor) -> Self {
        let scratch = Scratch::new("apiserver");
        let pki = Pki::new(&scratch.join("pki"));
        certify(&pki, Ipv4Addr::LOCALHOST);
        let [client, peer, listen] =
            std::array::from_fn(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free())));
        let data = scratch.join("etcd");
        let etcd = Program::new("etcd").args(etcd(data.to_str().unwrap(), client, peer)).start();
        let program = built(match minor {
            Minor::Newest => "kube-apiserver",
            Minor::Before => "before/kube-apiserver",
        });
        let mut server = Self {
            server: None,
            _etcd: etcd,
            program,
            // A loopback address cannot be published as that of a Service, so nothing is.
            arguments: [
                api_server(&pki, listen, client, &scratch.join("audit.log")),
                vec!["--endpoint-reconciler-type=none".to_owned()],
            ]
            .concat(),
            etcd: client,
            kubeconfig: pki.kubeconfig(
                "admin",
                &format!("https://{listen}"),
                "admin",
                Some("system:masters"),
            ),
            scratch,
        };
        server.start();
        server
    }

    /// One that has the chart's definitions too. They are established then, which is a moment before they are
    /// served: a first watch may be refused ("storage is (re)initializing").
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn with_policies(minor: Minor) -> Self {
        let server = Self::alone(minor);
        let definitions = chart_of("bastion").join("crds");
        server.kubectl().args(["apply", "--server-side", "--filename"]).arg(definitions).succeed();
        let named = ["tunnelpolicies", "clustertunnelpolicies"]
            .map(|plural| format!("crd/{plural}.tunnel-suite.internal"));
        server.kubectl().args(["wait", "--for=condition=Established", "--timeout=30s"]).args(named).succeed();
        server
    }

    /// An administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// kubectl as an administrator.
    #[must_use]
    pub fn kubectl(&self) -> Program {
        kubectl(&self.kubeconfig)
    }

    /// A kubeconfig for a service account, good for an hour.
    ///
    /// # Panics
    /// When there is no such account.
    #[must_use]
    pub fn kubeconfig_of(&self, namespace: &str, service_account: &str) -> PathBuf {
        kubeconfig_of(&self.kubeconfig, &self.scratch, namespace, service_account)
    }

    /// etcdctl for what is behind it.
    #[must_use]
    pub fn etcdctl(&self) -> Program {
        etcdctl(self.etcd)
    }

    /// Who asked for what until now: one JSON object a line.
    #[must_use]
    pub fn audit(&self) -> String {
        whole_lines(&self.scratch.join("audit.log"))
    }

    /// Stops it; what it knows stays in etcd.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill();
        }
    }

    /// Starts it again, at the same address, and waits until it is ready.
    pub fn start(&mut self) {
        let mut process = Program::new(&self.program).args(&self.arguments).start();
        wait_until_ready(&self.kubeconfig, || {
            process.ended().map(|status| format!("{status} {}", process.stderr()))
        });
        self.server = Some(process);
    }
}

/// What a log says until now, without a line that is half written.
pub(super) fn whole_lines(log: &Path) -> String {
    let mut bytes = std::fs::read(log).unwrap_or_default();
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    bytes.truncate(end);
    String::from_utf8(bytes).unwrap()
}

/// The administrator's kubeconfig with a token of a service account instead, good for an hour.
pub(super) fn kubeconfig_of(admin: &Path, folder: &Scratch, namespace: &str, account: &str) -> PathBuf {
    let words = ["--namespace", namespace, "create", "token", account, "--duration=1h"];
    let token = kubectl(admin).args(words).succeed();
    let words = ["config", "view", "--raw", "--minify", "--flatten", "--output=json"];
    let mut config: Value = serde_json::from_str(&kubectl(admin).args(words).succeed()).unwrap();
    config["users"][0]["user"] = json!({"token": token.trim()});
    folder.write(&format!("{namespace}-{account}.kubeconfig"), config.to_string())
}

fn etcdctl(server: SocketAddr) -> Program {
    Program::new("etcdctl").env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", format!("http://{server}"))
}
