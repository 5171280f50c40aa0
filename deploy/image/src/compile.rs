//! Compiles the binary: static, and the same bytes from any folder.

use std::{
    collections::BTreeSet,
    env,
    fmt::{self, Display, Formatter},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::Value;

/// A processor, by the name that container images use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    /// The name that Rust uses.
    fn triple(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }
}

impl Display for Arch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        })
    }
}

/// What cargo made.
pub(crate) struct Built {
    pub(crate) binary: Vec<u8>,
    /// The package ids of the libraries that it was linked from, and its own.
    pub(crate) linked: BTreeSet<String>,
    /// What `cargo metadata` knows of them and others.
    pub(crate) metadata: Value,
}

/// Builds the bastion of the workspace at `source`.
pub(crate) fn build(source: &Path, arch: Arch) -> Result<Built> {
    let target = source.join("target");
    let out = cargo(source)?
        .args(["zigbuild", "--package=bastion-server", "--bin=bastion-server", "--release", "--locked"])
        .arg("--target-dir")
        .arg(&target)
        .args(["--target", arch.triple(), "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cargo")?;
    ensure!(out.status.success(), "cargo could not build the bastion for {arch}");
    let messages = out
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(serde_json::from_slice)
        .collect::<Result<Vec<Value>, _>>()?;
    let (linked, executable) = artifacts(&messages, &target.join(arch.triple()));
    let executable = executable.context("cargo named no executable")?;
    let binary = fs::read(&executable).with_context(|| executable.display().to_string())?;

    let out = cargo(source)?
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform", arch.triple()])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(out.status.success(), "cargo could not describe the workspace");
    Ok(Built { binary, linked, metadata: serde_json::from_slice(&out.stdout)? })
}

/// The packages that were compiled into `folder`, which is that of the target, and the executable. What runs
/// at build time, as macros do, lies elsewhere.
fn artifacts(messages: &[Value], folder: &Path) -> (BTreeSet<String>, Option<PathBuf>) {
    let mut linked = BTreeSet::new();
    let mut executable = None;
    for message in messages.iter().filter(|message| message["reason"] == "compiler-artifact") {
        let files = message["filenames"].as_array().into_iter().flatten().filter_map(Value::as_str);
        if files.map(Path::new).any(|file| file.starts_with(folder)) {
            linked.extend(message["package_id"].as_str().map(str::to_owned));
        }
        executable = message["executable"].as_str().map(PathBuf::from).or(executable);
    }
    (linked, executable)
}

/// Cargo, with our compiler and without anything of this machine in what it makes.
fn cargo(source: &Path) -> Result<Command> {
    let home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => env::home_dir().context("there is no home folder")?.join(".cargo"),
    };
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).current_dir(source).output()?;
    let sysroot = PathBuf::from(String::from_utf8(sysroot.stdout)?.trim());
    // Of several that fit, the last one counts.
    let places = [(home.as_path(), "/cargo"), (sysroot.as_path(), "/rust"), (source, "/src")];
    let rust = places.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    let c = places.map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display()));
    // The allocator would write down when it was compiled.
    let timeless = r#"-Wno-builtin-macro-redefined -D__DATE__="" -D__TIME__="""#;
    let tools = source.join("target/image/toolchain/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([tools].into_iter().chain(env::split_paths(&path)))?;

    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(source)
        .env("PATH", path)
        .env("CARGO_ENCODED_RUSTFLAGS", rust.join("\x1f"))
        .env("TARGET_CFLAGS", format!("{} {timeless}", c.join(" ")))
        .env_remove("RUSTFLAGS");
    Ok(cargo)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_runs_at_build_time_is_not_linked() {
        let artifact = |id: &str, file: &str, executable: Option<&str>| json!({"reason": "compiler-artifact", "package_id": id, "filenames": [file], "executable": executable});
        let messages = [
            artifact("serde_derive", "/w/target/release/deps/libserde_derive.so", None),
            artifact("serde", "/w/target/T/release/deps/libserde.rlib", None),
            artifact(
                "aws-lc-sys",
                "/w/target/release/build/aws-lc-sys/build-script",
                Some("/w/build-script"),
            ),
            json!({"reason": "build-script-executed", "package_id": "aws-lc-sys"}),
            artifact("bastion", "/w/target/T/release/bastion", Some("/w/target/T/release/bastion")),
            json!({"reason": "build-finished", "success": true}),
        ];
        let (linked, executable) = artifacts(&messages, Path::new("/w/target/T"));
        assert_eq!(linked, ["bastion", "serde"].map(str::to_owned).into());
        assert_eq!(executable.unwrap(), Path::new("/w/target/T/release/bastion"));
    }
}
