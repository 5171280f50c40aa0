//! `vault-signer bootstrap`: sets a server up, and says what it did.

use std::time::Duration;

use serde_json::{Value, json};
use ssh_key::PublicKey;
use vault_signer::{
    SignError,
    bootstrap::{Kubernetes, Outcome, Report, Step, Wanted, run as set_up},
};

use super::{connect, print, read, secret, tell};
use crate::{
    cli::{Bootstrap, KubernetesLogin},
    failure::Failure,
};

pub(crate) async fn run(args: Bootstrap) -> Result<(), Failure> {
    if args.ttl > args.max_ttl || args.host_ttl > args.host_max_ttl {
        return Err(Failure::Arguments("a ttl is longer than its max-ttl".to_owned()));
    }
    let kubernetes = if args.kubernetes.kubernetes { Some(login_of_pods(args.kubernetes)?) } else { None };
    let (server, token) = connect(args.connection).await?;
    let wanted = Wanted {
        mount: args.mount,
        role: args.role,
        policy: args.policy,
        principals: args.principals,
        ttl: args.ttl,
        max_ttl: args.max_ttl,
        host_mount: args.host_mount,
        host_role: args.host_role,
        host_policy: args.host_policy,
        domains: args.domains,
        host_ttl: args.host_ttl,
        host_max_ttl: args.host_max_ttl,
        kubernetes,
    };
    let report = set_up(&server, &token, &wanted, args.dry_run).await?;
    if args.json {
        return print(&object(&report, args.dry_run)?.to_string());
    }
    let steps: Vec<String> = report.steps.iter().map(Step::to_string).collect();
    print(&steps.join("\n"))?;
    tell(&next(&report, &wanted, server.address(), args.dry_run)?);
    Ok(())
}

/// How long Vault's token lives when a pod has logged in: it is used immediately, and not kept.
const POD_TTL: Duration = Duration::from_secs(5 * 60);

fn login_of_pods(args: KubernetesLogin) -> Result<Kubernetes, Failure> {
    let ca_cert = args.kubernetes_ca_cert.as_deref().map(read).transpose()?;
    if ca_cert.as_ref().is_some_and(|text| text.contains("PRIVATE KEY")) {
        return Err(Failure::Arguments("--kubernetes-ca-cert names a file with a private key".to_owned()));
    }
    Ok(Kubernetes {
        mount: args.kubernetes_mount,
        host: args.kubernetes_host,
        ca_cert: ca_cert.map(|text| text.trim().to_owned()),
        reviewer: args.token_reviewer_jwt_file.as_deref().map(secret).transpose()?,
        role: args.kubernetes_role,
        service_account: args.service_account,
        namespace: args.kubernetes_namespace,
        audience: args.kubernetes_audience,
        ttl: POD_TTL,
    })
}

fn text(key: Option<&PublicKey>) -> Result<Option<String>, Failure> {
    Ok(key.map(PublicKey::to_openssh).transpose().map_err(SignError::Key)?)
}

fn object(report: &Report, dry_run: bool) -> Result<Value, Failure> {
    let steps: Vec<Value> = report.steps.iter().map(step).collect();
    Ok(json!({
        "dry_run": dry_run,
        "changed": report.changed(),
        "steps": steps,
        "user_authority": text(report.users.as_ref())?,
        "host_authority": text(report.hosts.as_ref())?,
    }))
}

fn step(step: &Step) -> Value {
    match &step.outcome {
        Outcome::Created => json!({ "what": step.what, "outcome": "created" }),
        Outcome::Unchanged => json!({ "what": step.what, "outcome": "unchanged" }),
        Outcome::Kept(why) => json!({ "what": step.what, "outcome": "kept", "why": why }),
        Outcome::Changed(changes) => {
            let changes: Vec<Value> = changes
                .iter()
                .map(|change| json!({ "field": change.field, "from": change.from, "to": change.to }))
                .collect();
            json!({ "what": step.what, "outcome": "changed", "changes": changes })
        }
    }
}

fn next(report: &Report, wanted: &Wanted, address: &str, dry_run: bool) -> Result<String, Failure> {
    if dry_run {
        return Ok("\nNothing was written. Run it again without --dry-run to do this.".to_owned());
    }
    let (users, hosts) = (text(report.users.as_ref())?, text(report.hosts.as_ref())?);
    let to_the_bastion = match &wanted.kubernetes {
        None => format!(", and `{}` to the bastion", wanted.host_policy),
        Some(Kubernetes { namespace, service_account, .. }) => {
            format!(". ServiceAccount {namespace}/{service_account} has `{}`", wanted.host_policy)
        }
    };
    let login = match &wanted.kubernetes {
        None => String::new(),
        Some(Kubernetes { mount, role, audience, .. }) => format!(
            "
      vault:
        address: {address:?}
        auth: {{method: kubernetes, role: {role}, mount: {mount}, token_file: /var/run/secrets/vault/token}}
    with a projected token of the audience `{audience}` at that path."
        ),
    };
    Ok(format!(
        "
What is next:
  - Give the policy `{policy}` to the people who use tunnels{to_the_bastion}.
  - In bastion.yaml:
      host_key: {{vault: {{mount: {host_mount}, role: {host_role}}}}}
      authorities:
        - vault: {{mount: {mount}}}          # or key: {users}{login}
  - In pf-tunnel.yaml:
      bastion: {{host_authority: {hosts}}}
      vault: {{address: {address:?}, mount: {mount}, role: {role}}}",
        policy = wanted.policy,
        host_mount = wanted.host_mount,
        host_role = wanted.host_role,
        mount = wanted.mount,
        role = wanted.role,
        users = users.unwrap_or_default(),
        hosts = hosts.unwrap_or_default(),
    ))
}
