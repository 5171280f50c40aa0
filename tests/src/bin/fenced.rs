//! Puts the bastion's fence around itself, tries what it forbids and what it must leave, and prints what
//! could be done.
//!
//! `fenced READABLE PORT ELSEWHERE`: a folder that may be read, a port that is listened on before, a folder
//! of others. In both folders there is a file `file`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test program may assume: what fails here fails its test"
)]

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::{UnixDatagram, UnixListener},
    },
    path::{Path, PathBuf},
    process::Command,
};

use bastion_server::{Config, Fence, FenceKind as Kind, fence_bounds, put_up_fence as put_up};
use nix::{
    sys::{
        signal::kill,
        socket::{AddressFamily, SockFlag, SockType, socket},
        stat::Mode,
    },
    unistd,
};
use serde_json::{Map, Value, json};
use socket2::{Domain, Protocol, Socket, Type};

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
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();

    // What a bastion with a configuration in that folder would leave itself.
    let config = readable.join("bastion.yaml");
    let text = format!(
        "listen: 127.0.0.1:{port}\nhost_key: {{generate: true}}\nauthorities: [{{file: ca.pub}}]\nlogin: {{users: [u]}}\n"
    );
    fs::write(&config, text).unwrap();
    let bounds = fence_bounds(&config, &Config::load(&config, |_| None).unwrap(), |_| None);
    let fence = put_up(Fence::Required, &bounds).unwrap();
    assert!(Kind::ALL.into_iter().all(|kind| fence.holds(kind)));

    // A thread that is started later is no way out.
    let (left, forbidden) = std::thread::spawn(move || {
        (left(&readable, &listener, before), forbidden(&readable, &elsewhere, port))
    })
    .join()
    .expect("threads can be started");
    println!("{}", json!({"left": left.0, "forbidden": forbidden.0}));
}

/// What a bastion does.
fn left(readable: &Path, listener: &TcpListener, mut before: File) -> Report {
    let mut report = Report::default();
    report.tried("read a file of its own", fs::read(readable.join("file")));
    report.tried("list its own folder", fs::read_dir(readable));
    report.tried("read the resolver's settings", fs::read("/etc/hosts"));
    report.tried("resolve a name", ("localhost", 1).to_socket_addrs());
    report.tried("see the network interfaces", nix::ifaddrs::getifaddrs());
    report.tried("write to what was opened before", writeln!(before, "a record"));
    let connected = TcpStream::connect(listener.local_addr().unwrap());
    report.tried("connect", connected.as_ref());
    report.tried("accept on its port", listener.accept());
    report.tried("ask a name server", asked());
    report
}

/// A question and an answer by UDP, from a socket that is bound to nothing.
fn asked() -> std::io::Result<()> {
    let socket = || Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP));
    let (one, other) = (socket()?, socket()?);
    let nowhere: SocketAddr = ([127, 0, 0, 1], 9).into();
    // Being connected gives each a port; then they are connected to each other.
    one.connect(&nowhere.into())?;
    other.connect(&one.local_addr()?)?;
    one.connect(&other.local_addr()?)?;
    one.send(b"where?")?;
    let mut buffer = [0; 6];
    std::io::Read::read_exact(&mut &other, &mut buffer)
}

/// Tries what an attacker who took it over might like to do.
fn forbidden(readable: &Path, elsewhere: &Path, port: u16) -> Report {
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
    report.tried("listen on its port again", TcpListener::bind(("127.0.0.1", port)));
    for (domain, any) in [(Domain::IPV4, "0.0.0.0:0"), (Domain::IPV6, "[::]:0")] {
        let any: SocketAddr = any.parse().unwrap();
        // Of TCP, and of what looks like it to a program and not to a filter of TCP's ports (IPPROTO_SCTP,
        // IPPROTO_MPTCP).
        for protocol in [6, 132, 262].map(Protocol::from) {
            let socket = Socket::new(domain, Type::STREAM, Some(protocol));
            let Ok(socket) = socket else { continue };
            let what = format!("{domain:?} {protocol:?}");
            report.tried(&format!("{what}: listen without a port of its choice"), socket.listen(1));
            report.tried(&format!("{what}: bind"), socket.bind(&any.into()));
        }
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        report.tried(&format!("{domain:?}: hear by UDP"), socket.bind(&any.into()));
    }
    let here = readable.join("socket");
    report.tried("listen for this machine", UnixListener::bind(&here));
    report.tried("hear from this machine", UnixDatagram::bind(&here));
    report
}
