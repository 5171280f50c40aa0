//! Tests properties of the admission. The table of forged certificates, which also asks a stock sshd, is an
//! integration test.

use proptest::prelude::*;
use ssh_key::{
    Mpint, PrivateKey, PublicKey, certificate::Builder, private::Ed25519Keypair, public::RsaPublicKey,
};

use super::*;

const NOW: u64 = 1_800_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

fn requirements() -> Requirements {
    Requirements {
        authorities: AuthoritySet::new([key(1).public_key().clone()]).unwrap(),
        users: vec![LoginName::new("tunnel")],
        max_lifetime: Duration::from_secs(24 * 3600),
        revoked: RevocationList::default(),
        removed_authority: RemovedAuthority::EndSessions,
    }
}

/// A certificate that is accepted, changed by `change` before it is signed.
fn certificate(change: impl FnOnce(&mut Builder)) -> Certificate {
    signed(3600, change)
}

fn signed(lifetime: u64, change: impl FnOnce(&mut Builder)) -> Certificate {
    let user: PublicKey = key(2).public_key().clone();
    let mut builder =
        Builder::new(vec![7; 16], user.key_data().clone(), NOW - 60, NOW - 60 + lifetime).unwrap();
    builder.valid_principal("tunnel").unwrap().extension(PERMIT_PORT_FORWARDING, "").unwrap();
    change(&mut builder);
    builder.sign(&key(1)).unwrap()
}

fn ask_from(certificate: &Certificate, login: &str, client: &str) -> Result<Identity, Refused> {
    let login = LoginName::new(login);
    let claim = Claim { login: &login, client: client.parse().unwrap() };
    admit(certificate, claim, &requirements(), now())
}

fn ask(certificate: &Certificate) -> Result<Identity, Refused> {
    ask_from(certificate, "tunnel", "192.0.2.7")
}

/// An identity that was admitted with these principals beside `tunnel`, for tests of later stages.
pub(crate) fn admitted(principals: &[&str], may_forward: bool) -> Identity {
    admitted_with(|builder| {
        for principal in principals {
            builder.valid_principal(*principal).unwrap();
        }
        if may_forward {
            builder.extension(PERMIT_PORT_FORWARDING, "").unwrap();
        }
    })
}

/// An identity with the principal `dba` whose certificate is limited to `destinations`.
pub(crate) fn confined(destinations: &str) -> Identity {
    admitted_with(|builder| {
        builder.valid_principal("dba").unwrap();
        builder.extension(PERMIT_PORT_FORWARDING, "").unwrap();
        builder.critical_option(PERMIT_OPEN, destinations).unwrap();
    })
}

fn admitted_with(change: impl FnOnce(&mut Builder)) -> Identity {
    let user = key(2).public_key().key_data().clone();
    let mut builder = Builder::new(vec![7; 16], user, NOW - 60, NOW + 60).unwrap();
    builder.key_id("me@example.com").unwrap().valid_principal("tunnel").unwrap();
    change(&mut builder);
    ask(&builder.sign(&key(1)).unwrap()).unwrap()
}

#[test]
fn a_confinement_holds_by_its_former_name_too_and_under_both_is_refused() {
    const FORMER: &str = "permit-open@tunnel-suite.invalid";
    let confined = certificate(|builder| {
        builder.critical_option(FORMER, "db.internal:5432").unwrap();
    });
    assert_eq!(ask(&confined).unwrap().confined_to().map(<[_]>::len), Some(1));
    let twice = certificate(|builder| {
        builder.critical_option(FORMER, "db.internal:5432").unwrap();
        builder.critical_option(PERMIT_OPEN, "*:*").unwrap();
    });
    assert_eq!(ask(&twice), Err(Refused::MalformedPermitOpen));
}

#[test]
fn a_confinement_that_says_nothing_is_refused() {
    for list in [
        "",
        "db.internal",
        "db.internal:0",
        "db.internal:5432,",
        "a b:80",
        &vec!["a:1"; MAX_DESTINATIONS + 1].join(","),
    ] {
        let certificate = certificate(|builder| {
            builder.critical_option(PERMIT_OPEN, list).unwrap();
        });
        assert_eq!(ask(&certificate), Err(Refused::MalformedPermitOpen), "{list:?}");
    }
}

