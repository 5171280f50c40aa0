//! `explain`: says which rule decides about a certificate and a destination, without connecting there.

mod explanation;

use std::{
    io::Write,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use ssh_key::Certificate;
use tokio::time::timeout;

use super::{Outcome, destination, fail, load, print};
use crate::{
    cli::Explain,
    config::Config,
    identity::{LoginName, certificate::Claim},
    kubernetes::{
        Cluster,
        offline::{self, Offline},
    },
    process::own_addresses,
    server::{self, ApiServer, Followed},
    telemetry::metrics::Metrics,
    trust::{Upstreams, authorities, revocation},
};
use explanation::{Explanation, Question, Verdict, explain};

/// How long Vault and the cluster may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(asked: &Explain) -> Outcome {
    let config = load(&asked.config)?;
    let certificate = match Certificate::read_file(&asked.cert) {
        Ok(certificate) => certificate,
        Err(error) => {
            let what = format!(
                "{}: {error}\n  --cert wants an OpenSSH certificate, as in id_ed25519-cert.pub",
                asked.cert.display()
            );
            return Err(fail(2, what));
        }
    };
    let destination = match destination(&asked.to) {
        Ok(destination) => destination,
        Err(why) => {
            let what = format!(
                "--to {}: {why}\n  Write HOST:PORT, [ADDRESS]:PORT for IPv6",
                asked.to.escape_debug()
            );
            return Err(fail(2, what));
        }
    };
    let login = asked.login.clone().map_or_else(|| first_user(&config, &certificate), LoginName::new);
    let claim = Claim { login: &login, client: asked.from };
    let wanted = config.kubernetes.clone().unwrap_or_default();
    let offline =
        offline::read(&asked.objects, &asked.namespace, &wanted).map_err(|error| fail(2, &error))?;
    for line in &offline.passed_over {
        let _ = writeln!(std::io::stderr(), "passed over: {line}");
    }
    for line in &offline.unresolved {
        let _ = writeln!(std::io::stderr(), "note: {line}");
    }
    if config.kubernetes.is_some() && asked.objects.is_empty() {
        let _ = writeln!(
            std::io::stderr(),
            "note: the cluster is not asked for its objects; give them with --objects"
        );
    }
    let question = Question { certificate: &certificate, claim, destination };
    let explanation =
        super::run(answer(&config, offline, question)).map_err(|error| fail(error.exit_code(), &error))?;
    let text = if asked.json {
        serde_json::to_string(&explanation).unwrap_or_default()
    } else {
        explanation.to_string()
    };
    print(format_args!("{text}\n"))?;
    Ok(ExitCode::from(match explanation.verdict() {
        Verdict::Permitted { .. } => 0,
        Verdict::CertificateRefused { .. } => 7,
        Verdict::ForwardRefused { .. } => 8,
    }))
}

/// Answers as the bastion would, and explains the decision. Asks Vault for its authorities where the
/// configuration needs it, and takes a cluster's objects from `offline`.
///
/// # Errors
/// When the configuration could not be served either.
async fn answer(
    config: &Config,
    offline: Offline,
    question: Question<'_>,
) -> Result<Explanation, server::Error> {
    let metrics = Arc::new(Metrics::new());
    let vault = server::vault(config)?;
    // The cluster's policies are not awaited: `offline` replaces them.
    let cluster = match config.authorities_need_cluster() {
        true => Some(Cluster::find(server::environment, Arc::clone(&metrics)).await?),
        false => None,
    };
    let upstreams =
        Upstreams { vault: vault.as_ref(), cluster: cluster.as_ref(), metrics, ..Upstreams::default() };
    let mut trusted: Followed<_> =
        authorities::follow(config.authorities.sources(), upstreams.clone())?.into();
    let mut revoked: Followed<_> = revocation::follow(&config.revocation, upstreams)?.into();
    let known = async { tokio::join!(trusted.first(), revoked.first()) };
    let (set, revoked) = timeout(PATIENCE, known).await.map_err(|_| server::Error::NoAuthorities)?;
    let requirements = server::requirements(config, set, revoked);
    let dialler = server::dialler(config, Arc::new(ArcSwap::from_pointee(offline.endpoints)))?;
    let mut api = ApiServer::new(own_addresses::kubernetes_api(server::environment)?);
    api.look(&dialler.resolver).await;
    let policy = server::policy(config, api.known(), Arc::new(offline.objects));
    Ok(explain(question, &requirements, &policy, &dialler, SystemTime::now()).await)
}

/// The login name that the holder of the certificate would most likely use.
fn first_user(config: &Config, certificate: &Certificate) -> LoginName {
    let users = config.login.users();
    let principals = certificate.valid_principals();
    users
        .iter()
        .find(|user| principals.iter().any(|principal| principal == user.as_str()))
        .or(users.first())
        .cloned()
        .unwrap_or_else(|| LoginName::new(""))
}
