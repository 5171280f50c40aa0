//! Certificates of every shape, judged by the pure function, by the real bastion over the
//! wire, and by a stock sshd. The three agree, except where a row says what sshd does instead.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use bastion_server::{
    AuthoritySet, LoginName, RevocationList,
    certificate::{Claim, RemovedAuthority, Requirements, admit, decode},
};
use tests::{
    bastion::{self, LOGIN},
    forge::{Forge, HOST, now},
    key::{Key, Kind},
    process::{Program, installed, user},
    rogue::{Attempt, Client, SAYS_NOTHING, SAYS_WHY, Verdict},
    scratch::Scratch,
    sshd,
    target::Target,
    wire::Writer,
};

use Answer::{Admitted, Refused, Unproved};

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let ecdsa = || [256, 384, 521].map(|bits| Key::generate(Kind::Ecdsa(bits)));
    Keys {
        user: Key::ed25519(),
        other: Key::ed25519(),
        authority: Key::ed25519(),
        stranger: Key::ed25519(),
        user_rsa: Key::generate(Kind::Rsa(2048)),
        user_rsa_1024: Key::generate(Kind::Rsa(1024)),
        user_ecdsa: ecdsa(),
        authority_rsa: Key::generate(Kind::Rsa(2048)),
        authority_rsa_4096: Key::generate(Kind::Rsa(4096)),
        authority_rsa_1024: Key::generate(Kind::Rsa(1024)),
        authority_ecdsa: ecdsa(),
    }
});

/// The one row where the wire is more lenient than the function: russh parses the certificate out of the
/// request, and hands on neither its bytes nor what follows them. Nothing that the authority signed can be
/// changed that way.
const TRAILING: &str = "bytes after the signature";
/// The one untrusted authority whose signature russh cannot even verify.
const DSA: &str = "authority DSA";

const DAY: u64 = 24 * 3600;
const IP: &str = "127.0.0.1";
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Principals beside the login's own: as identity providers make them, and as none should.
const OTHERS: &[&str] = &[
    "alice+ops@example.com",
    "role:dba",
    "team/dba",
    "arn:aws:iam::123456789012:role/dba",
    "spiffe://example.com/ns/a/sa/b",
    "system:serviceaccount:a:b",
    "google-oauth2|11",
    "CORP\\alice",
    "domain admins",
    "josé",
    "",
    " ",
    "\u{1b}[2J",
    "*",
    "al?ce",
    "!tunnel",
    "alice,root",
    "alice\0",
];

