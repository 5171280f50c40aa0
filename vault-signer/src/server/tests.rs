//! Tries the settings of a server, from people and from their environment.

use super::*;

fn variables<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    |name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

fn from(set: &[(&str, &str)]) -> Settings {
    Settings::default().or_environment(variables(set)).unwrap()
}

#[test]
fn the_environment_means_what_it_means_to_the_command() {
    let vault = [("VAULT_ADDR", "a"), ("VAULT_NAMESPACE", "b"), ("VAULT_CACERT", "c")];
    let expected = Settings {
        address: Some("a".into()),
        namespace: Some("b".into()),
        ca: Some(Ca::File("c".into())),
        ..Settings::default()
    };
    assert_eq!(from(&vault), expected);
    assert_eq!(from(&[("VAULT_ADDR", "a"), ("BAO_ADDR", "b")]).address.as_deref(), Some("b"));
    assert_eq!(from(&[("VAULT_ADDR", "a"), ("BAO_ADDR", "")]).address, None);
    assert_eq!(from(&[]), Settings::default());
    let flag = Settings { address: Some("flag".into()), ..Settings::default() };
    assert_eq!(flag.or_environment(variables(&vault)).unwrap().address.as_deref(), Some("flag"));
}

#[test]
fn a_wish_not_to_verify_is_refused_and_names_what_to_do() {
    for name in ["VAULT_SKIP_VERIFY", "BAO_SKIP_VERIFY"] {
        for value in ["1", "true", "t", "yes"] {
            let error = Settings::default().or_environment(variables(&[(name, value)])).unwrap_err();
            assert!(error.to_string().contains("VAULT_CACERT"), "{error}");
        }
        for value in ["", "0", "false"] {
            assert_eq!(from(&[(name, value)]), Settings::default());
        }
    }
}

fn server(address: &str) -> Result<Server, SettingsError> {
    Server::new(&Settings { address: Some(address.to_owned()), ..Settings::default() })
}

#[test]
fn an_address_is_a_url_with_a_host_and_nothing_secret() {
    for (address, name) in [
        ("https://vault.example.com", "vault.example.com"),
        ("https://vault.example.com:8200/", "vault.example.com:8200"),
        ("http://[::1]:8200", "[::1]:8200"),
        ("https://example.com/vault", "example.com"),
    ] {
        assert_eq!(server(address).unwrap().name(), name);
    }
    for address in [
        "",
        "vault.example.com",
        "vault.example.com:8200",
        "ftp://x",
        "unix:///run/vault.sock",
        "https://",
        "https://x?y",
        "https://x#y",
        "https://\u{1b}[2J",
    ] {
        let error = server(address).unwrap_err();
        assert!(matches!(error, SettingsError::Address { .. }), "{address}: {error:?}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
    let error = server("https://me:canary@vault.example.com").unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    assert!(matches!(Server::new(&Settings::default()), Err(SettingsError::NoAddress)));
}

#[test]
fn a_bundle_that_cannot_be_trusted_is_refused_without_showing_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let large = vec![b'a'; 2 * 1024 * 1024];
    let pem = "-----BEGIN CERTIFICATE-----\nY2FuYXJ5\n-----END CERTIFICATE-----\n";
    for (path, reason) in [
        (folder.path().join("missing"), "cannot be read"),
        (folder.path().to_owned(), "not a regular file"),
        (file("empty", b""), "no certificate"),
        (file("text", b"canary"), "no certificate"),
        (file("large", &large), "larger than 1 MiB"),
        (file("key", b"-----BEGIN EC PRIVATE KEY-----\ncanary\n"), "private key"),
        (file("both", format!("{pem}-----BEGIN PRIVATE KEY-----\n").as_bytes()), "private key"),
    ] {
        let settings = Settings {
            address: Some("https://vault.example.com".into()),
            ca: Some(Ca::File(path.clone())),
            ..Settings::default()
        };
        let error = Server::new(&settings).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(path.to_str().unwrap()), "{error}");
        assert!(!error.contains("canary") && !error.contains("Y2FuYXJ5"), "{error}");
    }
    for text in ["", "canary", "-----BEGIN PRIVATE KEY-----\ncanary\n"] {
        let settings = Settings {
            address: Some("https://vault.example.com".into()),
            ca: Some(Ca::Text(text.into())),
            ..Settings::default()
        };
        let error = Server::new(&settings).unwrap_err();
        assert!(
            matches!(error, SettingsError::CaText { .. }) && !format!("{error:?}").contains("canary"),
            "{error}"
        );
    }
}

