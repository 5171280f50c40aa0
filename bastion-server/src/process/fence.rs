//! What the process gives up before it serves anybody: files that it does not need, and system calls that no bastion makes.
//!
//! The second line of defence. Whoever makes the bastion run code of their own finds a process that reads its
//! configuration and nothing of other people's, opens no file for writing, starts no program, and listens on no other port.
//!
//! It is put up once, before there is a second thread, because a thread keeps what its maker had, and after the bastion's own ports were bound:
//! from then on nothing is bound and nothing listens. The means are those of Linux: Landlock for files and ports, seccomp for system calls.
//! Neither needs a privilege, and neither can be undone.

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod files;

use std::path::{Path, PathBuf};

use crate::{
    config::{self, Config},
    kubernetes::Cluster,
};

/// What is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Folders, with all that is in them, and files that may be read.
    pub read: Vec<PathBuf>,
}

/// What name servers, authorities of TLS and time zones are looked up in, and the libraries that do it. The resolver's own
/// files are replaced rather than changed, so nothing smaller than their folder would hold.
const SYSTEM: [&str; 6] = ["/etc", "/usr", "/lib", "/lib64", "/run/systemd/resolve", "/run/resolvconf"];
/// Where the resolver's settings lead to.
const RESOLVER: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"];
/// Authorities of TLS in another place, as OpenSSL and rustls know them.
const CERTIFICATES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

impl Bounds {
    /// What a bastion needs that was configured by this file and in this environment.
    pub fn new(path: &Path, config: &Config, variable: impl Fn(&str) -> Option<String>) -> Self {
        let system = SYSTEM.iter().map(PathBuf::from);
        let resolver = RESOLVER.iter().flat_map(|file| around(Path::new(file)));
        let cluster = if config.needs_cluster() { Cluster::files(&variable) } else { Vec::new() };
        let configured = config.files().into_iter().chain([path]).chain(cluster.iter().map(PathBuf::as_path));
        let configured: Vec<_> = configured.flat_map(around).collect();
        let named = CERTIFICATES
            .into_iter()
            .chain(["VAULT_CACERT", "BAO_CACERT"])
            .filter_map(&variable)
            .map(PathBuf::from);
        // The folder of this one is somebody's home.
        let token = variable("HOME").map(|home| Path::new(&home).join(".vault-token"));
        Self { read: system.chain(resolver).chain(configured).chain(named).chain(token).collect() }
    }
}

/// The folder of a file, and that of what it is a link to: a new version is another file in the same place. Never the
/// whole of the file system.
fn around(file: &Path) -> Vec<PathBuf> {
    let folder = |file: &Path| match file.parent() {
        Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
        Some(folder) if folder.parent().is_some() => folder.to_owned(),
        Some(_) | None => file.to_owned(),
    };
    let swapped = file.ancestors().filter(|link| is_swapped(link)).map(folder);
    std::iter::once(folder(file))
        .chain(file.canonicalize().ok().as_deref().map(folder))
        .chain(swapped)
        .collect()
}

/// Whether a kubelet put the file there, as a link into a folder `..data` that will be another one with the next version.
fn is_swapped(link: &Path) -> bool {
    link.read_link().is_ok_and(|target| target.starts_with("..data"))
}

/// One of the means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Files and ports.
    Landlock,
    /// System calls.
    Seccomp,
}

impl Kind {
    /// Both, in the order in which they are put up: the second forbids the first.
    pub const ALL: [Self; 2] = [Self::Landlock, Self::Seccomp];

    /// The name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        }
    }

    #[cfg(target_os = "linux")]
    fn put_up(self, bounds: &Bounds) -> Result<(), String> {
        match self {
            Self::Landlock => files::restrict(bounds),
            Self::Seccomp => calls::restrict(),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn put_up(self, _bounds: &Bounds) -> Result<(), String> {
        Err("only Linux has it".to_owned())
    }
}

/// What holds from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Fence(Vec<Kind>);

impl Fence {
    /// Whether this one holds.
    pub fn holds(&self, kind: Kind) -> bool {
        self.0.contains(&kind)
    }
}

/// There is no fence, and there was to be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}: {reason}\n  fence: required asks for it; with fence: auto the bastion would go on without",
    .kind.name()
)]
pub struct Missing {
    /// What is missing.
    pub kind: Kind,
    /// The words of the system.
    pub reason: String,
}

