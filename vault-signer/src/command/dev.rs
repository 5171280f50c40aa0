//! `vault-signer dev`: a stand-in for Vault, loud about being one.

use std::io::IsTerminal as _;

use serde_json::json;
use ssh_key::PublicKey;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use vault_signer::{
    SignError,
    dev::{Authority, HOSTS, Options, USERS, serve},
};

use super::{print, tell};
use crate::{cli::Dev, failure::Failure};

const BANNER: &str = "\
*** DEVELOPMENT ONLY: this is not Vault. Keys live in memory, and the token makes  ***
*** its holder any user. Never let a bastion that matters trust these authorities. ***";

pub(crate) async fn run(args: Dev) -> Result<(), Failure> {
    if !args.listen.ip().is_loopback() && !args.dangerously_listen_anywhere {
        return Err(Failure::Arguments(format!(
            "{} is not a loopback address, and everything here crosses the network in clear\n  Use 127.0.0.1, or say --dangerously-listen-anywhere",
            args.listen
        )));
    }
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let given = args.root_token.filter(|token| !token.is_empty());
    let token = given.unwrap_or_else(|| format!("dev-{:032x}", rand::random::<u128>()));
    let authority = Authority::generate(Options {
        root_token: token.clone().into(),
        principals: args.principals,
        max_ttl: args.max_ttl,
    })
    .map_err(SignError::Key)?;
    let unavailable = |error| {
        Failure::Listen(format!("cannot listen on {}: {error}\n  Choose another with --listen", args.listen))
    };
    // Before anything is said, so that a program that waits for it can end it as soon as it has spoken.
    let stop = stop().map_err(unavailable)?;
    let listener = TcpListener::bind(args.listen).await.map_err(unavailable)?;
    let address = format!("http://{}", listener.local_addr().map_err(unavailable)?);
    let (users, hosts) = (text(authority.users())?, text(authority.hosts())?);

    tell(BANNER);
    if args.json {
        let about = json!({
            "development": true,
            "address": address,
            "root_token": token,
            "user_mount": USERS.0,
            "user_role": USERS.1,
            "user_authority": users,
            "host_mount": HOSTS.0,
            "host_role": HOSTS.1,
            "host_authority": hosts,
        });
        print(&about.to_string())?;
    } else {
        print(&format!(
            "export VAULT_ADDR={address}\nexport VAULT_TOKEN={token}\n\n\
             # signs users, at {}/sign/{}\n{users}\n# signs hosts, at {}/sign/{}\n{hosts}",
            USERS.0, USERS.1, HOSTS.0, HOSTS.1
        ))?;
        tell("Ready. Ctrl-C ends it.");
    }
    serve(listener, authority, stop).await.map_err(unavailable)
}

/// Ctrl-C, or a polite kill.
fn stop() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn text(key: &PublicKey) -> Result<String, Failure> {
    Ok(key.to_openssh().map_err(SignError::Key)?)
}
