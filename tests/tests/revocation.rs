//! Revocation lists: as `ssh-keygen` answers for its own lists, as a stock sshd does, and while lists change
//! under a running bastion.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bastion_server::{RevocationList, Revocations, Revoked};
use serde_json::{Value, json};
use ssh_key::{Certificate, HashAlg};
use tests::{
    bastion::{self, Bastion, LOGIN},
    forge::{Forge, line},
    key::{Key, Kind},
    process::{Program, installed, user},
    rogue::{Attempt, Client, Gone, SAYS_NOTHING, SAYS_WHY, Verdict},
    scratch::Scratch,
    sshd,
    target::Target,
    wait,
};

/// Serial numbers that are likely to be at an edge of what lists hold.
const SERIALS: [u64; 14] = [0, 1, 2, 3, 7, 8, 63, 64, 100, 255, 256, 1000, u64::MAX - 1, u64::MAX];
const KEY_IDS: [&str; 6] = ["alice", "alice@example.com", "two words", "ünïcode", "Alice", ""];

#[test]
fn hundreds_of_lists_mean_what_ssh_keygen_says() {
    const LISTS: usize = 240;
    let scratch = Scratch::new("crowd");
    let crowd = Crowd::new(&scratch);
    let mut answers = BTreeMap::new();
    for answer in many(LISTS, || one_list(&crowd)).into_iter().flatten() {
        *answers.entry(answer).or_insert(0) += 1;
    }
    println!("{LISTS} lists, {} certificates: {answers:?}", crowd.certificates.len());
    let all = ["authority_revoked", "key_id_revoked", "key_revoked", "not revoked", "serial_revoked"];
    assert_eq!(answers.keys().copied().collect::<Vec<_>>(), all);
}

/// Does something so many times, some of them simultaneously, since most of it is waiting for programs.
fn many<T: Send>(times: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
    const WORKERS: usize = 4;
    let share = || (0..times / WORKERS).map(|_| work()).collect::<Vec<_>>();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(share)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

/// A list with one bit flipped, or cut anywhere. The authority in it is one whose key can be anything: that
/// the point of an ECDSA key is on its curve is what `ssh-keygen` checks and we do not.
#[test]
fn damaged_lists_are_taken_or_refused_as_by_ssh_keygen() {
    const LISTS: usize = 240;
    let scratch = Scratch::new("damaged");
    let crowd = Crowd::new(&scratch);
    let list = scratch.join("krl");
    for authority in [crowd.authorities.first(), None] {
        let lines: Vec<_> = (0..20).map(|_| serials_or_key_id()).collect();
        revoke(&scratch, &list, authority, &lines);
    }
    let names = ["key", "sha1", "sha256"].into_iter().zip(&crowd.users);
    let keys: Vec<_> = names.map(|(name, key)| format!("{name}: {}", key.public_line())).collect();
    revoke(&scratch, &list, None, &keys);
    let whole = fs::read(&list).unwrap();
    let taken = many(LISTS, || {
        let mut damaged = whole.clone();
        let place = rand::random_range(0..whole.len());
        if rand::random_range(0..3) == 0 {
            damaged.truncate(place);
        } else {
            damaged[place] ^= 1 << rand::random_range(0..8);
        }
        let scratch = Scratch::new("damaged");
        let theirs = crowd.asked(&scratch.write("krl", &damaged));
        let ours = Revocations::parse(&damaged).map(|ours| RevocationList::from_iter([Arc::new(ours)]));
        let answers = ours.as_ref().ok().map(|ours| {
            let revoked = |(_, certificate): &(PathBuf, Certificate)| ours.revoked(certificate).is_some();
            crowd.certificates.iter().map(revoked).collect::<Vec<_>>()
        });
        assert_eq!(answers, theirs, "byte {place}: {:?}\n{damaged:02x?}", ours.err());
        theirs.is_some()
    });
    let taken = taken.into_iter().filter(|taken| *taken).count();
    println!("{LISTS} damaged lists of {} bytes, {taken} of them taken", whole.len());
    assert!(taken > 0 && taken < LISTS);
}

/// Makes a list, asks `ssh-keygen` and us about every certificate, and returns what both said.
fn one_list(crowd: &Crowd) -> Vec<&'static str> {
    let scratch = Scratch::new("list");
    let list = scratch.join("krl");
    let mut specs = Vec::new();
    for _ in 0..rand::random_range(1..4) {
        let authority = rand::random_range(0..4);
        let lines: Vec<_> = (0..rand::random_range(0..6)).map(|_| crowd.spec_line()).collect();
        revoke(&scratch, &list, crowd.authorities.get(authority), &lines);
        specs.push((authority, lines));
    }
    let ours = Revocations::parse(&fs::read(&list).unwrap()).unwrap();
    let ours = RevocationList::from_iter([Arc::new(ours)]);
    let compare = |((path, certificate), theirs): (&(PathBuf, Certificate), bool)| {
        let answer = ours.revoked(certificate);
        assert_eq!(answer.is_some(), theirs, "{answer:?} {}\n{certificate:?}\n{specs:#?}", path.display());
        answer.map_or("not revoked", Revoked::code)
    };
    crowd.certificates.iter().zip(crowd.asked(&list).unwrap()).map(compare).collect()
}

