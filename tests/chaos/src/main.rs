//! Runs the faults that are asked for, each in namespaces and in a process of its own, and prints one table.
//! `make chaos` runs it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "what it shows is what it is for, and a case that panics is one that failed"
)]

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use chaos::{
    isolated,
    peer::Peer,
    report::Report,
    row::{Row, rows},
    table::{Cell, Table},
};
use clap::Parser;
use tests::process::{Program, is_root, workspace};

/// Injects faults under open connections, and prints what became of them.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rows such as F03; without any, all of them.
    rows: Vec<String>,
    /// Who is tried; without any, all of them.
    #[arg(long, value_enum)]
    peer: Vec<Peer>,
    /// How many cases run side by side. Most of them wait.
    #[arg(long, default_value_t = 3)]
    jobs: usize,
    /// Where the table goes, and what failed cases wrote.
    #[arg(long, default_value = "target/chaos")]
    to: PathBuf,
    /// Runs one case in this very process, which has namespaces of its own, and prints its report as JSON.
    #[arg(long, hide = true)]
    case: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let unknown: Vec<_> = arguments.rows.iter().filter(|name| Row::named(name).is_none()).collect();
    if !unknown.is_empty() {
        let known: Vec<_> = rows().iter().map(|row| row.id).collect();
        println!("error: no row is called {unknown:?}; there are {}", known.join(" "));
        return ExitCode::from(2);
    }
    if arguments.case {
        return case(&arguments);
    }
    if !is_root() {
        println!(
            "error: this needs root: it makes network namespaces, drops packets there with nftables, resets \
             connections and freezes processes.\nIt changes nothing of the machine itself. Run it as `sudo make chaos`."
        );
        return ExitCode::from(2);
    }
    let asked: Vec<Row> = rows()
        .into_iter()
        .filter(|row| {
            arguments.rows.is_empty() || arguments.rows.iter().any(|name| row.id.eq_ignore_ascii_case(name))
        })
        .collect();
    let cases: Vec<(Row, Peer)> = asked
        .iter()
        .flat_map(|row| row.peers.iter().map(move |peer| (*row, *peer)))
        .filter(|(_, peer)| arguments.peer.is_empty() || arguments.peer.contains(peer))
        .collect();
    let table = Table::new(run(&cases, arguments.jobs.max(1), &arguments.to));
    let to = workspace().join(&arguments.to);
    table.write(&asked, &to);
    println!("{}", table.text(&asked));
    println!("As text and as JSON: {}", to.join("table.*").display());
    let unexpected = table.cells.iter().filter(|cell| cell.disagrees.is_some()).count();
    if unexpected > 0 {
        println!("error: {unexpected} of {} cases are not as expected", table.cells.len());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn case(arguments: &Arguments) -> ExitCode {
    let ([row], [peer]) = (&arguments.rows[..], &arguments.peer[..]) else {
        println!("error: a case has one row and one peer");
        return ExitCode::from(2);
    };
    let report = (Row::named(row).unwrap().case)(*peer);
    println!("{}", serde_json::to_string(&report).unwrap());
    ExitCode::SUCCESS
}

/// Runs cases side by side, and tells each as it ends.
fn run(cases: &[(Row, Peer)], jobs: usize, to: &std::path::Path) -> Vec<Cell> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    // The longest first.
    let mut order: Vec<usize> = (0..cases.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(cases[*index].0.patience));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(index) = order.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let (row, peer) = &cases[*index];
                    let cell = one(row, *peer, to);
                    let outcome = cell.disagrees.as_deref().unwrap_or("as expected");
                    println!("{} {peer}: {outcome} ({:.0} s)", row.id, cell.seconds);
                    done.lock().unwrap().push((*index, cell));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, cell)| cell).collect()
}

fn one(row: &Row, peer: Peer, to: &std::path::Path) -> Cell {
    let begun = Instant::now();
    let name = clap::ValueEnum::to_possible_value(&peer).unwrap();
    let program = Program::new(std::env::current_exe().unwrap());
    let words = ["--case", row.id, "--peer", name.get_name()];
    let mut process = isolated(program.args(words)).folder(workspace()).start();
    let hung = Instant::now() + row.patience;
    let status = loop {
        if process.ended().is_some() || Instant::now() > hung {
            break process.ended();
        }
        thread::sleep(Duration::from_millis(50));
    };
    let report: Option<Report> =
        process.stdout().lines().last().and_then(|line| serde_json::from_str(line).ok());
    let disagrees = match (&report, status) {
        (Some(report), Some(status)) if status.success() => row.disagrees(peer, report),
        (_, None) => Some(format!("hung for {:.0?}", row.patience)),
        (_, Some(status)) => Some(reason(&process.stderr(), &status.to_string())),
    };
    if disagrees.is_some() {
        let folder = workspace().join(to);
        std::fs::create_dir_all(&folder).unwrap();
        let log = folder.join(format!("{}-{}.log", row.id, name.get_name()));
        std::fs::write(log, process.stdout() + &process.stderr()).unwrap();
    }
    Cell { row: row.id.to_owned(), peer, report, disagrees, seconds: begun.elapsed().as_secs_f64() }
}

/// The line of a panic that says why, or how the process ended.
fn reason(stderr: &str, status: &str) -> String {
    let mut lines = stderr.lines().skip_while(|line| !line.contains("panicked at"));
    lines.nth(1).map_or_else(|| status.to_owned(), str::to_owned)
}
