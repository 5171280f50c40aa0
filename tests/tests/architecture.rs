//! Holds the layout of the crates: which module may import which, and where a library may be used.
//!
//! A room is a module right below a crate's root, with everything in its folder. The table lists the rooms of
//! each crate from the roof down. A room imports only from lower floors; rooms on one floor do not know each
//! other.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

struct Layout {
    source: &'static str,
    /// Rooms, from the roof down.
    floors: &'static [&'static [&'static str]],
    /// A library, and the only rooms that may use it.
    libraries: &'static [(&'static str, &'static [&'static str])],
    /// A library, and rooms that never use it.
    kept_out: &'static [(&'static str, &'static [&'static str])],
    /// A room, and all that it may import of the crate, where that is less than everything below it.
    confined: &'static [(&'static str, &'static [&'static str])],
}

const LAYOUTS: &[Layout] = &[BASTION, CLIENT, SIGNER, DATABASES];

const BASTION: Layout = Layout {
    source: "bastion-server/src",
    floors: &[
        &["lib"],
        &["command"],
        &["server"],
        &["ssh"],
        // The stages before a login, and what a login is judged by, do not know each other.
        &["accept", "trust"],
        &["kubernetes"],
        &["audit"],
        &["cli"],
        &["dial"],
        &["process"],
        &["config"],
        &["access", "limits"],
        &["identity"],
        &["destination"],
        &["telemetry"],
        &["common", "session"],
    ],
    libraries: &[
        ("russh", &["ssh"]),
        ("kube", &["kubernetes"]),
        ("k8s_openapi", &["kubernetes"]),
        ("clap", &["cli", "command"]),
        ("axum", &["server", "kubernetes"]),
        ("hickory_resolver", &["dial"]),
        ("landlock", &["process"]),
        ("seccompiler", &["process"]),
        // `identity` shares the list of critical options with the client, `kubernetes` the domain of our
        // names.
        ("vault_signer", &["trust", "server", "config", "command", "identity", "kubernetes"]),
    ],
    // What decides neither waits nor reads a clock of its own.
    kept_out: &[("tokio", &["identity", "access", "destination", "limits", "config"])],
    confined: &[
        // A rule of the file is parsed into the policy's own type.
        ("config", &["access", "destination", "identity", "limits", "telemetry", "common"]),
        ("destination", &[]),
        ("common", &[]),
        ("session", &[]),
    ],
};

const CLIENT: Layout = Layout {
    source: "tunnel-cli/src",
    floors: &[
        &["lib"],
        &["command"],
        &["tunnel", "login", "database"],
        &["cli"],
        &["config", "credential"],
        &["verdict"],
        &["ssh"],
        &["trust", "kubernetes", "output"],
        &["network"],
        &["endpoint", "failure", "suspend"],
    ],
    libraries: &[
        // `trust` judges keys by russh's types of them.
        ("russh", &["ssh", "trust"]),
        ("tunnel_stream", &["ssh"]),
        ("ssh_transport", &["ssh", "tunnel"]),
        ("kube", &["kubernetes"]),
        ("clap", &["cli"]),
        ("clap_complete", &["cli"]),
    ],
    // What decides neither waits nor reads a clock of its own.
    kept_out: &[("tokio", &["verdict", "trust", "endpoint", "failure", "config"])],
    confined: &[],
};

const SIGNER: Layout = Layout {
    source: "vault-signer/src",
    floors: &[
        &["lib"],
        &["command", "dev"],
        &["bootstrap", "credential", "database", "failure"],
        &["signer"],
        &["certificate", "login"],
        &["request", "server", "token", "cli"],
        &["http"],
        &["clock", "core_dump", "domain", "text"],
    ],
    libraries: &[("clap", &["cli", "command"])],
    kept_out: &[("tokio", &["request", "text", "domain"])],
    confined: &[],
};

/// The crate decides and does nothing: bytes go in, and steps come out.
const DATABASES: Layout = Layout {
    source: "database-wire/src",
    floors: &[
        &["lib"],
        &["mysql", "postgres", "redis"],
        &["explanation", "hash", "inbox", "link", "password", "reader", "step"],
    ],
    libraries: &[("md5", &["hash"]), ("ed25519_dalek", &["mysql"]), ("stringprep", &["postgres"])],
    kept_out: &[
        ("tokio", DATABASE_ROOMS),
        ("russh", DATABASE_ROOMS),
        ("std::fs", DATABASE_ROOMS),
        ("std::io", DATABASE_ROOMS),
        ("std::net", DATABASE_ROOMS),
        ("std::thread", DATABASE_ROOMS),
        ("std::time", DATABASE_ROOMS),
    ],
    confined: &[],
};

const DATABASE_ROOMS: &[&str] = &[
    "lib",
    "mysql",
    "postgres",
    "redis",
    "explanation",
    "hash",
    "inbox",
    "link",
    "password",
    "reader",
    "step",
];