#[test]
fn what_may_be_secret_in_an_address_is_never_shown() {
    for address in [
        "https://me:canary@vault.example.com:8200/path",
        "https://canary@vault.example.com",
        "https://vault.example.com?token=canary",
        "https://vault.example.com/#canary",
        "vault.example.com:8200?token=canary",
        "https://me:can/canary@vault.example.com",
        "https://me:12?canary@vault.example.com",
        "https://me:12/canary@vault.example.com",
        "https://me:1#canary@vault.example.com",
        "me:canary@vault.example.com",
        "ftp://me:canary@vault.example.com",
        "http://me:canary@192.0.2.1:8200",
        "unix://me:canary@run/vault.sock?token=canary",
    ] {
        let error = server(address).unwrap_err();
        let told = format!("{error} {error:?} {}", without_secrets(address));
        assert!(!told.contains("canary"), "{told}");
    }
    for (address, shown) in [
        ("https://vault.example.com:8200", "https://vault.example.com:8200"),
        ("https://vault.example.com/", "https://vault.example.com/"),
        ("https://vault.example.com/behind/", "https://vault.example.com/behind/"),
        ("https://me:x@vault.example.com:8200", "https://…@vault.example.com:8200"),
        ("https://vault.example.com?x", "https://vault.example.com?…"),
        ("vault.example.com", "vault.example.com"),
        ("https://me:a/b@c", "https://…"),
        ("a\u{1b}b", "a\\u{1b}b"),
    ] {
        assert_eq!(without_secrets(address), shown, "{address}");
    }
}

#[test]
fn plain_http_stays_on_this_computer_unless_the_danger_is_accepted() {
    for (address, stays) in [
        ("http://127.0.0.1:8200", true),
        ("http://127.9.9.9:8200", true),
        ("http://localhost:8200", true),
        ("http://[::1]:8200", true),
        ("http://[::ffff:127.0.0.1]:8200", true),
        ("http://2130706433:8200", true),
        ("http://0.0.0.0:8200", false),
        ("http://10.0.0.1:8200", false),
        ("http://vault:8200", false),
        ("http://localhost.example.com:8200", false),
        ("http://127.0.0.1.example.com:8200", false),
        ("HTTP://vault.example.com", false),
        ("https://vault.example.com", true),
    ] {
        let settings = |accepted| Settings {
            address: Some(address.to_owned()),
            dangerously_allow_plain_http: accepted,
            ..Settings::default()
        };
        match Server::new(&settings(false)) {
            Ok(_) => assert!(stays, "{address}"),
            Err(SettingsError::PlainHttp { .. }) => assert!(!stays, "{address}"),
            Err(error) => panic!("{address}: {error}"),
        }
        assert!(Server::new(&settings(true)).is_ok(), "{address}");
    }
}

#[test]
fn every_variable_of_the_commands_is_obeyed_or_named() {
    for (name, treatment) in VARIABLES {
        for prefix in ["BAO_", "VAULT_"] {
            let name = format!("{prefix}{name}");
            let set = [(name.as_str(), "canary")];
            let told = not_obeyed(variables(&set)).join(" ");
            let obeyed = matches!(Settings::default().or_environment(variables(&set)), Ok(ref got) if *got == Settings::default());
            match treatment {
                // A token is found elsewhere; one half of a client certificate is an error.
                Treatment::Obeyed => {
                    assert!(told.is_empty(), "{told}");
                    assert!(!obeyed || name.contains("TOKEN"), "{name}");
                }
                Treatment::Refused => assert!(Settings::default().or_environment(variables(&set)).is_err()),
                Treatment::NotObeyed(_) => {
                    assert!(told.contains(&name) && !told.contains("canary"), "{told}")
                }
                Treatment::NoMatter => assert!(told.is_empty() && obeyed, "{told}"),
            }
        }
    }
}
