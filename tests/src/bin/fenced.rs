//! Puts the bastion's fence around itself, tries what it forbids and what it must leave, and prints what could be done.
//!
//! `fenced READABLE PORT ELSEWHERE`: a folder that may be read, a port that may be listened on, a folder of others.
//! In both folders there is a file `file`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test program may assume: what fails here fails its test"
)]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use bastion_server::config;
use bastion_server::fence::{Bounds, Kind, put_up};
use nix::sys::signal::kill;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use nix::unistd;
use serde_json::{Map, Value, json};

/// What was tried, and whether it could be done.
#[derive(Default)]
struct Report(Map<String, Value>);

impl Report {
    fn tried<T, E>(&mut self, what: &str, outcome: Result<T, E>) {
        self.0.insert(what.to_owned(), json!(outcome.is_ok()));
    }
}

fn main() {
    let mut words = std::env::args().skip(1);
    let (readable, port, elsewhere) =
        (words.next().unwrap(), words.next().unwrap().parse().unwrap(), words.next().unwrap());
    let (readable, elsewhere) = (PathBuf::from(readable), PathBuf::from(elsewhere));
    let before = File::options().append(true).open(elsewhere.join("file")).unwrap();

    // What a bastion with a configuration in that folder would leave itself.
    let config = readable.join("bastion.yaml");
    let text = format!(
        "listen: 127.0.0.1:{port}\nhost_key: {{generate: true}}\nauthorities: [{{file: ca.pub}}]\nlogin: {{users: [u]}}\n"
    );
    fs::write(&config, text).unwrap();
    let bounds = Bounds::new(&config, &config::Config::load(&config, |_| None).unwrap(), |_| None);
    let fence = put_up(config::Fence::Required, &bounds).unwrap();
    assert!(Kind::ALL.into_iter().all(|kind| fence.holds(kind)));

    // A thread that is started later is no way out.
    let (left, forbidden) =
        std::thread::spawn(move || (left(&readable, port, before), forbidden(&readable, &elsewhere)))
            .join()
            .expect("threads can be started");
    println!("{}", json!({"left": left.0, "forbidden": forbidden.0}));
}

/// What a bastion does.
fn left(readable: &Path, port: u16, mut before: File) -> Report {
    let mut report = Report::default();
    report.tried("read a file of its own", fs::read(readable.join("file")));
    report.tried("list its own folder", fs::read_dir(readable));
    report.tried("read the resolver's settings", fs::read("/etc/hosts"));
    report.tried("resolve a name", ("localhost", 1).to_socket_addrs());
    report.tried("see the network interfaces", nix::ifaddrs::getifaddrs());
    report.tried("write to what was opened before", writeln!(before, "a record"));
    let listener = TcpListener::bind(("127.0.0.1", port));
    let connected = listener.as_ref().ok().map(|_| TcpStream::connect(("127.0.0.1", port)));
    report.tried("listen on its port", listener);
    report.tried("connect", connected.unwrap());
    report
}

/// What whoever took it over might like to do.
fn forbidden(readable: &Path, elsewhere: &Path) -> Report {
    let mut report = Report::default();
    let (own, other) = (readable.join("file"), elsewhere.join("file"));
    report.tried("run a program", Command::new("/bin/true").status());
    report.tried("read another's file", fs::read(&other));
    report.tried("list another's folder", fs::read_dir(elsewhere));
    report.tried("list all folders", fs::read_dir("/"));
    report.tried("read its own environment", fs::read("/proc/self/environ"));
    report.tried("read another's memory", File::open("/proc/1/mem"));
    for (folder, place) in
        [("its own", readable), ("another's", elsewhere), ("the shared", Path::new("/dev/shm"))]
    {
        report.tried(&format!("make a file in {folder} folder"), File::create(place.join("new")));
        report.tried(&format!("make a folder in {folder} folder"), fs::create_dir(place.join("folder")));
        report.tried(&format!("make a link in {folder} folder"), symlink("/", place.join("link")));
        report.tried(
            &format!("make a pipe in {folder} folder"),
            unistd::mkfifo(&place.join("pipe"), Mode::S_IRWXU),
        );
    }
    for (whose, file) in [("its own", &own), ("another's", &other)] {
        report.tried(&format!("write {whose} file"), OpenOptions::new().write(true).open(file));
        report.tried(&format!("append to {whose} file"), OpenOptions::new().append(true).open(file));
        report.tried(&format!("truncate {whose} file"), unistd::truncate(file, 0));
        report.tried(
            &format!("change the mode of {whose} file"),
            fs::set_permissions(file, fs::Permissions::from_mode(0o777)),
        );
        report.tried(&format!("give {whose} file away"), unistd::chown(file, Some(unistd::getuid()), None));
        report.tried(&format!("link {whose} file"), fs::hard_link(file, readable.join("second")));
        report.tried(&format!("rename {whose} file"), fs::rename(file, readable.join("third")));
        report.tried(&format!("remove {whose} file"), fs::remove_file(file));
    }
    let parent = unistd::getppid();
    report.tried("trace its parent", nix::sys::ptrace::attach(parent));
    report.tried("let itself be traced", nix::sys::ptrace::traceme());
    report.tried("signal its parent", kill(parent, None));
    report.tried("become another user", unistd::setuid(unistd::getuid()));
    report.tried("leave its groups", unistd::setgid(unistd::getgid()));
    report.tried("lead a session", unistd::setsid());
    report.tried("load a module", nix::kmod::init_module(b"", c""));
    report.tried("make a namespace", nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER));
    report.tried(
        "mount",
        nix::mount::mount(Some("x"), readable, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>),
    );
    report.tried("change its root", unistd::chroot(readable));
    report.tried("name the machine", unistd::sethostname("x"));
    report.tried(
        "make a file in memory",
        nix::sys::memfd::memfd_create(c"x", nix::sys::memfd::MFdFlags::empty()),
    );
    for (what, family, kind) in [
        ("send raw packets", AddressFamily::Inet, SockType::Raw),
        ("see all packets", AddressFamily::Packet, SockType::Datagram),
        ("talk to the hypervisor", AddressFamily::Vsock, SockType::Stream),
        ("talk to the kernel's cryptography", AddressFamily::Alg, SockType::SeqPacket),
    ] {
        report.tried(what, socket(family, kind, SockFlag::empty(), None));
    }
    report.tried("listen on another port", TcpListener::bind("127.0.0.1:0"));
    report
}
