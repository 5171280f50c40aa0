//! A bastion of two pods as people use it, from outside through a port of the node, while its pods are
//! deleted and replaced and while the API server is away: what is opened meanwhile is opened, and what was
//! open goes on.

use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, Namespace},
    http,
    key::Key,
    process::{ATTEMPTS, Process, Program, installed},
    scratch::Scratch,
    ssh,
    tunnel::Tunnel,
    wait,
};

use super::fixture::IN_FORCE;

const SOON: Duration = Duration::from_secs(30);
const A_MINUTE: Duration = Duration::from_secs(60);
const TWO_MINUTES: Duration = Duration::from_secs(120);
/// How long a bastion may take to hear from the API server again once it can.
const WATCHED_AGAIN: Duration = Duration::from_secs(10);
/// How long a client talks that is to be cut.
const ENDLESS: Duration = Duration::from_secs(1800);
/// How long the API server is away.
const OUTAGE: Duration = Duration::from_secs(60);

/// `config.drain`, shorter than the chart's. Within the delay, the cluster leads no client to the pod any
/// more.
const DELAY: Duration = Duration::from_secs(8);
const GRACE: Duration = Duration::from_secs(24);

/// A client of PostgreSQL asks whether the server has TLS, and is told by one letter: the shortest
/// conversation there is.
const HAVE_YOU_TLS: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// How often each of those who do so begins again.
const EVERY: Duration = Duration::from_millis(400);

#[test]
fn pods_are_deleted_and_replaced_and_no_connection_is_refused_or_lost() {
    let place = Place::install(Cluster::shared(), "rolling");
    let (_tunnel, tunnel) = place.pf_tunnel();
    let ssh = through_ssh(place.ssh());
    for address in [tunnel, ssh] {
        assert_eq!(psql(address, &["-c", "select 6 * 7"]).succeed().trim(), "42");
    }

    // A pod goes. Who talks through it may finish, others find the other one. Half of the grace is left for a
    // slow machine.
    let load = Load::of_all_kinds(&place, tunnel);
    let mut talks = [ssh, ssh, ssh, tunnel].map(|address| Talk::start(address, DELAY + GRACE / 2));
    let busy = place.pods().iter().map(name).max_by_key(|pod| place.forwards(pod)).unwrap();
    place.namespace.kubectl(&["delete", "pod", &busy, "--wait=false"]);
    for talk in &mut talks {
        talk.is_finished(TWO_MINUTES);
    }
    place.namespace.wait_for_rollout("deployment/bastion");
    wait::until_true("the pod is gone", TWO_MINUTES, || place.pods().iter().all(|pod| name(pod) != busy));

    // All of them go, one by one. Who talks for longer than the grace is cut then, and not before.
    let old: Vec<_> = place.pods().iter().map(name).collect();
    let mut talks = [ssh, ssh].map(|address| Talk::start(address, ENDLESS));
    place.namespace.release("upgrade", &place.values, &["--set", "config.limits.max_sessions=500"]);
    let first = wait::until("a pod is told to go", TWO_MINUTES, || {
        place.pods().iter().filter(|pod| old.contains(&name(pod))).filter_map(told_to_go).min()
    });
    for talk in &mut talks {
        assert_ne!(talk.process.code(TWO_MINUTES), 0);
        let served = first.elapsed().unwrap_or_default();
        println!("served for {served:?} after the first pod was told to go");
        assert!(served + Duration::from_secs(2) > DELAY + GRACE, "{served:?}");
    }
    place.namespace.wait_for_rollout("deployment/bastion");
    wait::until_true("the old pods are gone", TWO_MINUTES, || {
        place.pods().iter().all(|pod| !old.contains(&name(pod)))
    });
    assert_eq!(psql(tunnel, &["-c", "select 6 * 7"]).succeed().trim(), "42");
    Load::lost_nothing(load);
}

