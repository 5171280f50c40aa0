//! The cluster that the other tests stand on is a real one, and goes without a trace.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tests::{
    cluster::{
        ApiServer, Cluster, Minor, Namespace,
        cgroup::Cgroup,
        control_plane,
        image::{self, Image},
        node::Node,
        supervisor::sweep,
        take_down,
    },
    http,
    process::Program,
    scratch::Scratch,
    wait,
};

const SECONDS_30: Duration = Duration::from_secs(30);
const SECONDS_60: Duration = Duration::from_secs(60);

/// A pod that waits to be told what to do.
fn tools(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "tools", "image": image::TOOLS, "imagePullPolicy": "Never"}],
        },
    })
}

/// Two pods of a Deployment that serve one page, each after `hello` on its log, and a Service of the type
/// before them.
fn web(namespace: &Namespace<'_>, kind: &str) {
    let serve = "mkdir /tmp/www && echo it works >/tmp/www/index.html && echo hello && exec httpd -f -p 8080 -h /tmp/www";
    let labels = json!({"app": "web"});
    let container = json!({
        "name": "web",
        "image": image::BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", serve],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
    });
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}},
        },
    });
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"type": kind, "selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    });
    namespace.apply(&deployment.to_string());
    namespace.apply(&service.to_string());
    namespace.wait_for_rollout("deployment/web");
}

/// What a page says, once it is there: kube-proxy may be a moment behind the rollout.
fn page(address: SocketAddr) -> String {
    wait::until("the page", SECONDS_30, || http::get(address, "/").ok()).body
}

#[test]
fn the_node_is_ready_and_says_what_was_installed() {
    let cluster = Cluster::shared();
    let nodes = cluster.get(&["nodes"]);
    let conditions = nodes["items"][0]["status"]["conditions"].as_array().unwrap();
    assert!(
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True"),
        "{conditions:?}"
    );
    let versions: Value = serde_json::from_str(&cluster.kubectl(&["version", "--output=json"])).unwrap();
    assert_eq!(versions["serverVersion"]["gitVersion"], versions["clientVersion"]["gitVersion"]);
    assert_eq!(
        versions["serverVersion"]["gitVersion"],
        nodes["items"][0]["status"]["nodeInfo"]["kubeletVersion"]
    );
}

#[test]
fn an_operators_own_cluster_is_one_to_test_in() {
    let ours = Cluster::shared();
    let theirs = ours.node().map(|node| {
        let containerd = node.path("/run/containerd/containerd.sock");
        let load = format!("ctr --address {} --namespace k8s.io images import", containerd.display());
        Cluster::of_an_operator(ours.kubeconfig(), Some(load))
    });
    let theirs = theirs.as_ref().unwrap_or(ours);
    assert_eq!(theirs.node_address(), ours.node_address());
    assert!(theirs.node().is_none(), "tests do not look behind its API");
    let namespace = theirs.namespace("theirs");
    let (kubeconfig, asked) = (theirs.kubeconfig_of(namespace.name(), "default"), ["auth", "whoami"]);
    let said = control_plane::kubectl(&kubeconfig).args(asked).succeed();
    assert!(said.contains(&format!("system:serviceaccount:{}:default", namespace.name())), "{said}");
    // An image that no other test brings.
    let scratch = Scratch::new("loaded");
    let (name, archive) = ("localhost/loaded:test", scratch.join("loaded.tar"));
    Image::new(name).busybox().entrypoint(&["/bin/sleep", "3600"]).write(&archive);
    theirs.import_image(&archive);
    let mut pod = tools("loaded");
    pod["spec"]["containers"][0]["image"] = name.into();
    namespace.apply(&pod.to_string());
    namespace.wait_for_pod("loaded");
}

#[test]
fn a_pod_runs_is_entered_and_logs() {
    let cluster = Cluster::shared();
    cluster.image(image::TOOLS);
    let namespace = cluster.namespace("pod");
    web(&namespace, "ClusterIP");
    assert_eq!(namespace.kubectl(&["logs", "deployment/web"]).trim(), "hello");
    assert_eq!(namespace.exec("deployment/web", &["cat", "/tmp/www/index.html"]).trim(), "it works");
    let mut forward =
        namespace.kubectl_program(&["port-forward", "service/web", ":80", "--address=127.0.0.1"]).start();
    forward.wait_for("Forwarding from", SECONDS_30);
    let line = forward.stdout();
    let address = line.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    assert_eq!(page(address).trim(), "it works");
}