#[test]
fn a_good_certificate_proves_what_it_says() {
    let certificate = certificate(|builder| {
        builder.serial(42).unwrap().key_id("me@example.com").unwrap().valid_principal("dev").unwrap();
    });
    let identity = ask(&certificate).unwrap();
    assert_eq!(identity.login().as_str(), "tunnel");
    assert_eq!(identity.principals(), ["tunnel", "dev"]);
    assert_eq!((identity.serial(), identity.key_id()), (42, "me@example.com"));
    assert_eq!(identity.authority(), fingerprint(key(1).public_key().key_data()));
    assert_eq!(identity.key(), fingerprint(key(2).public_key().key_data()));
    assert_eq!(identity.valid_before(), UNIX_EPOCH + Duration::from_secs(NOW - 60 + 3600));
    assert!(identity.may_forward());
}

#[test]
fn time_is_exact_to_the_second() {
    let at = |seconds: u64| {
        let login = LoginName::new("tunnel");
        let claim = Claim { login: &login, client: [192, 0, 2, 7].into() };
        admit(&signed(120, |_| ()), claim, &requirements(), UNIX_EPOCH + Duration::from_secs(seconds))
            .map(|_| ())
    };
    assert_eq!(at(NOW - 61), Err(Refused::NotYetValid));
    assert_eq!(at(NOW - 60), Ok(()));
    assert_eq!(at(NOW + 59), Ok(()));
    assert_eq!(at(NOW + 60), Err(Refused::Expired), "valid before is one past the last second");
}

/// An authority that is asked for a day backdates `valid after`; the lifetime still counts as a day.
#[test]
fn a_lifetime_is_what_an_authority_was_asked_for() {
    const DAY: u64 = 24 * 3600;
    for (lifetime, expected) in [
        (DAY, Ok(())),
        (DAY + 30, Ok(())),
        (DAY + 118, Ok(())),
        (DAY + 120, Ok(())),
        (DAY + 121, Err(Refused::TooLongLived(Duration::from_secs(DAY)))),
    ] {
        assert_eq!(ask(&signed(lifetime, |_| ())).map(|_| ()), expected, "{lifetime} s");
    }
    let refused = Refused::TooLongLived(Duration::from_secs(DAY)).to_string();
    assert!(refused.contains("1day") && refused.contains("limits.max_certificate_lifetime"), "{refused}");
}

#[test]
fn a_login_name_is_one_principal_exactly() {
    for login in ["Tunnel", "tunnel ", "tun*", "*", "tunnel,dev", "", "tunnel\0"] {
        let refused = ask_from(&certificate(|_| ()), login, "192.0.2.7").unwrap_err();
        let (login, principals) = (shown(login), "`tunnel`".to_owned());
        assert_eq!(refused, Refused::NotAPrincipal { login, principals });
    }
    let for_root = certificate(|builder| {
        builder.valid_principal("root").unwrap();
    });
    assert_eq!(ask_from(&for_root, "root", "192.0.2.7"), Err(Refused::UnknownUser("root".to_owned())));
}

/// Principals as identity providers make them, and as no authority should.
#[test]
fn what_other_principals_are_called_is_left_alone() {
    let longest = "x".repeat(Principal::MAX);
    let named = [
        "alice+ops@example.com",
        "role:dba",
        "team/dba",
        "arn:aws:iam::123456789012:role/dba",
        "spiffe://example.com/ns/a/sa/b",
        "system:serviceaccount:a:b",
        "google-oauth2|11",
        r"CORP\alice",
        "domain admins",
        "josé",
        " ",
        "\n",
        "\u{1b}[2J",
        "!tunnel",
        "[a-z]",
        &"x".repeat(65),
        &longest,
    ];
    let unnamed = ["", "*", "al*", "al?ce", "alice,root", "alice\0", "\0"];
    for name in named.into_iter().chain(unnamed) {
        let certificate = certificate(|builder| {
            builder.valid_principal(name).unwrap();
        });
        let identity = ask(&certificate).unwrap_or_else(|refused| panic!("{name:?}: {refused}"));
        assert_eq!(identity.principals(), ["tunnel", name]);
        match Principal::parse(name) {
            Some(principal) => assert!(named.contains(&name) && identity.has(&principal), "{name:?}"),
            None => assert!(unnamed.contains(&name), "{name:?}"),
        }
        // Neither another spelling of the name nor a part of it.
        for other in [format!("{name} "), name.to_uppercase(), "tunne".to_owned(), "jose\u{301}".to_owned()] {
            let other = Principal::parse(&other).filter(|other| other.as_str() != name);
            assert!(other.is_none_or(|other| !identity.has(&other)), "{name:?}");
        }
    }
}