#[test]
fn no_client_notices_that_the_api_server_is_away() {
    let cluster = Cluster::for_this_process();
    let place = Place::install(&cluster, "outage");
    let (_tunnel, tunnel) = place.pf_tunnel();
    let ssh = through_ssh(place.ssh());

    let pods = place.pods();
    let mut staying = [ssh, tunnel].map(|address| Talk::start(address, ENDLESS));
    let mut talks = [ssh, tunnel].map(|address| Talk::start(address, OUTAGE));
    let load = Load::of_all_kinds(&place, tunnel);
    let began = Instant::now();
    cluster.stop_api_server();
    for talk in &mut talks {
        talk.is_finished(OUTAGE + TWO_MINUTES);
    }
    std::thread::sleep(OUTAGE.saturating_sub(began.elapsed()));
    assert_eq!(psql(ssh, &["-c", "select 6 * 7"]).succeed().trim(), "42");
    assert_eq!(psql(tunnel, &["-c", "select 6 * 7"]).succeed().trim(), "42");
    // Until here: a node that could not say for so long that it is well may be taken for lost for some
    // seconds, and its pods too. Then Services lead new connections nowhere, whatever the bastion does. What
    // is open stays open.
    Load::lost_nothing(load);
    let again = SystemTime::now();
    cluster.start_api_server();
    println!("the API server was away for {:?}", began.elapsed());

    // Pods reach it again when kube-proxy has heard of it again, which waits for longer each time that it
    // does not: up to a minute.
    let service = cluster.get(&["service", "kubernetes"]);
    let knock = format!("exec 3<>/dev/tcp/{}/443", service["spec"]["clusterIP"].as_str().unwrap());
    let process = cluster.process_of(&pods[0]);
    let inside = ["nsenter", "--target", &process, "--net", "timeout", "2", "bash", "-c", &knock];
    let reached = wait::until("pods reach the API server", TWO_MINUTES, || {
        let asked = SystemTime::now();
        cluster.enter(&inside).output().status.success().then_some(asked)
    });
    println!("pods reach it after {:?}", reached.duration_since(again).unwrap());
    for pod in pods.iter().map(name) {
        let heard = wait::until("a word from the API server", TWO_MINUTES, || {
            place.heard(&pod).filter(|heard| *heard > again + Duration::from_secs(1))
        });
        let took = heard.duration_since(reached).unwrap_or_default();
        println!("{pod} has heard from it within {took:?} after that");
        assert!(took < WATCHED_AGAIN, "{took:?}");
    }
    wait::until_true("the cluster believes that all is well", TWO_MINUTES, || place.is_served());
    wait::until_true("psql through ssh", TWO_MINUTES, || {
        psql(ssh, &["-c", "select 6 * 7"]).output().stdout == b"42\n"
    });
    // A policy that is applied then holds immediately: talks that are no longer permitted end, and not
    // before.
    assert!(staying.iter_mut().all(Talk::goes_on));
    place.permit("another-user");
    let changed = Instant::now();
    for talk in &mut staying {
        assert_ne!(talk.process.code(SOON), 0);
        println!("a policy holds after {:?}", changed.elapsed());
        assert!(changed.elapsed() < IN_FORCE, "{:?}", changed.elapsed());
    }
}

/// Two bastions, with everything that they stand on in the cluster too, and a person outside.
struct Place<'a> {
    cluster: &'a Cluster,
    namespace: Namespace<'a>,
    address: SocketAddr,
    values: Value,
    scratch: Scratch,
}

impl<'a> Place<'a> {
    fn install(cluster: &'a Cluster, name: &str) -> Self {
        let namespace = cluster.namespace(name);
        let name = namespace.name().to_owned();
        cluster.kubectl(&["label", "namespace", &name, "pod-security.kubernetes.io/enforce=restricted"]);
        namespace.run_openbao();
        namespace.run_postgres();
        namespace.kubectl(&["create", "serviceaccount", "reader"]);
        let vault = format!("http://{}", namespace.node_port("openbao", Some("http")));
        let node = cluster.node_address().to_string();
        Program::ours("vault-signer")
            .args(["bootstrap", "--domain", &node, "--kubernetes", "--kubernetes-namespace", &name])
            .arg("--dangerously-allow-plain-http")
            .env("VAULT_ADDR", &vault)
            .env("VAULT_TOKEN", "root")
            .succeed();

        let address = SocketAddr::new(cluster.node_address(), cluster.free_node_port());
        let seconds = |duration: Duration| format!("{}s", duration.as_secs());
        let token = "/var/run/secrets/vault/token";
        let values = json!({
            "service": {"type": "NodePort", "nodePort": address.port()},
            "minReadySeconds": 2,
            "config": {
                "host_key": {"vault": {"mount": "ssh-host", "role": "bastion", "principals": [node], "ttl": "1h"}},
                "authorities": [{"vault": {"mount": "ssh"}}],
                "vault": {
                    "address": format!("http://openbao.{name}.svc:8200"),
                    "dangerously_allow_plain_http": true,
                    "auth": {"method": "kubernetes", "role": "bastion", "token_file": token},
                },
                "drain": {"readiness_delay": seconds(DELAY), "timeout": seconds(GRACE)},
            },
            "networkPolicy": {"egress": {"vault": {"namespace": name}, "toNamespaces": [{"namespace": name}]}},
            "connectionInfo": {
                "readers": [{"kind": "ServiceAccount", "name": "reader", "namespace": name}],
                "file": {"bastion": {"address": address.to_string()}, "vault": {"address": vault, "role": "forward"}},
            },
        });
        let place = Self { cluster, namespace, address, values, scratch: Scratch::new("rolling") };
        place.namespace.release("install", &place.values, &[]);
        place.permit("tunnel");
        place.namespace.wait_for_rollout("deployment/bastion");
        wait::until_true("the bastion says who it is", A_MINUTE, || {
            place.published().contains("@cert-authority")
        });
        place
    }

