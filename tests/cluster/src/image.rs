//! Container images made of what is on this machine: programs with the libraries that they are linked with,
//! folders, a few words.
//!
//! They are written as docker archives, which `ctr images import`, `podman load` and `kind load
//! image-archive` take.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use test_support::{
    process::{Program, installed, ours, workspace},
    scratch::Scratch,
};

/// The bastion, as it is shipped: the one image that is not made here, but by `make image`.
pub const BASTION: &str = "localhost/bastion-server:test";
/// A shell with some two hundred small programs, and the image that every pod's namespaces hang on.
pub const BUSYBOX: &str = "localhost/busybox:test";
/// The cluster's DNS.
pub const COREDNS: &str = "localhost/coredns:test";
/// What a pod asks others with: bash, which opens TCP connections by name, getent, and all of busybox.
pub const TOOLS: &str = "localhost/tools:test";
/// OpenBao.
pub const OPENBAO: &str = "localhost/openbao:test";
/// A web server that says what it was asked: the program `echo` of the harness.
pub const ECHO: &str = "localhost/echo:test";
/// An ingress controller.
pub const TRAEFIK: &str = "localhost/traefik:test";
/// PostgreSQL.
pub const POSTGRES: &str = "localhost/postgres:test";

/// Does nothing until it is told to end, by a signal that the first process of a namespace would otherwise
/// never hear.
const WAIT: [&str; 3] = ["/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait; done"];

/// What `make image` wrote for this machine: `oci.tar`, the archive; `digest`; or `cdx.json`, the list of its
/// parts.
///
/// # Panics
/// When it was not made.
#[must_use]
pub fn bastion(ending: &str) -> PathBuf {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => panic!("no image is built for {other}"),
    };
    let path = workspace().join(format!("target/image/bastion-server-{machine}.{ending}"));
    assert!(path.is_file(), "{} is not there: run `make image` first", path.display());
    path
}

/// An image that is being put together in a folder.
#[derive(Debug)]
pub struct Image {
    name: String,
    root: Scratch,
    config: Value,
}

impl Image {
    /// An empty one, whose `name` has a tag.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            root: Scratch::new("image"),
            config: json!({"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]}),
        }
    }

    /// One of ours, by its name.
    ///
    /// # Panics
    /// When there is no such name, or a program that it is made of is not here.
    #[must_use]
    pub fn known(name: &str) -> Self {
        match name {
            BUSYBOX => Self::new(name).busybox().entrypoint(&WAIT),
            COREDNS => Self::new(name)
                .program(&super::control_plane::built("coredns"), "/coredns")
                .entrypoint(&["/coredns"]),
            TOOLS => Self::new(name)
                .busybox()
                .program(&installed("bash"), "/bin/bash")
                .program(&installed("getent"), "/bin/getent")
                .entrypoint(&WAIT),
            OPENBAO => Self::new(name)
                .busybox()
                .program(&workspace().join(".peers/bao"), "/bin/bao")
                .text("/etc/passwd", "openbao:x:65532:65532::/tmp:/bin/sh\n")
                .user("65532:65532")
                .entrypoint(&["/bin/bao"]),
            ECHO => Self::new(name).program(&ours("echo"), "/bin/echo").entrypoint(&["/bin/echo"]),
            TRAEFIK => Self::new(name)
                .program(&super::control_plane::built("traefik"), "/traefik")
                .open_folder("/tmp")
                .entrypoint(&["/traefik"]),
            POSTGRES => postgres(),
            _ => panic!("there is no image {name} of ours"),
        }
    }

