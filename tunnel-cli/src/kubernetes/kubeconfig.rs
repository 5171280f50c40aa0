//! Finds the cluster that a context means, and how to reach it: kubectl's files, in kubectl's order.

use std::{path::PathBuf, time::Duration};

use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use super::proxy;
use crate::failure::{Failure, Stage};

/// How long TCP and TLS may take each.
const CONNECT: Duration = Duration::from_secs(5);
/// How many contexts are listed to a user who named one that is not there.
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
    // A server that has too much to do is told of immediately, and what it said last is used.
    config.default_retry = false;
    // kube asks whether the proxy itself is exempt. What matters is whether the API server is.
    if !own_proxy {
        config.proxy_url = proxy_of_environment(&config.cluster_url, &variable)?;
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
        let mut next = Kubeconfig::read_from(path).map_err(unusable)?;
        // As kubectl has it: an empty one is none, and the next file may say one.
        next.current_context = next.current_context.filter(|name| !name.is_empty());
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

fn proxy_of_environment(
    server: &http::Uri,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<Option<http::Uri>, Failure> {
    let scheme = server.scheme_str().unwrap_or("https");
    let port = server.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    proxy::of_environment(scheme, server.host().unwrap_or_default(), port, variable)
        // It may have a password in it.
        .map(|url| url.parse().map_err(|_| refused("the proxy of HTTPS_PROXY or HTTP_PROXY is not a URL")))
        .transpose()
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
        "An attacker on the way could choose where your Vault token goes. Name the cluster's authority in the kubeconfig (certificate-authority), or write pf-tunnel.yaml.",
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
    Failure::permanent(Stage::Configuration, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(context: &str, server: &str, more: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: {context:?}\n\
             clusters: [{{name: c, cluster: {{server: '{server}'{more}}}}}]\n\
             users: [{{name: u, user: {{token: t}}}}]\n\
             contexts: [{{name: prod, context: {{cluster: c, user: u}}}}, {{name: test, context: {{cluster: c, user: u}}}}]\n"
        )
    }

    async fn loaded(files: &[&str], set: &[(&str, &str)]) -> Result<(String, Option<String>), String> {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<String> = (0..)
            .zip(files)
            .map(|(number, text)| {
                let path = folder.path().join(format!("{number}.yaml"));
                std::fs::write(&path, text).unwrap();
                path.display().to_string()
            })
            .collect();
        let list = paths.join(":");
        load(None, |name| match name {
            "KUBECONFIG" => Some(list.clone()),
            name => set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()),
        })
        .await
        .map(|(context, config)| (context, config.proxy_url.map(|url| url.to_string())))
        .map_err(|failure| failure.to_string())
    }

    /// What kubectl does with the same files, by its manual and its source.
    #[tokio::test]
    async fn a_kubeconfig_means_what_it_means_to_kubectl() {
        let (near, far) = ("https://127.0.0.1:6443", "https://api.example.com:6443");
        let plain = |context: &str| kubeconfig(context, far, "");
        for (files, context) in [
            (vec![plain("prod")], Ok("prod")),
            (vec![plain(""), plain("prod")], Ok("prod")),
            (vec![plain("test"), plain("prod")], Ok("test")),
            (vec![String::new(), plain("prod")], Ok("prod")),
            (vec![plain(""), plain("")], Err("no current context")),
            (vec![plain(""), plain("none")], Err("no context `none`")),
        ] {
            let texts: Vec<&str> = files.iter().map(String::as_str).collect();
            match (loaded(&texts, &[]).await, context) {
                (Ok((got, _)), Ok(wanted)) => assert_eq!(got, wanted, "{texts:?}"),
                (Err(told), Err(words)) => assert!(told.contains(words), "{told}"),
                (got, _) => panic!("{texts:?}: {got:?}"),
            }
        }
        let proxies = [("HTTPS_PROXY", "http://proxy:3128"), ("NO_PROXY", "")];
        let exempt = [("HTTPS_PROXY", "http://proxy:3128"), ("NO_PROXY", "example.com")];
        let own = ", proxy-url: 'http://own:3128'";
        for (server, more, set, proxy) in [
            (near, "", &proxies, None),
            (far, "", &proxies, Some("http://proxy:3128/")),
            (far, "", &exempt, None),
            (near, own, &proxies, Some("http://own:3128/")),
            (far, own, &exempt, Some("http://own:3128/")),
        ] {
            let (_, got) = loaded(&[&kubeconfig("prod", server, more)], set).await.unwrap();
            assert_eq!(got.as_deref(), proxy, "{server}{more} {set:?}");
        }
    }
}