/// One certificate, and why it must be refused.
struct Row {
    name: &'static str,
    key: Key,
    authority: Key,
    serial: u64,
    key_id: &'static str,
    reason: Option<&'static str>,
}

impl Row {
    fn attempt(&self) -> Attempt {
        let login = user();
        let forge = Forge::user(&self.key, &login).with(|forge| {
            forge.serial = self.serial;
            forge.key_id = self.key_id.into();
        });
        Attempt::certificate(login, &self.key, forge.sign(&self.authority))
    }
}

fn present(server: SocketAddr, attempt: &Attempt, patience: Duration) -> Verdict {
    Client::connect(server).expect("a key exchange").attempt_to_the_end(attempt, patience)
}

/// Each of these rows asks a bastion and a stock sshd that have the same list.
fn compare(list: &Path, authorities: &[&Key], rows: &[Row]) {
    let files = json!([list]);
    let bastion = authorities.iter().fold(bastion::Setup::new(), |setup, key| setup.trust(key));
    let bastion = bastion.set("/revocation/files", files).start();
    let sshd = authorities.iter().fold(sshd::Setup::new(), |setup, key| setup.trust(key));
    let sshd = sshd.option(&format!("RevokedKeys {}", list.display())).start();
    let mut wrong = Vec::new();
    for row in rows {
        let attempt = row.attempt();
        let ours = present(bastion.address(), &attempt, SAYS_WHY);
        let theirs = present(sshd.address(), &attempt, SAYS_NOTHING);
        let word = |verdict: &Verdict| if verdict.accepted { "admits" } else { "refuses" };
        let reason = ours.reason();
        println!(
            "{:<44} {:<20} {:<8} {}",
            row.name,
            reason.as_deref().unwrap_or_default(),
            word(&ours),
            word(&theirs)
        );
        let accepted = row.reason.is_none();
        if (ours.accepted, theirs.accepted) != (accepted, accepted) || reason.as_deref() != row.reason {
            wrong.push(format!("{}: {ours:?}, sshd {}", row.name, word(&theirs)));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), sshd.log());
}

