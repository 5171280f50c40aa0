//! Tests the formats with files made by hand; an integration test compares with `ssh-keygen`.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use ssh_key::{PrivateKey, certificate::Builder, private::Ed25519Keypair};

use super::*;

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

fn blob(seed: u8) -> Vec<u8> {
    key(seed).public_key().to_bytes().unwrap()
}

/// A certificate for key 2 by authority 1.
fn certificate(serial: u64, key_id: &str) -> Certificate {
    let user = key(2).public_key().key_data().clone();
    let mut builder = Builder::new(vec![7; 16], user, 0, 1).unwrap();
    builder.serial(serial).unwrap().key_id(key_id).unwrap().valid_principal("x").unwrap();
    builder.sign(&key(1)).unwrap()
}

fn ask(file: &[u8], certificate: &Certificate) -> Option<Revoked> {
    let list = Revocations::parse(file).unwrap_or_else(|error| panic!("{error}"));
    RevocationList::from_iter([Arc::new(list)]).revoked(certificate)
}

fn fault(file: &[u8]) -> (usize, Fault) {
    let Malformed { offset, fault } = Revocations::parse(file).unwrap_err();
    (offset, fault)
}

fn string(inside: impl AsRef<[u8]>) -> Vec<u8> {
    let inside = inside.as_ref();
    [&u32::try_from(inside.len()).unwrap().to_be_bytes()[..], inside].concat()
}

fn section(kind: u8, inside: impl AsRef<[u8]>) -> Vec<u8> {
    [vec![kind], string(inside)].concat()
}

const HEADER: usize = 8 + 4 + 8 + 8 + 8 + 4 + 4;

/// A KRL with these sections after the header.
fn krl(sections: &[Vec<u8>]) -> Vec<u8> {
    let header = [krl::MAGIC, &[0, 0, 0, 1], &[0; 24], &[0; 8]].concat();
    assert_eq!(header.len(), HEADER);
    [header, sections.concat()].concat()
}

/// A KRL about certificates of authority 1.
fn certificates(parts: &[Vec<u8>]) -> Vec<u8> {
    krl(&[section(1, [string(blob(1)), string(""), parts.concat()].concat())])
}

fn serials(list: &[u64]) -> Vec<u8> {
    list.iter().flat_map(|serial| serial.to_be_bytes()).collect()
}

fn extension(critical: u8) -> Vec<u8> {
    [string("x@example.com"), vec![critical], string("anything")].concat()
}

/// A KRL with every kind of section.
fn everything() -> Vec<u8> {
    let parts = [
        section(0x20, serials(&[3, 9, u64::MAX])),
        section(0x21, serials(&[100, 200])),
        section(0x22, [serials(&[1000]), string([0, 0b1000_0001, 0b0000_0100])].concat()),
        section(0x23, [string("one"), string("two\0")].concat()),
        section(0x39, extension(0)),
    ];
    krl(&[
        section(1, [string(blob(1)), string("reserved"), parts.concat()].concat()),
        section(1, [string(""), string(""), section(0x23, string("any"))].concat()),
        section(2, string(blob(3))),
        section(3, string(digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob(4)))),
        section(5, string(digest(&SHA256, &blob(5)))),
        section(255, extension(0)),
    ])
}

#[test]
fn serial_numbers_and_key_ids() {
    let file = everything();
    for (serial, revoked) in [
        (0, false),
        (3, true),
        (4, false),
        (9, true),
        (99, false),
        (100, true),
        (200, true),
        (201, false),
        (1000, false),
        (1002, true),
        (1007, false),
        (1008, true),
        (1015, true),
        (1016, false),
        (u64::MAX - 1, false),
        (u64::MAX, true),
    ] {
        let expected = revoked.then_some(Revoked::Serial);
        assert_eq!(ask(&file, &certificate(serial, "")), expected, "{serial}");
    }
    for (key_id, revoked) in
        [("one", true), ("two", true), ("two\0", true), ("any", true), ("", false), ("On", false)]
    {
        assert_eq!(ask(&file, &certificate(0, key_id)), revoked.then_some(Revoked::KeyId), "{key_id:?}");
    }
}

#[test]
fn another_authority_numbers_for_itself() {
    let part = section(0x20, serials(&[5]));
    let of = |authority: Vec<u8>| krl(&[section(1, [string(authority), string(""), part.clone()].concat())]);
    assert_eq!(ask(&of(blob(1)), &certificate(5, "")), Some(Revoked::Serial));
    assert_eq!(ask(&of(blob(9)), &certificate(5, "")), None);
    assert_eq!(ask(&of(Vec::new()), &certificate(5, "")), Some(Revoked::Serial));
}