#[test]
fn a_service_answers_from_pod_and_node_by_address_and_by_name() {
    let cluster = Cluster::shared();
    cluster.image(image::TOOLS);
    let namespace = cluster.namespace("service");
    web(&namespace, "ClusterIP");
    namespace.apply(&tools("client").to_string());
    namespace.wait_for_pod("client");
    let address = namespace.kubectl(&["get", "service", "web", "--output=jsonpath={.spec.clusterIP}"]);
    let url = format!("http://{address}/");
    // kube-proxy hears of the pods a moment later than the API server.
    wait::until_true("an answer to the node", SECONDS_30, || {
        let from_node = cluster.enter(&["busybox", "wget", "-q", "-O", "-", &url]).output();
        from_node.stdout.trim_ascii() == b"it works"
    });
    assert_eq!(namespace.exec("client", &["wget", "-q", "-O", "-", &url]).trim(), "it works");
    let name = format!("web.{}.svc.cluster.local", namespace.name());
    assert!(namespace.exec("client", &["getent", "ahostsv4", &name]).starts_with(&address));
    // Through the resolver of the C library, with the search domains that the kubelet gave it.
    let ask = "exec 3<>/dev/tcp/web/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    assert!(namespace.exec("client", &["bash", "-c", ask]).contains("it works"));
    // A pod that asks for its own Service may be sent to itself.
    for _ in 0..8 {
        assert_eq!(namespace.exec("deployment/web", &["wget", "-q", "-O", "-", &url]).trim(), "it works");
    }
    let unknown =
        namespace.kubectl_program(&["exec", "client", "--", "getent", "hosts", "example.com"]).output();
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
}

#[test]
fn a_node_port_answers_from_this_machine_and_a_pod_reaches_it() {
    let cluster = Cluster::shared();
    cluster.image(image::TOOLS);
    let namespace = cluster.namespace("ports");
    web(&namespace, "NodePort");
    assert_eq!(page(namespace.node_port("web", Some("http"))).trim(), "it works");
    namespace.apply(&tools("client").to_string());
    namespace.wait_for_pod("client");
    let listener = std::net::TcpListener::bind((cluster.host_address(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let ask = format!("echo from a pod | nc -w 5 {} {port}", cluster.host_address());
    let pod = namespace.kubectl_program(&["exec", "client", "--", "sh", "-c", &ask]).start();
    let (mut stream, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), cluster.node_address());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
    assert_eq!(text.trim(), "from a pod");
    drop(pod);
}

#[test]
fn a_projected_token_has_its_audience_and_its_hour() {
    let cluster = Cluster::shared();
    cluster.image(image::TOOLS);
    let namespace = cluster.namespace("token");
    let mut pod = tools("client");
    let token =
        json!({"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 600}});
    pod["spec"]["volumes"] = json!([{"name": "token", "projected": {"sources": [token]}}]);
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "token", "mountPath": "/var/run/secrets/vault"}]);
    namespace.apply(&pod.to_string());
    namespace.wait_for_pod("client");
    let token = namespace.exec("client", &["cat", "/var/run/secrets/vault/token"]);
    let review = |audience: &str| {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        });
        let answer = cluster
            .kubectl_program(&["create", "--output=json", "--filename=-"])
            .input(review.to_string())
            .succeed();
        serde_json::from_str::<Value>(&answer).unwrap()["status"].clone()
    };
    let user = format!("system:serviceaccount:{}:default", namespace.name());
    let good = review("vault");
    assert_eq!(good["authenticated"], true, "{good}");
    assert_eq!(good["user"]["username"], user.as_str());
    // Not even for the API server itself.
    assert_ne!(review(control_plane::ISSUER)["authenticated"], true);
    let claims = Program::new("base64")
        .args(["--decode", "--ignore-garbage"])
        .input(token.split('.').nth(1).unwrap())
        .output()
        .stdout;
    let claims = String::from_utf8_lossy(&claims).into_owned();
    let number = |name: &str| {
        let rest = claims.split(&format!("\"{name}\":")).nth(1).unwrap();
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(number("exp") - number("iat"), 600);
}

