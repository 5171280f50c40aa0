//! The processor time and the memory of programs, with all their children.

use std::{
    collections::BTreeMap,
    fs::{read_dir, read_to_string},
    io::ErrorKind,
};

use nix::unistd::{SysconfVar, sysconf};

/// Some programs and their children.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tree(Vec<u32>);

impl Tree {
    /// Those with these process ids, and what they start.
    pub(crate) fn of(roots: impl Into<Vec<u32>>) -> Self {
        Self(roots.into())
    }

    /// How many seconds they have kept processors busy, those included that ended and whose parent lives.
    pub(crate) fn seconds(&self) -> f64 {
        let ticks: u64 = self.processes().values().map(|stat| stat.ticks).sum();
        let a_second = sysconf(SysconfVar::CLK_TCK).unwrap().expect("every kernel has it");
        ticks as f64 / a_second as f64
    }

    /// Their memory in KiB; what several have in common counts once in all. `None` where the kernel does not
    /// let this user look.
    pub(crate) fn kib(&self) -> Option<f64> {
        let mut all = 0.0;
        for process in self.processes().keys() {
            match read_to_string(format!("/proc/{process}/smaps_rollup")) {
                // One that ended has none, whether its parent has waited for it or not.
                Ok(text) => all += proportional(&text).unwrap_or(0.0),
                Err(error) if error.kind() == ErrorKind::PermissionDenied => return None,
                Err(_) => {}
            }
        }
        Some(all)
    }

    fn processes(&self) -> BTreeMap<u32, Stat> {
        let mut all = BTreeMap::new();
        for entry in read_dir("/proc").unwrap().flatten() {
            let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // One that ends meanwhile is counted by its parent.
            if let Some(stat) =
                read_to_string(entry.path().join("stat")).ok().and_then(|text| Stat::read(&text))
            {
                all.insert(process, stat);
            }
        }
        descendants(&all, &self.0)
    }
}

/// What `/proc/PID/stat` says (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// User and system time, its own and that of children that it waited for.
    ticks: u64,
}

impl Stat {
    fn read(text: &str) -> Option<Self> {
        // The name in parentheses may hold anything.
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let mut ticks = 0;
        for field in fields.get(11..15)? {
            ticks += field.parse::<u64>().ok()?;
        }
        Some(Self { parent: fields[1].parse().ok()?, ticks })
    }
}

fn descendants(all: &BTreeMap<u32, Stat>, roots: &[u32]) -> BTreeMap<u32, Stat> {
    let belongs = |process: u32| {
        let mut at = process;
        // A process id may be lower than its parent's, and a table that was read while it changed may lie.
        for _ in 0..all.len() {
            if roots.contains(&at) {
                return true;
            }
            match all.get(&at) {
                Some(stat) => at = stat.parent,
                None => return false,
            }
        }
        false
    };
    all.iter().filter(|(process, _)| belongs(**process)).map(|(process, stat)| (*process, *stat)).collect()
}

/// The proportional set size of `/proc/PID/smaps_rollup`, in KiB.
fn proportional(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "12 (a (b) c) S 7 12 12 0 -1 4194304 1 2 3 4 100 20 3 4 20 0 1 0 5 6";

    #[test]
    fn a_process_is_read_whatever_its_name() {
        assert_eq!(Stat::read(TEXT), Some(Stat { parent: 7, ticks: 127 }));
        assert_eq!(Stat::read("12 (a) S 7"), None);
        assert_eq!(Stat::read(""), None);
    }

    #[test]
    fn children_of_children_belong_and_others_do_not() {
        let table = [(1, 0), (10, 1), (11, 10), (9, 11), (20, 1), (30, 31), (31, 30)];
        let all = table.map(|(process, parent)| (process, Stat { parent, ticks: 1 })).into();
        let found: Vec<_> = descendants(&all, &[10]).into_keys().collect();
        assert_eq!(found, [9, 10, 11]);
        assert!(descendants(&all, &[12]).is_empty());
    }

    #[test]
    fn memory_is_what_is_its_own_share() {
        let text =
            "00400000-7fff ---p 00000000 00:00 0 [rollup]\nRss:   9000 kB\nPss:    1234 kB\nPss_Anon: 1 kB\n";
        assert_eq!(proportional(text), Some(1234.0));
        assert_eq!(proportional("Rss: 9000 kB\n"), None);
    }

    #[test]
    fn this_program_takes_time_and_memory() {
        let tree = Tree::of([std::process::id()]);
        assert!(tree.kib().unwrap() > 100.0);
        let mut sum = 1_u64;
        while tree.seconds() < 0.05 {
            sum = std::hint::black_box(sum.wrapping_mul(3));
        }
    }
}
