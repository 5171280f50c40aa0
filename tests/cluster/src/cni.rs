//! Connects pods with each other: by a plugin of the CNI project, which lets all pods talk to each other, or
//! by Cilium, which has policies obeyed.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use super::{
    Cluster, READY,
    control_plane::{built, built_word, url},
    network::PODS,
    node::{NAME, Node},
    pki::Pki,
};
use test_support::{process::Program, wait};

/// Says which one a new cluster gets: `ptp`, if nothing is said, or `cilium`.
const CHOICE: &str = "CLUSTER_CNI";

/// Who connects the pods of a cluster of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cni {
    /// A pair of devices for each pod. It enforces no policies.
    Ptp,
    /// BPF programs, which obey NetworkPolicy and CiliumNetworkPolicy, and are told of names by a DNS proxy.
    /// kube-proxy stays in charge of Services, and the node's own rule of masquerading.
    Cilium,
}

impl Cni {
    /// The one that was asked for.
    ///
    /// # Panics
    /// When there is no such.
    #[must_use]
    pub fn asked() -> Self {
        match std::env::var(CHOICE).as_deref() {
            Err(_) | Ok("" | "ptp") => Self::Ptp,
            Ok("cilium") => Self::Cilium,
            Ok(other) => panic!("{CHOICE}={other} is not known: it is ptp or cilium"),
        }
    }

    /// Makes it work, once the kubelet has registered the node.
    pub(super) fn start(self, cluster: &Cluster, pki: &Pki) {
        let node = cluster.our_node();
        match self {
            // Each pod at the end of its own pair of devices, so that all its traffic is routed, and passes
            // the rules of Services.
            Self::Ptp => configure(
                node,
                &json!({
                    "type": "ptp",
                    "ipam": {"type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]},
                }),
            ),
            Self::Cilium => {
                start_agent(cluster, pki);
                configure(node, &json!({"type": "cilium-cni"}));
            }
        }
    }
}

/// The folder where containerd looks for what to do.
pub(super) fn folder(node: &Node) -> PathBuf {
    let folder = node.folder().join("conf/cni");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Tells containerd, which from then on calls the node ready. It watches for files that are written, not for
/// those that are renamed.
fn configure(node: &Node, plugin: &Value) {
    let list = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [plugin]});
    fs::write(folder(node).join("pods.conflist"), list.to_string()).unwrap();
}

/// Keeps what is the whole machine's from the agent, which would change `unprivileged_bpf_disabled` and
/// `timer_migration`, and becomes it.
const AGENT: &str = r#"mount --bind /proc/sys/kernel /proc/sys/kernel
mount -o remount,bind,ro /proc/sys/kernel
PATH="$1:$PATH" K8S_NODE_NAME="$2"
export PATH K8S_NODE_NAME
shift 2
exec cilium-agent "$@""#;

fn start_agent(cluster: &Cluster, pki: &Pki) {
    let node = cluster.our_node();
    let programs = built("cilium/cilium-agent").parent().unwrap().to_owned();
    // What its operator would do; nothing else of that is needed for one node.
    cluster
        .kubectl_program(&["apply", "--server-side", "--recursive", "--filename"])
        .arg(programs.join("crds"))
        .succeed();
    cluster.wait_for("the node has a range for its pods", READY, || {
        cluster.get(&["node", NAME])["spec"]["podCIDR"].is_string()
    });
    // A kernel that loads no modules has no list of them.
    let modules = fs::read("/proc/modules").unwrap_or_default();
    fs::write(node.folder().join("run/modules"), modules).unwrap();
    // It writes what the kernel can do beside the sources.
    let library = node.folder().join("lib/cilium");
    fs::create_dir_all(&library).unwrap();
    Program::new("cp").arg("--recursive").arg(programs.join("bpf")).arg(&library).succeed();
    let kubeconfig = pki.kubeconfig("cilium", &url(node), "cilium", Some("system:masters"));
    let mut words: Vec<String> = ["unshare", "--mount", "--", "sh", "-ec", AGENT, "cilium-agent"]
        .into_iter()
        .chain([programs.to_str().unwrap(), NAME])
        .map(str::to_owned)
        .collect();
    words.extend([
        format!("--k8s-kubeconfig-path={}", kubeconfig.display()),
        format!("--ipv4-native-routing-cidr={PODS}"),
    ]);
    words.extend(
        [
            "--identity-allocation-mode=crd",
            "--ipam=kubernetes",
            "--routing-mode=native",
            "--devices=uplink",
            "--enable-ipv6=false",
            "--enable-ipv4-masquerade=false",
            "--kube-proxy-replacement=false",
            "--enable-health-checking=false",
            "--enable-endpoint-health-checking=false",
            // Not the machine's.
            "--bpf-root=/run/cilium/bpf",
            "--cgroup-root=/run/cilium/cgroup",
        ]
        .map(str::to_owned),
    );
    node.run("cilium-agent", words);
    wait::until_true("Cilium is ready", READY, || {
        assert!(node.ended("cilium-agent").is_none(), "cilium-agent ended:\n{}", complaints(node));
        let ask = node.enter(&[&built_word("cilium/cilium-dbg"), "status", "--brief"]);
        ask.output().status.success()
    });
}

/// What the agent wrote that is not information.
fn complaints(node: &Node) -> String {
    let log = node.log("cilium-agent");
    let lines = log.lines().filter(|line| !line.contains("level=info")).map(|line| format!("{line}\n"));
    lines.collect()
}
