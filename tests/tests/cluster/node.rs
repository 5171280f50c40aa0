//! The cluster that the other tests stand on is a real one, and goes without a trace.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tests::cluster::{ApiServer, Cluster, Minor, Namespace, control_plane, image};
use tests::http;
use tests::process::Program;
use tests::wait;

const SECONDS_30: Duration = Duration::from_secs(30);

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

/// Two pods of a Deployment that serve one page, each after `hello` on its log, and a Service of the type before them.
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
    let from_node = cluster.enter(&["busybox", "wget", "-q", "-O", "-", &url]).succeed();
    assert_eq!(from_node.trim(), "it works");
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
fn postgres_and_openbao_run_as_pods() {
    let cluster = Cluster::shared();
    cluster.image(image::POSTGRES);
    cluster.image(image::OPENBAO);
    let namespace = cluster.namespace("peers");
    for (name, image, arguments) in [
        ("postgres", image::POSTGRES, &[][..]),
        (
            "openbao",
            image::OPENBAO,
            &[
                "server",
                "-dev",
                "-dev-root-token-id=root",
                "-dev-listen-address=0.0.0.0:8200",
                "-dev-no-store-token",
            ],
        ),
    ] {
        let mut pod = tools(name);
        pod["spec"]["containers"][0]["image"] = json!(image);
        pod["spec"]["containers"][0]["args"] = json!(arguments);
        namespace.apply(&pod.to_string());
    }
    for (name, question, answer) in [
        (
            "postgres",
            &["psql", "-h", "127.0.0.1", "-U", "admin", "-At", "-c", "select 6 * 7", "orders"][..],
            "42",
        ),
        (
            "openbao",
            &["env", "BAO_ADDR=http://127.0.0.1:8200", "bao", "status", "-format=json"],
            "\"initialized\": true",
        ),
    ] {
        namespace.wait_for_pod(name);
        cluster.wait_for(&format!("{name} answers"), SECONDS_30, || {
            let ask = namespace
                .kubectl_program(&["exec", name, "--", "env", "PGPASSWORD=admin"])
                .args(question)
                .output();
            String::from_utf8_lossy(&ask.stdout).contains(answer)
        });
    }
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

/// What a cluster could leave on a machine.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    mounts: String,
    devices: BTreeSet<String>,
    named_networks: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    folders: BTreeSet<String>,
    networks_of_processes: BTreeSet<u64>,
}

fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// The network namespaces that any process is in: none of a node may be left.
fn networks_of_processes() -> BTreeSet<u64> {
    let processes = names("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    processes
        .filter_map(|process| fs::metadata(format!("/proc/{process}/ns/net")).ok().map(|file| file.ino()))
        .collect()
}

impl Traces {
    /// Those of clusters: other tests run at the same time.
    fn now() -> Self {
        Self {
            mounts: fs::read_to_string("/proc/self/mounts").unwrap(),
            devices: names("/sys/class/net").into_iter().filter(|name| name.starts_with("cluster")).collect(),
            named_networks: names("/run/netns"),
            cgroups: names("/sys/fs/cgroup")
                .into_iter()
                .flat_map(|hierarchy| {
                    names(&format!("/sys/fs/cgroup/{hierarchy}"))
                        .into_iter()
                        .map(move |name| format!("{hierarchy}/{name}"))
                })
                .filter(|name| name.contains("cluster"))
                .collect(),
            folders: ["/run", "/var/lib", "/var/log", "/etc/cni", "/opt", "/tmp"]
                .into_iter()
                .flat_map(|folder| names(folder).into_iter().map(move |name| format!("{folder}/{name}")))
                .filter(|name| {
                    ["cluster", "kube", "cni", "container", "pods", "netns", "etcd"]
                        .iter()
                        .any(|part| name.contains(part))
                })
                .collect(),
            networks_of_processes: networks_of_processes(),
        }
    }
}

#[test]
fn a_cluster_leaves_nothing_behind_not_even_after_a_crash() {
    // The shared one is up before and after, so that only what this one adds counts.
    let _ = Cluster::shared();
    let before = Traces::now();
    for crash in [false, true] {
        let cluster = Cluster::for_this_process();
        let node = cluster.node().unwrap();
        let (first, folder) = (node.first_process(), node.folder().to_owned());
        let network = fs::metadata(format!("/proc/{first}/ns/net")).unwrap().ino();
        assert!(networks_of_processes().contains(&network));
        assert_ne!(Traces::now().cgroups, before.cgroups);
        if crash {
            let supervisor = node.supervisor().unwrap();
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(supervisor.cast_signed()),
                nix::sys::signal::Signal::SIGKILL,
            )
            .unwrap();
            wait::until_true("the node dies with its supervisor", SECONDS_30, || {
                !networks_of_processes().contains(&network)
            });
            drop(cluster);
            // What a later start does.
            wait::until_true("what is left goes", SECONDS_30, || {
                tests::cluster::supervisor::sweep().unwrap();
                !folder.exists()
            });
        } else {
            drop(cluster);
        }
        wait::until_true("its first process is buried", SECONDS_30, || {
            !Path::new(&format!("/proc/{first}")).exists()
        });
        assert!(!folder.exists());
        // The kernel takes its devices down a moment later.
        wait::until_true("its devices are gone", SECONDS_30, || Traces::now().devices == before.devices);
        let after = Traces::now();
        assert!(!after.networks_of_processes.contains(&network));
        assert_eq!(
            (after.mounts, after.named_networks),
            (before.mounts.clone(), before.named_networks.clone())
        );
        assert_eq!((after.cgroups, after.folders), (before.cgroups.clone(), before.folders.clone()));
    }
}
