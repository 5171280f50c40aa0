//! A program that is run with a database's connection in its environment.
//!
//! The password is in neither its environment nor its arguments, where others could read it, nor in a file on a disk: it is
//! environment to read its password file from anonymous memory that this process holds, and that goes with it. The file is named
//! by our process id, so that a program finds it which has closed what it inherited, and so do the programs that it starts.

use std::{
    ffi::OsString,
    fs::{File, Permissions},
    io::Write,
    os::{
        fd::AsRawFd,
        unix::{fs::PermissionsExt, process::ExitStatusExt},
    },
    process::ExitStatus,
    time::Duration,
};

use nix::{
    sys::{
        memfd::{MFdFlags, memfd_create},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::failure::{Failure, Stage};

/// What is ours and not the child's.
const SECRETS: [&str; 4] = ["VAULT_TOKEN", "BAO_TOKEN", "PF_TUNNEL_PASSWORD", "PF_TUNNEL_SECRET_ID"];
/// How long a child may take to end after it was environment to.
const GRACE: Duration = Duration::from_secs(5);

/// What a child is environment.
pub(super) struct ChildEnv {
    /// Variables that it is not to have, whatever this process has.
    pub(super) taken: Vec<&'static str>,
    /// Variables without secrets.
    pub(super) variables: Vec<(&'static str, String)>,
    /// The variable that names a password file.
    pub(super) password_file: &'static str,
    /// What is in that.
    pub(super) password: zeroize::Zeroizing<String>,
}

/// A running child.
pub(super) struct Running {
    child: Child,
    /// The child opens it by its number here.
    _password: File,
}

impl Running {
    /// Starts it, with our standard input and output.
    pub(super) fn start(command: &[OsString], environment: &ChildEnv) -> Result<Self, Failure> {
        let failed = |what: String| Failure::permanent(Stage::Arguments, what);
        let (program, arguments) =
            command.split_first().ok_or_else(|| failed("there is no command after --".into()))?;
        let password = in_memory(&environment.password)
            .map_err(|error| failed(format!("the password cannot be handed over: {error}")))?;
        let mut command = Command::new(program);
        for name in SECRETS.iter().chain(&environment.taken) {
            command.env_remove(name);
        }
        command.args(arguments).envs(environment.variables.iter().map(|(name, value)| (name, value)));
        let (process, descriptor) = (std::process::id(), password.as_raw_fd());
        command.env(environment.password_file, format!("/proc/{process}/fd/{descriptor}"));
        let child = command
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(format!("{} cannot be run: {error}", program.to_string_lossy())))?;
        Ok(Self { child, _password: password })
    }

    /// Waits for its end.
    pub(super) async fn ended(&mut self) -> Result<u8, Failure> {
        let status = self.child.wait().await;
        status
            .map(code)
            .map_err(|error| Failure::permanent(Stage::Internal, format!("the command is lost: {error}")))
    }

    /// Tells it to end, and sees to it.
    pub(super) async fn end(&mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if timeout(GRACE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// What a shell would report.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// Anonymous memory that no child inherits. libpq refuses a password file that others may read.
fn in_memory(text: &str) -> std::io::Result<File> {
    let mut file = File::from(memfd_create(c"password", MFdFlags::MFD_CLOEXEC)?);
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_password_is_in_the_file_and_nowhere_else() {
        let environment = ChildEnv {
            taken: vec!["HOME", "PGHOST"],
            variables: vec![("PGHOST", "127.0.0.1".into())],
            password_file: "PGPASSFILE",
            password: "hunter2".to_owned().into(),
        };
        let script = r#"
            test "$(cat "$PGPASSFILE")" = hunter2 || exit 3
            test "$(cat "$PGPASSFILE")" = hunter2 || exit 4
            test "$(stat -Lc %a "$PGPASSFILE")" = 600 || exit 5
            test "$PGHOST" = 127.0.0.1 || exit 6
            tr '\0' '\n' < /proc/self/environ | grep -q hunter2 && exit 7
            test -z "$HOME" || exit 8
            for number in 3 4 5 6 7 8 9; do
                (exec sh -c "exec $number<&-; cat \"\$PGPASSFILE\"") | grep -q hunter2 || exit 9
                readlink /proc/self/fd/$number | grep -q memfd && exit 10
            done
            exit 42"#;
        let command = ["sh", "-c", script].map(OsString::from);
        assert_eq!(Running::start(&command, &environment).unwrap().ended().await, Ok(42));
    }

    #[tokio::test]
    async fn it_ends_when_told() {
        let environment = ChildEnv {
            taken: vec![],
            variables: vec![],
            password_file: "PGPASSFILE",
            password: String::new().into(),
        };
        let mut running = Running::start(&["sleep", "1000"].map(OsString::from), &environment).unwrap();
        running.end().await;
        assert_eq!(running.ended().await, Ok(128 + 15));
        let missing = Running::start(&["/none/such".into()], &environment).err().unwrap();
        assert!(missing.to_string().starts_with("/none/such cannot be run"));
    }
}