#[test]
fn postgres_and_openbao_run_as_pods_under_the_strictest_pod_security() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("peers");
    namespace.kubectl(&[
        "label",
        "namespace",
        namespace.name(),
        "pod-security.kubernetes.io/enforce=restricted",
    ]);
    // A pod that is not so careful is not admitted.
    let refused =
        namespace.kubectl_program(&["apply", "--filename=-"]).input(tools("client").to_string()).output();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("violates PodSecurity"), "{refused:?}");
    namespace.run_postgres();
    namespace.run_openbao();
    let address = namespace.node_port("postgres", None);
    let url = format!("postgresql://admin:admin@{address}/orders");
    assert_eq!(Program::new("psql").args([&url, "-At", "-c", "select 6 * 7"]).succeed().trim(), "42");
    // It asks the API server whose token this is, as it would at a login.
    let bao = |path: &str, token: &str, body: Value| {
        let address = namespace.node_port("openbao", Some("http"));
        http::request("POST", address, &format!("/v1/{path}"), &[("X-Vault-Token", token)], &body.to_string())
            .unwrap()
    };
    let host = json!({"kubernetes_host": "https://kubernetes.default.svc"});
    assert_eq!(bao("sys/auth/kubernetes", "root", json!({"type": "kubernetes"})).status, 204);
    assert_eq!(bao("auth/kubernetes/config", "root", host).status, 204);
    let role = json!({
        "bound_service_account_names": "default",
        "bound_service_account_namespaces": namespace.name(),
        "audience": "vault",
    });
    assert!(bao("auth/kubernetes/role/pods", "root", role).status < 300);
    let login = |account: &str, audience: &str| {
        let token = namespace.kubectl(&["create", "token", account, "--audience", audience]);
        bao("auth/kubernetes/login", "", json!({"role": "pods", "jwt": token.trim()})).status
    };
    assert_eq!(login("default", "vault"), 200);
    assert_eq!(login("openbao", "vault"), 403);
    assert_ne!(login("default", "elsewhere"), 200);
}

#[test]
fn pods_and_services_go_on_without_the_api_server() {
    let cluster = Cluster::for_this_process();
    let namespace = cluster.namespace("outage");
    web(&namespace, "NodePort");
    let address = namespace.node_port("web", None);
    assert_eq!(page(address).trim(), "it works");
    let requests = ["get", "namespaces", "--request-timeout=5s"];
    cluster.stop_api_server();
    assert!(!cluster.kubectl_program(&requests).output().status.success());
    assert_eq!(http::get(address, "/").unwrap().body.trim(), "it works");
    assert!(cluster.etcdctl(&["endpoint", "health"]).output().status.success());
    cluster.start_api_server();
    assert!(cluster.kubectl(&requests).contains(namespace.name()));
    // As a client that may do nothing, and that the audit log names for having asked.
    let unprivileged = cluster.kubeconfig_of(namespace.name(), "default");
    let refused = control_plane::kubectl(&unprivileged).args(["get", "secrets"]).output();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Forbidden"), "{refused:?}");
    let user = format!("\"username\":\"system:serviceaccount:{}:default\"", namespace.name());
    wait::until_true("the audit record", SECONDS_30, || {
        cluster.audit().lines().any(|line| line.contains(&user) && line.contains("\"resource\":\"secrets\""))
    });
    assert_eq!(cluster.helm(&["list", "--namespace", namespace.name(), "--output=json"]).trim(), "[]");
}

#[test]
fn both_minors_serve_alone_and_come_back() {
    for (minor, version) in [(Minor::Newest, "v1.36."), (Minor::Before, "v1.35.")] {
        let mut server = ApiServer::alone(minor);
        let answer = server.kubectl().args(["get", "--raw", "/version"]).succeed();
        assert!(answer.contains(version), "{answer}");
        server.kubectl().args(["create", "configmap", "kept", "--from-literal=a=b"]).succeed();
        server.stop();
        assert!(!server.kubectl().args(["get", "configmap", "kept"]).output().status.success());
        server.start();
        server.kubectl().args(["get", "configmap", "kept"]).succeed();
        assert!(server.audit().contains("\"resource\":\"configmaps\""));
    }
}

/// Where such daemons write, wherever they are not told otherwise.
const USUAL: [&str; 11] = [
    "/etc/cni",
    "/opt/cni",
    "/opt/containerd",
    "/run/containerd",
    "/run/netns",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/etcd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
];

fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// What is in the [`USUAL`] folders.
fn written() -> Vec<(bool, BTreeSet<String>)> {
    USUAL.map(|folder| (Path::new(folder).exists(), names(folder))).to_vec()
}

