//! The whole path on one machine: a forwarded port that survives the death of the bastion. `make demo` runs
//! it.
//!
//! It starts the stand-in for Vault, a bastion, a web page behind it, and `pf-tunnel`; fetches the page
//! through the tunnel; kills the bastion and fetches again; and stays up until Ctrl-C, or ends there with
//! `--once`.

#![expect(clippy::print_stdout, reason = "what it shows is what it is for")]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};

const PAGE: &str = "Hello from behind the bastion";
/// How long the bastion stays dead.
const OUTAGE: Duration = Duration::from_secs(1);
/// How long any one step may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let once = std::env::args().any(|argument| argument == "--once");
    let scratch = match tempfile::tempdir() {
        Ok(scratch) => scratch,
        Err(error) => return fail(&error.into(), None),
    };
    match demo(scratch.path(), once) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, Some(scratch.path())),
    }
}

fn demo(scratch: &Path, once: bool) -> Result<()> {
    let interrupted = interrupts()?;
    let page = serve_page()?;
    println!();

    let (_vault, vault) = Vault::start(scratch)?;
    println!("Vault stand-in   {}   (development only, keys in memory)", vault.address);
    let bastion = free_port(2222)?;
    let configuration = scratch.join("bastion.yaml");
    fs::write(&configuration, bastion_yaml(bastion, &vault))?;
    let mut running = start_bastion(scratch, &configuration, bastion, &vault)?;
    println!("bastion          {bastion}          host certificate, 1 policy rule");
    println!("web page         demo.internal:{}      only the bastion knows that name\n", page.port());

    let local = free_port(3000)?;
    fs::write(scratch.join("pf-tunnel.yaml"), tunnel_yaml(bastion, &vault))?;
    let destination = format!("demo.internal:{}", page.port());
    println!("$ pf-tunnel {destination} {}", local.port());
    let tunnel = start_tunnel(scratch, &destination, local.port(), &vault)?;

    fetch(local)?;
    running.0.kill()?;
    running.0.wait()?;
    println!("\nbastion killed with SIGKILL; a new request waits ...");
    let waiting = thread::spawn(move || {
        let asked = Instant::now();
        get(local).map(|page| (page, asked.elapsed()))
    });
    thread::sleep(OUTAGE);
    let restarted = start_bastion(scratch, &configuration, bastion, &vault)?;
    println!("bastion started again");
    let (page, waited) = waiting.join().map_err(|_| anyhow!("the request went wrong"))??;
    println!("GET http://{local}/  {page}   (waited {:.1} s)", waited.as_secs_f32());

    if !once {
        println!("\nIt is yours now: curl http://{local}/     Ctrl-C ends everything.");
        println!(
            "Try also: kill -9 {}, curl again, and while that waits start the bastion anew:",
            restarted.0.id()
        );
        println!(
            "  VAULT_TOKEN={} {} {}",
            vault.token,
            sibling("bastion-server")?.display(),
            configuration.display()
        );
        let _ = interrupted.recv();
        println!("\nEverything is gone again.");
    }
    // The tunnel first, or it would report the loss of the bastion.
    drop(tunnel);
    Ok(())
}

/// The stand-in for Vault, as it describes itself.
struct Vault {
    address: String,
    token: String,
    host_authority: String,
}

