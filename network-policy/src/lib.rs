//! Works out what NetworkPolicy objects permit, without trying it: who may talk to whom, and by which policy.
//!
//! This follows the API's documentation of `networking.k8s.io/v1`, and where that leaves a choice to the
//! network, both choices are here: see [`Blocks`]. A flow to a Service is one to the pods behind it, at the
//! port where *they* listen: policies apply behind the translation.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "so far tests alone use it, and what panics is then a failed test"
)]

mod selector;

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::{
    api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::Value;

/// Labels of a pod or a namespace.
pub type Labels = BTreeMap<String, String>;

/// Labels from pairs.
#[must_use]
pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// What a port belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Connections, which most of this is about.
    Tcp,
    /// Datagrams, such as questions to DNS.
    Udp,
    /// Associations.
    Sctp,
}

impl Protocol {
    fn read(name: Option<&str>) -> Self {
        match name {
            None | Some("TCP") => Self::Tcp,
            Some("UDP") => Self::Udp,
            Some("SCTP") => Self::Sctp,
            Some(other) => panic!("{other} is no protocol of Kubernetes"),
        }
    }
}

/// Whether an `ipBlock` means pods too that have an address in it. The API leaves that open: networks that go
/// by addresses say yes, those that go by identities, such as Cilium, say no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// Pods and others that have the address.
    EveryAddress,
    /// Others that have the address, and no pods.
    OnlyOutside,
}

impl Blocks {
    /// A flow that must pass, or must not, should do so under either.
    pub const ALL: [Self; 2] = [Self::EveryAddress, Self::OnlyOutside];
}

/// A port with a name, as a container declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPort {
    /// What policies may call it.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// A pod, as far as policies know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace, which the cluster must know when a policy asks for labels of it.
    pub namespace: String,
    /// Its name, for people.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its address.
    pub ip: IpAddr,
    /// The ports that its containers declare with a name.
    pub ports: Vec<NamedPort>,
}

impl Pod {
    /// A pod without named ports.
    ///
    /// # Panics
    /// When `ip` is no address.
    #[must_use]
    pub fn new(namespace: &str, name: &str, pairs: &[(&str, &str)], ip: &str) -> Self {
        let ip = ip.parse().unwrap_or_else(|_| panic!("{ip} is no address"));
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: labels(pairs),
            ip,
            ports: Vec::new(),
        }
    }

    /// With one more named port.
    #[must_use]
    pub fn port(mut self, name: &str, port: u16, protocol: Protocol) -> Self {
        self.ports.push(NamedPort { name: name.to_owned(), port, protocol });
        self
    }

    /// A pod as a Deployment, a Job or the like makes it, whose object this is.
    ///
    /// # Panics
    /// When the object has no pod template, or `ip` is no address.
    #[must_use]
    pub fn of(workload: &Value, namespace: &str, ip: &str) -> Self {
        let name = text(workload, "/metadata/name");
        let template = workload.pointer("/spec/template").unwrap_or_else(|| panic!("{name} makes no pods"));
        Self::new(namespace, &name, &[], ip).with(template)
    }

    /// A pod that a cluster has, whose object this is.
    ///
    /// # Panics
    /// When it has no address yet.
    #[must_use]
    pub fn alive(object: &Value) -> Self {
        let field = |path| text(object, path);
        Self::new(&field("/metadata/namespace"), &field("/metadata/name"), &[], &field("/status/podIP"))
            .with(object)
    }

    /// With the labels and named ports of a pod or the template of one.
    fn with(mut self, object: &Value) -> Self {
        if let Some(labels) = object.pointer("/metadata/labels") {
            self.labels = read(labels);
        }
        let containers = ["initContainers", "containers"]
            .iter()
            .filter_map(|kind| object.pointer(&format!("/spec/{kind}"))?.as_array())
            .flatten();
        for port in containers.filter_map(|container| container["ports"].as_array()).flatten() {
            if let Some(name) = port["name"].as_str() {
                let number = port["containerPort"].as_u64().and_then(|number| number.try_into().ok());
                let number = number.unwrap_or_else(|| panic!("{port} has no number"));
                self = self.port(name, number, Protocol::read(port["protocol"].as_str()));
            }
        }
        self
    }
}

/// One end of a flow.
#[derive(Debug, Clone, Copy)]
pub enum End<'a> {
    /// A pod.
    Pod(&'a Pod),
    /// Something that is no pod: outside the cluster, another node, or a program on the network of one.
    Address(IpAddr),
    /// The node that the pod at the other end runs on, whose kubelet asks the probes. It always may.
    OwnNode,
}

