//! The programs that do: containerd, the kubelet and kube-proxy.

use std::{fs, net::IpAddr, path::PathBuf};

use serde_json::json;

use super::{
    cgroup::Cgroup,
    cni,
    control_plane::{built, built_word, url},
    image,
    network::{DNS_SERVICE, PODS},
    node::{NAME, Node},
    pki::Pki,
};
use test_support::{
    process::{Program, installed},
    wait,
};

/// containerd's socket, in the node.
const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// Writes a file of configuration, and returns its path.
fn write(node: &Node, name: &str, content: &str) -> PathBuf {
    let folder = node.folder().join("conf");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path
}

/// Starts containerd, and waits until it answers.
pub(super) fn start_containerd(node: &Node) {
    let config = format!(
        r#"version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{bin}"
conf_dir = "{plugins}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#,
        pause = image::BUSYBOX,
        bin = built("cni/ptp").parent().unwrap().display(),
        plugins = cni::folder(node).display(),
    );
    let config = write(node, "containerd.toml", &config);
    let program = installed("containerd").to_str().unwrap().to_owned();
    node.run("containerd", vec![program, "--config".to_owned(), config.to_str().unwrap().to_owned()]);
    wait::until_true("containerd answers", wait::START, || {
        assert!(node.ended("containerd").is_none(), "containerd ended: {}", node.log("containerd"));
        ctr(node).args(["version"]).output().status.success()
    });
}

/// ctr, for the images and containers of this node's pods.
pub(super) fn ctr(node: &Node) -> Program {
    Program::new("ctr").arg("--address").arg(node.path(CONTAINERD)).args(["--namespace", "k8s.io"])
}

/// Starts the kubelet and kube-proxy.
pub(super) fn start(node: &Node, pki: &Pki) {
    start_kubelet(node, pki);
    let kubeconfig = pki.kubeconfig("kube-proxy", &url(node), "system:kube-proxy", None);
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": kubeconfig},
        "clusterCIDR": PODS,
        "hostnameOverride": NAME,
        // What it would change there is the whole machine's.
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    });
    let config = write(node, "kube-proxy.json", &config.to_string());
    node.run("kube-proxy", vec![built_word("kube-proxy"), format!("--config={}", config.display())]);
}

fn start_kubelet(node: &Node, pki: &Pki) {
    pki.server("kubelet-serving", &[NAME], &[IpAddr::from(node.address())]);
    let kubeconfig =
        pki.kubeconfig("kubelet", &url(node), &format!("system:node:{NAME}"), Some("system:nodes"));
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address(),
        "authentication": {"x509": {"clientCAFile": pki.path("ca.crt")}, "anonymous": {"enabled": false}, "webhook": {"enabled": true}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki.path("kubelet-serving.crt"),
        "tlsPrivateKeyFile": pki.path("kubelet-serving.key"),
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        // What the machine's resolver would be is no business of pods.
        "resolvConf": write(node, "resolv.conf", ""),
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": Cgroup::of(node.folder()).path(),
        "failCgroupV1": false,
        "failSwapOn": false,
        // The disk and the memory are those of a machine that does other things too. An image that it removed
        // could not be pulled again.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "200Mi", "nodefs.inodesFree": "1%", "imagefs.available": "200Mi"},
        "imageGCHighThresholdPercent": 100,
        // A pod's end, and its probes, show up immediately.
        "nodeStatusUpdateFrequency": "5s",
    });
    let config = write(node, "kubelet.json", &config.to_string());
    node.run(
        "kubelet",
        vec![
            built_word("kubelet"),
            format!("--config={}", config.display()),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--hostname-override={NAME}"),
            format!("--node-ip={}", node.address()),
        ],
    );
}