    /// Lets clients with this principal reach the database, and no others.
    fn permit(&self, principal: &str) {
        let policy = json!({
            "apiVersion": "tunnel-suite.internal/v1alpha1",
            "kind": "TunnelPolicy",
            "metadata": {"name": "postgres"},
            "spec": {"who": {"principals": [principal]}, "to": [{"service": {"name": "postgres", "ports": ["postgres"]}}]},
        });
        self.namespace.apply(&policy.to_string());
    }

    fn published(&self) -> String {
        let info = self.namespace.get(&["configmap", "bastion-connection-info"]);
        info["data"]["known_hosts"].as_str().unwrap_or_default().to_owned()
    }

    fn postgres(&self) -> String {
        format!("postgres.{}.svc:5432", self.namespace.name())
    }

    fn bao(&self, path: &str, body: &Value) -> Value {
        let address = self.namespace.node_port("openbao", Some("http"));
        let path = format!("/v1/{path}");
        http::request("POST", address, &path, &[("X-Vault-Token", "root")], &body.to_string()).unwrap().json()
    }

    /// `pf-tunnel` to the database, with a kubeconfig and a token of Vault, and no other file.
    fn pf_tunnel(&self) -> (Tunnel, SocketAddr) {
        let (name, context) = (self.namespace.name(), self.cluster.kubectl(&["config", "current-context"]));
        let body = json!({"policies": ["tunnel-user"], "no_parent": true, "ttl": "1h"});
        let login = self.bao("auth/token/create", &body);
        let process = Program::ours("pf-tunnel")
            .folder(self.scratch.path())
            .env("HOME", self.scratch.path())
            .env("KUBECONFIG", self.cluster.kubeconfig_of(name, "reader"))
            .env("VAULT_TOKEN", login["auth"]["client_token"].as_str().unwrap())
            .args([
                "--json",
                "--dangerously-allow-plain-http",
                "--kube-context",
                context.trim(),
                "--kube-namespace",
                name,
                &self.postgres(),
                "0",
            ])
            .start();
        let mut tunnel = Tunnel { process };
        let local = tunnel.ready(1)[0];
        (tunnel, local)
    }

    /// The words after `ssh` for a connection to the database, with a certificate, and with trust in the
    /// published host keys alone.
    fn ssh(&self) -> Vec<String> {
        let key = Key::ed25519();
        let body = json!({"public_key": key.public_line(), "valid_principals": "tunnel"});
        let signed = self.bao("ssh/sign/forward", &body);
        let identity = self.scratch.write("id", key.private_pem());
        self.scratch.write("id.pub", key.public_line());
        self.scratch.write("id-cert.pub", signed["data"]["signed_key"].as_str().unwrap());
        let known = self.scratch.write("known_hosts", self.published());
        let options = [
            format!("IdentityFile={}", identity.display()),
            format!("UserKnownHostsFile={}", known.display()),
            "GlobalKnownHostsFile=none".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            "UpdateHostKeys=no".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            "IdentityAgent=none".to_owned(),
            "BatchMode=yes".to_owned(),
            "ConnectTimeout=20".to_owned(),
            // Where it gives up by itself, it says so at this level.
            "LogLevel=INFO".to_owned(),
        ];
        let mut words = vec!["-F".to_owned(), "none".to_owned()];
        words.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
        let (port, host) = (self.address.port().to_string(), self.address.ip().to_string());
        words.extend(["-p".to_owned(), port, "-l".to_owned(), "tunnel".to_owned()]);
        words.extend(["-W".to_owned(), self.postgres(), host]);
        words
    }

