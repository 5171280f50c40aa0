//! Child processes that cannot outlive their test, and what they wrote.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::Write,
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output},
    sync::{
        Mutex, OnceLock,
        mpsc::{Sender, channel},
    },
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, SysconfVar, sysconf},
};

use crate::{scratch::Scratch, wait};

/// How much of each log is shown when a test fails.
const SHOWN: usize = 12_000;

/// The path of a program of this workspace, which stands beside the test, or the program, that runs now.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn ours(name: &str) -> PathBuf {
    let running = std::env::current_exe().unwrap();
    let folder = running.parent().unwrap();
    let profile = if folder.ends_with("deps") { folder.parent().unwrap() } else { folder };
    let path = profile.join(name);
    assert!(path.is_file(), "{} is not built: run `cargo build --workspace` first", path.display());
    path
}

/// The top folder of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// The path of an installed program, also of those that only root has in its `PATH`.
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn installed(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: run tests/install first"))
}

/// The folder of the programs of PostgreSQL's newest version.
///
/// # Panics
/// When none is installed.
#[must_use]
pub fn postgres_programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|version| Path::new(&format!("/usr/lib/postgresql/{version}/bin/postgres")).is_file())
        .max()
        .expect("PostgreSQL is not installed: run tests/install first");
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin"))
}

/// Whether the tests run as root: some peers must then be told to run as another user.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The name of the user who runs the tests.
#[must_use]
pub fn user() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().expect("a user with a name").name
}

/// A program, its arguments, and a clean environment: nothing of the developer's own (agents, tokens,
/// addresses) leaks in.
#[derive(Debug, Clone)]
pub struct Program {
    name: String,
    words: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    as_user: Option<String>,
    input: Vec<u8>,
    again: fn(&str) -> bool,
}

/// How often a program is started that says each time that it may be started again.
pub const ATTEMPTS: usize = 5;

impl Program {
    /// A program by its path.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let environment = vec![
            ("PATH".into(), "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into()),
            ("LC_ALL".into(), "C.UTF-8".into()),
            ("HOME".into(), "/nonexistent".into()),
        ];
        Self {
            name,
            words: vec![path.into()],
            environment,
            folder: None,
            as_user: None,
            input: Vec::new(),
            again: |_| false,
        }
    }

    /// A program of this workspace.
    #[must_use]
    pub fn ours(name: &str) -> Self {
        Self::new(ours(name))
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.words.push(word.as_ref().to_owned());
        self
    }

    /// Has other words before its own, such as a shell that becomes it.
    #[must_use]
    pub fn under(mut self, words: &[&str]) -> Self {
        self.words.splice(0..0, words.iter().map(OsString::from));
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.words.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// One variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// The folder it runs in.
    #[must_use]
    pub fn folder(mut self, path: impl Into<PathBuf>) -> Self {
        self.folder = Some(path.into());
        self
    }

    /// What it finds on its standard input; nothing, unless told otherwise.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Another user to run it as, which only root may ask for.
    #[must_use]
    pub fn as_user(mut self, name: &str) -> Self {
        self.as_user = Some(name.to_owned());
        self
    }

    /// [`Program::output`] starts it again, some times, if it says something of this kind to its standard
    /// error.
    #[must_use]
    pub fn again_if(mut self, says: fn(&str) -> bool) -> Self {
        self.again = says;
        self
    }

    /// Runs it to its end, and returns what it wrote.
    ///
    /// # Panics
    /// When it takes longer than two minutes.
    #[must_use]
    pub fn output(self) -> Output {
        for _ in 1..ATTEMPTS {
            let output = self.clone().output_of_one();
            if !(self.again)(&String::from_utf8_lossy(&output.stderr)) {
                return output;
            }
        }
        self.output_of_one()
    }

    fn output_of_one(self) -> Output {
        let mut process = self.start();
        let status = process.wait(Duration::from_secs(120));
        Output { status, stdout: process.stdout().into_bytes(), stderr: process.stderr().into_bytes() }
    }

    /// Runs it to its end, and returns its standard output.
    ///
    /// # Panics
    /// When it fails.
    pub fn succeed(self) -> String {
        let line = format!("{:?}", self.words);
        let output = self.output();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {}\n{stdout}{stderr}", output.status);
        stdout
    }

    /// Starts it, with its input and output in files.
    #[must_use]
    pub fn start(self) -> Process {
        let scratch = Scratch::new(&self.name);
        let (out, err) = (scratch.join("stdout"), scratch.join("stderr"));
        let mut command = self.command(&[]);
        let input = File::open(scratch.write("stdin", &self.input)).unwrap();
        command.stdin(input).stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        // A group of its own, so that killing it takes its children along.
        command.process_group(0);
        Process { name: self.name, child: spawn(command), out, err, scratch, status: None }
    }

    /// Starts it on a terminal, which it controls as it would a person's. What it writes goes there too.
    #[must_use]
    pub fn start_on(self, terminal: OwnedFd) -> Process {
        let scratch = Scratch::new(&self.name);
        let (out, err) = (scratch.join("stdout"), scratch.join("stderr"));
        let _ = (File::create(&out).unwrap(), File::create(&err).unwrap());
        let mut command = self.command(&["setsid", "--ctty"]);
        command.stdin(terminal.try_clone().unwrap()).stdout(terminal.try_clone().unwrap()).stderr(terminal);
        Process { name: self.name, child: spawn(command), out, err, scratch, status: None }
    }

    fn command(&self, through: &[&str]) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(name) = &self.as_user {
            let user = nix::unistd::User::from_name(name).unwrap().expect("the user exists");
            let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
            let user_words = ["setpriv", "--reuid", &uid, "--regid", &gid, "--clear-groups", "--"];
            words.extend(user_words.map(OsString::from));
        }
        // Dies with the test, even when the test is killed. Changing the user would forget that: so it comes
        // after.
        words.extend(["setpriv", "--pdeathsig", "KILL", "--"].map(OsString::from));
        words.extend(through.iter().map(OsString::from));
        words.extend(self.words.iter().cloned());
        let mut command = Command::new(installed(&words[0].to_string_lossy()));
        command
            .args(&words[1..])
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }
}

