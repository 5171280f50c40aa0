//! Builds the command that a user types to sign in again, exactly as it has to be typed.

use std::path::{Path, PathBuf};

/// What the command depends on.
#[derive(Debug, Clone)]
pub(crate) struct SignIn {
    /// `bao` or `vault`.
    pub program: &'static str,
    /// The server's address.
    pub address: String,
    /// Its namespace.
    pub namespace: Option<String>,
    /// The file of authorities that its certificate is verified with.
    pub ca_cert: Option<PathBuf>,
    /// The file that the token is read from, if it is another than the one that the command writes.
    pub token_file: Option<PathBuf>,
}

/// Login methods of the commands whose mounts usually have the same name, and whether they want a user name.
const METHODS: [(&str, bool); 8] = [
    ("userpass", true),
    ("ldap", true),
    ("okta", true),
    ("radius", true),
    ("oidc", false),
    ("github", false),
    ("kerberos", false),
    ("cert", false),
];

impl SignIn {
    /// The command of the two that is installed.
    pub(crate) fn program(path: Option<&str>) -> &'static str {
        let is_there = |name: &str| {
            path.is_some_and(|path| std::env::split_paths(path).any(|folder| folder.join(name).is_file()))
        };
        if !is_there("bao") && is_there("vault") { "vault" } else { "bao" }
    }

    /// The command. `who`: the name that Vault gave to the last token, which tells how it was got, as in `userpass-alice`.
    pub(crate) fn command(&self, who: Option<&str>) -> String {
        let mut words = vec![self.program.to_owned(), "login".to_owned()];
        words.push(flag("address", &self.address));
        words.extend(self.namespace.as_deref().map(|namespace| flag("namespace", namespace)));
        words.extend(self.ca_cert.as_deref().map(|path| flag("ca-cert", &path.to_string_lossy())));
        if let Some((method, name)) = who.and_then(method) {
            words.push(flag("method", method));
            words.extend(name.map(|name| word(&format!("username={name}"))));
        }
        if let Some(file) = &self.token_file {
            words.push(format!("-token-only > {}", word(&Path::to_string_lossy(file))));
        }
        words.join(" ")
    }
}

fn method(who: &str) -> Option<(&'static str, Option<&str>)> {
    METHODS.into_iter().find_map(|(method, wants_name)| {
        let name = who.strip_prefix(method)?.strip_prefix('-')?;
        Some((method, wants_name.then_some(name)))
    })
}

fn flag(name: &str, value: &str) -> String {
    format!("-{name}={}", word(value))
}

/// A word as a shell reads it.
fn word(text: &str) -> String {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':' | '=' | '@' | '+');
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_can_be_typed_as_it_is_told() {
        let plain = SignIn {
            program: "bao",
            address: "https://vault.example.com".into(),
            namespace: None,
            ca_cert: None,
            token_file: None,
        };
        for (who, expected) in [
            (None, "bao login -address=https://vault.example.com"),
            (Some("token"), "bao login -address=https://vault.example.com"),
            (Some("token-alice"), "bao login -address=https://vault.example.com"),
            (Some("oidc-me@example.com"), "bao login -address=https://vault.example.com -method=oidc"),
            (
                Some("userpass-alice"),
                "bao login -address=https://vault.example.com -method=userpass username=alice",
            ),
            (
                Some("ldap-it's me"),
                "bao login -address=https://vault.example.com -method=ldap 'username=it'\\''s me'",
            ),
        ] {
            assert_eq!(plain.command(who), expected);
        }
        let full = SignIn {
            program: "vault",
            namespace: Some("team one".into()),
            ca_cert: Some("/etc/ca.pem".into()),
            token_file: Some("/run/token".into()),
            ..plain
        };
        assert_eq!(
            full.command(None),
            "vault login -address=https://vault.example.com -namespace='team one' -ca-cert=/etc/ca.pem \
             -token-only > /run/token"
        );
    }

    #[test]
    fn the_command_that_is_installed_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str();
        assert_eq!(SignIn::program(path), "bao");
        std::fs::write(folder.path().join("vault"), "").unwrap();
        assert_eq!(SignIn::program(path), "vault");
        std::fs::write(folder.path().join("bao"), "").unwrap();
        assert_eq!(SignIn::program(path), "bao");
    }
}