impl End<'_> {
    /// The end at this address.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn address(text: &str) -> Self {
        Self::Address(text.parse().unwrap_or_else(|_| panic!("{text} is no address")))
    }
}

/// A connection, or the first packet of one; what answers it is always let through.
#[derive(Debug, Clone, Copy)]
pub struct Flow<'a> {
    /// Who begins it.
    pub from: End<'a>,
    /// To whom.
    pub to: End<'a>,
    /// At which port of theirs.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// What the policies at one end say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// No policy applies: everything passes.
    Open,
    /// This policy permits it.
    Allowed {
        /// `NAMESPACE/NAME`.
        policy: String,
    },
    /// These apply, and none permits it.
    Denied {
        /// `NAMESPACE/NAME` of each.
        policies: Vec<String>,
    },
}

impl Decision {
    /// Whether it passes here.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Open | Self::Allowed { .. } => true,
            Self::Denied { .. } => false,
        }
    }
}

/// What happens to a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Where it leaves.
    pub egress: Decision,
    /// Where it arrives.
    pub ingress: Decision,
}

impl Verdict {
    /// Whether it arrives.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.egress.passes() && self.ingress.passes()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

/// The namespaces and policies of a cluster.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    namespaces: BTreeMap<String, Labels>,
    policies: Vec<NetworkPolicy>,
}

impl Cluster {
    /// One without policies.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a namespace, which has the label of its name besides its own, as the API server gives it.
    #[must_use]
    pub fn namespace(mut self, name: &str, pairs: &[(&str, &str)]) -> Self {
        let mut labels = labels(pairs);
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
        self.namespaces.insert(name.to_owned(), labels);
        self
    }

    /// With the NetworkPolicy objects among these, as `helm template` prints them. Those without a namespace
    /// are of `namespace`, as if applied there.
    ///
    /// # Panics
    /// When a policy is not one that the API server would take.
    #[must_use]
    pub fn apply(mut self, objects: &[Value], namespace: &str) -> Self {
        for object in objects.iter().filter(|object| is_policy(object)) {
            let mut policy: NetworkPolicy = read(object);
            policy.metadata.namespace.get_or_insert_with(|| namespace.to_owned());
            self.policies.push(policy);
        }
        self
    }

    /// What the policies make of a flow.
    ///
    /// # Panics
    /// When a policy is not one that the API server would take, or a pod's namespace is unknown.
    #[must_use]
    pub fn decide(&self, flow: &Flow<'_>, blocks: Blocks) -> Verdict {
        if let (End::Pod(from), End::Pod(to)) = (flow.from, flow.to)
            && from == to
        {
            // Nothing keeps a pod from itself.
            return Verdict { egress: Decision::Open, ingress: Decision::Open };
        }
        Verdict {
            egress: self.at(flow.from, flow.to, Direction::Egress, flow, blocks),
            ingress: self.at(flow.to, flow.from, Direction::Ingress, flow, blocks),
        }
    }

    fn at(
        &self,
        here: End<'_>,
        there: End<'_>,
        direction: Direction,
        flow: &Flow<'_>,
        blocks: Blocks,
    ) -> Decision {
        let End::Pod(pod) = here else { return Decision::Open };
        if matches!(there, End::OwnNode) {
            return Decision::Open;
        }
        let mut isolating = Vec::new();
        for policy in &self.policies {
            let spec = policy.spec.as_ref().expect("a policy has a spec");
            let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
            let selector = spec.pod_selector.clone().unwrap_or_default();
            let selected = namespace == pod.namespace && selector::matches(&selector, &pod.labels);
            if !selected || !is_about(spec, direction) {
                continue;
            }
            let name = format!("{namespace}/{}", policy.metadata.name.as_deref().unwrap_or_default());
            let permits = rules(spec, direction).any(|(peers, ports)| {
                (peers.is_empty() || peers.iter().any(|peer| self.is_peer(peer, namespace, there, blocks)))
                    && (ports.is_empty() || ports.iter().any(|port| is_port(port, flow)))
            });
            if permits {
                return Decision::Allowed { policy: name };
            }
            isolating.push(name);
        }
        if isolating.is_empty() { Decision::Open } else { Decision::Denied { policies: isolating } }
    }

