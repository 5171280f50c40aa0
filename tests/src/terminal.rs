//! A terminal with a person in front of it: what a program writes there, and what happens when its window is
//! closed.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
};

use crate::process::{Program, installed};

/// The person's side.
#[derive(Debug)]
pub struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    closed: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Opens one of 120 columns; the second value is for the program.
    #[must_use]
    pub fn open() -> (Self, OwnedFd) {
        // No other child may inherit either side, or the window would never be closed for good.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname_r(&master).unwrap();
        let no_tty = OFlag::O_NOCTTY.bits();
        let slave = OpenOptions::new().read(true).write(true).custom_flags(no_tty).open(&path).unwrap();
        Program::new(installed("stty")).args(["-F", &path, "rows", "40", "cols", "120"]).succeed();

        let keyboard = File::from(master.as_fd().try_clone_to_owned().unwrap());
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK;
        fcntl(&master, FcntlArg::F_SETFL(flags)).unwrap();
        let (screen, closed) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (shown, stop) = (Arc::clone(&screen), Arc::clone(&closed));
        let mut output = File::from(master.as_fd().try_clone_to_owned().unwrap());
        drop(master);
        let reader = std::thread::spawn(move || {
            let mut block = [0; 4096];
            while !stop.load(Ordering::SeqCst) {
                match output.read(&mut block) {
                    Ok(length) => shown.lock().unwrap().extend_from_slice(&block[..length]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    // The program has gone.
                    Err(_) => break,
                }
            }
        });
        (Self { keyboard, screen, closed, reader: Some(reader) }, slave.into())
    }

    /// Everything that was ever written to it, escape codes too.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// Waits for a text.
    ///
    /// # Panics
    /// When the deadline passes first, showing what is there.
    pub fn wait_for(&self, text: &str, deadline: Duration) {
        let end = Instant::now() + deadline;
        while !self.text().contains(text) {
            assert!(Instant::now() < end, "the terminal does not show {text:?}:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Types.
    pub fn write(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Presses Ctrl-C.
    pub fn interrupt(&mut self) {
        self.write("\x03");
    }

    /// Closes the window: the program gets SIGHUP, and everything that it writes from now on fails.
    pub fn close(mut self) {
        self.closed.store(true, Ordering::SeqCst);
        self.reader.take().unwrap().join().unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        if std::thread::panicking() {
            let _ = std::io::stderr().write_all(format!("--- terminal\n{}\n", self.text()).as_bytes());
        }
    }
}