#[test]
fn what_a_list_revokes_is_refused_as_by_sshd() {
    let scratch = Scratch::new("revoked");
    let (authority, gone) = (Key::ed25519(), Key::generate(Kind::Ecdsa(256)));
    let rsa = Key::generate(Kind::Rsa(2048));
    let [by_key, by_sha1, by_sha256, by_line] = [(); 4].map(|()| Key::ed25519());
    let row = |name, key: &Key, authority: &Key, serial, key_id, reason| {
        let (key, authority) = (key.clone(), authority.clone());
        Row { name, key, authority, serial, key_id, reason }
    };

    let krl = scratch.join("revoked.krl");
    let lines = [
        "serial: 7".to_owned(),
        "serial: 100-200".to_owned(),
        "id: leaver".to_owned(),
        format!("key: {}", by_key.public_line()),
        format!("sha1: {}", by_sha1.public_line()),
        format!("sha256: {}", by_sha256.public_line()),
        format!("key: {}", gone.public_line()),
    ];
    revoke(&scratch, &krl, Some(&authority), &lines);
    revoke(&scratch, &krl, None, &["id: unused".to_owned()]);
    let (serial, key_id) = (Some("serial_revoked"), Some("key_id_revoked"));
    let (key, everything) = (Some("key_revoked"), Some("authority_revoked"));
    compare(
        &krl,
        &[&authority, &gone, &rsa],
        &[
            row("KRL: none of it", &by_line, &authority, 1, "me", None),
            row("KRL: its key", &by_key, &authority, 1, "me", key),
            row("KRL: its key, by another authority", &by_key, &rsa, 1, "me", key),
            row("KRL: its key's SHA-1", &by_sha1, &authority, 1, "me", key),
            row("KRL: its key's SHA-256", &by_sha256, &authority, 1, "me", key),
            row("KRL: its serial number", &by_line, &authority, 7, "me", serial),
            row("KRL: the next serial number", &by_line, &authority, 8, "me", None),
            row("KRL: the number, by another authority", &by_line, &rsa, 7, "me", None),
            row("KRL: in the range, first", &by_line, &authority, 100, "me", serial),
            row("KRL: in the range, last", &by_line, &authority, 200, "me", serial),
            row("KRL: before the range", &by_line, &authority, 99, "me", None),
            row("KRL: behind the range", &by_line, &authority, 201, "me", None),
            row("KRL: its key id", &by_line, &authority, 1, "leaver", key_id),
            row("KRL: another key id", &by_line, &authority, 1, "Leaver", None),
            row("KRL: the key id, by another authority", &by_line, &rsa, 1, "leaver", None),
            row("KRL: a key id of every authority", &by_line, &rsa, 1, "unused", key_id),
            row("KRL: its authority", &by_line, &gone, 1, "me", everything),
        ],
    );

    let certified = line(&Forge::user(&by_line, "x").sign(&authority));
    let plain = [
        "# who left".to_owned(),
        String::new(),
        by_key.public_line(),
        format!("  {} with a comment", gone.public_line()),
        certified,
    ];
    let plain = scratch.write("revoked.pub", plain.join("\n") + "\n");
    compare(
        &plain,
        &[&authority, &gone],
        &[
            row("plain: none of it", &by_sha1, &authority, 1, "me", None),
            row("plain: its key", &by_key, &authority, 1, "me", key),
            row("plain: the key of a listed certificate", &by_line, &authority, 2, "me", key),
            row("plain: its authority", &by_sha1, &gone, 1, "me", everything),
        ],
    );
}

/// As a list must be replaced, so that no reader sees a part.
fn replace(list: &Path, content: impl AsRef<[u8]>) {
    let next = list.with_extension("next");
    fs::write(&next, content).unwrap();
    fs::rename(next, list).unwrap();
}

