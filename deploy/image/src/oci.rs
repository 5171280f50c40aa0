//! An image as the OCI image specification 1.1 has it: a layer, a configuration, a manifest, and an archive
//! of the three.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::{Origin, compile::Arch, containerfile::Stage, root::Root, tar::Tar};

/// An image, whole.
pub(crate) struct Image {
    /// What the image is called by who trusts no tag: the digest of its manifest.
    pub(crate) digest: String,
    /// An image layout in a tar archive, as `ctr images import` and `skopeo copy oci-archive:` read it.
    pub(crate) archive: Vec<u8>,
}

/// A part that is named by its digest.
struct Blob {
    kind: &'static str,
    content: Vec<u8>,
}

impl Blob {
    fn new(kind: &'static str, content: Vec<u8>) -> Self {
        Self { kind, content }
    }

    fn hex(&self) -> String {
        hex(&self.content)
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.hex())
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.kind, "digest": self.digest(), "size": self.content.len()})
    }
}

/// The SHA-256 of something, in hexadecimal digits.
pub(crate) fn hex(content: &[u8]) -> String {
    digest(&SHA256, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes the image of these files.
pub(crate) fn image(stage: &Stage, arch: Arch, origin: &Origin, root: &Root<'_>) -> Image {
    let layer = Blob::new("application/vnd.oci.image.layer.v1.tar", root.layer());
    let platform = json!({"os": "linux", "architecture": arch.to_string()});
    let config = json!({
        "created": origin.date.to_string(),
        "os": "linux",
        "architecture": arch.to_string(),
        "config": {
            "User": stage.user,
            "Entrypoint": stage.entrypoint,
            "Cmd": stage.command,
            "WorkingDir": "/",
            "Labels": stage.labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.digest()]},
        "history": [{"created": origin.date.to_string(), "created_by": "deploy/image"}],
    });
    let config = Blob::new("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor(),
        "layers": [layer.descriptor()],
        "annotations": stage.labels,
    });
    let manifest = Blob::new("application/vnd.oci.image.manifest.v1+json", manifest.to_string().into_bytes());

    let mut named = manifest.descriptor();
    named["platform"] = platform;
    // The names that skopeo and containerd look for.
    named["annotations"] = json!({
        "org.opencontainers.image.ref.name": origin.name,
        "io.containerd.image.name": origin.name,
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [named],
    });

    let mut tar = Tar::default();
    tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    tar.file("index.json", 0o644, index.to_string().as_bytes());
    tar.folder("blobs");
    tar.folder("blobs/sha256");
    for blob in [&manifest, &config, &layer] {
        tar.file(&format!("blobs/sha256/{}", blob.hex()), 0o644, &blob.content);
    }
    Image { digest: manifest.digest(), archive: tar.finish() }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use jiff::Timestamp;

    use super::*;

    fn image_of(binary: &[u8]) -> Image {
        let text = include_str!("../Containerfile");
        let stage = Stage::last(text, &[("VERSION", "1.2.3"), ("REVISION", "abc")]).unwrap();
        let date = Timestamp::from_second(1_700_000_000).unwrap();
        let [name, version, revision] = ["bastion:test", "1.2.3", "abc"].map(str::to_owned);
        let origin = Origin { name, version, revision, date };
        image(&stage, Arch::Arm64, &origin, &Root::new(binary, b"{}"))
    }

    #[test]
    fn the_same_files_make_the_same_image() {
        let (one, two, other) = (image_of(b"binary"), image_of(b"binary"), image_of(b"Binary"));
        assert_eq!(one.archive, two.archive);
        assert_eq!(one.digest, two.digest);
        assert_ne!(one.digest, other.digest);
    }

    #[test]
    fn everything_in_it_has_the_digest_that_it_is_called_by() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("image.tar");
        fs::write(&archive, image_of(b"binary").archive).unwrap();
        assert!(
            Command::new("tar").arg("-xf").arg(&archive).current_dir(&folder).status().unwrap().success()
        );
        let blobs = folder.path().join("blobs/sha256");
        let read = |descriptor: &Value| {
            let hex = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
            let content = fs::read(blobs.join(hex)).unwrap();
            assert_eq!(super::hex(&content), hex);
            assert_eq!(descriptor["size"], content.len());
            content
        };
        let index = fs::read(folder.path().join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let manifest: Value = serde_json::from_slice(&read(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(&read(&manifest["config"])).unwrap();
        let layer = read(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", super::hex(&layer))]));
        assert_eq!(config["architecture"], "arm64");
        assert_eq!(config["created"], "2023-11-14T22:13:20Z");
        assert_eq!(fs::read_dir(&blobs).unwrap().count(), 3);
    }
}