/// The message names which of many principals is at fault.
#[test]
fn a_refusal_names_the_principal() {
    let with = |principals: &[&str]| {
        let user = key(2).public_key().key_data().clone();
        let mut builder = Builder::new(vec![7; 16], user, NOW - 60, NOW + 60).unwrap();
        for principal in principals {
            builder.valid_principal(*principal).unwrap();
        }
        builder.sign(&key(1)).unwrap()
    };
    let long = "y".repeat(Principal::MAX + 1);
    for (principals, login, code, words) in [
        (
            &["tunnel", &long] as &[&str],
            "tunnel",
            "principal_too_long",
            format!("`{}…` is longer", &long[..64]),
        ),
        (&["a,b"], "a,b", "bad_principal", "its principal `a,b` is no name to log in by".to_owned()),
        (&["*"], "*", "bad_principal", "its principal `*` is no name".to_owned()),
        (&[""], "", "bad_principal", "its principal `` is no name".to_owned()),
        (&["josé"], "josé", "bad_principal", "`josé` is no name".to_owned()),
        (&["x\n"], "x\n", "bad_principal", r"`x\n` is no name".to_owned()),
        (
            &["dev", "a\u{1b}b", "c", "d", "e", "f"],
            "tunnel",
            "not_a_principal",
            r"`tunnel` is not among its principals, `dev`, `a\u{1b}b`, `c`, `d` and 2 more".to_owned(),
        ),
        (&["a", "b", "c", "d"], "tunnel", "not_a_principal", "principals, `a`, `b`, `c`, `d`".to_owned()),
        (&["root"], "root", "unknown_user", "no client may log in as `root` here".to_owned()),
    ] {
        let refused = ask_from(&with(principals), login, "192.0.2.7").unwrap_err();
        assert_eq!(refused.code(), code, "{principals:?}");
        assert!(refused.to_string().contains(&words), "{refused}");
    }
    for plain in ["a", "Me.too_1@example.com-x", &"x".repeat(64)] {
        assert!(LoginName::new(plain).is_plain(), "{plain}");
    }
    for other in ["", "a b", "é", "a+b", "a:b", "a/b", &"x".repeat(65)] {
        assert!(!LoginName::new(other).is_plain(), "{other}");
    }
}

#[test]
fn source_addresses() {
    for (list, client, expected) in [
        ("192.0.2.7", "192.0.2.7", Ok(())),
        ("192.0.2.0/24", "192.0.2.7", Ok(())),
        ("192.0.2.0/24", "::ffff:192.0.2.7", Ok(())),
        ("10.0.0.0/8,2001:db8::/32", "2001:db8::9", Ok(())),
        ("10.0.0.0/8", "192.0.2.7", Err(Refused::SourceAddress)),
        ("", "192.0.2.7", Err(Refused::MalformedSourceAddress)),
        ("192.0.2.7,", "192.0.2.7", Err(Refused::MalformedSourceAddress)),
        ("192.0.2.1/24", "192.0.2.7", Err(Refused::MalformedSourceAddress)),
        ("192.0.2.0/33", "192.0.2.7", Err(Refused::MalformedSourceAddress)),
        ("!10.0.0.0/8", "192.0.2.7", Err(Refused::MalformedSourceAddress)),
        ("any", "192.0.2.7", Err(Refused::MalformedSourceAddress)),
    ] {
        let certificate = certificate(|builder| {
            builder.critical_option(HonouredOption::SourceAddress.name(), list).unwrap();
        });
        assert_eq!(ask_from(&certificate, "tunnel", client).map(|_| ()), expected, "{list:?} from {client}");
    }
    let many = vec!["192.0.2.7"; MAX_SOURCES + 1].join(",");
    let certificate = certificate(|builder| {
        builder.critical_option(HonouredOption::SourceAddress.name(), many).unwrap();
    });
    assert_eq!(ask(&certificate), Err(Refused::MalformedSourceAddress));
}