#[test]
fn a_changed_list_holds_within_seconds_and_a_bad_one_changes_nothing() {
    let scratch = Scratch::new("reload");
    let target = Target::echo();
    let (authority, leaver, stayer) = (Key::ed25519(), Key::ed25519(), Key::ed25519());
    let list = scratch.write("revoked", "# empty yet\n");
    let bastion = bastion::Setup::new()
        .trust(&authority)
        .rule(LOGIN, &[&target.address().to_string()])
        .set("/revocation/files", json!([list]))
        .start();
    let blob =
        |key: &Key, serial| Forge::user(key, LOGIN).with(|forge| forge.serial = serial).sign(&authority);
    let attempt = |key: &Key, serial| {
        let attempt = Attempt::certificate(LOGIN, key, blob(key, serial));
        present(bastion.address(), &attempt, SAYS_WHY)
    };
    let mut leaving = Client::login(bastion.address(), LOGIN, &leaver, blob(&leaver, 7));
    let mut staying = Client::login(bastion.address(), LOGIN, &stayer, blob(&stayer, 8));
    let channel = staying.forward("127.0.0.1", target.port().into()).unwrap().unwrap();

    let krl = scratch.join("krl");
    revoke(&scratch, &krl, Some(&authority), &["serial: 7".to_owned()]);
    let revoked = Instant::now();
    replace(&list, fs::read(&krl).unwrap());
    wait::until_true("a refused login", Duration::from_secs(5), || !attempt(&leaver, 7).accepted);
    assert_eq!(attempt(&leaver, 7).reason().as_deref(), Some("serial_revoked"));
    let end = leaving.wait_for(|_| false).unwrap_err();
    assert!(matches!(&end, Gone::Disconnected { text, .. } if text.contains("serial_revoked")), "{end:?}");
    assert!(revoked.elapsed() < Duration::from_secs(10), "{:?}", revoked.elapsed());
    for event in ["session_closed", "login_refused"] {
        let fits = |record: &Value| record["event"] == event && record["reason"] == "serial_revoked";
        assert_eq!(bastion.audited(event, fits)["serial"], 7);
    }
    staying.write(channel, b"still here").unwrap();
    assert_eq!(staying.read(channel, 10).unwrap(), b"still here");

    let certificate = scratch.write("id-cert.pub", line(&blob(&leaver, 7)));
    let explained = Program::ours("bastion-server")
        .arg("explain")
        .arg(bastion.config())
        .arg("--cert")
        .arg(certificate)
        .args(["--to", &target.address().to_string()])
        .output();
    let said = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(said.contains("serial_revoked: its serial number is revoked"), "{said}");

    let half = fs::read(&krl).unwrap();
    for (failures, bad) in (1..).zip([Some(&half[..half.len() - 3]), Some(b""), Some(b"hunter2\n"), None]) {
        match bad {
            Some(bad) => replace(&list, bad),
            None => fs::remove_file(&list).unwrap(),
        }
        failed(&bastion, failures);
        assert_eq!(attempt(&leaver, 7).reason().as_deref(), Some("serial_revoked"), "{bad:?}");
        assert!(attempt(&stayer, 8).accepted, "{bad:?}");
    }
    let log = bastion.log();
    assert!(log.contains("its last good content stays in force") && !log.contains("hunter2"), "{log}");

    replace(&list, stayer.public_line());
    wait::until_true("a login again", Duration::from_secs(5), || attempt(&leaver, 7).accepted);
    assert_eq!(attempt(&stayer, 8).reason().as_deref(), Some("key_revoked"));
}

fn failed(bastion: &Bastion, times: u32) {
    let counted = format!("bastion_revocation_refresh_failures_total {times}\n");
    wait::until_true(&counted, Duration::from_secs(5), || bastion.page("/metrics").body.contains(&counted));
}