    /// The bastion's pods, those on their way out too.
    fn pods(&self) -> Vec<Value> {
        let list = self.namespace.get(&["pods", "--selector=app.kubernetes.io/component=bastion"]);
        list["items"].as_array().unwrap().clone()
    }

    /// What a pod counts under this name.
    fn metric(&self, pod: &str, metric: &str) -> Option<u64> {
        let name = self.namespace.name();
        let path = format!("/api/v1/namespaces/{name}/pods/{pod}:8080/proxy/metrics");
        let output = self.namespace.kubectl_program(&["get", "--raw", &path]).output();
        let page = String::from_utf8(output.stdout).unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        line.map(|number| number.parse().unwrap())
    }

    /// How many connections a pod forwards.
    fn forwards(&self, pod: &str) -> u64 {
        self.metric(pod, "bastion_channels_active").unwrap()
    }

    /// When a pod's watch for policies of this namespace last heard from the API server; the whole second
    /// after, for less is not said.
    fn heard(&self, pod: &str) -> Option<SystemTime> {
        let labels = format!("resource=\"tunnelpolicies\",namespace=\"{}\",name=\"\"", self.namespace.name());
        let metric = format!("bastion_kubernetes_watch_contact_timestamp_seconds{{{labels}}}");
        self.metric(pod, &metric).map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds + 1))
    }

    /// Whether the cluster believes that all of it works, and so leads new connections there.
    fn is_served(&self) -> bool {
        let slices = self.namespace.get(&["endpointslices"]);
        let slices = slices["items"].as_array().unwrap();
        let ready = |service: &str| {
            let mut own = slices
                .iter()
                .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
            let own = own.by_ref().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
            let own: Vec<_> = own.map(|endpoint| endpoint["conditions"]["ready"] == true).collect();
            !own.is_empty() && own.into_iter().all(|ready| ready)
        };
        let all = |list: &Value| list["items"].as_array().unwrap().iter().all(|object| is(object, "Ready"));
        all(&self.cluster.get(&["nodes"]))
            && all(&self.namespace.get(&["pods"]))
            && ["bastion", "postgres"].into_iter().all(ready)
    }
}

fn name(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap().to_owned()
}

/// When a pod was told to go, if it was. The cluster writes when it must have gone, without parts of a
/// second: of that second, this is the end.
fn told_to_go(pod: &Value) -> Option<SystemTime> {
    let gone: Timestamp = pod["metadata"]["deletionTimestamp"].as_str()?.parse().unwrap();
    let grace = Duration::from_secs(pod["metadata"]["deletionGracePeriodSeconds"].as_u64()?);
    Some(SystemTime::from(gone) - grace + Duration::from_secs(1))
}

/// Whether an object has this condition.
fn is(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|known| known["type"] == condition && known["status"] == "True")
}

/// A local port where each connection is an `ssh` of its own: `ProxyCommand`, for programs that do not know
/// such a thing.
fn through_ssh(words: Vec<String>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let words = Arc::new(words);
    // It ends with its connection, and that with the program that opened it.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, words) = (OwnedFd::from(stream.unwrap()), Arc::clone(&words));
            std::thread::spawn(move || connect_through_ssh(&stream, &words));
        }
    });
    address
}

fn connect_through_ssh(stream: &OwnedFd, words: &[String]) {
    for attempt in 1..=ATTEMPTS {
        let end = || stream.try_clone().unwrap();
        let mut ssh = Command::new(installed("ssh"));
        ssh.args(words).env("LC_ALL", "C.UTF-8").stdin(end()).stdout(end()).stderr(Stdio::piped());
        let said = ssh.spawn().unwrap().wait_with_output().unwrap().stderr;
        let said = String::from_utf8_lossy(&said);
        print!("{said}");
        // It has read nothing then of what the next one is to send.
        if !ssh::gave_up(&said) {
            return;
        }
        println!("ssh gave up a key exchange, attempt {attempt}");
    }
}

/// `psql` at this address, and what it is to do.
fn psql(address: SocketAddr, words: &[&str]) -> Program {
    Program::new(installed("psql")).args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]).args(words).args(
        [format!("postgresql://admin:admin@{}:{}/orders?connect_timeout=60", address.ip(), address.port())],
    )
}

/// A session with the database in which something is said twice a second.
struct Talk {
    process: Process,
    all: String,
}

