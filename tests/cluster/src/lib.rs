//! Runs a real Kubernetes of one node on this machine, for tests and for people; or uses one that is there.
//!
//! [`Cluster::shared`] gives a test the one cluster of its run: the cluster that `CLUSTER_KUBECONFIG` names,
//! else the one that `make cluster` left running, else a new one that ends with the tests. A node is made of
//! namespaces of its own ([`supervisor`]), where etcd and containerd of the distribution and the programs
//! that tests/cluster/install built run, and nothing of it outlives it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stderr,
    reason = "a harness may assume: a panic is a failed test, and says why"
)]

pub mod cgroup;
pub mod cni;
pub mod control_plane;
pub mod image;
mod namespace;
pub mod network;
pub mod node;
pub mod pki;
pub mod runner;
pub mod supervisor;
pub mod traefik;
mod workers;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Condvar, LazyLock, Mutex},
    time::{Duration, Instant},
};

use anyhow::Result;
use rand::seq::IteratorRandom;
use serde_json::Value;

pub use self::{
    cni::Cni,
    control_plane::{ApiServer, Minor},
    namespace::Namespace,
    node::Life,
};
use self::{image::Image, node::Node, pki::Pki};
use test_support::{
    process::{Program, installed, is_root, ours, workspace},
    scratch::Scratch,
};

/// Names the kubeconfig of an operator's own cluster. Tests make and remove namespaces of their own in it.
const KUBECONFIG: &str = "CLUSTER_KUBECONFIG";
/// The command that brings an archive into that cluster; its path is added.
const LOAD: &str = "CLUSTER_LOAD";
/// The ports of a node that a Service only gets when it asks for them by number.
const STATIC_NODE_PORTS: RangeInclusive<u16> = 30_000..=30_085;
/// How long pods of the cluster itself may take to be ready.
const READY: Duration = Duration::from_secs(120);

/// What an administrator needs of one cluster.
#[derive(Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    /// Of a cluster of ours.
    node: Option<Node>,
    /// The command that brings an archive into an operator's.
    load: Option<String>,
    address: IpAddr,
    imported: Mutex<Vec<String>>,
    scratch: Scratch,
    /// Of a cluster of one test alone. The last field: it ends when the node has ended.
    _turn: Option<Turn>,
}

/// The one cluster of one test alone that this process may have at a time.
#[derive(Debug)]
struct Turn;

static TAKEN: Mutex<bool> = Mutex::new(false);
static GIVEN_BACK: Condvar = Condvar::new();

impl Turn {
    /// Waits until no other test has it.
    fn wait() -> Self {
        *GIVEN_BACK.wait_while(TAKEN.lock().unwrap(), |taken| *taken).unwrap() = true;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap() = false;
        GIVEN_BACK.notify_one();
    }
}

/// The folder of one of our charts.
fn chart_of(name: &str) -> PathBuf {
    workspace().join("deploy/charts").join(name)
}

/// Where `make cluster` keeps its node.
#[must_use]
pub fn standing_folder() -> PathBuf {
    workspace().join(".cluster/up")
}

