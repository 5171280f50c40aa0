//! `pf-db-tunnel` with a real PostgreSQL and the database engine of a real OpenBao: credentials that end with
//! the tunnel.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{
    bastion::{self, Bastion, LOGIN},
    openbao::OpenBao,
    postgres::{Postgres, SUPERUSER},
    process::Program,
    terminal::Terminal,
    tunnel::{self, Tunnel},
    wait,
};

const SOON: Duration = Duration::from_secs(30);

/// Everything of a real installation, on one machine.
struct DatabaseFixture {
    bao: OpenBao,
    postgres: Postgres,
    bastion: Bastion,
    project: tunnel::Setup,
}

impl DatabaseFixture {
    /// `life`: how long credentials live unless they are renewed.
    fn new(life: &str) -> Self {
        Self::named(life, "127.0.0.1")
    }

    /// The same, where the database has this name.
    fn named(life: &str, host: &str) -> Self {
        let (bao, postgres) = (OpenBao::start(), Postgres::start());
        let report = bao.bootstrap("127.0.0.1", &[]);
        bao.connect_database(&postgres, life);
        let to = format!("{host}:{}", postgres.address().port());
        let bastion = bastion::Setup::new()
            .keys_of_vault(&bao.url())
            .env("BAO_TOKEN", &bao.token(&["tunnel-bastion"], "1h"))
            .rule(LOGIN, &[&to])
            .start();
        let orders = json!({
            "kind": "postgres",
            "host": host,
            "port": postgres.address().port(),
            "database": "orders",
            "roles": {"reader": "database/creds/reader"},
        });
        let project = tunnel::Setup::new(bastion.address())
            .host_authority(report["host_authority"].as_str().unwrap())
            .vault(&bao.url(), &bao.token(&["tunnel-user", "orders-reader"], "1h"))
            .set("/vault/ttl", json!("10m"))
            .set("/databases", json!({"orders": orders}));
        Self { bao, postgres, bastion, project }
    }

    /// A tunnel with credentials, and what it told about them.
    fn tunnel(&self) -> (Tunnel, Value) {
        let mut tunnel = self.project.start_database(&["orders", "--role", "reader"]);
        let told = tunnel.event("database", SOON);
        (tunnel, told)
    }

    /// Asks the database through the tunnel who we are.
    fn whoami(&self, told: &Value) -> String {
        let text = |name: &str| told[name].as_str().unwrap();
        let address = format!("{}:{}", text("host"), told["port"]).parse().unwrap();
        let statement = "select current_user";
        self.postgres.psql_at(address, text("user"), text("password"), text("database"), statement).succeed()
    }
}

#[test]
fn the_credentials_work_and_are_renewed() {
    let fixture = DatabaseFixture::new("15s");
    let (mut tunnel, told) = fixture.tunnel();
    let user = told["user"].as_str().unwrap();
    let start = Instant::now();
    // Three lives long.
    while start.elapsed() < Duration::from_secs(45) {
        assert_eq!(fixture.whoami(&told).trim(), user, "after {:?}", start.elapsed());
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(fixture.postgres.roles(), [user]);
    assert!(!told["url"].as_str().unwrap().contains(told["password"].as_str().unwrap()));
    tunnel.process.signal(Signal::SIGINT);
    assert_eq!(tunnel.process.code(SOON), 0);
    assert_eq!(fixture.postgres.roles(), [""; 0]);
}

#[test]
fn no_role_is_left_behind_however_it_ends() {
    let fixture = DatabaseFixture::new("1h");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let (mut tunnel, told) = fixture.tunnel();
        assert_eq!(fixture.postgres.roles(), [told["user"].as_str().unwrap()]);
        tunnel.process.signal(signal);
        assert_eq!(tunnel.process.code(SOON), 0, "{signal}");
        assert_eq!(fixture.postgres.roles(), [""; 0], "{signal} left a role behind");
        assert_eq!(tunnel.count("revoked"), 1, "{signal}");
    }

    // A supervisor's SIGTERM beside the session's SIGHUP, a terminal that sends SIGHUP twice, a shell that
    // passes on what it got.
    let both = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGHUP];
    for signals in [
        &both[..],
        &[Signal::SIGHUP, Signal::SIGTERM],
        &[Signal::SIGHUP, Signal::SIGHUP],
        &[Signal::SIGINT; 2],
    ] {
        let (mut tunnel, _) = fixture.tunnel();
        // The pauses are the senders', not ours: each signal meets a program that has begun to end.
        for signal in signals {
            tunnel.process.signal(*signal);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(tunnel.process.code(SOON), 0, "{signals:?}");
        assert_eq!(fixture.postgres.roles(), [""; 0], "{signals:?} left a role behind");
    }

    let (screen, terminal) = Terminal::open();
    let mut tunnel = fixture.project.start_database_on(terminal, &["orders", "--role", "reader"]);
    screen.wait_for("psql \"postgresql://", SOON);
    screen.wait_for("password", SOON);
    assert_eq!(fixture.postgres.roles().len(), 1);
    screen.close();
    tunnel.process.wait(SOON);
    assert_eq!(fixture.postgres.roles(), [""; 0], "a closed terminal left a role behind");

    let (mut screen, terminal) = Terminal::open();
    let mut tunnel = fixture.project.start_database_on(terminal, &["orders", "--role", "reader"]);
    screen.wait_for("psql \"postgresql://", SOON);
    screen.interrupt();
    assert_eq!(tunnel.process.code(SOON), 0);
    assert_eq!(fixture.postgres.roles(), [""; 0], "Ctrl-C left a role behind");
}