/// What a node has of the machine; one hundred and more processes and mounts are in its namespaces.
#[derive(Debug)]
struct Traces {
    folder: String,
    device: String,
    cgroup: String,
    /// Open, because the kernel gives the number of a namespace that is gone to the next one, which may be
    /// another cluster's pod's. The network cannot be held like that: it would stay, with its device.
    process_namespace: File,
}

impl Traces {
    fn of(node: &Node) -> Self {
        Self {
            folder: node.folder().to_str().unwrap().to_owned(),
            device: format!("/sys/class/net/{}", node.addresses().device()),
            cgroup: Cgroup::of(node.folder()).path(),
            process_namespace: File::open(format!("/proc/{}/ns/pid", node.first_process())).unwrap(),
        }
    }

    /// Those that are there now.
    fn left(&self) -> Vec<String> {
        let mut paths =
            vec![self.folder.clone(), self.device.clone(), format!("/sys/fs/cgroup{}", self.cgroup)];
        paths.extend(
            names("/sys/fs/cgroup")
                .into_iter()
                .map(|hierarchy| format!("/sys/fs/cgroup/{hierarchy}{}", self.cgroup)),
        );
        paths.retain(|path| Path::new(path).exists());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        paths.extend(mounts.lines().filter(|line| line.contains(&self.folder)).map(ToOwned::to_owned));
        let processes =
            names("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        let number = self.process_namespace.metadata().unwrap().ino();
        paths.extend(processes.filter_map(|process| self.has(&process, number)));
        paths
    }

    /// What this process is, if it is the node's: one of its own namespace, or in its cgroup, as a pod's are.
    fn has(&self, process: &str, namespace: u64) -> Option<String> {
        let process = format!("/proc/{process}");
        let in_namespace =
            fs::metadata(format!("{process}/ns/pid")).is_ok_and(|file| file.ino() == namespace);
        let cgroups = fs::read_to_string(format!("{process}/cgroup")).unwrap_or_default();
        (in_namespace || cgroups.contains(&self.cgroup)).then(|| {
            format!(
                "{process} {:?}",
                fs::read_to_string(format!("{process}/comm")).unwrap_or_default().trim()
            )
        })
    }
}

/// How a cluster comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With who started it.
    Dropped,
    /// Its supervisor is killed, and what that leaves is removed when the next cluster starts.
    Crashed,
    /// It stays, as `make cluster` has it, until `make cluster-down`.
    TakenDown,
}

#[test]
fn a_cluster_leaves_nothing_behind_not_even_after_a_crash() {
    let before = written();
    let scratch = Scratch::new("stays");
    for end in [End::Dropped, End::Crashed, End::TakenDown] {
        let cluster = match end {
            End::Dropped | End::Crashed => Cluster::for_this_process(),
            End::TakenDown => Cluster::that_stays(&scratch.join("up")),
        };
        let node = cluster.node().unwrap();
        let traces = Traces::of(node);
        let folder = Path::new(&traces.folder);
        let there = traces.left();
        assert!(there.iter().filter(|trace| trace.starts_with("/proc/")).count() > 10, "{there:?}");
        assert!(there.iter().filter(|trace| trace.starts_with("/sys/")).count() >= 2, "{there:?}");
        match end {
            End::Dropped => drop(cluster),
            End::Crashed => {
                let supervisor = Pid::from_raw(node.supervisor().unwrap().cast_signed());
                kill(supervisor, Signal::SIGKILL).unwrap();
                drop(cluster);
                // The kernel has ended all processes by then.
                wait::until_true("the rest can be removed", SECONDS_30, || {
                    let _ = sweep();
                    !folder.exists()
                });
            }
            End::TakenDown => {
                drop(cluster);
                let found = Cluster::find(folder).expect("it stays");
                assert!(found.kubectl(&["get", "nodes"]).contains(" Ready "));
                assert!(take_down(folder).unwrap(), "there was one");
                assert!(!take_down(folder).unwrap(), "and is none any more");
            }
        }
        // The kernel takes the network down a moment after the last process in it.
        let latest = Instant::now() + SECONDS_60;
        while !traces.left().is_empty() {
            assert!(Instant::now() < latest, "{end:?}, and left: {:?}", traces.left());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(written(), before, "{end:?}");
    }
}