    fn is_peer(&self, peer: &NetworkPolicyPeer, namespace: &str, end: End<'_>, blocks: Blocks) -> bool {
        if let Some(block) = &peer.ip_block {
            assert!(
                peer.pod_selector.is_none() && peer.namespace_selector.is_none(),
                "a peer is a block or selectors, not both: {peer:?}"
            );
            return match end {
                End::Address(address) => is_in_block(block, address),
                End::Pod(pod) => blocks == Blocks::EveryAddress && is_in_block(block, pod.ip),
                End::OwnNode => false,
            };
        }
        assert!(peer.pod_selector.is_some() || peer.namespace_selector.is_some(), "an empty peer: {peer:?}");
        let End::Pod(pod) = end else { return false };
        let in_namespace = match &peer.namespace_selector {
            None => pod.namespace == namespace,
            Some(selector) => {
                let labels = self.namespaces.get(&pod.namespace);
                let labels = labels.unwrap_or_else(|| panic!("the namespace {} is unknown", pod.namespace));
                selector::matches(selector, labels)
            }
        };
        let selector = peer.pod_selector.as_ref();
        in_namespace && selector.is_none_or(|selector| selector::matches(selector, &pod.labels))
    }
}

/// The objects of a stream of YAML documents, without the empty ones.
///
/// # Panics
/// When it is no YAML.
#[must_use]
pub fn objects(yaml: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    all.into_iter().filter(|object| !object.is_null()).collect()
}

fn is_policy(object: &Value) -> bool {
    object["kind"] == "NetworkPolicy" && object["apiVersion"] == "networking.k8s.io/v1"
}

/// Whether a policy isolates the pods that it selects in this direction. When it does not say, it is about
/// what comes in, and about what leaves if it has rules for that.
fn is_about(spec: &NetworkPolicySpec, direction: Direction) -> bool {
    match spec.policy_types.as_deref() {
        None | Some([]) => match direction {
            Direction::Ingress => true,
            Direction::Egress => spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        },
        Some(types) => types.iter().any(|name| match name.as_str() {
            "Ingress" => direction == Direction::Ingress,
            "Egress" => direction == Direction::Egress,
            other => panic!("{other} is no type of policy"),
        }),
    }
}

type Rule<'a> = (&'a [NetworkPolicyPeer], &'a [NetworkPolicyPort]);

/// Peers and ports of each rule; an empty list stands for all.
fn rules(spec: &NetworkPolicySpec, direction: Direction) -> Box<dyn Iterator<Item = Rule<'_>> + '_> {
    match direction {
        Direction::Ingress => {
            let rules = spec.ingress.iter().flatten();
            Box::new(rules.map(|rule| (slice(&rule.from), slice(&rule.ports))))
        }
        Direction::Egress => {
            let rules = spec.egress.iter().flatten();
            Box::new(rules.map(|rule| (slice(&rule.to), slice(&rule.ports))))
        }
    }
}

fn slice<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

/// Whether the flow goes to this port. A name is looked up at the pod that the flow goes to.
fn is_port(port: &NetworkPolicyPort, flow: &Flow<'_>) -> bool {
    if Protocol::read(port.protocol.as_deref()) != flow.protocol {
        return false;
    }
    match (&port.port, port.end_port) {
        (None, None) => true,
        (Some(IntOrString::Int(first)), last) => {
            let last = last.unwrap_or(*first);
            assert!(last >= *first, "{port:?} ends before it begins");
            (*first..=last).contains(&i32::from(flow.port))
        }
        (Some(IntOrString::String(name)), None) => match flow.to {
            End::Pod(pod) => pod.ports.iter().any(|known| {
                known.name == *name && known.port == flow.port && known.protocol == flow.protocol
            }),
            End::Address(_) | End::OwnNode => false,
        },
        (None | Some(IntOrString::String(_)), Some(_)) => {
            panic!("endPort without a number before it: {port:?}")
        }
    }
}

fn is_in_block(block: &IPBlock, address: IpAddr) -> bool {
    let network =
        |text: &String| -> IpNet { text.parse().unwrap_or_else(|_| panic!("{text} is no network")) };
    let whole = network(&block.cidr);
    let excepted = slice(&block.except).iter().map(network).any(|part| {
        assert!(whole.contains(&part) && whole != part, "{part} is not a part of {whole}");
        part.contains(&address)
    });
    whole.contains(&address) && !excepted
}

fn text(object: &Value, pointer: &str) -> String {
    let value = object.pointer(pointer).and_then(Value::as_str);
    value.unwrap_or_else(|| panic!("no {pointer} in {object}")).to_owned()
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error} in {value}"))
}

#[cfg(test)]
mod tests;