impl Talk {
    fn start(address: SocketAddr, duration: Duration) -> Self {
        // By the clock, so that a slow machine does not make it longer.
        let (mut script, mut all) = ("select now() as start \\gset\n".to_owned(), String::new());
        for turn in 0..duration.as_secs() * 2 {
            writeln!(
                script,
                "select {turn} from pg_sleep_until(:'start'::timestamptz + {turn} * interval '0.5 s');"
            )
            .unwrap();
            writeln!(all, "{turn}").unwrap();
        }
        let scratch = Scratch::new("talk");
        let file = scratch.write("talk.sql", script);
        let mut process = psql(address, &["-f", &file.display().to_string()]).start();
        process.wait_for("1\n", TWO_MINUTES);
        Self { process, all }
    }

    /// Whether it goes on as it began.
    fn goes_on(&mut self) -> bool {
        self.process.ended().is_none() && self.all.starts_with(&self.process.stdout())
    }

    /// Waits for its end, which must be the one that it was meant to have.
    fn is_finished(&mut self, deadline: Duration) {
        assert_eq!(self.process.code(deadline), 0);
        assert_eq!(self.process.stdout(), self.all);
    }
}

/// What became of a new connection that was not lost.
enum Became {
    Opened,
    /// [`ssh::gave_up`].
    GivenUp,
}

/// What became of new connections.
#[derive(Default, Debug)]
struct Tally {
    opened: usize,
    given_up: usize,
    lost: Vec<String>,
    slowest: Duration,
}

/// New connections all the time, of one kind.
struct Load {
    kind: &'static str,
    enough: Arc<AtomicBool>,
    worker: JoinHandle<Tally>,
}

impl Load {
    fn start(kind: &'static str, open: impl Fn() -> Result<Became, String> + Send + 'static) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let (told, began) = (Arc::clone(&enough), Instant::now());
        let worker = std::thread::spawn(move || {
            let mut tally = Tally::default();
            while !told.load(Ordering::Relaxed) {
                let start = Instant::now();
                match open() {
                    Ok(Became::Opened) => tally.opened += 1,
                    Ok(Became::GivenUp) => tally.given_up += 1,
                    Err(error) => tally.lost.push(format!("after {:?}: {error}", start - began)),
                }
                tally.slowest = tally.slowest.max(start.elapsed());
                std::thread::sleep(EVERY.saturating_sub(start.elapsed()));
            }
            tally
        });
        Self { kind, enough, worker }
    }

    /// Two who log in anew each time, and one who opens channels through a tunnel that stands.
    fn of_all_kinds(place: &Place<'_>, tunnel: SocketAddr) -> Vec<Self> {
        let words = place.ssh();
        let ssh = move || {
            let program = Program::new(installed("ssh")).args(&words).input(HAVE_YOU_TLS);
            let output = program.output();
            let said = String::from_utf8_lossy(&output.stderr);
            match output.stdout.as_slice() {
                b"N" => Ok(Became::Opened),
                b"" if ssh::gave_up(&said) => Ok(Became::GivenUp),
                _ => Err(format!("{}: {said}", output.status)),
            }
        };
        let channel = move || {
            let mut stream = TcpStream::connect(tunnel).map_err(|error| error.to_string())?;
            let mut answer = [0];
            let asked = stream
                .set_read_timeout(Some(A_MINUTE))
                .and_then(|()| stream.write_all(&HAVE_YOU_TLS))
                .and_then(|()| stream.read_exact(&mut answer));
            match (asked, &answer) {
                (Ok(()), b"N") => Ok(Became::Opened),
                (asked, _) => Err(format!("{asked:?}, {answer:?}")),
            }
        };
        vec![Self::start("ssh", ssh.clone()), Self::start("ssh", ssh), Self::start("pf-tunnel", channel)]
    }

    /// Ends it: nothing may have been lost.
    fn lost_nothing(loads: Vec<Self>) {
        let tell = |load: &Self| load.enough.store(true, Ordering::Relaxed);
        loads.iter().for_each(tell);
        for Self { kind, worker, .. } in loads {
            let Tally { opened, given_up, lost, slowest } = worker.join().unwrap();
            println!(
                "{kind}: {opened} opened, {} lost, {given_up} given up by the client, the slowest took {slowest:?}",
                lost.len()
            );
            assert!(lost.is_empty(), "{kind}: {lost:#?}");
            assert!(opened > 20 && given_up * 10 <= opened, "{kind}: {opened}, {given_up}");
        }
    }
}
