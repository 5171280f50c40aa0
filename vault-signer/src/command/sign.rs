//! `vault-signer sign`: for people with a stock ssh.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use ssh_key::PublicKey;
use vault_signer::{Request, SignError, Signer as _, Vault};

use super::{connect, print, read, tell, unusable};
use crate::cli::{KindName, Sign};
use crate::failure::Failure;

pub(crate) async fn run(args: Sign) -> Result<(), Failure> {
    let key = public_key(&args.public_key)?;
    let request = match args.kind {
        KindName::User => Request::forwarding(args.role, args.principals, args.ttl),
        KindName::Host => Request::host(args.role, args.principals, args.ttl),
    };
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

fn public_key(path: &Path) -> Result<PublicKey, Failure> {
    let text = read(path)?;
    if text.contains("PRIVATE KEY") {
        return Err(unusable(
            path,
            "is a private key\n  The public key is in the file of that name with .pub at the end",
        ));
    }
    PublicKey::from_openssh(text.trim()).map_err(|_| unusable(path, "is not an OpenSSH public key"))
}
