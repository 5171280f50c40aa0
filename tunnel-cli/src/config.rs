//! Lays flags over the environment, over the user's file, over the project's, over what a cluster publishes, and remembers
//! where each value came from.
//!
//! A new setting is added in these places; the compiler names those that were forgotten:
//! 1. `file.rs`: its key, its type and its description, of which the schema and `docs/configuration-client.md` are made;
//! 2. `partial.rs`: a field, and how a file and a variable give it; `published.rs`, if a cluster may publish it;
//! 3. `settings.rs`: the resolved field, its default, and its line of `pf-tunnel config`;
//! 4. `cli.rs`: its flag, if it has one.

mod file;
mod origin;
mod partial;
pub(crate) mod published;
pub(crate) mod schema;
mod settings;
mod source;

pub(crate) use file::{Database, DatabaseKind};
pub(crate) use partial::{PartialAuth, PartialKube, PartialSettings, at_home, home, path_at_home};
pub(crate) use settings::{Kube, Row, Settings};
pub(crate) use source::{Party, Source, Sourced};

use std::path::Path;

use crate::{
    endpoint::{BadEndpoint, Endpoint},
    failure::Failure,
};
use file::File;

/// The name of a project's file.
pub(crate) const PROJECT_FILE: &str = "pf-tunnel.yaml";

