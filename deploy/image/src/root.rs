//! Lays out the files of the image.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

use crate::tar::Tar;

/// All of them, in the order of their paths.
pub(crate) struct Root<'a>([File<'a>; 3]);

impl<'a> Root<'a> {
    pub(crate) fn new(binary: &'a [u8], sbom: &'a [u8]) -> Self {
        Self([
            File { path: "bastion-server", mode: 0o755, content: binary.into() },
            // Where scanners of images look for it: by its ending.
            File { path: "bastion-server.cdx.json", mode: 0o644, content: sbom.into() },
            // For a Vault with a certificate of a public authority; the configuration names others.
            File { path: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, content: authorities().into() },
        ])
    }

    /// As the one layer of an image. It is not packed: registries and engines do that, and another version of
    /// a packer would make another image of the same files.
    pub(crate) fn layer(&self) -> Vec<u8> {
        let mut tar = Tar::default();
        for file in &self.0 {
            for (end, _) in file.path.match_indices('/') {
                tar.folder(&file.path[..end]);
            }
            tar.file(file.path, file.mode, &file.content);
        }
        tar.finish()
    }

    /// As a folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        for file in &self.0 {
            let path = folder.join(file.path);
            let context = || path.display().to_string();
            fs::create_dir_all(path.parent().unwrap_or(folder)).with_context(context)?;
            fs::write(&path, &file.content).with_context(context)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(file.mode)).with_context(context)?;
        }
        Ok(())
    }
}

/// One file; its folders are made as they are needed.
struct File<'a> {
    path: &'static str,
    mode: u32,
    content: std::borrow::Cow<'a, [u8]>,
}

/// The authorities of TLS that Mozilla trusts, as PEM.
fn authorities() -> Vec<u8> {
    let mut pem = Vec::new();
    for certificate in TLS_SERVER_ROOT_CERTS {
        pem.extend(b"-----BEGIN CERTIFICATE-----\n");
        for line in BASE64_STANDARD.encode(certificate).as_bytes().chunks(64) {
            pem.extend(line);
            pem.push(b'\n');
        }
        pem.extend(b"-----END CERTIFICATE-----\n");
    }
    pem
}