#[test]
fn keys_by_whichever_name() {
    for (seed, expected) in [(1, Revoked::Authority), (2, Revoked::Key)] {
        let line = key(seed).public_key().to_openssh().unwrap();
        for file in [
            krl(&[section(2, string(blob(seed)))]),
            krl(&[section(3, string(digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob(seed))))]),
            krl(&[section(5, string(digest(&SHA256, &blob(seed))))]),
            line.clone().into_bytes(),
            format!("# ours\n\n \t{line} a-user\r\nssh-ed25519 {}", &line[12..]).into_bytes(),
            [line.as_bytes(), b" \xff\xfe in Latin-1\n"].concat(),
        ] {
            assert_eq!(ask(&file, &certificate(1, "")), Some(expected), "{file:?}");
        }
    }
    // sshd compares keys only, so a certificate in a plain list stands for its key.
    let line = certificate(1, "").to_openssh().unwrap();
    assert_eq!(ask(line.as_bytes(), &certificate(2, "")), Some(Revoked::Key));
    let misnamed = line.replacen("-cert-v01@openssh.com", "", 1);
    assert_eq!(fault(misnamed.as_bytes()), (0, Fault::NoKeyInLine(1)));
    assert_eq!(ask(b"# none\n", &certificate(2, "")), None);
}

#[test]
fn several_lists_are_one() {
    let list = |seed| Arc::new(Revocations::parse(&krl(&[section(2, string(blob(seed)))])).unwrap());
    let merged = RevocationList::from_iter([list(7), list(2)]);
    assert_eq!((merged.revoked(&certificate(1, "")), merged.entries()), (Some(Revoked::Key), 2));
    assert_eq!(RevocationList::default().revoked(&certificate(1, "")), None);
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let in_certificates = |part: Vec<u8>| certificates(&[part]);
    // The file's header, the section's header, the authority's key and the reserved field; then the part's
    // header.
    let part = HEADER + 5 + 4 + blob(1).len() + 4;
    let inside = part + 5;
    let bitmap = |first: u64, bits: Vec<u8>| section(0x22, [serials(&[first]), string(bits)].concat());
    let nested = certificate(1, "").to_bytes().unwrap();
    let authority = |blob: &[u8]| krl(&[section(1, [string(blob), string("")].concat())]);
    let mut newer = krl(&[]);
    newer[11] = 2;
    let signed = krl(&[section(4, blob(1)), string("signature")]);
    for (file, offset, expected) in [
        (Vec::new(), 0, Fault::Empty),
        (b"# ours\n# yours\nSHA256:abc\n".to_vec(), 15, Fault::NoKeyInLine(3)),
        (b"SSHKRL\n".to_vec(), 0, Fault::NoKeyInLine(1)),
        (format!("ssh-ed25519 {}", "A".repeat(100_000)).into_bytes(), 0, Fault::NoKeyInLine(1)),
        (newer, 8, Fault::Version(2)),
        (signed, HEADER, Fault::Signature),
        (krl(&[section(6, "")]), HEADER, Fault::UnknownSection(6)),
        (krl(&[section(255, extension(1))]), HEADER + 5, Fault::CriticalExtension),
        (krl(&[section(255, [extension(0), vec![0]].concat())]), HEADER + 5 + 30, Fault::Trailing),
        (krl(&[section(3, string("short"))]), HEADER + 5, Fault::Fingerprint(5)),
        (krl(&[section(5, string([7; 33]))]), HEADER + 5, Fault::Fingerprint(33)),
        (krl(&[section(2, [0, 0, 0, 9, 1])]), HEADER + 5, Fault::Truncated),
        (authority(b"nonsense"), HEADER + 5, Fault::NoAuthority),
        (authority(&nested), HEADER + 5, Fault::NoAuthority),
        (authority(&[blob(1), vec![0]].concat()), HEADER + 5, Fault::NoAuthority),
        (in_certificates(section(0x24, "")), part, Fault::UnknownCertificateSection(0x24)),
        (in_certificates(section(0x39, extension(1))), inside, Fault::CriticalExtension),
        (in_certificates(section(0x20, serials(&[1, 0]))), inside + 8, Fault::SerialZero),
        (in_certificates(section(0x21, serials(&[9, 8]))), inside, Fault::RangeReversed),
        (in_certificates(section(0x21, serials(&[1, 2, 3]))), inside + 16, Fault::Trailing),
        (in_certificates(section(0x23, string("a\0b"))), inside, Fault::Nul),
        (in_certificates(bitmap(0, vec![1])), inside, Fault::SerialZero),
        (in_certificates(bitmap(u64::MAX, vec![2])), inside, Fault::BitmapWraps),
        (in_certificates(bitmap(1, vec![0x80])), inside + 8, Fault::Bitmap),
        (in_certificates(bitmap(1, vec![0x7f; 2049])), inside + 8, Fault::Bitmap),
    ] {
        assert_eq!(fault(&file), (offset, expected), "{file:02x?}");
    }
    assert_eq!(
        ask(&in_certificates(bitmap(1, vec![0x7f; 2048])), &certificate(7, "")),
        Some(Revoked::Serial)
    );
}