/// What is said here, in order: `flags` beat the environment, which beats the files. What a cluster publishes and the
/// defaults are not yet in it.
///
/// # Errors
/// When a file or a variable holds what cannot be used.
pub(crate) fn load(
    flags: PartialSettings,
    explicit: Option<&Path>,
    working_directory: &Path,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<PartialSettings, Failure> {
    let mut settings = flags.over(PartialSettings::from_environment(&variable)?);
    for (origin, opened) in origin::find(explicit, working_directory, &variable)? {
        let file: File = opened.parse()?;
        settings = settings.over(PartialSettings::from_file(file, &origin, &variable)?);
    }
    Ok(settings)
}

/// Reads one file with settings, and nothing else.
///
/// # Errors
/// What is wrong with it, and where.
pub fn check_file(path: &Path) -> Result<(), String> {
    let read = load(PartialSettings::default(), Some(path), Path::new(""), |_| None);
    read.map(drop).map_err(|failure| failure.to_string())
}

/// Bastions, each `host` or `host:port`, with commas between them.
///
/// # Errors
/// When one is neither.
pub(crate) fn bastions(text: &str) -> Result<Vec<Endpoint>, BadEndpoint> {
    let all: Vec<_> = vault_signer::list(text)
        .map(|one| one.parse().map(|file::BastionAddress(endpoint)| endpoint))
        .collect::<Result<_, _>>()?;
    if all.is_empty() { Err(BadEndpoint::NoHost) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::failure::Stage;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn load_in(
        folder: &Path,
        variables: &[(&str, &str)],
        flags: PartialSettings,
    ) -> Result<(Settings, Vec<String>), Failure> {
        let variables: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        load(flags, None, folder, |name| {
            variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        })
        .map(PartialSettings::resolve)
    }

    fn row(settings: &Settings, name: &str) -> (String, String) {
        let row = settings.rows().into_iter().find(|row| row.name == name).unwrap();
        (row.value, row.source)
    }

    #[test]
    fn each_layer_beats_the_one_below_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("code/src/deep");
        fs::create_dir_all(&deep).unwrap();
        let project = folder.path().join("code").join(PROJECT_FILE);
        fs::write(
            &project,
            "bastion:\n  address: project.example.com\n  user: project\n  host_authority: KEY\nvault:\n  role: project\n  mount: project\n  address: https://project\n"
                .replace("KEY", KEY),
        )
        .unwrap();
        let home = folder.path().join("home");
        fs::create_dir_all(home.join(".config/pf-tunnel")).unwrap();
        let user = home.join(".config/pf-tunnel/config.yaml");
        fs::write(&user, "vault:\n  role: user\n  mount: user\n  address: https://user\n").unwrap();

        let flags = PartialSettings {
            mount: Some(Sourced::new("flag".into(), Source::Flag("--mount"))),
            ..PartialSettings::default()
        };
        let home = home.display().to_string();
        let variables = [("HOME", home.as_str()), ("VAULT_ADDR", "https://environment")];
        let settings = load_in(&deep, &variables, flags).unwrap().0;

        let project = project.display();
        for (name, value, source) in [
            ("bastion.address", "project.example.com:22", format!("{project}:2")),
            ("bastion.user", "project", format!("{project}:3")),
            ("vault.role", "user", format!("{}:2", user.display())),
            ("vault.address", "https://environment", "VAULT_ADDR".to_owned()),
            ("vault.mount", "flag", "--mount".to_owned()),
            ("vault.ttl", "1h", "default".to_owned()),
            ("vault.namespace", "not set", String::new()),
        ] {
            assert_eq!(row(&settings, name), (value.to_owned(), source), "{name}");
        }
        assert!(row(&settings, "bastion.host_authority").0.starts_with("SHA256:"));
    }

    /// What a project's file says about trust counts for its own addresses, and not for those of the person.
    #[test]
    fn an_address_and_what_vouches_for_it_come_from_one_source() {
        let folder = tempfile::tempdir().unwrap();
        let project = "bastion: {address: project, host_authority: KEY}\nvault: {address: 'https://project', ca_cert: ca.pem, dangerously_allow_plain_http: true}\n";
        let user = folder.path().join("home/.config/pf-tunnel");
        fs::create_dir_all(&user).unwrap();
        let home = folder.path().join("home").display().to_string();
        let bastion = || PartialSettings {
            bastion: Some(Sourced::new(bastions("mine").unwrap(), Source::Flag("--bastion"))),
            ..PartialSettings::default()
        };
        let nothing = ["vault.ca_cert", "vault.dangerously_allow_plain_http", "bastion.host_authority"];
        for (users_file, variables, flags, left_out) in [
            ("", &[][..], PartialSettings::default(), &[][..]),
            ("", &[("VAULT_ADDR", "https://mine")], PartialSettings::default(), &nothing[..2]),
            ("vault: {address: 'https://mine'}\n", &[], PartialSettings::default(), &nothing[..2]),
            ("", &[], bastion(), &nothing[2..]),
            ("", &[("VAULT_ADDR", "https://mine")], bastion(), &nothing),
            (
                "",
                &[("VAULT_ADDR", "https://mine"), ("VAULT_CACERT", "/mine")],
                PartialSettings::default(),
                &nothing[1..2],
            ),
            ("", &[("VAULT_CACERT", "/mine")], PartialSettings::default(), &[]),
            (
                "vault: {ca_cert: mine}\n",
                &[("VAULT_ADDR", "https://mine")],
                PartialSettings::default(),
                &nothing[1..2],
            ),
        ] {
            fs::write(folder.path().join(PROJECT_FILE), project.replace("KEY", KEY)).unwrap();
            let users = user.join("config.yaml");
            if users_file.is_empty() {
                _ = fs::remove_file(&users)
            } else {
                fs::write(&users, users_file).unwrap()
            }
            let variables = [variables, &[("HOME", home.as_str())]].concat();
            let (settings, notes) = load_in(folder.path(), &variables, flags).unwrap();
            for setting in nothing {
                let noted = notes.iter().any(|note| note.starts_with(setting));
                assert_eq!(
                    noted,
                    left_out.contains(&setting),
                    "{setting} {variables:?} {users_file} {notes:?}"
                );
                let project_says = settings
                    .rows()
                    .into_iter()
                    .any(|row| row.name == setting && row.source.contains(PROJECT_FILE));
                assert!(!(noted && project_says), "{setting}");
            }
        }
    }

    #[test]
    fn a_list_is_split_and_trimmed_and_what_is_empty_is_not_set() {
        let folder = tempfile::tempdir().unwrap();
        for list in ["a,b", "a, b", " a ,, b "] {
            fs::write(
                folder.path().join(PROJECT_FILE),
                format!("bastion: {{address: {list:?}}}\nvault: {{principals: {list:?}}}\n"),
            )
            .unwrap();
            let file = load_in(folder.path(), &[], PartialSettings::default()).unwrap().0;
            let said = [("PF_TUNNEL_BASTION", list), ("PF_TUNNEL_PRINCIPALS", list), ("PF_TUNNEL_ROLE", "")];
            let environment = load_in(Path::new("/"), &said, PartialSettings::default()).unwrap().0;
            for settings in [file, environment] {
                assert_eq!(row(&settings, "bastion.address").0, "a:22, b:22", "{list}");
                assert_eq!(row(&settings, "vault.principals").0, "a, b", "{list}");
                assert_eq!(row(&settings, "vault.role").1, "default");
            }
        }
    }

    #[test]
    fn a_path_may_begin_at_home() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        fs::create_dir(&home).unwrap();
        fs::write(home.join("ca.pub"), format!("# ours\n@cert-authority *.example.com {KEY}\n")).unwrap();
        fs::write(
            folder.path().join(PROJECT_FILE),
            "bastion: {host_authority: ~/ca.pub}\nvault: {ca_cert: ~/vault.pem}\n",
        )
        .unwrap();
        let home = home.display().to_string();
        for variables in [&[][..], &[("PF_TUNNEL_HOST_AUTHORITY", "~/ca.pub")]] {
            let variables = [&[("HOME", home.as_str())], variables].concat();
            let settings = load_in(folder.path(), &variables, PartialSettings::default()).unwrap().0;
            assert!(row(&settings, "bastion.host_authority").0.starts_with("SHA256:"));
            assert_eq!(row(&settings, "vault.ca_cert").0, format!("{home}/vault.pem"));
        }
    }

    #[test]
    fn xdg_config_home_is_where_the_users_file_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("pf-tunnel")).unwrap();
        fs::write(folder.path().join("pf-tunnel/config.yaml"), "hold: 5s\n").unwrap();
        let path = folder.path().display().to_string();
        let settings =
            load_in(Path::new("/"), &[("XDG_CONFIG_HOME", &path)], PartialSettings::default()).unwrap().0;
        assert_eq!(row(&settings, "hold").0, "5s");
    }

    #[test]
    fn mistakes_have_their_place_and_no_value_is_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(PROJECT_FILE);
        fs::write(folder.path().join("secret"), "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n").unwrap();
        for (text, place, words) in [
            ("", "", "the file is empty"),
            ("bastion:\n  adress: x\n", ":2:3", "Did you mean `address`?"),
            ("bastion:\n  address: hunter2:99999\n", ":2:12", "not a number from 1 to 65535"),
            ("bastion:\n  address: [a, hunter2@b]\n", ":2", "--user"),
            ("bastion:\n  host_authority: ssh-ed25519 hunter2\n", ":2:19", "not a public key"),
            ("bastion:\n  host_authority: secret\n", ":2:19", "private key"),
            ("bastion:\n  host_authority: none-such\n", ":2:19", "cannot be read"),
            (
                "bastion:\n  host_authority: KEY\n  host_key: KEY\n",
                ":3",
                "only one of host_authority and host_key",
            ),
            ("vault:\n  ttl: hunter2\n", ":2:8", "such as 30s or 1h"),
            ("vault:\n  ttl: 0s\n", ":2:8", "such as 30s or 1h"),
            ("vault:\n  auth: {method: hunter2}\n", ":2", "`approle`"),
            ("vault:\n  auth:\n    token_file: hunter2\n", ":3", "the user's own file"),
            ("vault:\n  auth:\n    password: hunter2\n", ":3", "not a key here"),
            ("databases:\n  o: {kind: oracle}\n", ":2", "`postgres`"),
            (
                "databases:\n  o: {kind: postgres, host: hunter2@x, port: 1, database: o, roles: {}}\n",
                ":2",
                "--user",
            ),
        ] {
            fs::write(&path, text.replace("KEY", KEY)).unwrap();
            let error = load_in(folder.path(), &[], PartialSettings::default()).unwrap_err();
            assert_eq!(error.stage(), Stage::Configuration);
            let error = error.to_string();
            assert!(error.starts_with(&format!("{}{place}", path.display())), "{error}");
            assert!(error.contains(words), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_bad_variable_is_named() {
        let error =
            load_in(Path::new("/"), &[("PF_TUNNEL_TTL", "soon")], PartialSettings::default()).unwrap_err();
        assert!(error.to_string().starts_with("PF_TUNNEL_TTL: "), "{error}");
    }
}
