//! Reads the authorities that vouch for the server, and the client certificate. No error shows what a file holds: a user may have
//! named a private key.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use reqwest::{Certificate, Identity};
use zeroize::Zeroizing;

use super::{ClientCertificate, Hidden, SettingsError};

/// The largest bundle of trusted certificates that is read, in bytes.
const LARGEST_BUNDLE: u64 = 1024 * 1024;

/// The most files of a folder of certificates that are read.
const MOST_FILES: usize = 1024;

/// The authorities that Vault's certificate may be signed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ca {
    /// As in `VAULT_CACERT`: a PEM file.
    File(PathBuf),
    /// As in `VAULT_CAPATH`: a folder of PEM files.
    Folder(PathBuf),
    /// As in `VAULT_CACERT_BYTES`: the certificates themselves, in PEM.
    Text(String),
}

/// Something in PEM, in a file or given itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pem {
    /// In this file.
    File(PathBuf),
    /// Itself.
    Text(Hidden),
}

impl Ca {
    pub(super) fn certificates(&self) -> Result<Vec<Certificate>, SettingsError> {
        match self {
            Self::File(path) => bundle(path),
            Self::Folder(path) => folder(path),
            Self::Text(text) => {
                certificates(text.as_bytes()).map_err(|reason| SettingsError::CaText { reason })
            }
        }
    }
}

fn bundle(path: &Path) -> Result<Vec<Certificate>, SettingsError> {
    let wrong = |reason: String| SettingsError::CaFile { path: path.to_owned(), reason };
    certificates(&read(path).map_err(wrong)?).map_err(|reason| wrong(reason.into()))
}

/// Every file of the folder, and of the folders in it, as Go's library for this reads them.
fn folder(path: &Path) -> Result<Vec<Certificate>, SettingsError> {
    let wrong = |reason: String| SettingsError::CaFile { path: path.to_owned(), reason };
    let mut all = Vec::new();
    let (mut folders, mut files) = (vec![path.to_owned()], 0);
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        for entry in entries {
            let entry = entry.map_err(|error| wrong(format!("cannot be read: {error}")))?.path();
            files += 1;
            if files > MOST_FILES {
                return Err(wrong(format!("has more than {MOST_FILES} files in it")));
            }
            if entry.is_dir() {
                folders.push(entry);
            } else {
                all.extend(bundle(&entry)?);
            }
        }
    }
    if all.is_empty() { Err(wrong("has no certificate in it".into())) } else { Ok(all) }
}

/// A certificate and its key, in the form that the TLS library wants: one after the other.
pub(super) fn identity(client: &ClientCertificate) -> Result<Identity, SettingsError> {
    let wrong = |reason: String| SettingsError::Client { reason };
    let mut pem = Zeroizing::new(Vec::new());
    for part in [&client.certificate, &client.key] {
        match part {
            Pem::File(path) => {
                let text = read(path).map_err(|reason| wrong(format!("{} {reason}", path.display())))?;
                pem.extend_from_slice(&text);
            }
            Pem::Text(Hidden(text)) => pem.extend_from_slice(text.as_bytes()),
        }
        pem.push(b'\n');
    }
    Identity::from_pem(&pem).map_err(|_| wrong("it is not a certificate and its key, in PEM".into()))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("is not a regular file".into());
    }
    let mut pem = Zeroizing::new(Vec::new());
    File::open(path)
        .map_err(unreadable)?
        .take(LARGEST_BUNDLE + 1)
        .read_to_end(&mut pem)
        .map_err(unreadable)?;
    if pem.len() as u64 > LARGEST_BUNDLE { Err("is larger than 1 MiB".into()) } else { Ok(pem) }
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate>, &'static str> {
    if pem.windows(11).any(|part| part == b"PRIVATE KEY") {
        return Err("holds a private key, and nothing that only verifies needs one");
    }
    let certificates = Certificate::from_pem_bundle(pem).map_err(|_| "is not a PEM file of certificates")?;
    if certificates.is_empty() { Err("has no certificate in it") } else { Ok(certificates) }
}