/// Puts it up around the calling thread, and all that it will start.
///
/// # Errors
/// When the kernel does not have it, and the operator wants it.
pub fn put_up(wanted: config::Fence, bounds: &Bounds) -> Result<Fence, Missing> {
    let mut fence = Fence::default();
    for kind in Kind::ALL {
        let outcome = match wanted {
            config::Fence::Off => break,
            config::Fence::Auto | config::Fence::Required => kind.put_up(bounds),
        };
        match (outcome, wanted) {
            (Ok(()), _) => fence.0.push(kind),
            (Err(reason), config::Fence::Required) => return Err(Missing { kind, reason }),
            (Err(reason), config::Fence::Auto | config::Fence::Off) => {
                tracing::warn!(kind = kind.name(), reason, "this part of the fence is missing");
            }
        }
    }
    Ok(fence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_opens_its_folder_but_never_everything() {
        assert_eq!(around(Path::new("/no/such/file")), [Path::new("/no/such")]);
        assert_eq!(around(Path::new("/no-such-file")), [Path::new("/no-such-file")]);
        assert_eq!(around(Path::new("no-such-file")), [Path::new(".")]);
    }

    #[test]
    fn a_link_opens_both_folders() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("v1"), folder.path().join("at"));
        std::fs::create_dir(&real).unwrap();
        std::fs::create_dir(&link).unwrap();
        std::fs::write(real.join("ca.pub"), "").unwrap();
        std::os::unix::fs::symlink(real.join("ca.pub"), link.join("ca.pub")).unwrap();
        let real = real.canonicalize().unwrap();
        assert_eq!(around(&link.join("ca.pub")), [link, real]);
    }

    #[test]
    fn what_a_kubelet_swaps_opens_the_mount() {
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path().join("token");
        std::fs::create_dir_all(mount.join("..2026_1/vault")).unwrap();
        std::fs::write(mount.join("..2026_1/vault/token"), "").unwrap();
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, mount.join(name)).unwrap();
        link("..2026_1", "..data");
        link("..data/vault", "vault");
        assert!(around(&mount.join("vault/token")).contains(&mount));
    }

    #[test]
    fn every_configured_file_is_within() {
        let text = "listen: 127.0.0.1:22\nadmin: {listen: '127.0.0.1:80'}\nhost_key: {file: /k/key, certificate: /c/cert}\n\
            authorities: [{file: /a/ca}]\nvault: {ca_cert: /t/tls, auth: {method: token, token_file: /s/token}}\n\
            login: {users: [u]}\nrevocation: {files: [/r/krl]}\n";
        let config = config_file::parse::<Config>("b.yaml".as_ref(), text).unwrap();
        let variable = |name: &str| (name == "SSL_CERT_DIR").then(|| "/tls".to_owned());
        assert!(!config.needs_cluster());
        let bounds = Bounds::new(Path::new("/y/b.yaml"), &config, variable);
        for folder in ["/k", "/c", "/a", "/t", "/s", "/r", "/y", "/tls", "/etc"] {
            assert!(bounds.read.contains(&PathBuf::from(folder)), "{folder} is not in {bounds:?}");
        }
        assert!(!bounds.read.contains(&PathBuf::from("/")));
        let config =
            config_file::parse::<Config>("b.yaml".as_ref(), &format!("{text}kubernetes: {{}}\n")).unwrap();
        let bounds = Bounds::new(Path::new("/y/b.yaml"), &config, variable);
        assert!(
            bounds.read.contains(&PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount")),
            "{bounds:?}"
        );
    }
}
