//! Puts together what both programs need: the settings of every source, what reaches the bastion, what gets certificates.

use std::sync::Arc;

use plain_text::rough;
use vault_signer::{Request, Server, server::not_obeyed};

use crate::{
    cli::Flags,
    config::{Kube, PartialSettings, Settings, Source, Sourced, load, published},
    credential::Credentials,
    endpoint::Endpoint,
    failure::{Failure, Retry, Stage, missing},
    kubernetes, login,
    output::{Event, Output},
    tunnel::Dialler,
};

pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

pub(super) async fn settings_of(flags: &Flags, output: &Output) -> Result<Settings, Failure> {
    let here = std::env::current_dir().map_err(|error| {
        Failure::permanent(Stage::Configuration, format!("the working directory cannot be used: {error}"))
    })?;
    let said_file = || variable("PF_TUNNEL_CONFIG").filter(|path| !path.is_empty()).map(Into::into);
    let named = flags.config().map(ToOwned::to_owned).or_else(said_file);
    let said = load(flags.settings(variable)?, named.as_deref(), &here, variable)?;
    let (settings, notes) = with_published(said, output).await?.resolve();
    for note in notes.iter().chain(&not_obeyed(variable)) {
        output.say(&Event::Warning(note));
    }
    Ok(settings)
}

/// Adds what the cluster publishes, if one is to be asked.
async fn with_published(mut said: PartialSettings, output: &Output) -> Result<PartialSettings, Failure> {
    let Some(kube) = &mut said.kube else { return Ok(said) };
    let (object, chosen_by) = (kube.clone().resolve().object_ref(), kube.chosen_by);
    let found = kubernetes::read(&object, variable).await?;
    kube.context.get_or_insert_with(|| Sourced::new(found.context.clone(), Source::CurrentContext));
    let bastion = said.bastion.as_ref().map(|bastion| bastion.value.as_slice());
    let mut origin = object.described(&found.context);
    if let Some((age, failure)) = &found.stale {
        let age = format!("{} ago", rough(*age));
        origin = format!("{origin}, as it was {age}");
        output.say(&Event::Warning(&format!("{}; what it published {age} holds", failure.what())));
    }
    let published = published::read(&found.data, &origin, chosen_by, bastion)?;
    for note in &published.notes {
        output.say(&Event::Note(note));
    }
    Ok(said.over(published.layer))
}

pub(super) fn dialler(settings: &Settings, output: &Arc<Output>) -> Result<Dialler, Failure> {
    let bastion = settings.bastion.as_ref().ok_or_else(|| match &settings.kube {
        Some(kube) => missing(
            &format!("the cluster publishes no address of its bastion: {}", described(kube)),
            "Its Service may have no address outside the cluster yet. The operator of the chart sets \
             `service.hostnames`; until then: --bastion bastion.example.com",
        ),
        None => missing(
            "no bastion is configured",
            "Write bastion.address into pf-tunnel.yaml, or: --bastion bastion.example.com",
        ),
    })?;
    let trust = settings.trust.as_ref().ok_or_else(|| match &settings.kube {
        Some(kube) => missing(
            &format!("the cluster does not say how {} proves who it is: {}", listed(&bastion.value), described(kube)),
            "The bastion adds `known_hosts` to it when it starts, for the names that it was told. Is it running, and is \
             this address one of them?",
        ),
        None => missing(
            "nothing says how the bastion proves who it is",
            "Write bastion.host_authority (the public key that signs its host certificate) into pf-tunnel.yaml, or \
             bastion.host_key. Without it no host is trusted: this program does not ask whether a key looks right.",
        ),
    })?;
    Ok(Dialler::new(
        bastion.value.clone(),
        trust.value.clone(),
        trust.source.to_string(),
        settings.user.value.clone(),
        Arc::clone(output),
    ))
}

pub(super) fn credentials(settings: &Settings, output: &Arc<Output>) -> Result<Credentials, Failure> {
    if settings.address.is_none() {
        let cure = "Set VAULT_ADDR, or write vault.address into pf-tunnel.yaml, for example https://vault.example.com:8200";
        return Err(missing("no address of Vault or OpenBao is configured", cure));
    }
    let plain = |value: &Option<Sourced<String>>| value.as_ref().map(|sourced| sourced.value.clone());
    let server = vault_signer::Settings {
        address: plain(&settings.address),
        namespace: plain(&settings.namespace),
        ca: settings.ca.as_ref().map(|sourced| sourced.value.clone()),
        dangerously_allow_plain_http: settings.dangerously_allow_plain_http.value,
        ..vault_signer::Settings::default()
    }
    .or_environment(variable)
    .and_then(|settings| Server::new(&settings))
    .map_err(|error| Failure::hinted(Stage::Configuration, &error, Retry::Never))?;
    let (role, principals) = (settings.role.value.clone(), settings.principals.value.clone());
    let request = Request::forwarding(role, principals, settings.ttl.value.duration());
    let is_default = settings.ttl.source == Source::Default;
    let request = if is_default { request.with_guessed_ttl() } else { request };
    let key_type = settings.key_type.value;
    let login = login::of(settings, variable)?;
    let sign_in = login::sign_in(settings, &server, variable);
    let mount = settings.mount.value.clone();
    Ok(Credentials::new(server, login, mount, request, key_type, sign_in, Arc::clone(output)))
}

/// The object of what was published, with the context that was used.
fn described(kube: &Kube) -> String {
    let context = kube.context.as_ref().map(|context| context.value.as_str()).unwrap_or_default();
    kube.object_ref().described(context)
}

fn listed(bastions: &[Endpoint]) -> String {
    bastions.iter().map(Endpoint::to_string).collect::<Vec<_>>().join(", ")
}