#[test]
fn without_the_extension_there_is_a_login_and_nothing_else() {
    assert!(admitted(&[], true).may_forward());
    assert!(!admitted(&[], false).may_forward());
}

#[test]
fn the_empty_set_of_authorities_admits_no_client() {
    let login = LoginName::new("tunnel");
    let claim = Claim { login: &login, client: [192, 0, 2, 7].into() };
    let trusting_none = Requirements { authorities: AuthoritySet::default(), ..requirements() };
    assert_eq!(admit(&certificate(|_| ()), claim, &trusting_none, now()), Err(Refused::UnknownAuthority));
}

#[test]
fn a_live_session_may_outlast_its_authority_and_nothing_else() {
    let login = LoginName::new("tunnel");
    let claim = Claim { login: &login, client: [192, 0, 2, 7].into() };
    let gone = |removed_authority| Requirements {
        authorities: AuthoritySet::default(),
        removed_authority,
        ..requirements()
    };
    let again =
        |requirements: &Requirements, now| admit_again(&certificate(|_| ()), claim, requirements, now).err();
    assert_eq!(again(&gone(RemovedAuthority::EndSessions), now()), Some(Refused::UnknownAuthority));
    let run_out = gone(RemovedAuthority::LetRunOut);
    assert_eq!(again(&run_out, now()), None);
    assert_eq!(again(&run_out, now() + Duration::from_secs(3600)), Some(Refused::Expired));
    assert_eq!(
        again(&Requirements { users: vec![], ..run_out }, now()),
        Some(Refused::UnknownUser("tunnel".to_owned()))
    );
}