#[test]
fn without_its_lists_the_bastion_does_not_start() {
    let scratch = Scratch::new("start");
    let list = scratch.join("revoked");
    let config = format!(
        "listen: 127.0.0.1:0\nhost_key: {{generate: true}}\nauthorities: [{{key: {}}}]\nlogin: {{users: [tunnel]}}\n\
         revocation: {{files: [{}]}}\n",
        Key::ed25519().public_line(),
        list.display()
    );
    let config = scratch.write("bastion.yaml", config);
    let mut krl = b"SSHKRL\n\0\0\0\0\x01".to_vec();
    for (content, says) in [
        (None, "No such file"),
        (Some(&b""[..]), "the file is empty"),
        (Some(b"hunter2\n"), "line 1 is no public key"),
        (Some(&krl.clone()), "byte 12: it is cut short"),
    ] {
        if let Some(content) = content {
            fs::write(&list, content).unwrap();
        }
        for mode in [&["--check-config"][..], &[]] {
            let output = Program::ours("bastion-server").args(mode).arg(&config).output();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains(says) && said.contains("revocation.files"), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
    krl.extend([0; 32]);
    fs::write(&list, krl).unwrap();
    let checked = Program::ours("bastion-server").arg("--check-config").arg(&config).output();
    assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// Makes a list, or adds to one, from lines as `ssh-keygen -k` reads them. Without an authority they are
/// about all.
fn revoke(scratch: &Scratch, list: &Path, authority: Option<&Key>, lines: &[String]) {
    let spec = scratch.write("spec", lines.join("\n") + "\n");
    let authority = authority.map_or_else(|| "none".into(), |key| scratch.write("ca.pub", key.public_line()));
    let update: &[&str] = if list.exists() { &["-u"] } else { &[] };
    let _ = Program::new(installed("ssh-keygen"))
        .args(["-k", "-q", "-f"])
        .arg(list)
        .args(update)
        .arg("-s")
        .arg(authority)
        .arg(spec)
        .succeed();
}

/// Certificates, and where they are.
struct Crowd {
    authorities: Vec<Key>,
    users: Vec<Key>,
    certificates: Vec<(PathBuf, Certificate)>,
}

impl Crowd {
    fn new(scratch: &Scratch) -> Self {
        let kinds = [Kind::Ed25519, Kind::Ecdsa(384), Kind::Rsa(2048)];
        let authorities: Vec<_> = kinds.map(Key::generate).into();
        let users: Vec<_> = kinds.map(Key::generate).into_iter().chain([Key::ed25519()]).collect();
        let mut certificates = Vec::new();
        for authority in &authorities {
            for (index, serial) in SERIALS.into_iter().enumerate() {
                let key = &users[rand::random_range(0..users.len())];
                let blob = Forge::user(key, "x")
                    .with(|forge| {
                        forge.serial = serial;
                        forge.key_id = KEY_IDS[index % KEY_IDS.len()].into();
                    })
                    .sign(authority);
                let path = scratch.write(&format!("{}.pub", certificates.len()), line(&blob));
                certificates.push((path, Certificate::from_bytes(&blob).unwrap()));
            }
        }
        Self { authorities, users, certificates }
    }

    /// Something that `ssh-keygen` can revoke.
    fn spec_line(&self) -> String {
        let pick = |count: usize| rand::random_range(0..count);
        // Authorities are revoked as a whole, but rarely, or little else would be seen.
        let key = if pick(6) == 0 { &self.authorities[pick(3)] } else { &self.users[pick(4)] };
        match pick(16) {
            0..11 => serials_or_key_id(),
            11 => format!("key: {}", key.public_line()),
            12 => format!("sha1: {}", key.public_line()),
            13 => format!("sha256: {}", key.public_line()),
            14 => format!("hash: {}", key.private().fingerprint(HashAlg::Sha256)),
            // A certificate stands for its serial number, or for its key id if it has none.
            _ => fs::read_to_string(&self.certificates[pick(self.certificates.len())].0).unwrap(),
        }
    }

    /// Whom `ssh-keygen` takes for revoked, if it takes the list.
    fn asked(&self, list: &Path) -> Option<Vec<bool>> {
        let paths = self.certificates.iter().map(|(path, _)| path);
        let output = Program::new(installed("ssh-keygen")).args(["-Q", "-f"]).arg(list).args(paths).output();
        // 1 says that a certificate is revoked.
        if !matches!(output.status.code(), Some(0 | 1)) {
            return None;
        }
        let said = String::from_utf8(output.stdout).unwrap();
        let answer = |line: &str| match line.rsplit_once(": ") {
            Some((_, "REVOKED")) => true,
            Some((_, "ok")) => false,
            _ => panic!("ssh-keygen says {line:?}"),
        };
        let answers: Vec<_> = said.lines().map(answer).collect();
        assert_eq!(answers.len(), self.certificates.len(), "{said}");
        Some(answers)
    }
}

/// What only certificates have.
fn serials_or_key_id() -> String {
    let pick = |count: usize| rand::random_range(0..count);
    let serial = SERIALS[1 + pick(SERIALS.len() - 1)];
    match pick(11) {
        0..4 => format!("serial: {serial}"),
        4 => format!("serial: {}", rand::random_range(1..300)),
        5 => range(serial.saturating_sub(rand::random_range(0..20)).max(1), serial),
        6 => range(serial, serial.saturating_add(rand::random_range(0..20_000))),
        // Many that are near each other become a bitmap.
        7 => {
            let one = |_| format!("serial: {}", rand::random_range(1..400));
            (0..100).map(one).collect::<Vec<_>>().join("\n")
        }
        _ => format!("id: {}", KEY_IDS[pick(KEY_IDS.len() - 1)]),
    }
}

/// `ssh-keygen` does not take a range of one.
fn range(first: u64, last: u64) -> String {
    if first == last { format!("serial: {first}") } else { format!("serial: {first}-{last}") }
}
