//! Which cluster a context means, and how to reach it: kubectl's files, in kubectl's order.

use std::path::PathBuf;
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

use crate::failure::{Failure, Stage};

/// How long TCP and TLS may take each.
const CONNECT: Duration = Duration::from_secs(5);
/// How many contexts are listed to whoever named one that is not there.
const MOST_LISTED: usize = 8;

/// The context's name, and what it means.
pub(super) async fn load(
    context: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<(String, Config), Failure> {
    let kubeconfig = merged(&paths(&variable))?;
    let context = chosen(&kubeconfig, context)?;
    let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
    let own_proxy = has_own_proxy(&kubeconfig, &context);
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| {
        let cure = format!(
            "It is the kubeconfig that says this; `kubectl --context {context} version` should fail too."
        );
        refused(format!("the context {context} cannot be used: {}", reason(&error))).advise(cure)
    })?;
    safe(&config, &context)?;
    config.connect_timeout = Some(CONNECT);
    // A server that has too much to do is told of at once, and what it said last is used.
    config.default_retry = false;
    // kube asks whether the proxy itself is exempt. What matters is whether the API server is.
    if !own_proxy && Matcher::from_env().intercept(&config.cluster_url).is_none() {
        config.proxy_url = None;
    }
    Ok((context, config))
}

/// The files of `KUBECONFIG`, or else the usual one.
fn paths(variable: &impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let list = variable("KUBECONFIG").unwrap_or_default();
    let named: Vec<PathBuf> =
        std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect();
    if !named.is_empty() {
        return named;
    }
    variable("HOME").map(|home| PathBuf::from(home).join(".kube/config")).into_iter().collect()
}

/// One kubeconfig of several. A file that is not there is left out, as kubectl does.
fn merged(paths: &[PathBuf]) -> Result<Kubeconfig, Failure> {
    let mut all: Option<Kubeconfig> = None;
    for path in paths.iter().filter(|path| path.exists()) {
        let unusable = |error: KubeconfigError| {
            refused(format!("{} cannot be used: {}", path.display(), reason(&error)))
        };
        let next = Kubeconfig::read_from(path).map_err(unusable)?;
        all = Some(match all {
            Some(first) => first.merge(next).map_err(unusable)?,
            None => next,
        });
    }
    all.ok_or_else(|| {
        let looked: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        refused(format!("there is no kubeconfig: {}", looked.join(", ")))
            .advise("The bastion's connection info is in a cluster, and a kubeconfig says how to reach that. Set KUBECONFIG, or log in to the cluster as you do for kubectl.")
    })
}

/// The context that is meant, if there is such a one.
fn chosen(kubeconfig: &Kubeconfig, wanted: Option<&str>) -> Result<String, Failure> {
    let current = kubeconfig.current_context.as_deref().filter(|name| !name.is_empty());
    let Some(name) = wanted.or(current) else {
        return Err(refused("the kubeconfig has no current context")
            .advise("Name one with --kube-context, or choose one: kubectl config use-context NAME"));
    };
    let known: Vec<&str> = kubeconfig.contexts.iter().map(|context| context.name.as_str()).collect();
    if known.contains(&name) {
        return Ok(name.to_owned());
    }
    let near = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), *known))
        .filter(|(distance, known)| *distance <= known.len().max(3) / 3)
        .min();
    let advice = match near {
        Some((_, near)) => format!("Did you mean `{near}`?"),
        None if known.is_empty() => "It has none at all. Is KUBECONFIG the right file?".to_owned(),
        None => {
            let some = known.iter().take(MOST_LISTED).copied().collect::<Vec<_>>().join(", ");
            format!("It has {some}{}", if known.len() > MOST_LISTED { ", …" } else { "" })
        }
    };
    Err(refused(format!("the kubeconfig has no context `{name}`")).advise(advice))
}

fn has_own_proxy(kubeconfig: &Kubeconfig, context: &str) -> bool {
    let cluster = kubeconfig
        .contexts
        .iter()
        .find(|named| named.name == context)
        .and_then(|named| named.context.as_ref())
        .map(|context| context.cluster.as_str());
    kubeconfig
        .clusters
        .iter()
        .find(|named| Some(named.name.as_str()) == cluster)
        .and_then(|named| named.cluster.as_ref()?.proxy_url.as_deref())
        .is_some_and(|url| !url.is_empty())
}

/// What is published says where the token for Vault goes. It must come from whom the context means.
fn safe(config: &Config, context: &str) -> Result<(), Failure> {
    let loopback = matches!(config.cluster_url.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
    let what = match config.cluster_url.scheme_str() {
        Some("https") if config.accept_invalid_certs => {
            "does not verify the API server (insecure-skip-tls-verify)"
        }
        Some("https") => return Ok(()),
        Some("http") if loopback => return Ok(()),
        _ => "does not reach the API server through TLS",
    };
    Err(refused(format!("the context {context} {what}")).advise(
        "Anybody on the way could say where your Vault token goes. Name the cluster's authority in the kubeconfig (certificate-authority), or write pf-tunnel.yaml.",
    ))
}

/// Says what is wrong without showing what a kubeconfig holds.
fn reason(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(error, _) => error.to_string(),
        KubeconfigError::Parse(_) => "it is not a kubeconfig, or not YAML".to_owned(),
        KubeconfigError::LoadClusterOfContext(cluster) => {
            format!("its cluster `{cluster}` is not in the kubeconfig")
        }
        KubeconfigError::LoadCertificateAuthority(error) => format!("certificate-authority: {error}"),
        KubeconfigError::ParseCertificates(_) => "certificate-authority is not a PEM file".to_owned(),
        KubeconfigError::ParseClusterUrl(_) => "the cluster's `server` is not a URL".to_owned(),
        KubeconfigError::ParseProxyUrl(_) => "the proxy is not a URL".to_owned(),
        error => error.to_string(),
    }
}

fn refused(what: impl Into<String>) -> Failure {
    Failure::lasting(Stage::Configuration, what)
}