    fn target(&self, at: &str) -> PathBuf {
        let path = self.root.join(at.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// A copy of a file.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[must_use]
    pub fn file(self, from: &Path, at: &str) -> Self {
        fs::copy(from, self.target(at)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        self
    }

    /// A copy of a folder and all in it.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[must_use]
    pub fn folder(self, from: &Path, at: &str) -> Self {
        let target = self.target(at);
        Program::new("cp").args(["--archive", "--dereference"]).arg(from).arg(target).succeed();
        self
    }

    /// A file with this text.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn text(self, at: &str, content: &str) -> Self {
        fs::write(self.target(at), content).unwrap();
        self
    }

    /// A link at `at` that names `to`.
    ///
    /// # Panics
    /// When something is there already.
    #[must_use]
    pub fn link(self, at: &str, to: &str) -> Self {
        std::os::unix::fs::symlink(to, self.target(at)).unwrap();
        self
    }

    /// An empty folder that all users may write to.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn open_folder(self, at: &str) -> Self {
        let path = self.target(at);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o1777)).unwrap();
        self
    }

    /// A program, and the libraries that it is linked with, where it looks for them.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn program(self, from: &Path, at: &str) -> Self {
        self.libraries_of(&[from.to_owned()]).file(from, at)
    }

    fn libraries_of(mut self, programs: &[PathBuf]) -> Self {
        let mut libraries = BTreeSet::new();
        for program in programs {
            // It fails on what is linked with nothing.
            let output = Program::new("ldd").arg(program).output();
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                assert!(!line.contains("not found"), "{} lacks a library: {line}", program.display());
                let path = line.split_whitespace().find(|word| word.starts_with('/'));
                libraries.extend(path.map(ToOwned::to_owned));
            }
        }
        for library in libraries {
            self = self.file(Path::new(&library), &library);
        }
        self
    }

    /// The shell, and all that goes by a name of busybox's.
    ///
    /// # Panics
    /// When busybox is not here.
    #[must_use]
    pub fn busybox(self) -> Self {
        let busybox = installed("busybox");
        let applets = Program::new(&busybox).arg("--list").succeed();
        let image = self.file(&busybox, "/bin/busybox").open_folder("/tmp");
        applets
            .lines()
            .filter(|applet| *applet != "busybox")
            .fold(image, |image, applet| image.link(&format!("/bin/{applet}"), "busybox"))
    }

    /// What it runs.
    #[must_use]
    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.config["Entrypoint"] = json!(words);
        self
    }

    /// Whom it runs as, such as `65532:65532`.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.config["User"] = json!(user);
        self
    }

    /// Writes the archive.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(self, archive: &Path) {
        let files = Scratch::new("archive");
        let tar = |from: &Path, to: &Path, names: &[&str]| {
            let always_the_same = "--sort=name --owner=0 --group=0 --numeric-owner --mtime=@0";
            Program::new("tar")
                .arg("--create")
                .args(always_the_same.split(' '))
                .arg("--file")
                .arg(to)
                .arg("--directory")
                .arg(from)
                .args(names)
                .succeed();
        };
        tar(self.root.path(), &files.join("layer.tar"), &["."]);
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&files.join("layer.tar")))]},
        });
        files.write("config.json", config.to_string());
        let manifest = json!([{"Config": "config.json", "RepoTags": [self.name], "Layers": ["layer.tar"]}]);
        files.write("manifest.json", manifest.to_string());
        tar(files.path(), archive, &["manifest.json", "config.json", "layer.tar"]);
    }
}

/// The server, and what starts it: the first time it makes a database `orders`, whose superuser and password
/// are told by the environment.
fn postgres() -> Image {
    let bin = test_support::process::postgres_programs();
    let version = bin.parent().unwrap();
    let share = Path::new("/usr/share/postgresql").join(version.file_name().unwrap());
    let linked =
        [bin.clone(), version.join("lib")].into_iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let linked: Vec<PathBuf> =
        linked.map(|entry| entry.unwrap().path()).filter(|path| is_elf(path)).collect();
    let start = "#!/bin/sh\n\
        set -eu\n\
        if [ ! -e \"$PGDATA/PG_VERSION\" ]; then\n\
            echo \"$POSTGRES_PASSWORD\" >/tmp/password\n\
            initdb --no-sync --username \"$POSTGRES_USER\" --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C --pwfile=/tmp/password\n\
            echo 'host all all all scram-sha-256' >>\"$PGDATA/pg_hba.conf\"\n\
            echo 'create database orders' | postgres --single -D \"$PGDATA\" postgres\n\
        fi\n\
        exec postgres -c 'listen_addresses=*' -c fsync=off -c unix_socket_directories=/tmp \"$@\"\n";
    let mut image = Image::new(POSTGRES)
        .busybox()
        .folder(version, version.to_str().unwrap())
        .folder(&share, share.to_str().unwrap())
        .libraries_of(&linked)
        .text("/etc/passwd", "postgres:x:65532:65532::/tmp:/bin/sh\n")
        .text("/start", start)
        .user("65532:65532")
        .entrypoint(&["/bin/sh", "/start"]);
    image.config["Env"] = json!([
        format!("PATH={}:/usr/bin:/bin", bin.display()),
        "PGDATA=/tmp/data",
        "POSTGRES_USER=admin",
        "POSTGRES_PASSWORD=admin",
    ]);
    image
}

fn is_elf(path: &Path) -> bool {
    let mut start = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"\x7fELF"
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn digest(path: &Path) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut file = File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer).unwrap();
        if length == 0 {
            return context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        }
        context.update(&buffer[..length]);
    }
}
