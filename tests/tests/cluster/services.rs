//! The Services that the chart `workload` makes, asked by pods: by name, by address, member by member; and
//! what they answer while they change.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, Namespace, image},
    echo::Seen,
    wait,
    web::Request,
};

use super::ingress::fixture::{Api, backend, shared};

const A_MINUTE: Duration = Duration::from_secs(60);

/// What a pod asks, once a second or so for as long as it lives; `$1` and `$2` are host and port. Each answer
/// is a line.
const ASK: &str = r#"exec 3<>"/dev/tcp/$1/$2" || exit 1
printf 'GET / HTTP/1.0\r\nHost: %s\r\n\r\n' "$1" >&3
timeout 10 sed -n '/^{/p' <&3"#;

/// A namespace with a pod that asks.
struct Asker(Namespace<'static>);

impl Asker {
    fn new(cluster: &'static Cluster) -> Self {
        cluster.image(image::TOOLS);
        let namespace = cluster.namespace("asker");
        let container = json!({"name": "tools", "image": image::TOOLS, "imagePullPolicy": "Never"});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tools"}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}});
        namespace.apply(&pod.to_string());
        namespace.wait_for_pod("tools");
        Self(namespace)
    }

    /// What a server there saw, if one answers.
    fn ask(&self, host: &str, port: u16) -> Option<Seen> {
        let port = port.to_string();
        let words = ["exec", "tools", "--", "bash", "-c", ASK, "ask", host, &port];
        let output = self.0.kubectl_program(&words).output();
        serde_json::from_slice(&output.stdout).ok()
    }

    /// The same, once a change has got around.
    fn until(&self, host: &str, port: u16) -> Seen {
        wait::until(&format!("an answer of {host}:{port}"), A_MINUTE, || self.ask(host, port))
    }

    /// The addresses that a name leads to.
    fn addresses(&self, name: &str) -> BTreeSet<String> {
        let output = self.0.kubectl_program(&["exec", "tools", "--", "getent", "ahostsv4", name]).output();
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        lines.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    }
}

/// [`backend`], with something else about its Service.
fn with(replicas: u8, more: Value) -> Value {
    let mut values = backend(replicas);
    for (name, value) in more.as_object().unwrap() {
        match values[name].as_object_mut() {
            Some(there) => there.extend(value.as_object().unwrap().clone()),
            None => values[name] = value.clone(),
        }
    }
    values
}

#[test]
fn a_service_is_where_it_is_said_to_be() {
    let cluster = Cluster::shared();
    cluster.image(image::ECHO);
    let asker = Asker::new(cluster);
    let space = cluster.namespace("services");
    let name = |service: &str| format!("{service}.{}.svc.cluster.local", space.name());
    // Addresses that Kubernetes does not give out by itself are the first ones of the range.
    let address = format!("10.96.0.{}", rand::random_range(100..200));
    let static_address = json!({"service": {"ip": address, "cidr": "10.96.0.0/16"}});
    for (release, values) in [
        ("plain", backend(1)),
        ("named", with(1, json!({"service": {"name": "front"}}))),
        ("fixed", with(1, static_address)),
        ("headless", with(2, json!({"service": {"headless": true}}))),
        ("node", with(1, json!({"service": {"type": "NodePort", "externalTrafficPolicy": "Local"}}))),
        ("affine", with(3, json!({"service": {"type": "NodePort", "sessionAffinity": "ClientIP"}}))),
        (
            "members",
            with(
                2,
                json!({"fullnameOverride": "orders", "service": {"name": "db"}, "controller": {"kind": "StatefulSet", "podManagementPolicy": "Parallel"}}),
            ),
        ),
        (
            "others",
            json!({"controller": {"kind": "none"}, "service": {"selector": {"app.kubernetes.io/name": "plain"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}),
        ),
        (
            "elsewhere",
            json!({"controller": {"kind": "none"}, "service": {"type": "ExternalName", "externalName": name("plain")}}),
        ),
        (
            "silent",
            json!({"containers": [{"name": "silent", "image": image::BUSYBOX, "imagePullPolicy": "Never"}], "shutdown": {"delay": "1s", "timeout": "1s"}}),
        ),
    ] {
        space.helm("install", release, "workload", &values);
    }
    for deployment in ["plain", "named", "fixed", "headless", "node", "affine", "silent"] {
        space.wait_for_rollout(&format!("deployment/{deployment}"));
    }
    space.wait_for_rollout("statefulset/orders");

    let answers = |host: &str, port: u16, pod: &str| {
        let seen = asker.until(host, port);
        assert!(seen.server.starts_with(&format!("{pod}-")), "{host}: {seen:?}");
    };
    answers(&name("plain"), 8080, "plain");
    answers(&name("front"), 8080, "named");
    assert_eq!(asker.addresses(&name("named")), BTreeSet::new());
    answers(&name("fixed"), 8080, "fixed");
    answers(&address, 8080, "fixed");
    assert_eq!(asker.addresses(&name("fixed")), BTreeSet::from([address]));
    answers(&name("others"), 80, "plain");
    answers(&name("elsewhere"), 8080, "plain");
    // A port that no pod has makes no Service.
    assert_eq!(asker.addresses(&name("silent")), BTreeSet::new());

    let pods = |release: &str| {
        let selector = format!("--selector=app.kubernetes.io/instance={release}");
        let pods = space.get(&["pods", &selector])["items"].as_array().unwrap().clone();
        pods.iter().map(|pod| pod["status"]["podIP"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(asker.addresses(&name("headless")), pods("headless"));
    answers(&name("headless"), 8080, "headless");
    answers(&name("db"), 8080, "orders");
    for member in ["orders-0", "orders-1"] {
        assert_eq!(asker.until(&name(&format!("{member}.orders-headless")), 8080).server, member);
    }
    assert_eq!(asker.addresses(&name("orders-headless")), pods("members"));
    // From outside, where it is kube-proxy that balances.
    let from_outside = |service: &str| {
        let answer = wait::until("an answer of the node's port", A_MINUTE, || {
            Request::new(space.node_port(service, Some("http")), "node", "/").send().ok()
        });
        answer.seen().server
    };
    assert!(from_outside("node").starts_with("node-"));
    let sticky: BTreeSet<_> = (0..9).map(|_| from_outside("affine")).collect();
    assert_eq!(sticky.len(), 1, "{sticky:?}");

    // A member that is not ready has its name already: it may look for the others.
    let mut values = with(1, json!({"controller": {"kind": "StatefulSet"}}));
    values["containers"][0]["readinessProbe"]["httpGet"]["path"] = json!("/?status=503");
    space.helm("install", "unready", "workload", &values);
    wait::until_true("the name of a pod that is not ready", A_MINUTE, || {
        asker.addresses(&name("unready-0.unready-headless")).len() == 1
    });
    assert_eq!(asker.ask(&name("unready"), 8080), None);

    for release in [
        "plain",
        "named",
        "fixed",
        "headless",
        "node",
        "affine",
        "members",
        "others",
        "elsewhere",
        "silent",
        "unready",
    ] {
        cluster.helm(&["uninstall", release, "--namespace", space.name()]);
    }
    wait::until_true("nothing is left", A_MINUTE, || {
        let kinds = "pods,deployments,replicasets,statefulsets,controllerrevisions,services,endpointslices,serviceaccounts,poddisruptionbudgets";
        space.get(&[kinds, "--selector=app.kubernetes.io/instance"])["items"] == json!([])
    });
}

/// Asks again and again until it is told to stop; each answer that is none.
fn asks(
    stop: &AtomicBool,
    pause: Duration,
    mut ask: impl FnMut() -> Result<(), String>,
) -> (usize, Vec<String>) {
    let (mut count, mut failed) = (0, Vec::new());
    while !stop.load(Ordering::SeqCst) {
        count += 1;
        if let Err(error) = ask() {
            failed.push(error);
        }
        std::thread::sleep(pause);
    }
    (count, failed)
}

#[test]
fn no_request_fails_while_a_workload_changes() {
    let fixture = shared();
    let asker = Asker::new(fixture.cluster);
    // As the chart has it, but for what a container needs; then at another port, and by another count.
    let container = |port: u16| {
        let ports = json!([{"name": "http", "port": port, "servicePort": 80}]);
        let probe = json!({"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1});
        json!({"containers": [{"name": "echo", "image": image::ECHO, "imagePullPolicy": "Never", "ports": ports, "readinessProbe": probe}]})
    };
    fixture.web.helm("install", "rolling", "workload", &container(8080));
    fixture.web.wait_for_rollout("deployment/rolling");
    let paths = json!({"paths": [{"path": "/", "service": "rolling", "port": "http"}]});
    let host = fixture.serve(Api::Ingress, "rolling", paths);
    let ask = fixture.http(&host, "/");
    fixture.until(&ask, 200);
    let service = format!("rolling.{}.svc", fixture.web.name());
    asker.until(&service, 80);

    let stop = AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let through = scope.spawn(|| {
            asks(&stop, Duration::from_millis(50), || match ask.send() {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(format!("{:?}: {other:?}", start.elapsed())),
            })
        });
        let directly = scope.spawn(|| {
            asks(&stop, Duration::from_millis(300), || {
                asker.ask(&service, 80).map(drop).ok_or_else(|| format!("{:?}", start.elapsed()))
            })
        });
        let changes = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let rolled_out = |port: u16| {
                fixture.web.wait_for_rollout("deployment/rolling");
                let object = fixture.web.get(&["deployment", "rolling"]);
                let container = &object["spec"]["template"]["spec"]["containers"][0];
                assert_eq!(container["ports"][0]["containerPort"], port);
            };
            let mut changed = container(8081);
            changed["podLabels"] = json!({"tier": "front"});
            changed["controller"] = json!({"replicas": 3});
            fixture.web.helm("upgrade", "rolling", "workload", &changed);
            rolled_out(8081);
            fixture.cluster.helm(&["rollback", "rolling", "1", "--namespace", fixture.web.name()]);
            rolled_out(8080);
            fixture.web.kubectl(&["rollout", "restart", "deployment/rolling"]);
            rolled_out(8080);
            // Until the last of the old ones is gone.
            wait::until_true("the old pods are gone", A_MINUTE, || {
                let pods = fixture.web.get(&["pods", "--selector=app.kubernetes.io/instance=rolling"]);
                pods["items"].as_array().unwrap().len() == 2
            });
        }));
        stop.store(true, Ordering::SeqCst);
        for (way, thread) in [("the ingress", through), ("the Service", directly)] {
            let (count, failed) = thread.join().unwrap();
            println!("{way}: {count} requests in {:?}", start.elapsed());
            assert!(
                failed.is_empty() && count > 20,
                "{way}: {} of {count} failed: {failed:#?}",
                failed.len()
            );
        }
        if let Err(panic) = changes {
            std::panic::resume_unwind(panic);
        }
    });
}