/// The resident memory of a process, in KiB.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// How long a process has kept processors busy.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn busy(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name in parentheses may hold anything. Behind it, user and system time are the 12th and 13th field.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    let a_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
    Duration::from_millis(ticks * 1000 / u64::try_from(a_second).unwrap())
}

/// How many files a process has open.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn open_files(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// Starts a command from a thread that lives as long as this process: the kernel sends the parent's death
/// signal when the *thread* that started the child ends, and a test's thread ends with its test.
///
/// # Panics
/// When the program does not start.
pub fn spawn(command: Command) -> Child {
    type Job = (Command, Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, inbox) = channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let (reply, answer) = channel();
    spawner.lock().unwrap().send((command, reply)).unwrap();
    answer.recv().unwrap().expect("the program starts")
}

/// A running program; killed, with its children, when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
    scratch: Scratch,
    status: Option<ExitStatus>,
}

impl Process {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to its standard output until now.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap()).into_owned()
    }

    /// What it wrote to its standard error until now.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.err).unwrap()).into_owned()
    }

    /// The lines of its standard output that are JSON objects.
    #[must_use]
    pub fn json(&self) -> Vec<serde_json::Value> {
        let text = self.stdout();
        // The last line may be half written.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until it wrote `text`, to either output.
    ///
    /// # Panics
    /// When it ends or the deadline passes first.
    pub fn wait_for(&mut self, text: &str, deadline: Duration) {
        let said = self.says(text, deadline);
        assert!(said, "{} ended ({:?}) and never said {text:?}", self.name, self.status);
    }

    /// Waits until it wrote `text`, to either output, or ended without that.
    ///
    /// # Panics
    /// When the deadline passes first.
    #[must_use]
    pub fn says(&mut self, text: &str, deadline: Duration) -> bool {
        wait::until(&format!("{} says {text:?}", self.name), deadline, || {
            // Asked before: its last words count.
            let ended = self.ended().is_some();
            let said = self.stdout().contains(text) || self.stderr().contains(text);
            (said || ended).then_some(said)
        })
    }

    /// Waits until it serves.
    ///
    /// # Panics
    /// When it ends, or [`wait::START`] passes, first.
    pub fn wait_until_up(&mut self, mut serves: impl FnMut() -> bool) {
        let name = self.name.clone();
        wait::until_true(&format!("{name} serves"), wait::START, || {
            let ended = self.ended();
            assert!(ended.is_none(), "{name} ended ({ended:?}) before it served");
            serves()
        });
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap();
        }
        self.status
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When the deadline passes first.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let name = self.name.clone();
        wait::until(&format!("the end of {name}"), deadline, || self.ended())
    }

    /// Waits for its end and returns its exit code.
    ///
    /// # Panics
    /// When the deadline passes first, or a signal ended it.
    pub fn code(&mut self, deadline: Duration) -> i32 {
        let status = self.wait(deadline);
        status.code().unwrap_or_else(|| panic!("{} was ended by signal {:?}", self.name, status.signal()))
    }

    /// Sends a signal to the program alone, as a person or a service manager would.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id().cast_signed()), signal).unwrap();
    }

    /// Kills it with SIGKILL, as a crash would, and waits until it is gone.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            // A program on a terminal leads a session, hence a group too: the same call fits both.
            let _ = killpg(Pid::from_raw(self.id().cast_signed()), Signal::SIGKILL);
            let _ = self.child.kill();
            self.status = Some(self.child.wait().unwrap());
        }
    }

    /// The folder with its output, where a test may keep more of its files.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            // One write: other tests write at the same time.
            let mut text = String::new();
            for (kind, content) in [("stdout", self.stdout()), ("stderr", self.stderr())] {
                let tail: Vec<u8> = content.bytes().skip(content.len().saturating_sub(SHOWN)).collect();
                if !content.is_empty() {
                    text.push_str(&format!(
                        "--- {kind} of {} ({:?})\n{}\n",
                        self.name,
                        self.status,
                        String::from_utf8_lossy(&tail)
                    ));
                }
            }
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }
}