/// Every other number makes as many ranges as numbers: in a list, and in bitmaps.
#[test]
fn a_million_serial_numbers_load_at_once_and_more_do_not() {
    const MILLION: u64 = 1_000_000;
    let list = |count: u64| {
        let scattered: Vec<u64> = (1..=count).map(|n| 2 * n).collect();
        certificates(&[section(0x20, serials(&scattered))])
    };
    let bitmaps: Vec<_> = (0..)
        .step_by(2 * 8000)
        .take(125)
        .map(|first| section(0x22, [serials(&[first + 2]), string([0x55; 2000])].concat()))
        .collect();
    let backwards: Vec<u64> = (1..=MILLION).rev().map(|n| 2 * n).collect();
    for (how, file, last) in [
        ("list", list(MILLION), 2 * MILLION),
        ("backwards", certificates(&[section(0x20, serials(&backwards))]), 2 * MILLION),
        ("bitmaps", certificates(&bitmaps), MILLION * 2),
    ] {
        // The fastest of several runs, since other processes may load this machine.
        let load = || {
            let start = Instant::now();
            (Revocations::parse(&file).unwrap(), start.elapsed())
        };
        let (revocations, loaded) = (0..5).map(|_| load()).min_by_key(|(_, loaded)| *loaded).unwrap();
        println!("{how}: {} bytes, {} entries in {loaded:?}", file.len(), revocations.entries());
        assert!(loaded < Duration::from_secs(1), "{how}: {loaded:?}");
        let listed = &revocations.certificates[&Scope::Authority(sha256(&blob(1)).unwrap())].serials;
        let start = Instant::now();
        for serial in (2..20_000).chain(last - 20_000..last) {
            assert_eq!(listed.contains(serial), serial % 2 == 0, "{how}: {serial}");
        }
        let each = start.elapsed() / 40_000;
        assert!(each < Duration::from_micros(20), "{how}: {each:?} for one answer");
    }
    let many = u64::try_from(MOST_ENTRIES).unwrap();
    assert_eq!(Revocations::parse(&list(many)).unwrap().entries(), MOST_ENTRIES);
    assert_eq!(fault(&list(many + 1)).1, Fault::TooMany);
}

#[test]
fn no_part_of_a_list_is_more_than_the_list() {
    let whole = everything();
    assert!(Revocations::parse(&whole).is_ok());
    let mut good = 0;
    for length in 0..whole.len() {
        match Revocations::parse(&whole[..length]) {
            Ok(_) => good += 1,
            Err(error) => assert!(error.offset <= length, "{length}: {error}"),
        }
    }
    // Cut between two sections, the file is a shorter list: nothing in the format tells.
    assert_eq!(good, 6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn whatever_is_in_a_file_it_is_read_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut file = everything();
        for (position, byte) in changes {
            let index = position.index(file.len());
            file[index] = byte;
        }
        match Revocations::parse(&file) {
            Ok(list) => {
                let _ = RevocationList::from_iter([Arc::new(list)]).revoked(&certificate(9, "one"));
            }
            Err(error) => prop_assert!(error.offset <= file.len()),
        }
    }

    #[test]
    fn anything_behind_a_header(tail in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = Revocations::parse(&[krl(&[]), tail].concat());
    }

    #[test]
    fn a_set_of_ranges_is_a_set(
        ranges in prop::collection::vec((1_u64..60, 0_u64..9), 0..20),
        far in prop::collection::vec(0_u64..5, 0..3),
    ) {
        let far = far.into_iter().map(|n| (u64::MAX - n, u64::MAX));
        let ranges: Vec<_> = ranges.into_iter().map(|(first, more)| (first, first + more)).chain(far).collect();
        let mut serials = Serials::default();
        for &(first, last) in &ranges {
            serials.add(first, last);
        }
        serials.finish();
        for serial in (0..80).chain(u64::MAX - 8..=u64::MAX) {
            let listed = ranges.iter().any(|&(first, last)| (first..=last).contains(&serial));
            prop_assert_eq!(serials.contains(serial), listed, "{}", serial);
        }
    }
}
