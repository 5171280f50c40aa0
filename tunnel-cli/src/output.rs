//! Prints every line of the program, escaped, as people, pipes or scripts need it.

mod event;
mod status;

use std::{
    io::{IsTerminal, Write},
    sync::{Mutex, MutexGuard, PoisonError},
};

use plain_text::{escaped, is_printed};

pub(crate) use event::{Event, Level};
pub(crate) use status::{Link, Status};

use crate::failure::{Failure, exit_code};

/// The longest line that is printed, in characters.
const LONGEST_LINE: usize = 4096;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Style {
    /// One JSON object a line, on standard output.
    pub json: bool,
    /// Errors only.
    pub quiet: bool,
    /// 0, 1 for `-v`, 2 for `-vv`.
    pub verbosity: u8,
    /// Standard output and the terminal belong to a command that we run: everything goes to standard error.
    pub aside: bool,
}

/// The one way out.
pub(crate) struct Output {
    style: Style,
    pens: Mutex<Pens>,
    redraws: bool,
}

/// Where lines go, and whether a status line stands at the bottom.
struct Pens {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    drawn: bool,
}

impl Output {
    /// To this process's standard output and error.
    pub(crate) fn standard(style: Style) -> Self {
        if style.aside {
            return Self::new(style, false, Box::new(std::io::stderr()), Box::new(std::io::stderr()));
        }
        let terminal =
            std::io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        Self::new(style, terminal, Box::new(std::io::stdout()), Box::new(std::io::stderr()))
    }

    /// To anywhere. `terminal`: a status line may be redrawn in place.
    pub(crate) fn new(
        style: Style,
        terminal: bool,
        out: Box<dyn Write + Send>,
        err: Box<dyn Write + Send>,
    ) -> Self {
        let redraws = terminal && !style.json && !style.quiet;
        Self { style, redraws, pens: Mutex::new(Pens { out, err, drawn: false }) }
    }

    /// Whether a person is looking at a status line.
    pub(crate) fn redraws(&self) -> bool {
        self.redraws
    }

    /// Whether scripts read this.
    pub(crate) fn is_json(&self) -> bool {
        self.style.json
    }

    /// Says what happened, if it is worth a line here.
    pub(crate) fn say(&self, event: &Event<'_>) {
        if !self.wants(event.level()) {
            return;
        }
        if self.style.json {
            self.json_event(event.json());
        } else {
            let lines = event.human();
            match event.level() {
                Level::Warning => self.err_lines(&lines),
                Level::Normal | Level::Detail | Level::Trace => self.out_lines(&lines),
            }
        }
    }

    /// Says why the program ends, or what went wrong meanwhile.
    pub(crate) fn fail(&self, failure: &Failure) {
        if self.style.json {
            self.json_event(serde_json::json!({
                "event": "error",
                "stage": failure.stage(),
                "code": exit_code::of(failure.stage()),
                "message": escaped(failure.what(), LONGEST_LINE),
                "advice": failure.advice().iter().map(|line| escaped(line, LONGEST_LINE)).collect::<Vec<_>>(),
            }));
        } else {
            self.err_lines(&format!("error: {failure}"));
        }
    }

    /// Prints what a command was run for (a table, a list), whatever the style of events is.
    pub(crate) fn result(&self, text: &str) {
        self.out_lines(text);
    }

    /// Prints text of this program's own as it is, such as a script.
    pub(crate) fn own(&self, text: &[u8]) {
        self.write(|pens| pens.out.write_all(text));
    }

    fn json_event(&self, mut event: serde_json::Value) {
        let now = humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string();
        if let Some(fields) = event.as_object_mut() {
            fields.insert("time".to_owned(), now.into());
        }
        self.json(&event);
    }