impl Cluster {
    /// The cluster of this run.
    ///
    /// # Panics
    /// When there is none and none can be started; then for every test, immediately.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Cluster> = LazyLock::new(|| match std::env::var_os(KUBECONFIG) {
            Some(kubeconfig) => Cluster::of_an_operator(Path::new(&kubeconfig), std::env::var(LOAD).ok()),
            None => Cluster::standing().unwrap_or_else(Cluster::new),
        });
        &SHARED
    }

    /// A new cluster that ends with this process, or when it is dropped. Beside the shared one there is one
    /// at a time, for the sake of memory and processors: a test that has one waits for ever for a second one.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn for_this_process() -> Self {
        let turn = Turn::wait();
        Self { _turn: Some(turn), ..Self::new() }
    }

    /// The like of `make cluster`: it outlives this process, unless [`take_down`] ends it. It has
    /// the turn of [`Cluster::for_this_process`].
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn that_stays(folder: &Path) -> Self {
        let turn = Turn::wait();
        Self { _turn: Some(turn), ..Self::start(folder, Life::UntilTakenDown, &mut |_| {}) }
    }

    fn new() -> Self {
        // What another process's node left does not keep this one from starting.
        if let Err(error) = supervisor::sweep() {
            eprintln!("{error:#}");
        }
        let folder = tempfile::Builder::new().prefix(supervisor::PREFIX).tempdir().unwrap().keep();
        Self::start(&folder, Life::OfThisProcess, &mut |_| {})
    }

    /// The cluster of `make cluster`, if it is up.
    #[must_use]
    pub fn standing() -> Option<Self> {
        Self::find(&standing_folder())
    }

    /// The cluster that lives in this folder, if one does.
    #[must_use]
    pub fn find(folder: &Path) -> Option<Self> {
        Node::find(folder).map(|node| Self::of(node, folder.join("pki/admin.kubeconfig")))
    }

    /// An operator's own cluster, and the command that brings an archive into it, which is given the
    /// archive's path as its last word.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn of_an_operator(kubeconfig: &Path, load: Option<String>) -> Self {
        let internal = "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
        let words = ["get", "nodes", "--output", internal];
        let addresses = control_plane::kubectl(kubeconfig).args(words).succeed();
        let address = addresses.split(' ').next().unwrap().parse().unwrap();
        Self {
            kubeconfig: kubeconfig.to_owned(),
            node: None,
            load,
            address,
            imported: Mutex::default(),
            scratch: Scratch::new("administrator"),
            _turn: None,
        }
    }

    fn of(node: Node, kubeconfig: PathBuf) -> Self {
        let address = node.address().into();
        Self {
            kubeconfig,
            node: Some(node),
            load: None,
            address,
            imported: Mutex::default(),
            scratch: Scratch::new("administrator"),
            _turn: None,
        }
    }

    /// Starts a new cluster whose files are in `folder`, and tells `report` of each step.
    ///
    /// # Panics
    /// When it does not come up; what ran of it has ended then.
    #[must_use]
    pub fn start(folder: &Path, life: Life, report: &mut dyn FnMut(&str)) -> Self {
        assert!(
            is_root(),
            "a cluster needs root, for namespaces, cgroups and containers: run this again with sudo"
        );
        let _ = control_plane::built("kubelet");
        let node = Node::start(folder, life);
        let pki = Pki::new(&folder.join("pki"));
        report("namespaces and certificates");
        let kubeconfig = control_plane::start_api(&node, &pki);
        report("etcd and the API server");
        control_plane::start_controllers(&node, &pki);
        workers::start_containerd(&node);
        let cluster = Self::of(node, kubeconfig);
        cluster.image(image::BUSYBOX);
        cluster.image(image::COREDNS);
        report("controllers, scheduler, containerd and its first images");
        workers::start(cluster.our_node(), &pki);
        Cni::asked().start(&cluster, &pki);
        let [first, second] = cluster.our_node().addresses().outside().map(|address| address.to_string());
        let dns = include_str!("dns.yaml").replace("FIRST", &first).replace("SECOND", &second);
        cluster.apply(&dns);
        cluster.wait_for("the node is ready", READY, || {
            let words = ["wait", "--for=condition=Ready", "node", node::NAME, "--timeout=5s"];
            cluster.kubectl_program(&words).output().status.success()
        });
        report("the kubelet and kube-proxy");
        cluster.wait_for_rollout("kube-system", "deployment/coredns");
        report("DNS");
        cluster.our_node().remember();
        cluster
    }

    fn our_node(&self) -> &Node {
        self.node.as_ref().expect(
            "this is about a cluster of ours, and this one is an operator's: unset CLUSTER_KUBECONFIG",
        )
    }

    /// An administrator's kubeconfig. Its context is [`pki::CONTEXT`] in a cluster of ours.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The node's address, as this machine reaches it: the API server listens there, and every port of a
    /// Service of type `NodePort`.
    #[must_use]
    pub fn node_address(&self) -> IpAddr {
        self.address
    }

    /// A port of the node that no Service has, and that this process never gives out twice: of those that
    /// Kubernetes does not give out by itself.
    ///
    /// # Panics
    /// When there is none left.
    #[must_use]
    pub fn free_node_port(&self) -> u16 {
        static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
        let services = self.get(&["services", "--all-namespaces"]);
        let services = services["items"].as_array().unwrap().iter();
        let ports = services.flat_map(|service| service["spec"]["ports"].as_array().into_iter().flatten());
        let taken: BTreeSet<u64> = ports.filter_map(|port| port["nodePort"].as_u64()).collect();
        let mut given = GIVEN.lock().unwrap();
        let free = STATIC_NODE_PORTS.filter(|port| !given.contains(port) && !taken.contains(&(*port).into()));
        // Any of them: another process may look at the same moment.
        let port = free.choose(&mut rand::rng()).expect("a port that no Service has");
        given.insert(port);
        port
    }

    /// This machine's address, as pods reach it.
    ///
    /// # Panics
    /// When it is not a cluster of ours.
    #[must_use]
    pub fn host_address(&self) -> IpAddr {
        self.our_node().host().into()
    }

    /// Two addresses of this machine that pods reach: the first one as `first.outside.test`, the second one
    /// as anything else in `outside.test`.
    ///
    /// # Panics
    /// When it is not a cluster of ours.
    #[must_use]
    pub fn outside(&self) -> [IpAddr; 2] {
        self.our_node().addresses().outside().map(IpAddr::from)
    }

    /// Whether policies for traffic are obeyed, for it has Cilium.
    #[must_use]
    pub fn has_cilium(&self) -> bool {
        let words = ["get", "crd", "ciliumnetworkpolicies.cilium.io", "--ignore-not-found", "--output=name"];
        !self.kubectl(&words).is_empty()
    }

    /// The node, of a cluster of ours.
    #[must_use]
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// A command in the node's network, where addresses of pods and Services are reached.
    ///
    /// # Panics
    /// When it is not a cluster of ours.
    #[must_use]
    pub fn enter(&self, words: &[&str]) -> Program {
        self.our_node().enter(words)
    }

    /// The process of a pod's first container, as the node knows it: it, and what is in its namespaces, is
    /// reached by [`Cluster::enter`].
    ///
    /// # Panics
    /// When it does not run, or it is not a cluster of ours.
    #[must_use]
    pub fn process_of(&self, pod: &Value) -> String {
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap();
        let id = id.strip_prefix("containerd://").unwrap();
        // TASK, PID and STATUS.
        let tasks = workers::ctr(self.our_node()).args(["tasks", "list"]).succeed();
        let task = tasks.lines().find_map(|line| line.strip_prefix(id));
        let words = task.unwrap_or_else(|| panic!("{id} does not run: {tasks}"));
        words.split_whitespace().next().unwrap().to_owned()
    }

    /// kubectl as an administrator, not yet started.
    #[must_use]
    pub fn kubectl_program(&self, words: &[&str]) -> Program {
        control_plane::kubectl(&self.kubeconfig).args(words)
    }

    /// kubectl as an administrator: what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn kubectl(&self, words: &[&str]) -> String {
        self.kubectl_program(words).succeed()
    }

    /// An object, or a list of them: `get(&["pods", "--all-namespaces"])`.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn get(&self, words: &[&str]) -> Value {
        control_plane::get(control_plane::kubectl(&self.kubeconfig), words)
    }

    /// Applies objects, as YAML or JSON.
    ///
    /// # Panics
    /// When the API server refuses.
    pub fn apply(&self, objects: &str) {
        control_plane::apply(control_plane::kubectl(&self.kubeconfig), objects);
    }

    /// Helm as an administrator, not yet started. What it keeps on disk goes away with the cluster's handle.
    #[must_use]
    pub fn helm_program(&self, words: &[&str]) -> Program {
        Program::new(control_plane::built("helm"))
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.scratch.path())
            .args(words)
    }

    /// Helm as an administrator: what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn helm(&self, words: &[&str]) -> String {
        self.helm_program(words).succeed()
    }

    /// Commands as a person types them who has Helm, our programs and an administrator's kubeconfig, in the
    /// top folder of the workspace; not yet started.
    #[must_use]
    pub fn shell(&self, commands: &str) -> Program {
        let folder = |program: &Path| program.parent().unwrap().display().to_string();
        let ours = [folder(&control_plane::built("helm")), folder(&ours("pf-tunnel"))];
        let path = [&ours[..], &[std::env::var("PATH").unwrap_or_default()]].concat().join(":");
        Program::new(installed("bash"))
            .args(["-euo", "pipefail", "-c", commands])
            .folder(workspace())
            .env("PATH", path)
            .env("HOME", self.scratch.path())
            .env("KUBECONFIG", &self.kubeconfig)
    }

    /// A new namespace, which is removed when the value is dropped. Its name starts with `name`.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Namespace<'_> {
        Namespace::new(self, format!("{name}-{:06x}", rand::random::<u32>() >> 8))
    }

    /// [`Cluster::namespace`] of this very name: for a cluster of one test alone.
    ///
    /// # Panics
    /// When it is there.
    #[must_use]
    pub fn namespace_called(&self, name: &str) -> Namespace<'_> {
        Namespace::new(self, name.to_owned())
    }

    /// Waits until a Deployment or the like, such as `deployment/orders`, is rolled out.
    ///
    /// # Panics
    /// When two minutes pass first.
    pub fn wait_for_rollout(&self, namespace: &str, workload: &str) {
        self.wait_for(&format!("the rollout of {workload} in {namespace}"), READY, || {
            let words = ["--namespace", namespace, "rollout", "status", workload, "--timeout=5s"];
            self.kubectl_program(&words).output().status.success()
        });
    }

    /// Waits for something, and shows what the cluster does when the deadline passes first.
    ///
    /// # Panics
    /// Then.
    pub fn wait_for(&self, what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + deadline;
        while !holds() {
            if Instant::now() >= end {
                let pods = self
                    .kubectl_program(&["get", "nodes,pods", "--all-namespaces", "--output=wide"])
                    .output();
                let events = self.kubectl_program(&["get", "events", "--all-namespaces"]).output();
                let text = |output: Output| String::from_utf8_lossy(&output.stdout).into_owned();
                panic!("waited {deadline:?} in vain: {what}\n{}\n{}", text(pods), text(events));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A kubeconfig for a service account, good for an hour.
    ///
    /// # Panics
    /// When there is no such account.
    #[must_use]
    pub fn kubeconfig_of(&self, namespace: &str, service_account: &str) -> PathBuf {
        control_plane::kubeconfig_of(&self.kubeconfig, &self.scratch, namespace, service_account)
    }

    /// Brings an archive of images into the cluster: one that `docker save`, `podman save` or
    /// [`Image::write`] wrote. Pods that use it say `imagePullPolicy: Never`.
    ///
    /// # Panics
    /// When the archive is none, or `CLUSTER_LOAD` does not say how it comes into an operator's cluster.
    pub fn import_image(&self, archive: &Path) {
        match &self.node {
            Some(node) => {
                workers::ctr(node).args(["images", "import", "--all-platforms"]).arg(archive).succeed();
            }
            None => {
                let load = self.load.as_ref().unwrap_or_else(|| {
                    panic!("{LOAD} does not say how {} comes into the cluster", archive.display())
                });
                // The developer's own command, in the developer's own environment.
                let mut command = Command::new("sh");
                command.args(["-c", &format!("{load} \"$0\"")]).arg(archive).stdin(Stdio::null());
                assert!(command.status().unwrap().success(), "{load} {} failed", archive.display());
            }
        }
    }

    /// Makes one of the images that [`image`] knows, or takes the bastion's, and brings it into the cluster,
    /// unless it is there.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn image(&self, name: &'static str) {
        let mut imported = self.imported.lock().unwrap();
        if imported.iter().any(|known| known == name) {
            return;
        }
        // What is made of our own programs may be older there.
        let lasting = ![image::BASTION, image::ECHO].contains(&name);
        let there = self.node.as_ref().filter(|_| lasting).is_some_and(|node| {
            workers::ctr(node)
                .args(["images", "list", "--quiet"])
                .succeed()
                .lines()
                .any(|known| known == name)
        });
        if name == image::BASTION {
            self.import_image(&image::bastion("oci.tar"));
        } else if !there {
            let archive = self.scratch.join("image.tar");
            Image::known(name).write(&archive);
            self.import_image(&archive);
            std::fs::remove_file(archive).unwrap();
        }
        imported.push(name.to_owned());
    }

    /// Gives an image of a cluster of ours another name, by which pods take it that say nothing of where it
    /// is pulled from.
    ///
    /// # Panics
    /// When it is not there.
    pub fn name_image(&self, name: &'static str, other: &str) {
        self.image(name);
        workers::ctr(self.our_node()).args(["images", "tag", "--force", name, other]).succeed();
    }

    /// Stops the API server; pods go on. For a cluster of one test alone, [`Cluster::for_this_process`].
    ///
    /// # Panics
    /// When it is not a cluster of ours.
    pub fn stop_api_server(&self) {
        self.our_node().stop("kube-apiserver");
    }

    /// Starts it again, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_api_server(&self) {
        let node = self.our_node();
        node.restart("kube-apiserver");
        control_plane::wait_until_ready(&self.kubeconfig, || node.ended("kube-apiserver"));
    }

    /// Who asked the API server for what until now: one JSON object of its audit log a line.
    ///
    /// # Panics
    /// When it is not a cluster of ours.
    #[must_use]
    pub fn audit(&self) -> String {
        control_plane::whole_lines(&self.our_node().folder().join("log/audit.log"))
    }

    /// etcdctl, for what is behind the API server.
    ///
    /// # Panics
    /// When it is not a cluster of ours.
    #[must_use]
    pub fn etcdctl(&self, words: &[&str]) -> Program {
        self.enter(&control_plane::ETCDCTL).args(words)
    }
}

/// Takes down what `make cluster` left running; says whether there was something.
///
/// # Errors
/// When something is left.
pub fn take_down(folder: &Path) -> Result<bool> {
    supervisor::sweep()?;
    let there = folder.exists();
    Node::remove(folder)?;
    Ok(there)
}
