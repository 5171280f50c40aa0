//! A Kubernetes of one node on this machine. `make cluster` starts it, `make cluster-down` leaves nothing of
//! it.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it prints is what it is for")]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::ExitCode,
    time::Instant,
};

use anyhow::{Result, bail};
use test_cluster::{Cluster, Cni, Life, standing_folder, supervisor, take_down};

const USAGE: &str = "usage: cluster up [ARCHIVE...] | down | status | import ARCHIVE...
  up      starts a cluster, brings archives of images into it, and prints its kubeconfig
  down    takes it down, and removes what was left of others
  status  says whether it is up
  import  brings archives of images into it";

fn main() -> ExitCode {
    // The harness panics where a person needs a sentence.
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let sentence = payload.downcast_ref::<&str>().copied();
        let sentence = sentence.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        eprintln!("error: {}", sentence.unwrap_or("a defect of ours"));
    }));
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match catch_unwind(|| run(&words)) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(words: &[&str]) -> Result<ExitCode> {
    match words {
        ["up", archives @ ..] => up(archives)?,
        ["down"] => {
            let there = take_down(&standing_folder())?;
            println!("{}", if there { "the cluster is down" } else { "no cluster was up" });
        }
        ["status"] => {
            let Some(cluster) = Cluster::standing() else {
                bail!("no cluster is up: `make cluster` starts one")
            };
            show(&cluster);
            print!("{}", cluster.kubectl(&["get", "nodes,pods", "--all-namespaces", "--output=wide"]));
        }
        ["import", archives @ ..] if !archives.is_empty() => {
            let Some(cluster) = Cluster::standing() else {
                bail!("no cluster is up: `make cluster` starts one")
            };
            import(&cluster, archives);
        }
        // What the others are made of.
        ["supervise", folder] => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(supervisor::supervise(Path::new(folder)))?;
        }
        ["hold", folder] => return supervisor::hold(Path::new(folder)),
        ["runner"] => supervisor::run()?,
        _ => bail!("{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn up(archives: &[&str]) -> Result<()> {
    if let Some(cluster) = Cluster::standing() {
        if cluster.has_cilium() != (Cni::asked() == Cni::Cilium) {
            bail!("a cluster with another CNI is up: `make cluster-down` first");
        }
        println!("the cluster is up already");
        import(&cluster, archives);
        show(&cluster);
        return Ok(());
    }
    let start = Instant::now();
    let mut report = |step: &str| println!("{:5.1} s  {step}", start.elapsed().as_secs_f32());
    let folder = standing_folder();
    // What is left of one that was killed.
    take_down(&folder)?;
    let started =
        catch_unwind(AssertUnwindSafe(|| Cluster::start(&folder, Life::UntilTakenDown, &mut report)));
    match started {
        Ok(cluster) => {
            import(&cluster, archives);
            show(&cluster);
        }
        Err(panic) => {
            take_down(&folder)?;
            std::panic::resume_unwind(panic);
        }
    }
    Ok(())
}

fn import(cluster: &Cluster, archives: &[&str]) {
    for archive in archives {
        cluster.import_image(Path::new(archive));
        println!("imported {archive}");
    }
}

fn show(cluster: &Cluster) {
    println!("the API server and the ports of Services are at {}", cluster.node_address());
    println!("export KUBECONFIG={}", cluster.kubeconfig().display());
}
