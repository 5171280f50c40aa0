//! Starts and stops the daemons of a node, from within it, as asked through its socket.
//!
//! One request a connection, one line of JSON each way: [`Request`] and [`Answer`].

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// Where it listens, in the node.
pub const SOCKET: &str = "/run/runner.sock";

/// How long a daemon may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one can ask it for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Start a daemon under a name that no other has. What it writes goes to `/var/log/NAME.log`.
    Start {
        /// Its name from now on.
        name: String,
        /// The program's path and its arguments.
        words: Vec<String>,
    },
    /// Start a daemon again that was stopped, as before.
    Restart {
        /// Its name.
        name: String,
    },
    /// Stop a daemon with SIGTERM, and SIGKILL if that does not help.
    Stop {
        /// Its name.
        name: String,
    },
    /// Say whether a daemon runs.
    Status {
        /// Its name.
        name: String,
    },
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The daemon runs.
    Running,
    /// It does not; how it ended, if it ever ran.
    Ended(String),
    /// It could not be done.
    Failed(String),
}

/// Asks the runner at this socket.
///
/// # Errors
/// When no runner answers.
pub fn ask(socket: &Path, request: &Request) -> Result<Answer> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("no runner answers at {}", socket.display()))?;
    writeln!(stream, "{}", serde_json::to_string(request)?)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).with_context(|| format!("the node's runner said {line:?}"))
}

/// A daemon that was started.
struct Daemon {
    words: Vec<String>,
    child: Child,
}

/// Serves, one request after the other, for ever.
///
/// # Errors
/// When it cannot listen.
pub(super) fn serve(socket: &Path) -> Result<()> {
    let listener = UnixListener::bind(socket)?;
    let mut daemons = HashMap::new();
    loop {
        let (stream, _) = listener.accept()?;
        // A client may hang up before the answer.
        let _ = answer(stream, &mut daemons);
    }
}

fn answer(stream: UnixStream, daemons: &mut HashMap<String, Daemon>) -> Result<()> {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let answer = serde_json::from_str(&line).map_err(Into::into).and_then(|request| obey(request, daemons));
    let answer = answer.unwrap_or_else(|error| Answer::Failed(format!("{error:#}")));
    writeln!(&stream, "{}", serde_json::to_string(&answer)?)?;
    Ok(())
}

fn obey(request: Request, daemons: &mut HashMap<String, Daemon>) -> Result<Answer> {
    match request {
        Request::Start { name, words } => {
            let child = start(&name, &words)?;
            daemons.insert(name, Daemon { words, child });
            Ok(Answer::Running)
        }
        Request::Restart { name } => {
            let daemon = find(daemons, &name)?;
            ensure!(daemon.child.try_wait()?.is_some(), "{name} runs");
            daemon.child = start(&name, &daemon.words)?;
            Ok(Answer::Running)
        }
        Request::Stop { name } => {
            let child = &mut find(daemons, &name)?.child;
            let end = Instant::now() + PATIENCE;
            if child.try_wait()?.is_none() {
                kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
            }
            while child.try_wait()?.is_none() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
            child.kill()?;
            Ok(Answer::Ended(child.wait()?.to_string()))
        }
        Request::Status { name } => {
            let status = find(daemons, &name)?.child.try_wait()?;
            Ok(status.map_or(Answer::Running, |status| Answer::Ended(status.to_string())))
        }
    }
}

fn find<'a>(daemons: &'a mut HashMap<String, Daemon>, name: &str) -> Result<&'a mut Daemon> {
    daemons.get_mut(name).with_context(|| format!("no {name} was started"))
}

fn start(name: &str, words: &[String]) -> Result<Child> {
    let (program, arguments) = words.split_first().context("no program")?;
    let log = OpenOptions::new().create(true).append(true).open(format!("/var/log/{name}.log"))?;
    Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/run")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("{program} does not start"))
}
