//! Every parser of what others wrote, on the inputs that are known and on many that are like them. `make
//! fuzz` goes on from there.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tests::fuzz::{self, TARGETS, Target};
use tunnel_stream::Frame;

/// Changed inputs that each parser is given.
const TRIES: usize = 3000;
/// The longest input.
const LONGEST: usize = 64 * 1024;

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let mut files: Vec<_> =
        std::fs::read_dir(fuzz::corpus(target.name)).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// One input made of others: bits, bytes, numbers and pieces changed, cut, doubled or exchanged.
fn changed(corpus: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut input = corpus[random.random_range(0..corpus.len())].clone();
    for _ in 0..random.random_range(1..6) {
        let place = random.random_range(0..=input.len());
        match random.random_range(0..7) {
            0 if place < input.len() => input[place] ^= 1 << random.random_range(0..8),
            1 if place < input.len() => input[place] = random.random(),
            2 => input.truncate(place),
            3 => {
                let number: u32 = [0, 1, 0x7f, 0xff, 0xffff, 1 << 31, u32::MAX][random.random_range(0..7)];
                let end = input.len().min(place + 4);
                input.splice(place..end, number.to_be_bytes());
            }
            4 => {
                let length = random.random_range(0..=input.len() - place).min(256);
                let piece = input[place..place + length].to_vec();
                input.splice(place..place, piece);
            }
            5 => {
                let other = &corpus[random.random_range(0..corpus.len())];
                let from = random.random_range(0..=other.len());
                input.splice(place.., other[from..].iter().copied());
            }
            _ => {
                let noise: [u8; 8] = random.random();
                input.splice(place..place, noise);
            }
        }
    }
    input.truncate(LONGEST);
    input
}

fn survives(target: &Target, input: &[u8], origin: &str) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    assert!(outcome.is_ok(), "{} fails on {origin}: \"{}\"", target.name, input.escape_ascii());
}

#[test]
fn every_parser_survives_what_is_known_and_what_is_like_it() {
    let seed: u64 = rand::random();
    println!("random inputs of seed {seed}");
    std::thread::scope(|scope| {
        for target in &TARGETS {
            scope.spawn(move || {
                let corpus = corpus(target);
                assert!(!corpus.is_empty(), "{} has no corpus", target.name);
                for input in &corpus {
                    survives(target, input, "an input of its corpus");
                }
                let mut random = StdRng::seed_from_u64(seed);
                for _ in 0..TRIES {
                    survives(target, &changed(&corpus, &mut random), &format!("an input of seed {seed}"));
                }
            });
        }
    });
}

/// Inputs that get far are what makes the others worth trying.
#[test]
fn the_corpora_hold_what_is_accepted_too() {
    let blob = fuzz::honest_certificate();
    assert!(corpus(&TARGETS[0]).contains(&blob));
    assert!(fuzz::admits(&blob));
    // A byte that the parser overlooks and no authority signed; fuzzing found it.
    let longer = std::fs::read(fuzz::corpus("certificate").join("byte_inside_the_authority")).unwrap();
    assert!(longer.len() == blob.len() + 1 && !fuzz::admits(&longer));
    let fields = fuzz::honest_fields();
    assert!(corpus(&TARGETS[1]).contains(&fields));
    assert!(fuzz::admits(&fuzz::sign_fields(&fields)));
    // Each end's inputs are frames to their last byte, and an attempt to resume is among them.
    for (name, count) in [("to_a_client", 17), ("to_a_bastion", 19)] {
        let frames = fuzz::streams::frames(&std::fs::read(fuzz::corpus("streams").join(name)).unwrap());
        let resumes = |frame: &Frame| matches!(frame, Frame::Attach(_) | Frame::Attached(_));
        assert_eq!(
            (frames.len(), frames.iter().filter(|frame| resumes(frame)).count()),
            (count, 1),
            "{name}"
        );
    }
}

/// A target that `make fuzz` does not know, or that has no corpus, would be forgotten.
#[test]
fn every_target_has_its_program_and_its_corpus() {
    let names = |folder: &str| -> BTreeSet<String> {
        let folder = tests::process::workspace().join("tests/fuzz").join(folder);
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        names.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect()
    };
    let known: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names("fuzz_targets"), known);
    assert_eq!(names("corpus"), known);
}