#[test]
fn modules_import_only_what_stands_below_them() {
    let mut wrong = Vec::new();
    for layout in LAYOUTS {
        let rooms = rooms(layout);
        wrong.extend(unknown(layout, &rooms));
        for (room, files) in &rooms {
            for file in files {
                let code = code_of(&fs::read_to_string(file).unwrap());
                let file = file.strip_prefix(root()).unwrap().display();
                for imported in imports(&code).iter().filter(|imported| *imported != room) {
                    if let Some(why) = refused(layout, room, imported) {
                        wrong.push(format!("{file}: {room} imports {imported}: {why}"));
                    }
                }
                for (library, allowed) in layout.libraries {
                    if uses(&code, library) && !allowed.contains(&room.as_str()) {
                        wrong.push(format!("{file}: {library} is used only in {}", allowed.join(", ")));
                    }
                }
                for (library, kept_out) in layout.kept_out {
                    if uses(&code, library) && kept_out.contains(&room.as_str()) {
                        wrong.push(format!("{file}: {library} is not used in {room}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} imports break the layout:\n{}", wrong.len(), wrong.join("\n"));
}

/// One way of importing: what stands together of one crate is one `use`.
#[test]
fn what_is_imported_of_one_crate_stands_in_one_place() {
    let line = regex::Regex::new(r"^(\s*)(pub(?:\([a-z ]+\))? )?use (\w+)").unwrap();
    let mut twice = Vec::new();
    for layout in LAYOUTS {
        for file in rooms(layout).values().flatten() {
            let source = fs::read_to_string(file).unwrap();
            let (mut before, mut is_within) = (Vec::new(), false);
            for text in source.lines() {
                match line.captures(text).filter(|_| !is_within) {
                    Some(found) => {
                        let import = found[0].to_owned();
                        if before.contains(&import) {
                            twice.push(format!("{}: {text}", file.strip_prefix(root()).unwrap().display()));
                        }
                        before.push(import);
                        is_within = !text.ends_with(';');
                    }
                    None if is_within => is_within = !text.ends_with("};"),
                    None => before.clear(),
                }
            }
        }
    }
    assert!(twice.is_empty(), "merge these into the `use` above them:\n{}", twice.join("\n"));
}

#[test]
fn the_reader_of_imports_sees_every_spelling() {
    let code = code_of(
        r#"
        //! crate::comment::Type
        use crate::{a::{self, B}, c::D as E, f};
        pub(crate) use crate::g::H;
        fn x() { crate::i::j(); let text = "crate::string::Type"; let quote = '"'; m::n!(crate::k); }
        /* crate::block */ use some_crate::not_ours;
        "#,
    );
    assert_eq!(imports(&code), ["a", "c", "f", "g", "i", "k"]);
    assert!(uses(&code, "some_crate") && !uses(&code, "rate") && !uses(&code, "not_ours"));
    let layout = &LAYOUTS[0];
    assert!(refused(layout, "access", "ssh").is_some_and(|why| why.contains("above")));
    assert!(refused(layout, "accept", "trust").is_some_and(|why| why.contains("beside")));
    assert!(refused(layout, "config", "process").is_some());
    assert_eq!(refused(layout, "ssh", "access"), None);
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The files of each room.
fn rooms(layout: &Layout) -> BTreeMap<String, Vec<PathBuf>> {
    let source = root().join(layout.source);
    let mut rooms = BTreeMap::<_, Vec<_>>::new();
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inner = path.strip_prefix(&source).unwrap().with_extension("");
            let room = inner.iter().next().unwrap().to_str().unwrap().to_owned();
            // A program is a caller of its library; a test may know everything, and so may what serves tests.
            let is_of_tests = path.ends_with("tests.rs") || room == "rogue";
            if room != "main" && room != "bin" && !is_of_tests {
                rooms.entry(room).or_default().push(path);
            }
        }
    }
    rooms
}

/// Rooms that the table does not know, and those that are gone.
fn unknown(layout: &Layout, rooms: &BTreeMap<String, Vec<PathBuf>>) -> Vec<String> {
    let listed: Vec<_> = layout.floors.concat();
    let new = rooms.keys().filter(|room| !listed.contains(&room.as_str()));
    let gone = listed.iter().filter(|room| !rooms.contains_key(**room));
    let source = layout.source;
    new.map(|room| format!("{source}: {room} stands on no floor; put it into this table"))
        .chain(gone.map(|room| format!("{source}: there is no {room}; take it out of this table")))
        .collect()
}

fn refused(layout: &Layout, room: &str, imported: &str) -> Option<String> {
    let floor = |room: &str| layout.floors.iter().position(|floor| floor.contains(&room));
    let (Some(here), Some(there)) = (floor(room), floor(imported)) else {
        return Some("no such room".to_owned());
    };
    if there < here {
        return Some("it stands above".to_owned());
    }
    if there == here {
        return Some("it stands beside".to_owned());
    }
    let confined = layout.confined.iter().find(|(confined, _)| *confined == room);
    confined
        .filter(|(_, allowed)| !allowed.contains(&imported))
        .map(|(_, allowed)| format!("of this crate it imports only [{}]", allowed.join(", ")))
}

/// The source without its tests, comments and literals.
fn code_of(source: &str) -> String {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let literals = regex::Regex::new(
        r##"(?s)//[^\n]*|/\*.*?\*/|r#"(?:[^"]|"[^#])*"#|b?"(?:\\.|[^"\\])*"|b?'(?:\\.[^']*|[^'\\])'"##,
    );
    literals.unwrap().replace_all(source, " ").into_owned()
}

/// The rooms that a file names, in order and once each.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => found.extend(first_segments(list)),
            None => found.push(first_segment(rest)),
        }
    }
    found.retain(|room| room.starts_with(|first: char| first.is_ascii_lowercase()));
    found.sort();
    found.dedup();
    found
}

/// Of `a::{self, B}, c::D}`: a and c.
fn first_segments(list: &str) -> Vec<String> {
    let (mut depth, mut segments, mut begins) = (0_u32, Vec::new(), true);
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if begins && !character.is_whitespace() => {
                segments.push(first_segment(&list[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    segments
}

fn first_segment(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Whether a path begins with this crate's name.
fn uses(code: &str, library: &str) -> bool {
    let path = regex::Regex::new(&format!(r"(^|[^\w:]){library}::")).unwrap();
    path.is_match(code)
}
