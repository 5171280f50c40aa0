//! Builds the bastion for musl and writes its container image, so that the same commit gives the same digest
//! anywhere.
//!
//! What the image is stands in the `Containerfile` beside this: here its last stage is carried out without an
//! engine. In order: [`compile`] asks cargo for the binary, [`sbom`] writes down what was linked into it,
//! [`root`] says which files there are, [`oci`] makes the image of them.
#![expect(clippy::indexing_slicing, reason = "what is indexed is JSON, where what is missing is null")]

mod compile;
mod containerfile;
mod oci;
mod root;
mod sbom;
mod tar;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use jiff::Timestamp;

use crate::{compile::Arch, containerfile::Stage, root::Root};

/// Builds the bastion's container image.
#[derive(Parser)]
struct Cli {
    /// For which processor; several times for several.
    #[arg(long, required = true)]
    arch: Vec<Arch>,
    /// The folder of the workspace.
    #[arg(long, default_value = ".")]
    source: PathBuf,
    /// The folder that the archives are written to; target/image otherwise.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Writes the image's files into this folder, and no archive: for an engine that makes one itself.
    #[arg(long)]
    root: Option<PathBuf>,
    /// What an engine calls the image that imports it.
    #[arg(long, default_value = "localhost/bastion-server:test")]
    name: String,
    /// The commit; the one that is checked out otherwise.
    #[arg(long)]
    revision: Option<String>,
    /// The time of the commit in seconds since 1970.
    #[arg(long)]
    date: Option<i64>,
}

/// What the image is called, and where it is from.
struct Origin {
    name: String,
    version: String,
    revision: String,
    date: Timestamp,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let source = cli.source.canonicalize().with_context(|| cli.source.display().to_string())?;
    let origin = Origin::new(&source, cli.name, cli.revision, cli.date)?;
    for arch in cli.arch {
        let built = compile::build(&source, arch)?;
        let sbom = sbom::write(&built, arch, origin.date)?;
        let root = Root::new(&built.binary, &sbom);
        match &cli.root {
            Some(folder) => root.write(folder)?,
            None => {
                let out = cli.out.clone().unwrap_or_else(|| source.join("target/image"));
                archive(&source, &out, arch, &origin, &root, &sbom)?;
            }
        }
    }
    Ok(())
}

fn archive(
    source: &Path,
    out: &Path,
    arch: Arch,
    origin: &Origin,
    root: &Root<'_>,
    sbom: &[u8],
) -> Result<()> {
    let containerfile = source.join("deploy/image/Containerfile");
    let text = fs::read_to_string(&containerfile).with_context(|| containerfile.display().to_string())?;
    let stage = Stage::last(&text, &[("VERSION", &origin.version), ("REVISION", &origin.revision)])?;
    let image = oci::image(&stage, arch, origin, root);
    fs::create_dir_all(out)?;
    let file = out.join(format!("bastion-server-{arch}.oci.tar"));
    fs::write(&file, &image.archive).with_context(|| file.display().to_string())?;
    fs::write(out.join(format!("bastion-server-{arch}.cdx.json")), sbom)?;
    fs::write(out.join(format!("bastion-server-{arch}.digest")), format!("{}\n", image.digest))?;
    writeln!(std::io::stdout(), "{}\n{}  {} bytes", file.display(), image.digest, image.archive.len())?;
    Ok(())
}

impl Origin {
    fn new(source: &Path, name: String, revision: Option<String>, date: Option<i64>) -> Result<Self> {
        let git = |arguments: &[&str]| {
            let out = Command::new("git").arg("-C").arg(source).args(arguments).output()?;
            ensure!(
                out.status.success(),
                "git: {}\n  Outside a repository, give --revision and --date",
                String::from_utf8_lossy(&out.stderr)
            );
            anyhow::Ok(String::from_utf8(out.stdout)?.trim().to_owned())
        };
        let date = match date {
            Some(date) => date,
            None => git(&["log", "-1", "--format=%ct"])?.parse()?,
        };
        let revision = match revision {
            Some(revision) => revision,
            // Who finds the image must not be sent to a commit that it was not built from.
            None => git(&["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])?,
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Self { name, version, revision, date: Timestamp::from_second(date)? })
    }
}