/// Leases are for SIGKILL, which no program can catch.
#[test]
fn a_killed_tunnel_leaves_its_role_for_as_long_as_the_lease() {
    let fixture = DatabaseFixture::new("5s");
    let (mut tunnel, _) = fixture.tunnel();
    tunnel.process.kill();
    assert_eq!(fixture.postgres.roles().len(), 1);
    wait::until_true("the lease ends", SOON, || fixture.postgres.roles().is_empty());
}

#[test]
fn a_command_gets_the_connection_in_its_environment() {
    let fixture = DatabaseFixture::new("1h");
    let psql = ["psql", "-X", "-A", "-t", "-c", "select current_user"];
    let mut words = vec!["orders", "--role", "reader", "--"];
    words.extend(psql);
    let output = fixture.project.program("pf-db-tunnel", &words).output();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.lines().any(|line| line.starts_with("v-")), "{stdout}{stderr}");
    let failing = fixture.project.program("pf-db-tunnel", &["orders", "--", "sh", "-c", "exit 33"]).output();
    assert_eq!(failing.status.code(), Some(33));
    assert_eq!(fixture.postgres.roles(), [""; 0]);
}

/// Each variable of libpq that could lead elsewhere, in the user's shell; real psql says where
/// it came out.
#[test]
fn a_command_comes_out_at_the_tunnel_whatever_the_shell_says() {
    let fixture = DatabaseFixture::new("1h");
    let services = fixture.project.scratch().write(
        "services.conf",
        format!(
            "[staging]\nhost=127.0.0.1\nport={}\nuser={SUPERUSER}\ndbname=postgres\n",
            fixture.postgres.address().port()
        ),
    );
    let (services, folder) = (services.to_str().unwrap(), fixture.project.scratch().path().to_str().unwrap());
    let wrong = "canary-password";
    let all = [
        ("PGHOST", "192.0.2.1"),
        ("PGHOSTADDR", "192.0.2.1"),
        ("PGPORT", "1"),
        ("PGDATABASE", "postgres"),
        ("PGUSER", SUPERUSER),
        ("PGPASSWORD", wrong),
        ("PGPASSFILE", "/dev/null"),
        ("PGSERVICE", "staging"),
        ("PGSERVICEFILE", services),
        ("PGSYSCONFDIR", folder),
        ("PGTARGETSESSIONATTRS", "standby"),
        ("PGREQUIREPEER", "nobody"),
        ("PGLOADBALANCEHOSTS", "random"),
    ];
    let select = "select current_user || ' ' || current_database()";
    let psql = ["psql", "-X", "-A", "-t", "-c", select];
    // One at a time would be thirteen tunnels: a command runs psql with each of them, by the one way that our
    // own program takes them away, and the whole list together.
    let words = [&["-v", "orders", "--"][..], &psql].concat();
    let mut program = fixture.project.program("pf-db-tunnel", &words);
    for (name, value) in all {
        program = program.env(name, value);
    }
    let output = program.output();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(
        stdout.lines().any(|line| line.starts_with("v-") && line.ends_with(" orders")),
        "{stdout}{stderr}"
    );
    for (name, _) in all {
        assert!(stderr.contains(&format!("{name} is kept from the command")), "{name}: {stderr}");
    }
    assert!(!stderr.contains(wrong), "{stderr}");
    // Each of them alone changes what psql does, which is why it is in the list.
    for (name, value) in all.into_iter().filter(|(name, _)| {
        !matches!(*name, "PGLOADBALANCEHOSTS" | "PGREQUIREPEER" | "PGSERVICEFILE" | "PGSYSCONFDIR")
    }) {
        let wanted = format!("{SUPERUSER} orders");
        let mut program = fixture.postgres.psql_at(
            fixture.postgres.address(),
            SUPERUSER,
            fixture.postgres.password(),
            "orders",
            select,
        );
        program = program.env("PGSERVICEFILE", services).env("PGCONNECT_TIMEOUT", "2").env(name, value);
        let output = program.output();
        let led = String::from_utf8_lossy(&output.stdout).trim() != wanted;
        assert!(led || matches!(name, "PGUSER" | "PGPASSFILE"), "{name} alone leads nowhere else");
    }
    assert_eq!(fixture.postgres.roles(), [""; 0]);
}