#[test]
fn every_certificate_gets_the_answer_of_the_table() {
    let keys = &*KEYS;
    let login = user();
    let authorities = keys.trusted().into_iter().filter(|key| key.kind() != Kind::Rsa(1024));
    let requirements = Requirements {
        authorities: AuthoritySet::new(authorities.clone().map(|key| key.private().public_key().clone()))
            .unwrap(),
        users: [LOGIN, &login].map(LoginName::new).to_vec(),
        max_lifetime: Duration::from_secs(DAY),
        revoked: RevocationList::default(),
        removed_authority: RemovedAuthority::EndSessions,
    };
    let mut bastion = authorities.fold(bastion::Setup::new(), bastion::Setup::trust).start();
    let sshd = keys.trusted().into_iter().fold(sshd::Setup::new(), sshd::Setup::trust).start();

    println!("{:<48} {:<36} {:<28} {:<8} sshd", "certificate", "admit()", "bastion says", "bastion");
    let mut wrong = Vec::new();
    for row in table() {
        let decided = decide(&row, &requirements);
        let ours = present_to_ours(bastion.address(), &row);
        let theirs = present(sshd.address(), &row.attempt);
        let (admits, why) = match row.oracle {
            Oracle::Agrees => (row.answer == Admitted, ""),
            Oracle::Admits(why) => (true, why),
        };
        let word = |verdict: &Verdict| if verdict.accepted { "admits" } else { "refuses" };
        println!(
            "{:<48} {:<36} {:<28} {:<8} {} {why}",
            row.name,
            decided.map_or_else(String::new, |answer| format!("{answer:?}")),
            ours.reason().unwrap_or_default(),
            word(&ours),
            word(&theirs),
        );
        if decided.is_some_and(|answer| answer != row.answer) {
            wrong.push(format!("{}: should be {:?}, admit() says {decided:?}", row.name, row.answer));
        }
        if !agrees(&row, &ours) {
            wrong.push(format!("{}: should be {:?}, the bastion says {ours:?}", row.name, row.answer));
        }
        if theirs.accepted != admits {
            wrong.push(format!("{}: sshd {} it", row.name, word(&theirs)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(bastion.process().ended().is_none(), "the bastion lives");
}

/// A signer that is asked for a day puts the start back by itself: by up to 118 s for `ssh-keygen`, whose
/// minute begins when it likes.
#[test]
fn a_day_is_a_day_with_every_signer() {
    let scratch = Scratch::new("day");
    let (key, authority) = (Key::ed25519(), Key::ed25519());
    let bastion = bastion::Setup::new().trust(&authority).start();
    let ca = scratch.write("ca", authority.private_pem());
    let public = scratch.write("id.pub", key.public_line());
    let signed = |validity: &str| {
        let keygen =
            Program::new(installed("ssh-keygen")).args(["-q", "-I", "id", "-n", LOGIN, "-V", validity, "-s"]);
        keygen.arg(&ca).arg(&public).succeed();
        let text = std::fs::read_to_string(scratch.join("id-cert.pub")).unwrap();
        ssh_key::Certificate::from_openssh(&text).unwrap()
    };
    let day = signed("+1d");
    println!("{} s longer than a day", day.valid_before() - day.valid_after() - DAY);
    for (certificate, admitted) in [(day, true), (signed("+1445m"), false)] {
        let attempt = Attempt::certificate(LOGIN, &key, certificate.to_bytes().unwrap());
        let verdict = Client::connect(bastion.address()).unwrap().attempt_to_the_end(&attempt, SAYS_WHY);
        assert_eq!(verdict.accepted, admitted, "{verdict:?}");
        assert_eq!(verdict.reason(), (!admitted).then(|| "lifetime_too_long".to_owned()));
    }
}

#[test]
fn without_permit_port_forwarding_a_login_reaches_nothing() {
    let keys = &*KEYS;
    let login = user();
    let target = Target::echo();
    let to = format!("127.0.0.1:{}", target.port());
    let bastion = bastion::Setup::new().trust(&keys.authority).rule(&login, &[&to]).start();
    let sshd = sshd::Setup::new().trust(&keys.authority).start();
    for server in [bastion.address(), sshd.address()] {
        for (permitted, forge) in [
            (true, Forge::user(&keys.user, &login)),
            (false, Forge::user(&keys.user, &login).with(|forge| forge.extensions.clear())),
        ] {
            let mut client = Client::login(server, &login, &keys.user, forge.sign(&keys.authority));
            let opened = client.forward(IP, target.port().into()).unwrap();
            assert_eq!(opened.is_ok(), permitted, "{server}: {opened:?}");
            if let Err(failure) = opened {
                assert_eq!(failure.reason, 1, "prohibited: {failure:?}");
            }
        }
    }
}

#[test]
fn no_other_way_to_log_in_is_offered() {
    let keys = &*KEYS;
    let bastion = bastion::Setup::new().trust(&keys.authority).start();
    let password = Writer::new().flag(false).string("password").0;
    let interactive = Writer::new().string("").string("").0;
    let hostbased = Writer::new()
        .string("ssh-ed25519")
        .string(keys.user.blob())
        .string("host")
        .string("root")
        .string("")
        .0;
    for (method, fields) in [
        ("none", Vec::new()),
        ("password", password),
        ("keyboard-interactive", interactive),
        ("hostbased", hostbased),
    ] {
        let mut client = Client::connect(bastion.address()).unwrap();
        let verdict = client.authenticate_by(LOGIN, method, &fields);
        assert!(!verdict.accepted, "{method}: {verdict:?}");
        assert!(verdict.methods.is_none_or(|methods| methods == "publickey"), "{method}");
    }
}

/// A client that proves one name and then asks for another is never let in as the other.
#[test]
fn a_name_changed_half_way_gains_nothing() {
    let keys = &*KEYS;
    let bastion = bastion::Setup::new().trust(&keys.authority).start();
    // Good for both names, and both may log in: only the proof is for one of them.
    let both = Forge::user(&keys.user, LOGIN).with(|forge| forge.principals.push(user().into_bytes()));
    let both = both.sign(&keys.authority);
    let good = |name: &str| Attempt::certificate(name, &keys.user, both.clone());
    for name in [LOGIN, &user()] {
        assert!(Client::connect(bastion.address()).unwrap().attempt(&good(name)).accepted, "{name}");
    }
    let proved_for_the_first = || {
        let mut client = Client::connect(bastion.address()).unwrap();
        // The first name is told that the certificate would do, as in an honest login.
        assert!(client.query(&good(LOGIN)).unwrap());
        client
    };
    let replayed = good(&user()).with(|attempt| attempt.signed_user = Some(LOGIN.into()));
    let changed = proved_for_the_first().attempt(&replayed);
    assert!(!changed.accepted, "a signature for the first name: {changed:?}");
    let none = good(&user()).with(|attempt| attempt.flip = true);
    let changed = proved_for_the_first().attempt(&none);
    assert!(!changed.accepted, "no signature for either: {changed:?}");

    // A certificate for the first name alone, which was refused once only for its signature.
    let mine = Forge::user(&keys.user, LOGIN).sign(&keys.authority);
    let mut client = Client::connect(bastion.address()).unwrap();
    let refused = client
        .attempt(&Attempt::certificate(LOGIN, &keys.user, mine.clone()).with(|attempt| attempt.flip = true));
    assert!(!refused.accepted);
    let changed = client.attempt(&Attempt::certificate(user(), &keys.user, mine));
    assert!(!changed.accepted, "{changed:?}");

    // A client that changes to a name and proves it has that name alone.
    let mut client = proved_for_the_first();
    let port = client.packets.link().stream().local_addr().unwrap().port();
    assert!(client.attempt(&good(&user())).accepted);
    let accepted = bastion
        .audited("the login", |record| record["event"] == "login_accepted" && record["source_port"] == port);
    assert_eq!(accepted["login"], user(), "{accepted}");
}

/// A blob that once overflowed a parser's stack: the process must live, and log others in.
#[test]
fn a_certificate_nested_a_thousand_deep_kills_nothing() {
    let keys = &*KEYS;
    let mut bastion = bastion::Setup::new().trust(&keys.authority).start();
    let honest = Forge::user(&keys.user, LOGIN);
    let mut nested = keys.authority.blob();
    while nested.len() < 200 * 1024 {
        nested = honest
            .clone()
            .with(|forge| forge.authority = Some(nested))
            .with(|forge| forge.signature = Some(Vec::new()))
            .sign(&keys.authority);
    }
    let mut client = Client::connect(bastion.address()).unwrap();
    assert!(!client.attempt(&Attempt::certificate(LOGIN, &keys.user, nested)).accepted);
    let _ = Client::login(bastion.address(), LOGIN, &keys.user, honest.sign(&keys.authority));
    assert!(bastion.process().ended().is_none());
}

/// What the bastion must answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Admitted,
    /// With this reason.
    Refused(&'static str),
    /// Whatever is presented, that it is the client's own is not proved: no certificate is looked at.
    Unproved,
}

/// Where sshd answers otherwise, and why it may.
#[derive(Clone, Copy, Debug)]
enum Oracle {
    Agrees,
    Admits(&'static str),
}

pub(crate) struct Row {
    name: String,
    attempt: Attempt,
    answer: Answer,
    oracle: Oracle,
}

impl Row {
    /// Its line in `docs/admission.md`: the certificate, our answer, and sshd's where that is another.
    pub(crate) fn line(&self) -> String {
        let answer = match self.answer {
            Admitted => "admitted".to_owned(),
            Refused(reason) => format!("`{reason}`"),
            Unproved => "refused, no certificate is looked at".to_owned(),
        };
        let sshd = match self.oracle {
            Oracle::Agrees => String::new(),
            Oracle::Admits(why) => format!("admits: {why}"),
        };
        format!("| {} | {answer} | {sshd} |", self.name)
    }
}

/// The keys that rows are made of; RSA takes its time.
struct Keys {
    user: Key,
    other: Key,
    authority: Key,
    stranger: Key,
    user_rsa: Key,
    user_rsa_1024: Key,
    user_ecdsa: [Key; 3],
    authority_rsa: Key,
    authority_rsa_4096: Key,
    authority_rsa_1024: Key,
    authority_ecdsa: [Key; 3],
}

impl Keys {
    fn trusted(&self) -> Vec<&Key> {
        let mut trusted =
            vec![&self.authority, &self.authority_rsa, &self.authority_rsa_4096, &self.authority_rsa_1024];
        trusted.extend(&self.authority_ecdsa);
        trusted
    }
}

/// A list that grows row by row, from an honest certificate with one thing wrong.
struct Table {
    rows: Vec<Row>,
    login: String,
}

impl Table {
    fn honest(&self) -> Forge {
        Forge::user(&KEYS.user, &self.login)
    }

    fn attempt(&mut self, name: impl Into<String>, answer: Answer, oracle: Oracle, attempt: Attempt) {
        self.rows.push(Row { name: name.into(), attempt, answer, oracle });
    }

    /// A certificate, and how sshd differs.
    fn differs(&mut self, name: impl Into<String>, answer: Answer, oracle: Oracle, forge: &Forge) {
        let attempt = Attempt::certificate(self.login.as_str(), &KEYS.user, forge.sign(&KEYS.authority));
        self.attempt(name, answer, oracle, attempt);
    }

    /// A certificate about which sshd agrees.
    fn row(&mut self, name: impl Into<String>, answer: Answer, change: impl FnOnce(&mut Forge)) {
        let forge = self.honest().with(change);
        self.differs(name, answer, Oracle::Agrees, &forge);
    }
}

pub(crate) fn table() -> Vec<Row> {
    let keys = &*KEYS;
    let mut table = Table { rows: Vec::new(), login: user() };
    kinds_of_keys(&mut table, keys);
    names(&mut table, keys);
    times(&mut table);
    types(&mut table);
    options(&mut table);
    source_addresses(&mut table);
    authorities(&mut table, keys);
    shapes(&mut table, keys);
    proofs(&mut table, keys);
    table.rows
}

fn kinds_of_keys(table: &mut Table, keys: &Keys) {
    table.row("honest", Admitted, |_| {});
    for authority in keys.trusted().into_iter().filter(|key| key.kind() != Kind::Rsa(1024)) {
        for name in authority.signature_names() {
            let forge = table.honest().with(|forge| forge.signature_name = Some(name.clone()));
            let attempt = Attempt::certificate(table.login.as_str(), &keys.user, forge.sign(authority));
            let title = format!("authority {:?} signs {name}", authority.kind());
            table.attempt(title, Admitted, Oracle::Agrees, attempt);
        }
    }
    for key in keys.user_ecdsa.iter().chain([&keys.user_rsa]) {
        for name in key.signature_names() {
            let blob = Forge::user(key, &table.login).sign(&keys.authority);
            let attempt = Attempt::certificate(table.login.as_str(), key, blob).with(|attempt| {
                attempt.algorithm = format!("{name}-cert-v01@openssh.com");
                attempt.signature_name = name.clone();
            });
            table.attempt(
                format!("user key {:?} signs {name}", key.kind()),
                Admitted,
                Oracle::Agrees,
                attempt,
            );
        }
    }
    let blob = Forge::user(&keys.user_rsa_1024, &table.login).sign(&keys.authority);
    let attempt = Attempt::certificate(table.login.as_str(), &keys.user_rsa_1024, blob);
    let oracle = Oracle::Admits("RequiredRSASize is 1024 unless set");
    table.attempt("user key RSA-1024", Refused("weak_key"), oracle, attempt);
}

fn names(table: &mut Table, keys: &Keys) {
    let login = table.login.clone();
    let (bad, other) = (Refused("bad_principal"), Refused("not_a_principal"));
    table.row("no principals", Refused("no_principals"), |forge| forge.principals.clear());
    for (title, principal) in [
        ("principal *", b"*".to_vec()),
        ("principal with a *", format!("{}*", &login[..2]).into_bytes()),
        ("principal with a ?", format!("{}?", &login[..login.len() - 1]).into_bytes()),
        ("principal in another case", login.to_uppercase().into_bytes()),
        ("principal with a NUL and more", format!("{login}\0,x").into_bytes()),
        ("principal with a comma", format!("{login},root").into_bytes()),
        ("principal with a blank", format!("{login} ").into_bytes()),
        ("principal of another user", b"another-user".to_vec()),
        ("empty principal", Vec::new()),
    ] {
        table.row(title, other, |forge| forge.principals = vec![principal]);
    }
    let forge = table.honest().with(|forge| forge.principals = vec![format!("{login}\0").into_bytes()]);
    table.differs("principal with a NUL", other, Oracle::Admits("ignores a NUL at the end"), &forge);
    for name in OTHERS {
        table.row(format!("another principal {name:?}"), Admitted, |forge| {
            forge.principals.push((*name).into())
        });
    }
    for length in [65, 1024] {
        table.row(format!("another principal of {length} bytes"), Admitted, |forge| {
            forge.principals.push(vec![b'x'; length]);
        });
    }
    for (title, answer, other) in [
        ("another principal over 1 KiB", "principal_too_long", vec![b'x'; 1025]),
        // Latin-1: the SSH library knows principals as UTF-8 only.
        ("another principal not UTF-8", "certificate_malformed", b"jos\xe9".to_vec()),
    ] {
        let forge = table.honest().with(|forge| forge.principals.push(other));
        table.differs(title, Refused(answer), Oracle::Admits("looks only for the login name"), &forge);
    }
    for (title, answer, name) in [
        ("login name and principal with a blank", bad, "domain admins"),
        ("login name and principal not ASCII", bad, "josé"),
        ("login name and principal of 65 characters", bad, &"x".repeat(65)),
        ("login name and principal with a comma", bad, "alice,root"),
        ("login name and principal empty", bad, ""),
        ("login name and principal *", bad, "*"),
        ("login name that no user has", Refused("unknown_user"), "no-such-user"),
    ] {
        let blob = Forge::user(&keys.user, name).sign(&keys.authority);
        table.attempt(title, answer, Oracle::Agrees, Attempt::certificate(name, &keys.user, blob));
    }
    let many = |count: usize| (1..count).map(|n| format!("p{n}").into_bytes());
    table.row("256 principals", Admitted, |forge| forge.principals.extend(many(256)));
    table.row("257 principals", Refused("too_many_principals"), |forge| forge.principals.extend(many(257)));
}

fn times(table: &mut Table) {
    let now = now();
    for (title, answer, after, before) in [
        ("expired a second ago", "expired", now - 60, now - 1),
        ("valid before now", "expired", now - 60, now),
        ("valid in ten minutes", "not_yet_valid", now + 600, now + 1200),
        ("ends before it begins", "validity_malformed", now + 60, now - 60),
        ("ends when it begins", "validity_malformed", now, now),
        ("begins past 2^63", "not_yet_valid", (1 << 63) + 1, u64::MAX),
    ] {
        table.row(title, Refused(answer), |forge| (forge.valid_after, forge.valid_before) = (after, before));
    }
    for (title, answer, after, before) in [
        ("ends past 2^63", "lifetime_too_long", now - 60, (1 << 63) + 1),
        ("never expires", "lifetime_too_long", now - 60, u64::MAX),
        ("always was and will be", "lifetime_too_long", 0, u64::MAX),
        ("lives a second longer than a day put back", "lifetime_too_long", now - 120, now + DAY + 1),
    ] {
        let forge = table.honest().with(|forge| (forge.valid_after, forge.valid_before) = (after, before));
        table.differs(title, Refused(answer), Oracle::Admits("has no longest life"), &forge);
    }
    for (title, back) in [
        ("lives a day", 0),
        ("lives a day, put back by 30 s as by Vault", 30),
        ("lives a day, put back by 118 s as by ssh-keygen", 118),
        ("lives a day, put back by 2 min", 120),
    ] {
        table.row(title, Admitted, |forge| (forge.valid_after, forge.valid_before) = (now - back, now + DAY));
    }
}

fn types(table: &mut Table) {
    table.row("a host's", Refused("not_a_user_certificate"), |forge| forge.kind = HOST);
    for kind in [0, 3, u32::MAX] {
        table.row(format!("type {kind}"), Refused("certificate_malformed"), |forge| forge.kind = kind);
    }
}

fn options(table: &mut Table) {
    let unordered = Refused("certificate_malformed");
    for (title, answer, oracle, forge) in [
        (
            "force-command",
            Refused("force_command"),
            Oracle::Admits("applies it"),
            table.honest().critical("force-command", "/bin/true"),
        ),
        (
            "verify-required",
            Refused("verify_required"),
            Oracle::Admits("looks at it only for sk keys"),
            table.honest().critical_flag("verify-required"),
        ),
        (
            "unknown critical option",
            Refused("unknown_critical_option"),
            Oracle::Agrees,
            table.honest().critical("no-such-option@example.com", "x"),
        ),
        (
            "source-address twice",
            unordered,
            Oracle::Agrees,
            table
                .honest()
                .critical("source-address", "127.0.0.1/32")
                .critical("source-address", "127.0.0.1/32"),
        ),
        (
            "critical options out of order",
            unordered,
            Oracle::Admits("does not mind, and applies them"),
            table.honest().critical("source-address", "127.0.0.1/32").critical("force-command", "/bin/true"),
        ),
    ] {
        table.differs(title, answer, oracle, &forge);
    }

    table.row("no permit-port-forwarding", Admitted, |forge| forge.extensions.clear());
    table.row("unknown extension", Admitted, |forge| {
        forge.extensions.insert(0, (b"no-such-extension@example.com".to_vec(), Vec::new()));
    });
    table.row("unknown extension with a value", Admitted, |forge| {
        forge.extensions.push((b"zzz@example.com".to_vec(), Writer::new().string("x").0));
    });
    for (title, first, second) in [
        ("extensions out of order", "permit-pty", "permit-port-forwarding"),
        ("extension twice", "permit-port-forwarding", "permit-port-forwarding"),
    ] {
        let forge = table.honest().with(|forge| {
            forge.extensions = [first, second].map(|name| (name.into(), Vec::new())).to_vec();
        });
        table.differs(title, unordered, Oracle::Admits("does not mind"), &forge);
    }
    table.row("reserved field not empty", Admitted, |forge| forge.reserved = b"reserved".to_vec());
    table.row("nonce empty", Admitted, |forge| forge.nonce.clear());
}

/// Every client of this test comes from 127.0.0.1.
fn source_addresses(table: &mut Table) {
    for list in ["127.0.0.1/32", "127.0.0.1", "127.0.0.0/8", "10.0.0.0/8,127.0.0.1/32", "::1/128,127.0.0.0/8"]
    {
        let forge = table.honest().critical("source-address", list);
        table.differs(format!("source-address {list:?}"), Admitted, Oracle::Agrees, &forge);
    }
    for list in ["10.0.0.1/32", "127.0.0.2", "::1", "::ffff:127.0.0.1"] {
        let forge = table.honest().critical("source-address", list);
        table.differs(format!("source-address {list:?}"), Refused("source_address"), Oracle::Agrees, &forge);
    }
    let malformed = Refused("source_address_malformed");
    for list in
        ["nonsense", "127.0.0.1/33", "127.0.0.1/8", "*", "!10.0.0.0/8", "127.0.0.1/32,", "127.0.0.1/32,x"]
    {
        let forge = table.honest().critical("source-address", list);
        table.differs(format!("source-address {list:?}"), malformed, Oracle::Agrees, &forge);
    }
    // The library that parses it forgets whether there was no text or an empty one.
    let forge = table.honest().critical("source-address", "");
    table.differs("source-address \"\"", Refused("certificate_malformed"), Oracle::Agrees, &forge);
    let larger = Oracle::Admits("takes up to 256 KiB");
    let (hundred, ten_thousand) =
        (["10.0.0.1"; 100].join(","), ["10.0.0.1/32"; 9_999].join(",") + ",127.0.0.1/32");
    let forge = table.honest().critical("source-address", &hundred);
    table.differs("source-address with a hundred entries", malformed, Oracle::Agrees, &forge);
    let forge = table.honest().critical("source-address", &ten_thousand);
    table.differs(
        "source-address with ten thousand entries",
        Refused("certificate_too_large"),
        larger,
        &forge,
    );
    let short = (b"source-address".to_vec(), b"\0\0\0\x63x".to_vec());
    table.row("source-address cut short", Refused("certificate_malformed"), |forge| {
        forge.critical.push(short)
    });
}

fn authorities(table: &mut Table, keys: &Keys) {
    let login = table.login.clone();
    let honest = table.honest();
    let authority = |blob: Vec<u8>| honest.clone().with(|forge| forge.authority = Some(blob));
    let signature = |name: &str| honest.clone().with(|forge| forge.signature_name = Some(name.to_owned()));
    let dsa = Writer::new()
        .string("ssh-dss")
        .mpint(&[127; 128])
        .mpint(&[127; 20])
        .mpint(&[127; 128])
        .mpint(&[127; 128]);
    let dsa = authority(dsa.0)
        .with(|forge| forge.signature = Some(Writer::new().string("ssh-dss").string([7; 40]).0));
    let p256 = &keys.authority_ecdsa[0];
    let point = &p256.blob()[p256.blob().len() - 65..];
    let p384 = Writer::new().string("ecdsa-sha2-nistp384").string("nistp384").string(point);
    let small = Oracle::Admits("RequiredRSASize is 1024 unless set");
    for (title, answer, oracle, signer, forge) in [
        ("unknown authority", "unknown_authority", Oracle::Agrees, &keys.stranger, honest.clone()),
        ("signed by its own key", "unknown_authority", Oracle::Agrees, &keys.user, honest.clone()),
        (
            "stranger signs in the authority's name",
            "signature_invalid",
            Oracle::Agrees,
            &keys.stranger,
            authority(keys.authority.blob()),
        ),
        (
            "authority signs ssh-rsa (SHA-1)",
            "signature_algorithm",
            Oracle::Agrees,
            &keys.authority_rsa,
            signature("ssh-rsa"),
        ),
        // The bastion does not take such a key as an authority in the first place.
        ("authority RSA-1024", "unknown_authority", small, &keys.authority_rsa_1024, honest.clone()),
        (DSA, "unknown_authority", Oracle::Agrees, &keys.stranger, dsa),
        (
            "authority on another curve than it says",
            "certificate_malformed",
            Oracle::Agrees,
            p256,
            authority(p384.0),
        ),
    ] {
        let attempt = Attempt::certificate(login.as_str(), &keys.user, forge.sign(signer));
        table.attempt(title, Refused(answer), oracle, attempt);
    }
    for (depth, answer) in [
        (1, "certificate_chain"),
        (2, "certificate_chain"),
        (7, "certificate_chain"),
        (100, "certificate_too_large"),
    ] {
        let nested =
            (0..depth).fold(keys.authority.blob(), |inner, _| authority(inner).sign(&keys.authority));
        table.row(format!("authority is a certificate, nested {depth} deep"), Refused(answer), |forge| {
            forge.authority = Some(nested);
        });
    }
}

fn shapes(table: &mut Table, keys: &Keys) {
    let login = table.login.clone();
    let presents = |blob: Vec<u8>| Attempt::certificate(login.as_str(), &keys.user, blob);
    let malformed = Refused("certificate_malformed");
    let honest = table.honest().sign(&keys.authority);
    for length in [0, 4, honest.len() / 2, honest.len() - 1] {
        let cut = presents(honest[..length].to_vec());
        table.attempt(format!("cut to {length} bytes"), malformed, Oracle::Agrees, cut);
    }
    let key_id = honest.windows(8).position(|window| window == b"test-key").unwrap();
    for (title, place) in
        [("a bit of the key id flipped", key_id), ("a bit of the signature flipped", honest.len() - 1)]
    {
        let mut blob = honest.clone();
        blob[place] ^= 1;
        table.attempt(title, Refused("signature_invalid"), Oracle::Agrees, presents(blob));
    }
    table.row(TRAILING, malformed, |forge| forge.trailing = b"x".to_vec());

    for (title, answer, why, forge) in [
        (
            "larger than 16 KiB",
            "certificate_too_large",
            "takes up to 256 KiB",
            table.honest().with(|forge| forge.nonce = vec![7; 16 * 1024]),
        ),
        (
            "key id over 1 KiB",
            "key_id_too_long",
            "takes any key id",
            table.honest().with(|forge| forge.key_id = vec![b'x'; 1025]),
        ),
        (
            "key id not UTF-8",
            "certificate_malformed",
            "takes any key id",
            table.honest().with(|forge| forge.key_id = b"\xff\xfe".to_vec()),
        ),
    ] {
        table.differs(title, Refused(answer), Oracle::Admits(why), &forge);
    }
    table.row("key id of 1 KiB", Admitted, |forge| forge.key_id = vec![b'x'; 1024]);
    for (title, key_id) in [
        ("key id with a newline", "a\nlogin accepted for root"),
        ("key id with escape codes", "\x1b[2J\x1b]0;owned\x07"),
        ("key id with %s", "%s%n"),
        ("key id empty", ""),
    ] {
        table.row(title, Admitted, |forge| forge.key_id = key_id.into());
    }
}

/// Not the certificate is wrong, but how it is presented.
fn proofs(table: &mut Table, keys: &Keys) {
    let login = table.login.clone();
    let login = login.as_str();
    let honest = table.honest().sign(&keys.authority);
    let certificate = || Attempt::certificate(login, &keys.user, honest.clone());
    let other = Forge::user(&keys.other, login).sign(&keys.authority);
    for (title, attempt) in [
        ("plain public key", Attempt::plain(login, &keys.user)),
        ("the authority's own key", Attempt::plain(login, &keys.authority)),
        ("signature with one bit wrong", certificate().with(|attempt| attempt.flip = true)),
        ("certificate of A, signature by B", certificate().with(|attempt| attempt.key = keys.other.clone())),
        (
            "offers A's certificate, signs B's",
            certificate().with(|attempt| attempt.signed_blob = Some(other.clone())),
        ),
        (
            "signed for another login name",
            certificate().with(|attempt| attempt.signed_user = Some(b"tunnel".to_vec())),
        ),
        (
            "certificate under a plain key's name",
            certificate().with(|attempt| attempt.algorithm = "ssh-ed25519".into()),
        ),
        (
            "certificate under another certificate's name",
            certificate().with(|attempt| {
                attempt.algorithm = "ecdsa-sha2-nistp256-cert-v01@openssh.com".into();
            }),
        ),
        (
            "plain key under a certificate's name",
            Attempt::plain(login, &keys.user).with(|attempt| {
                attempt.algorithm = "ssh-ed25519-cert-v01@openssh.com".into();
            }),
        ),
    ] {
        table.attempt(title, Unproved, Oracle::Agrees, attempt);
    }
    let rsa = Forge::user(&keys.user_rsa, login).sign(&keys.authority);
    for signs in ["ssh-rsa", "rsa-sha2-256"] {
        let attempt = Attempt::certificate(login, &keys.user_rsa, rsa.clone())
            .with(|attempt| attempt.signature_name = signs.into());
        table.attempt(format!("announces rsa-sha2-512, signs {signs}"), Unproved, Oracle::Agrees, attempt);
    }
    let attempt = Attempt::certificate(login, &keys.user_rsa, rsa).with(|attempt| {
        attempt.algorithm = "ssh-rsa-cert-v01@openssh.com".into();
        attempt.signature_name = "ssh-rsa".into();
    });
    table.attempt("announces and signs ssh-rsa (SHA-1)", Unproved, Oracle::Agrees, attempt);
}

/// What the pure function answers; nothing where the proof, not the certificate, is wrong.
fn decide(row: &Row, requirements: &Requirements) -> Option<Answer> {
    let claim = Claim {
        login: &LoginName::new(String::from_utf8(row.attempt.user.clone()).unwrap()),
        client: CLIENT,
    };
    let identity = decode(&row.attempt.blob)
        .and_then(|certificate| admit(&certificate, claim, requirements, SystemTime::now()));
    match row.answer {
        Unproved => None,
        Admitted | Refused(_) => Some(identity.map_or_else(|refused| Refused(refused.code()), |_| Admitted)),
    }
}

fn present(server: SocketAddr, attempt: &Attempt) -> Verdict {
    Client::connect(server).expect("a key exchange").attempt(attempt)
}

/// What russh refuses by itself never reaches the function that has reasons: dates, signatures that it cannot
/// verify, and what it cannot parse.
fn may_be_untold(row: &Row, reason: &str) -> bool {
    let by_russh =
        ["certificate_malformed", "certificate_too_large", "certificate_chain", "signature_invalid"];
    let dates = ["expired", "not_yet_valid", "validity_malformed"];
    by_russh.contains(&reason) || dates.contains(&reason) || row.name == DSA
}

/// Presents it to our bastion, and waits for the reason of a refusal, which comes last.
fn present_to_ours(server: SocketAddr, row: &Row) -> Verdict {
    let patience = match row.answer {
        Refused(reason) if !may_be_untold(row, reason) => SAYS_WHY,
        _ => SAYS_NOTHING,
    };
    Client::connect(server).expect("a key exchange").attempt_to_the_end(&row.attempt, patience)
}

/// Whether this answer of our bastion is the one of the row.
fn agrees(row: &Row, verdict: &Verdict) -> bool {
    match row.answer {
        Admitted => verdict.accepted,
        Unproved => !verdict.accepted,
        // If this ever fails, the library has learned to refuse it: then the row is like any other, and
        // SECURITY.md is wrong.
        Refused(_) if row.name == TRAILING => verdict.accepted,
        Refused(reason) => {
            let told = verdict.reason().map_or_else(|| may_be_untold(row, reason), |told| told == reason);
            !verdict.accepted && told
        }
    }
}
