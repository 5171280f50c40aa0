//! The certificates of one cluster, all of one authority that is made for it, and the kubeconfigs that carry
//! them.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::json;

/// What a kubeconfig of a cluster of ours calls its one context.
pub const CONTEXT: &str = "tunnel-cluster";

/// An authority, and the folder where its certificates and keys are.
#[derive(Debug)]
pub struct Pki {
    folder: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    /// A new authority, and the key that signs the tokens of service accounts.
    ///
    /// # Panics
    /// When the files cannot be written.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let mut params = params("cluster authority", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let pki = Self { folder: folder.to_owned(), authority };
        pki.write("ca.crt", &pki.authority.pem());
        pki.write("ca.key", &pki.authority.key().serialize_pem());
        let tokens = KeyPair::generate().unwrap();
        pki.write("service-account.key", &tokens.serialize_pem());
        pki.write("service-account.pub", &tokens.public_key_pem());
        pki
    }

    /// The path of one of its files.
    #[must_use]
    pub fn path(&self, file: &str) -> String {
        self.folder.join(file).to_str().unwrap().to_owned()
    }

    fn write(&self, file: &str, content: &str) {
        let path = self.folder.join(file);
        fs::write(&path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Makes `FILE.crt` and `FILE.key` for a server with these names and addresses.
    ///
    /// # Panics
    /// When a name is none.
    pub fn server(&self, file: &str, names: &[&str], addresses: &[IpAddr]) {
        let mut params = params(file, None);
        params.subject_alt_names =
            names.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())).collect();
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(file, &params);
    }

    /// Makes `FILE.crt` and `FILE.key` for a client: a user of Kubernetes, and its group.
    pub fn client(&self, file: &str, user: &str, group: Option<&str>) {
        let mut params = params(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(file, &params);
    }

    fn issue(&self, file: &str, params: &CertificateParams) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        self.write(&format!("{file}.crt"), &certificate.pem());
        self.write(&format!("{file}.key"), &key.serialize_pem());
    }

    /// Makes a client, and `FILE.kubeconfig` for it.
    pub fn kubeconfig(&self, file: &str, server: &str, user: &str, group: Option<&str>) -> PathBuf {
        self.client(file, user, group);
        let (certificate, key) = (self.path(&format!("{file}.crt")), self.path(&format!("{file}.key")));
        let path = self.folder.join(format!("{file}.kubeconfig"));
        write_kubeconfig(
            &path,
            server,
            &self.path("ca.crt"),
            &json!({"client-certificate": certificate, "client-key": key}),
        );
        path
    }
}

/// Writes a kubeconfig with one context, for a user with these credentials.
pub(super) fn write_kubeconfig(path: &Path, server: &str, authority: &str, user: &serde_json::Value) {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": "user"}}],
        "current-context": CONTEXT,
    });
    fs::write(path, serde_json::to_vec_pretty(&config).unwrap()).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// rcgen's own dates are good for centuries, and the name is set.
fn params(name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}