/// However a program is started that is to find the password, and whatever it calls this computer.
#[test]
fn the_password_is_found_by_whatever_runs() {
    let fixture = DatabaseFixture::new("1h");
    let select = "select current_user";
    let python = format!(
        "import subprocess,sys; sys.exit(subprocess.run(['psql','-X','-A','-t','-c','{select}'], close_fds=True).returncode)"
    );
    let shell =
        format!("for fd in 3 4 5 6 7 8 9; do eval \"exec $fd<&-\"; done; psql -X -A -t -c '{select}'");
    for command in [
        &["python3", "-c", &python][..],
        &["sh", "-c", &shell],
        &["psql", "-X", "-A", "-t", "-h", "localhost", "-c", select],
        &["psql", "-X", "-A", "-t", "-h", "127.0.0.1", "-c", select],
        &["psql", "-X", "-A", "-t", "host=localhost", "-c", select],
    ] {
        let output = fixture.project.program("pf-db-tunnel", &[&["orders", "--"], command].concat()).output();
        let told =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && told.lines().any(|line| line.starts_with("v-")),
            "{command:?}: {told}"
        );
    }
}

/// The name in the database's certificate is the database's own, and the address is the tunnel's.
#[test]
fn a_program_can_verify_the_name_of_the_database() {
    let fixture = DatabaseFixture::named("1h", "localhost");
    let ca = fixture.postgres.with_tls("localhost");
    let select = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    let run = |command: &[&str], mode: &str| {
        let words = [&["orders", "--"], command].concat();
        let program = fixture.project.program("pf-db-tunnel", &words).env("PGSSLROOTCERT", &ca);
        let output = if mode.is_empty() { program } else { program.env("PGSSLMODE", mode) }.output();
        let told =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success() && told.lines().any(|line| line == "t"), told)
    };
    let psql = ["psql", "-X", "-A", "-t", "-c", select];
    let (good, told) = run(&psql, "verify-full");
    assert!(good, "{told}");
    let (good, told) = run(&["psql", "-X", "-A", "-t", "sslmode=verify-full", "-c", select], "");
    assert!(good, "{told}");
    // A user who does not ask for it gets an address that every program understands.
    let output = fixture
        .project
        .program("pf-db-tunnel", &["orders", "--", "sh", "-c", "echo $PGHOST $PGHOSTADDR"])
        .output();
    assert!(
        String::from_utf8_lossy(&output.stdout).lines().any(|line| line.trim() == "127.0.0.1"),
        "{output:?}"
    );
    // The printed words work as they stand.
    let (tunnel, told) = fixture.tunnel();
    let printed = Program::new(tests::process::installed("psql"))
        .args(["-X", "-A", "-t", "-c", select, told["verify_full_url"].as_str().unwrap()])
        .env("PGPASSWORD", told["password"].as_str().unwrap())
        .env("PGSSLMODE", "verify-full")
        .env("PGSSLROOTCERT", &ca);
    assert_eq!(printed.succeed().trim(), "t");
    drop(tunnel);
}

#[test]
fn what_is_missing_is_named() {
    let fixture = DatabaseFixture::new("1h");
    let poor = fixture.bao.token(&["tunnel-user"], "5m");
    let sign_only = |program: Program| program.env("VAULT_TOKEN", &poor);
    for (what, code, says, program) in [
        ("no such database", 2, "orders", fixture.project.program("pf-db-tunnel", &["payroll"])),
        (
            "no such role",
            2,
            "reader",
            fixture.project.program("pf-db-tunnel", &["orders", "--role", "writer"]),
        ),
        (
            "no policy",
            11,
            "database/creds/reader",
            sign_only(fixture.project.program("pf-db-tunnel", &["orders"])),
        ),
    ] {
        let output = program.output();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{what}: {error}");
        assert!(error.contains("error: ") && error.contains(says), "{what}: {error}");
    }
    assert_eq!(fixture.postgres.roles(), [""; 0]);
}

#[test]
fn the_same_port_serves_psql_before_and_after_the_bastions_death() {
    let mut fixture = DatabaseFixture::new("1h");
    let (_tunnel, told) = fixture.tunnel();
    let before = fixture.whoami(&told);
    fixture.bastion.kill();
    fixture.bastion.start_again();
    assert_eq!(fixture.whoami(&told), before);
}

#[test]
fn pgbench_runs_through_the_tunnel() {
    let fixture = DatabaseFixture::new("1h");
    let mut tunnel = fixture.project.start(&[&fixture.postgres.address().to_string(), "0"]);
    let local: SocketAddr = tunnel.ready(1)[0];
    for words in [
        &["-i", "-q", "-s", "5"][..],
        &["-c", "8", "-j", "2", "-T", "5"],
        &["-c", "4", "-C", "-t", "25", "-S"],
    ] {
        let output = fixture.postgres.pgbench_at(local, words);
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        for line in
            said.lines().filter(|line| line.starts_with("tps") || line.contains("failed transactions"))
        {
            println!("pgbench {}: {line}", words.join(" "));
            assert!(!line.contains("failed") || line.contains(": 0 "), "{line}");
        }
    }
    let count = fixture.postgres.psql_at(
        local,
        SUPERUSER,
        fixture.postgres.password(),
        "orders",
        "select count(*) from pgbench_accounts",
    );
    assert_eq!(count.succeed().trim(), "500000");
}