    /// Prints one JSON object that a command was run for.
    pub(crate) fn json(&self, value: &serde_json::Value) {
        // Control characters are escaped by JSON; those that only change what a terminal shows are ours to escape.
        let mut line = String::new();
        for character in value.to_string().chars() {
            if character.is_ascii() || is_printed(character) {
                line.push(character);
            } else {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    line.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
        self.write(|pens| writeln!(pens.out, "{line}"));
    }

    /// Prints a secret that was asked for, to a terminal only.
    ///
    /// Returns whether it was printed.
    pub(crate) fn secret(&self, label: &str, secret: &secrecy::SecretString) -> bool {
        use secrecy::ExposeSecret;
        if !self.redraws {
            return false;
        }
        let line = escaped(secret.expose_secret(), LONGEST_LINE);
        self.write(|pens| writeln!(pens.out, "{label}{line}"));
        true
    }

    /// Redraws the status line in place; does nothing where none is drawn.
    pub(crate) fn draw(&self, status: &Status) {
        if !self.redraws {
            return;
        }
        let line = escaped(&status.to_string(), LONGEST_LINE);
        let mut pens = self.pens();
        pens.drawn = true;
        // Without wrapping, a line that is too long is cut by the terminal instead of scrolling it.
        let _ = write!(pens.out, "\r\x1b[?7l\x1b[K{line}\x1b[?7h").and_then(|()| pens.out.flush());
    }

    /// Removes the status line.
    pub(crate) fn clear(&self) {
        self.write(|_| Ok(()));
    }

    fn wants(&self, level: Level) -> bool {
        // A script can skip what it does not need, but has no use for every connection either.
        let verbosity = self.style.verbosity.saturating_add(u8::from(self.style.json));
        match level {
            Level::Warning | Level::Normal => !self.style.quiet,
            Level::Detail => !self.style.quiet && verbosity >= 1,
            Level::Trace => !self.style.quiet && verbosity >= 2,
        }
    }

    fn out_lines(&self, text: &str) {
        let text = lines(text);
        self.write(|pens| pens.out.write_all(text.as_bytes()));
    }

    fn err_lines(&self, text: &str) {
        let text = lines(text);
        self.write(|pens| pens.err.write_all(text.as_bytes()));
    }

    /// A closed pipe or terminal is no reason to end: the streams go on.
    fn write(&self, write: impl FnOnce(&mut Pens) -> std::io::Result<()>) {
        let mut pens = self.pens();
        if std::mem::take(&mut pens.drawn) {
            let _ = write!(pens.out, "\r\x1b[K").and_then(|()| pens.out.flush());
        }
        let _ = write(&mut pens).and_then(|()| pens.out.flush()).and_then(|()| pens.err.flush());
    }

    fn pens(&self) -> MutexGuard<'_, Pens> {
        self.pens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each line escaped, each with its end.
fn lines(text: &str) -> String {
    text.lines().map(|line| escaped(line, LONGEST_LINE) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::failure::Stage;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Paper {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn output(style: Style, terminal: bool) -> (Output, Paper, Paper) {
        let (out, err) = (Paper::default(), Paper::default());
        (Output::new(style, terminal, Box::new(out.clone()), Box::new(err.clone())), out, err)
    }

    #[test]
    fn errors_go_to_standard_error_or_into_the_json() {
        let failure = Failure::permanent(Stage::HostKey, "evil\u{1b}[2J").advise("stop");
        let (human, out, err) = output(Style { quiet: true, ..Style::default() }, false);
        human.fail(&failure);
        assert_eq!((out.text(), err.text()), (String::new(), "error: evil\\u{1b}[2J\n  stop\n".to_owned()));

        let (json, out, err) = output(Style { json: true, ..Style::default() }, false);
        json.fail(&failure);
        assert_eq!(err.text(), "");
        let value: serde_json::Value = serde_json::from_str(&out.text()).unwrap();
        assert_eq!(value["event"], "error");
        assert_eq!(value["stage"], "host-key");
        assert_eq!(value["code"], 6);
    }

    #[test]
    fn the_status_line_is_only_for_terminals_and_gives_way_to_lines() {
        let (piped, out, _) = output(Style::default(), false);
        piped.draw(&Status::default());
        assert_eq!(out.text(), "");

        let (terminal, out, _) = output(Style::default(), true);
        terminal.draw(&Status::default());
        terminal.result("line");
        assert!(out.text().starts_with("\r\x1b[?7l\x1b[K"));
        assert!(out.text().ends_with("\r\x1b[Kline\n"));
    }

    #[test]
    fn a_secret_is_for_terminals() {
        let secret = secrecy::SecretString::from("hunter2");
        for (style, terminal) in [(Style::default(), false), (Style { json: true, ..Style::default() }, true)]
        {
            let (output, out, err) = output(style, terminal);
            assert!(!output.secret("password ", &secret));
            assert!(!out.text().contains("hunter2") && !err.text().contains("hunter2"));
        }
        let (output, out, _) = output(Style::default(), true);
        assert!(output.secret("password ", &secret));
        assert_eq!(out.text(), "password hunter2\n");
    }

    proptest! {
        #[test]
        fn nothing_printed_holds_a_control_character(text in any::<String>()) {
            prop_assert!(!escaped(&text, 1000).chars().any(char::is_control));
            let (output, out, _) = output(Style { json: true, ..Style::default() }, false);
            output.json(&serde_json::json!({ "text": text }));
            let line = out.text();
            prop_assert!(!line.trim_end_matches('\n').chars().any(|c| c.is_control() || !is_printed(c)));
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(value["text"].as_str(), Some(text.as_str()));
        }
    }
}
