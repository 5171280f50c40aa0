//! Credentials from a program that the kubeconfig names, such as `aws eks get-token`.
//!
//! kube can run it too, but runs it three times for one request, holds up its thread meanwhile, and repeats in errors
//! what it printed, which is a secret.

use std::{io::IsTerminal, process::Stdio};

use base64::{Engine, prelude::BASE64_STANDARD};
use kube::config::{AuthInfo, ExecConfig, ExecInteractiveMode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::{io::AsyncReadExt, process::Command};
use zeroize::Zeroizing;

use crate::failure::{Failure, Stage};

/// The longest answer that is read, in bytes.
const LONGEST: u64 = 256 * 1024;

/// Runs the plugin, if this user has one and nothing that goes before it, and puts in its place what it gave.
pub(super) async fn log_in(user: &mut AuthInfo, context: &str) -> Result<(), Failure> {
    if user.token.is_some() || user.token_file.is_some() || user.auth_provider.is_some() {
        return Ok(());
    }
    let Some(exec) = user.exec.take() else { return Ok(()) };
    let given = run(&exec, context).await?;
    user.token = given.token;
    if let (Some(certificate), Some(key)) = (given.client_certificate_data, given.client_key_data) {
        user.client_certificate_data = Some(BASE64_STANDARD.encode(certificate));
        user.client_key_data = Some(BASE64_STANDARD.encode(key.expose_secret()).into());
    }
    Ok(())
}

async fn run(exec: &ExecConfig, context: &str) -> Result<Credentials, Failure> {
    let program = exec.command.as_deref().unwrap_or_default();
    let advice = format!(
        "The kubeconfig's context {context} logs in with it. Does `kubectl --context {context} version` work?"
    );
    let failed = |what: String| Failure::permanent(Stage::Configuration, what).advise(&advice);
    let person = std::io::stdin().is_terminal();
    let interactive = match exec.interactive_mode {
        Some(ExecInteractiveMode::Never) => false,
        Some(ExecInteractiveMode::IfAvailable) | None => person,
        Some(ExecInteractiveMode::Always) if !person => {
            return Err(failed(format!("`{program}` wants to ask you something, and there is no terminal")));
        }
        Some(ExecInteractiveMode::Always) => true,
    };
    let asked = serde_json::json!({
        "apiVersion": exec.api_version,
        "kind": "ExecCredential",
        "spec": { "interactive": interactive, "cluster": exec.cluster },
    });
    let variables =
        exec.env.iter().flatten().filter_map(|pair| Some((pair.get("name")?, pair.get("value")?)));
    let mut child = Command::new(program)
        .args(exec.args.iter().flatten())
        .envs(variables)
        .env("KUBERNETES_EXEC_INFO", asked.to_string())
        .stdin(if interactive { Stdio::inherit() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            let failure = failed(format!("`{program}` cannot be run: {error}"));
            match &exec.install_hint {
                Some(hint) => failure.advise(hint),
                None => failure,
            }
        })?;
    let mut printed = Zeroizing::new(Vec::new());
    if let Some(out) = child.stdout.take() {
        let read = out.take(LONGEST).read_to_end(&mut printed).await;
        read.map_err(|error| failed(format!("`{program}` cannot be heard: {error}")))?;
    }
    let status = child.wait().await.map_err(|error| failed(format!("`{program}` was lost: {error}")))?;
    if !status.success() {
        // It may have asked a server that is not reached either.
        let what = format!("`{program}` gave no credentials for Kubernetes: {status}");
        return Err(Failure::transient(Stage::Configuration, what).advise(&advice));
    }
    let printed: Option<Printed> = serde_json::from_slice(&printed).ok();
    let given = printed.and_then(|printed| printed.status);
    given
        .filter(|given| given.token.is_some() || given.client_key_data.is_some())
        .ok_or_else(|| failed(format!("`{program}` printed no credentials for Kubernetes")))
}

/// What a plugin prints: `ExecCredential` of client.authentication.k8s.io.
#[derive(Deserialize)]
struct Printed {
    status: Option<Credentials>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Credentials {
    token: Option<SecretString>,
    client_certificate_data: Option<String>,
    client_key_data: Option<SecretString>,
}
