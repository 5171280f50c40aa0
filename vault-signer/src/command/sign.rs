//! `vault-signer sign`: for people with a stock ssh.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::json;
use ssh_key::PublicKey;
use vault_signer::{Request, SignError, Signer as _, Vault, list};

use super::{connect, print, read, read_all, tell, unusable};
use crate::{
    cli::{KindName, Sign},
    failure::Failure,
};

/// How long a certificate lives unless told otherwise.
const TTL: Duration = Duration::from_secs(30 * 60);

pub(crate) async fn run(args: Sign) -> Result<(), Failure> {
    let key = public_key(&args.public_key)?;
    let principals = args.principals.iter().flat_map(|names| list(names)).collect();
    let ttl = args.ttl.unwrap_or(TTL);
    let request = match args.kind {
        KindName::User => Request::forwarding(args.role, principals, ttl),
        KindName::Host => Request::host(args.role, principals, ttl),
    };
    let request = if args.ttl.is_none() { request.with_guessed_ttl() } else { request };
    let (server, token) = connect(args.connection).await?;
    let vault = Vault::new(server, token, args.mount);
    let certificate = vault.sign(&key, &request).await?;
    let text = certificate.to_openssh().map_err(SignError::Key)?;
    let end = UNIX_EPOCH + Duration::from_secs(certificate.valid_before());
    if args.json {
        let about = json!({
            "certificate": text,
            "key_id": certificate.key_id(),
            "serial": certificate.serial(),
            "principals": certificate.valid_principals(),
            "valid_before": humantime::format_rfc3339_seconds(end).to_string(),
        });
        return print(&about.to_string());
    }
    print(&text)?;
    let left = end.duration_since(SystemTime::now()).unwrap_or_default().as_secs();
    tell(&format!(
        "Signed for {}, valid for {}",
        certificate.valid_principals().join(", ").escape_debug(),
        humantime::format_duration(Duration::from_secs(left))
    ));
    Ok(())
}

/// One public key, as `ssh-keygen` writes it and people keep it: comments and empty lines beside it are left out.
fn public_key(path: &Path) -> Result<PublicKey, Failure> {
    let text = if path.as_os_str() == "-" { read_all(path, std::io::stdin().lock())? } else { read(path)? };
    if text.contains("PRIVATE KEY") {
        return Err(unusable(
            path,
            "is a private key\n  The public key is in the file of that name with .pub at the end",
        ));
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    match (lines.next().map(PublicKey::from_openssh), lines.next()) {
        (Some(Ok(key)), None) => Ok(key),
        (Some(Ok(_)), Some(_)) => {
            Err(unusable(path, "has more than one key in it, and one is signed at a time"))
        }
        (Some(Err(_)) | None, _) => Err(unusable(path, "is not an OpenSSH public key")),
    }
}