#[test]
fn a_short_rsa_key_is_no_authority() {
    // 1024 bits, public part only.
    let modulus = [&[0xc1][..], &[0x5b; 127]].concat();
    let key = RsaPublicKey::new(Mpint::from_positive_bytes(&[1, 0, 1]), Mpint::from_positive_bytes(&modulus))
        .unwrap();
    assert_eq!(authorities::check(&KeyData::Rsa(key)), Err(Unfit::ShortRsa(1024)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A good certificate with any one bit changed is refused.
    #[test]
    fn one_flipped_bit_is_one_too_many(position in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let good = certificate(|_| ()).to_bytes().unwrap();
        let mut bad = good.clone();
        let index = position.index(bad.len());
        bad[index] ^= 1 << bit;
        let answer = decode(&bad).and_then(|certificate| ask(&certificate));
        prop_assert!(answer.is_err(), "byte {index} of {}, bit {bit}: {answer:?}", good.len());
    }

    /// So are a part of the certificate, and the certificate with bytes appended.
    #[test]
    fn exactly_one_certificate(position in any::<prop::sample::Index>(), tail in prop::collection::vec(any::<u8>(), 1..64)) {
        let good = certificate(|_| ()).to_bytes().unwrap();
        prop_assert_eq!(decode(&good[..position.index(good.len())]), Err(Refused::Malformed));
        prop_assert_eq!(decode(&[good, tail].concat()), Err(Refused::Malformed));
    }

    /// Random bytes are refused without a panic.
    #[test]
    fn anything_at_all(blob in prop::collection::vec(any::<u8>(), 0..2048)) {
        prop_assert!(decode(&blob).and_then(|certificate| ask(&certificate)).is_err());
    }

    /// Whatever is signed, and by whomever: nothing is admitted that lacks a property, and nothing refused
    /// that has them all.
    #[test]
    fn what_is_admitted_has_every_property_that_is_promised(
        signer in prop_oneof![9 => Just(1), 1 => 3_u8..6],
        cert_type in prop_oneof![9 => Just(CertType::User), 1 => Just(CertType::Host)],
        start in prop_oneof![9 => -3600_i64..=0, 1 => 1_i64..3600],
        end in prop_oneof![18 => 1_i64..3600, 1 => -3600_i64..=0, 1 => 80_000_i64..100_000],
        is_named in prop::bool::weighted(0.9),
        is_forged in prop::bool::weighted(0.05),
        others in prop::sample::subsequence(vec!["dev", "Tunnel", "tunnel,dev", "*", "tunnel\0"], 0..=5),
        option in prop_oneof![
            9 => Just(None),
            4 => prop::sample::select(vec![
                Some(("source-address", "192.0.2.0/24")),
                Some(("source-address", "10.0.0.0/8")),
                Some(("force-command", "id")),
                Some(("verify-required", "")),
                Some(("no-such-option@example.com", "")),
            ]),
        ],
    ) {
        let start = start.min(end - 1);
        let at = |seconds: i64| NOW.checked_add_signed(seconds).unwrap();
        let user = key(2).public_key().key_data().clone();
        let mut builder = Builder::new(vec![7; 16], user, at(start), at(end)).unwrap();
        builder.cert_type(cert_type).unwrap();
        for name in is_named.then_some("tunnel").into_iter().chain(others.iter().copied()) {
            builder.valid_principal(name).unwrap();
        }
        if !is_named && others.is_empty() {
            builder.all_principals_valid().unwrap();
        }
        if let Some((name, value)) = option {
            builder.critical_option(name, value).unwrap();
        }
        let mut blob = builder.sign(&key(signer)).unwrap().to_bytes().unwrap();
        // The last byte is the signature's.
        *blob.last_mut().unwrap() ^= u8::from(is_forged);
        let has_every_property = signer == 1
            && !is_forged
            && cert_type == CertType::User
            && start <= 0
            && end > 0
            && end - start <= 24 * 3600 + 120
            && is_named
            && option.is_none_or(|(name, value)| name == "source-address" && value == "192.0.2.0/24");
        let admitted = decode(&blob).and_then(|certificate| ask(&certificate));
        prop_assert_eq!(admitted.is_ok(), has_every_property, "{:?}", admitted);
    }
}

#[test]
fn a_good_blob_is_what_it_says_and_its_size_is_bounded_to_the_byte() {
    let padded = |size: usize| {
        certificate(|builder| {
            builder.extension("zzz@example.com", "x".repeat(size)).unwrap();
        })
    };
    let around = padded(0).to_bytes().unwrap().len();
    for (size, expected) in [(MAX_BLOB, None), (MAX_BLOB + 1, Some(Refused::TooLarge))] {
        // An empty value has no length of its own inside.
        let certificate = padded(size - around - 4);
        let blob = certificate.to_bytes().unwrap();
        assert_eq!(blob.len(), size);
        assert_eq!(ask(&certificate).err(), expected);
        assert_eq!(decode(&blob).err(), expected);
    }
    let good = certificate(|_| ());
    assert_eq!(decode(&good.to_bytes().unwrap()), Ok(good));
}

/// A byte follows the key in the authority's own field: the parser ignores it.
#[test]
fn what_the_parser_forgets_is_refused() {
    let mut blob = certificate(|_| ()).to_bytes().unwrap();
    let authority = PublicKey::to_bytes(key(1).public_key()).unwrap();
    let start = blob.windows(authority.len()).position(|window| window == authority).unwrap();
    let length = u32::try_from(authority.len() + 1).unwrap();
    blob.splice(start - 4..start, length.to_be_bytes());
    blob.insert(start + authority.len(), 0);
    assert!(Certificate::from_bytes(&blob).is_ok(), "the parser has become strict");
    assert_eq!(decode(&blob), Err(Refused::Malformed));
}

#[test]
fn each_restriction_that_is_not_honoured_says_which() {
    for (option, expected) in [
        ("force-command", Refused::ForceCommand),
        ("verify-required", Refused::VerifyRequired),
        ("no-such-option@example.com", Refused::UnknownCriticalOption),
    ] {
        let certificate = certificate(|builder| {
            builder.critical_option(option, "x").unwrap();
        });
        assert_eq!(ask(&certificate), Err(expected), "{option}");
    }
}

#[test]
fn lists_are_as_long_as_they_may_be() {
    let limited = certificate(|builder| {
        builder.critical_option(PERMIT_OPEN, vec!["a:1"; MAX_DESTINATIONS].join(",")).unwrap();
        builder
            .critical_option(HonouredOption::SourceAddress.name(), vec!["192.0.2.7"; MAX_SOURCES].join(","))
            .unwrap();
    });
    assert_eq!(ask(&limited).unwrap().confined_to().map(<[_]>::len), Some(MAX_DESTINATIONS));
}

#[test]
fn a_set_of_authorities_has_each_key_once() {
    let keys = [key(1), key(3), key(1)].map(|key| key.public_key().clone());
    let set = AuthoritySet::new(keys.clone()).unwrap();
    assert_eq!((set.len(), set.is_empty()), (2, false));
    assert_eq!(set.iter().collect::<Vec<_>>(), [keys[0].key_data(), keys[1].key_data()]);
    assert!(AuthoritySet::default().is_empty());
    let strong = [&[0xc1][..], &[0x5b; 255]].concat();
    let strong =
        RsaPublicKey::new(Mpint::from_positive_bytes(&[1, 0, 1]), Mpint::from_positive_bytes(&strong));
    assert_eq!(authorities::check(&KeyData::Rsa(strong.unwrap())), Ok(()));
}

#[test]
fn names_are_shown_escaped() {
    assert_eq!(LoginName::new("a\u{1b}b").to_string(), r"a\u{1b}b");
    assert_eq!(Principal::parse("CORP\u{7}").unwrap().to_string(), r"CORP\u{7}");
}

#[test]
fn principals_are_counted() {
    for (count, expected) in [
        (MAX_PRINCIPALS, None),
        (MAX_PRINCIPALS + 1, Some(Refused::TooManyPrincipals)),
        (MAX_PRINCIPALS * 2, Some(Refused::TooManyPrincipals)),
    ] {
        let certificate = certificate(|builder| {
            for number in 1..count {
                builder.valid_principal(format!("p{number}")).unwrap();
            }
        });
        assert_eq!(ask(&certificate).err(), expected, "{count}");
    }
}

#[test]
fn a_key_id_is_as_long_as_it_may_be() {
    let named = |length: usize| {
        certificate(|builder| {
            builder.key_id("k".repeat(length)).unwrap();
        })
    };
    assert_eq!(ask(&named(MAX_KEY_ID)).err(), None);
    for length in [MAX_KEY_ID + 1, MAX_KEY_ID * 2] {
        assert_eq!(ask(&named(length)), Err(Refused::KeyIdTooLong));
    }
}

#[test]
fn a_signature_is_the_keys_own_and_never_sha1() {
    let rsa =
        RsaPublicKey::new(Mpint::from_positive_bytes(&[1, 0, 1]), Mpint::from_positive_bytes(&[0xc1; 256]));
    let (rsa, ed25519) = (KeyData::Rsa(rsa.unwrap()), key(1).public_key().key_data().clone());
    let [sha1, sha256, sha512] =
        [None, Some(HashAlg::Sha256), Some(HashAlg::Sha512)].map(|hash| Algorithm::Rsa { hash });
    for (key, algorithm, accepted) in [
        (&ed25519, Algorithm::Ed25519, true),
        (&ed25519, Algorithm::SkEd25519, false),
        (&ed25519, Algorithm::Dsa, false),
        (&ed25519, sha256.clone(), false),
        (&rsa, sha256, true),
        (&rsa, sha512, true),
        (&rsa, sha1, false),
        (&rsa, Algorithm::Ed25519, false),
    ] {
        assert_eq!(accepted_signature(key, &algorithm), accepted, "{algorithm:?}");
    }
}

#[test]
fn size_comes_first() {
    assert_eq!(decode(&vec![0; MAX_BLOB + 1]), Err(Refused::TooLarge));
    let large = certificate(|builder| {
        builder.extension("big@example.com", "x".repeat(MAX_BLOB)).unwrap();
    });
    assert_eq!(ask(&large), Err(Refused::TooLarge));
}
