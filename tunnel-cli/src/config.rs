//! What holds, and where each value came from: flags, then the environment, then the user's file, then the project's,
//! then what a cluster publishes.

mod file;
mod layer;
pub mod published;
mod source;

pub use file::{Database, DatabaseKind, Period};
pub use layer::{Auth, Kube, Layer, Row};
pub use source::{Source, Sourced};

use std::path::{Path, PathBuf};

use crate::endpoint::{BadEndpoint, Endpoint};
use crate::failure::Failure;
use file::{File, Origin};

/// The name of a project's file.
pub const PROJECT_FILE: &str = "pf-tunnel.yaml";

/// The files that were found, the one that beats the other first.
fn find(
    explicit: Option<&Path>,
    working_directory: &Path,
    variable: impl Fn(&str) -> Option<String>,
) -> Vec<Origin> {
    if let Some(path) = explicit {
        return vec![Origin::Named(path.to_owned())];
    }
    let user = users_folder(variable).map(|folder| folder.join("pf-tunnel").join("config.yaml"));
    let project =
        working_directory.ancestors().map(|folder| folder.join(PROJECT_FILE)).find(|path| path.exists());
    let user = user.filter(|path| path.exists()).map(Origin::User);
    user.into_iter().chain(project.map(Origin::Project)).collect()
}

fn users_folder(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))
}

/// What is said here, in order: `flags` beat the environment, which beats the files. What a cluster publishes and the
/// defaults are not yet in it.
///
/// # Errors
/// When a file or a variable holds what cannot be used.
pub fn load(
    flags: Layer,
    explicit: Option<&Path>,
    working_directory: &Path,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Layer, Failure> {
    let mut settings = flags.over(Layer::from_environment(&variable)?);
    for origin in find(explicit, working_directory, &variable) {
        origin.check_owner()?;
        let file: File = config_file::read(origin.path())?;
        settings = settings.over(Layer::from_file(file, &origin)?);
    }
    Ok(settings)
}

/// One bastion: `host` or `host:port`.
///
/// # Errors
/// When it is neither.
pub fn bastion(text: &str) -> Result<Endpoint, BadEndpoint> {
    text.parse().map(|file::BastionAddress(endpoint)| endpoint)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::failure::Stage;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn load_in(folder: &Path, variables: &[(&str, &str)], flags: Layer) -> Result<Layer, Failure> {
        let variables: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        load(flags, None, folder, |name| {
            variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        })
        .map(|said| said.over(Layer::defaults()))
    }

    fn row(settings: &Layer, name: &str) -> (String, String) {
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

        let flags =
            Layer { mount: Some(Sourced::new("flag".into(), Source::Flag("--mount"))), ..Layer::default() };
        let home = home.display().to_string();
        let variables = [("HOME", home.as_str()), ("VAULT_ADDR", "https://environment")];
        let settings = load_in(&deep, &variables, flags).unwrap();

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

    #[test]
    fn xdg_config_home_is_where_the_users_file_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("pf-tunnel")).unwrap();
        fs::write(folder.path().join("pf-tunnel/config.yaml"), "hold: 5s\n").unwrap();
        let path = folder.path().display().to_string();
        let settings = load_in(Path::new("/"), &[("XDG_CONFIG_HOME", &path)], Layer::default()).unwrap();
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
            let error = load_in(folder.path(), &[], Layer::default()).unwrap_err();
            assert_eq!(error.stage(), Stage::Configuration);
            let error = error.to_string();
            assert!(error.starts_with(&format!("{}{place}", path.display())), "{error}");
            assert!(error.contains(words), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_bad_variable_is_named() {
        let error = load_in(Path::new("/"), &[("PF_TUNNEL_TTL", "soon")], Layer::default()).unwrap_err();
        assert!(error.to_string().starts_with("PF_TUNNEL_TTL: "), "{error}");
    }
}
