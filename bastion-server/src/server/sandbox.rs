//! Works out which files the sandbox must leave readable.

use std::path::{Path, PathBuf};

use crate::{config::Config, kubernetes::Cluster, process::fence::Bounds};

/// The folders for name resolution, TLS authorities and time zones, and the libraries that read them. The
/// resolver's files are replaced rather than changed, so only a rule about their folder stays valid.
const SYSTEM: [&str; 6] = ["/etc", "/usr", "/lib", "/lib64", "/run/systemd/resolve", "/run/resolvconf"];
/// Files whose links lead to the resolver's settings.
const RESOLVER: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"];
/// The variables by which OpenSSL and rustls find TLS authorities elsewhere.
const CERTIFICATES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// The files that a bastion with this configuration file and environment reads.
pub fn bounds(path: &Path, config: &Config, variable: impl Fn(&str) -> Option<String>) -> Bounds {
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
    // The folder of this file is a user's home, so only the file is listed.
    let token = variable("HOME").map(|home| Path::new(&home).join(".vault-token"));
    Bounds { read: system.chain(resolver).chain(configured).chain(named).chain(token).collect() }
}

/// The folder of the file, and the folder of what it links to: a new version is another file in the same
/// place. Never the root of the file system.
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

/// Whether the kubelet manages the file, as a link into a folder `..data` that it replaces with the next
/// version.
fn is_swapped(link: &Path) -> bool {
    link.read_link().is_ok_and(|target| target.starts_with("..data"))
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
        let found = bounds(Path::new("/y/b.yaml"), &config, variable);
        for folder in ["/k", "/c", "/a", "/t", "/s", "/r", "/y", "/tls", "/etc"] {
            assert!(found.read.contains(&PathBuf::from(folder)), "{folder} is not in {found:?}");
        }
        assert!(!found.read.contains(&PathBuf::from("/")));
        let config =
            config_file::parse::<Config>("b.yaml".as_ref(), &format!("{text}kubernetes: {{}}\n")).unwrap();
        let found = bounds(Path::new("/y/b.yaml"), &config, variable);
        assert!(
            found.read.contains(&PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount")),
            "{found:?}"
        );
    }
}