impl Vault {
    fn start(scratch: &Path) -> Result<(Running, Self)> {
        let listen = free_port(8200)?;
        let mut command = program("vault-signer", scratch)?;
        command.args(["dev", "--json", "--principal", "tunnel", "--listen", &listen.to_string()]);
        command.stdout(Stdio::piped());
        let mut running = Running(command.spawn().context("vault-signer does not start")?);
        let stdout = running.0.stdout.take().context("vault-signer has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let said: serde_json::Value = serde_json::from_str(&line).context("vault-signer dev said nothing")?;
        let field = |name: &str| {
            said.get(name)
                .and_then(serde_json::Value::as_str)
                .map(str::to_owned)
                .with_context(|| format!("no {name}"))
        };
        let vault = Self {
            address: field("address")?,
            token: field("root_token")?,
            host_authority: field("host_authority")?,
        };
        Ok((running, vault))
    }
}

fn bastion_yaml(listen: SocketAddr, vault: &Vault) -> String {
    format!(
        "listen: {listen}\n\
         host_key: {{vault: {{mount: ssh-host, role: bastion, principals: [\"127.0.0.1\"]}}}}\n\
         vault: {{address: \"{}\"}}\n\
         authorities: [{{vault: {{mount: ssh}}}}]\n\
         login: {{users: [tunnel]}}\n\
         hosts: {{demo.internal: [127.0.0.1]}}\n\
         open_networks: [loopback]\n\
         rules:\n\
         - name: clients reach the demonstration\n\
         \x20 who: {{principals: [tunnel]}}\n\
         \x20 to: [\"demo.internal:*\"]\n",
        vault.address
    )
}

fn tunnel_yaml(bastion: SocketAddr, vault: &Vault) -> String {
    format!(
        "bastion:\n  address: {bastion}\n  user: tunnel\n  host_authority: {}\n\
         vault:\n  address: {}\n  mount: ssh\n  role: forward\n",
        vault.host_authority, vault.address
    )
}

fn start_bastion(scratch: &Path, configuration: &Path, listen: SocketAddr, vault: &Vault) -> Result<Running> {
    let mut command = program("bastion-server", scratch)?;
    command.arg(configuration).env("VAULT_TOKEN", &vault.token).stdout(Stdio::null());
    let mut running = Running(command.spawn().context("bastion-server does not start")?);
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(listen).is_err() {
        if let Some(status) = running.0.try_wait()? {
            bail!("bastion-server ended: {status}");
        }
        ensure!(Instant::now() < deadline, "bastion-server does not listen on {listen}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(running)
}

/// Starts the tunnel, shows what it says, and waits until it says that it is ready.
fn start_tunnel(scratch: &Path, destination: &str, local: u16, vault: &Vault) -> Result<Running> {
    let mut command = program("pf-tunnel", scratch)?;
    command.args([destination, &local.to_string()]).env("VAULT_TOKEN", &vault.token).stdout(Stdio::piped());
    let mut running = Running(command.spawn().context("pf-tunnel does not start")?);
    let stdout = running.0.stdout.take().context("pf-tunnel has no output")?;
    let (said, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            println!("{line}");
            let _ = said.send(line);
        }
    });
    let deadline = Instant::now() + PATIENCE;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if line.contains("ready") => break,
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => bail!("pf-tunnel is not ready after {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("pf-tunnel ended"),
        }
    }
    println!();
    Ok(running)
}

fn fetch(local: SocketAddr) -> Result<()> {
    println!("GET http://{local}/  {}", get(local)?);
    Ok(())
}

fn get(local: SocketAddr) -> Result<String> {
    let mut connection = TcpStream::connect(local)?;
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut response = String::new();
    connection.read_to_string(&mut response)?;
    let page = response.split_once("\r\n\r\n").map(|(_, page)| page);
    ensure!(response.starts_with("HTTP/1.1 200 ") && page == Some(PAGE), "an unexpected page: {response:?}");
    Ok(format!("200  {PAGE:?}"))
}

/// A web page on a free port of the loopback interface.
fn serve_page() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{PAGE}",
                    PAGE.len()
                );
            });
        }
    });
    Ok(address)
}

/// The port that people expect, or another if that is taken.
fn free_port(wanted: u16) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("no free port")?;
    Ok(listener.local_addr()?)
}

/// A child that is killed when the demonstration ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One of our programs, with nothing of the user's own configuration, its log in a file.
fn program(name: &str, scratch: &Path) -> Result<Command> {
    let mut command = Command::new(sibling(name)?);
    let log = File::options().create(true).append(true).open(scratch.join(name).with_extension("log"))?;
    command.env_clear().env("HOME", scratch).current_dir(scratch).stdin(Stdio::null()).stderr(log);
    Ok(command)
}

fn sibling(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(path.is_file(), "{} is not built; use `make demo`", path.display());
    Ok(path)
}

/// Hears Ctrl-C.
fn interrupts() -> Result<Receiver<()>> {
    let (heard, interrupts) = channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                let _ = heard.send(());
            }
        });
    });
    Ok(interrupts)
}

fn fail(error: &anyhow::Error, scratch: Option<&Path>) -> ExitCode {
    println!("\nerror: the demonstration did not work: {error:#}");
    for name in ["vault-signer", "bastion-server", "pf-tunnel"] {
        let log =
            scratch.and_then(|scratch| fs::read_to_string(scratch.join(name).with_extension("log")).ok());
        for line in log.iter().flat_map(|log| log.lines()).take(20) {
            println!("  {name}: {}", line.escape_debug());
        }
    }
    ExitCode::FAILURE
}
