//! Hashes a server's certificate for `tls-server-end-point` (RFC 5929 §4.1), to which SCRAM binds a login.

use aws_lc_rs::digest::{Algorithm, SHA256, SHA384, SHA512};
use der::{
    Decode, Reader, SliceReader,
    asn1::{AnyRef, BitStringRef, ContextSpecific, ObjectIdentifier},
};
use spki::AlgorithmIdentifierRef;

use crate::hash::digest;

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

/// RSASSA-PSS (RFC 4055 §3.1), whose parameters name the hash.
const PSS: ObjectIdentifier = oid("1.2.840.113549.1.1.10");

/// The hashes of signatures. MD5 and SHA-1 are replaced by SHA-256, as RFC 5929 wants it.
const SIGNATURES: [(ObjectIdentifier, &Algorithm); 9] = [
    (oid("1.2.840.113549.1.1.4"), &SHA256),
    (oid("1.2.840.113549.1.1.5"), &SHA256),
    (oid("1.2.840.113549.1.1.11"), &SHA256),
    (oid("1.2.840.113549.1.1.12"), &SHA384),
    (oid("1.2.840.113549.1.1.13"), &SHA512),
    (oid("1.2.840.10045.4.1"), &SHA256),
    (oid("1.2.840.10045.4.3.2"), &SHA256),
    (oid("1.2.840.10045.4.3.3"), &SHA384),
    (oid("1.2.840.10045.4.3.4"), &SHA512),
];

/// The hashes by themselves, as the parameters of RSASSA-PSS name them.
const HASHES: [(ObjectIdentifier, &Algorithm); 4] = [
    (oid("1.3.14.3.2.26"), &SHA256),
    (oid("2.16.840.1.101.3.4.2.1"), &SHA256),
    (oid("2.16.840.1.101.3.4.2.2"), &SHA384),
    (oid("2.16.840.1.101.3.4.2.3"), &SHA512),
];

/// The hash of a certificate in DER, by the hash of its signature. Ed25519 has none, and a certificate that
/// is signed with it cannot be bound to; nor can what is no certificate.
#[must_use]
pub fn end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = hash_of(signature(certificate).ok()?)?;
    Some(digest(algorithm, &[certificate]).to_vec())
}

/// The algorithm of the signature: the second of the three parts of a certificate (RFC 5280 §4.1).
fn signature(certificate: &[u8]) -> der::Result<AlgorithmIdentifierRef<'_>> {
    let mut reader = SliceReader::new(certificate)?;
    let algorithm = reader.sequence(|parts| {
        AnyRef::decode(parts)?;
        let algorithm = AlgorithmIdentifierRef::decode(parts)?;
        BitStringRef::decode(parts)?;
        Ok::<_, der::Error>(algorithm)
    })?;
    reader.finish()?;
    Ok(algorithm)
}

fn hash_of(signature: AlgorithmIdentifierRef<'_>) -> Option<&'static Algorithm> {
    let known = |known: &[(ObjectIdentifier, &'static Algorithm)], wanted: ObjectIdentifier| {
        known.iter().find(|(oid, _)| *oid == wanted).map(|(_, algorithm)| *algorithm)
    };
    if signature.oid != PSS {
        return known(&SIGNATURES, signature.oid);
    }
    let hash = signature.parameters?.sequence(|fields: &mut SliceReader<'_>| {
        let hash = ContextSpecific::<AlgorithmIdentifierRef<'_>>::decode_explicit(fields, der::TagNumber(0))?;
        // The mask generation, the length of the salt and the trailer.
        while !fields.is_finished() {
            AnyRef::decode(fields)?;
        }
        Ok::<_, der::Error>(hash)
    });
    match hash.ok()? {
        Some(hash) => known(&HASHES, hash.value.oid),
        // The default is SHA-1.
        None => Some(&SHA256),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
    }

    /// A certificate of which only the algorithm of the signature is read.
    fn certificate(algorithm: &[u8]) -> Vec<u8> {
        let parts = [&element(0x30, &[]), algorithm, &element(0x03, &[0, 1, 2])].concat();
        element(0x30, &parts)
    }

    fn hash_by(certificate: &[u8]) -> Option<&'static Algorithm> {
        let hash = end_point_hash(certificate)?;
        [&SHA256, &SHA384, &SHA512]
            .into_iter()
            .find(|algorithm| digest(algorithm, &[certificate]).to_vec() == hash)
    }

    fn of(key: &rcgen::KeyPair) -> Option<&'static Algorithm> {
        let certificate = rcgen::CertificateParams::new(["a".to_owned()]).unwrap().self_signed(key).unwrap();
        hash_by(certificate.der())
    }

    #[test]
    fn real_certificates_are_hashed_as_they_are_signed() {
        for (algorithm, hash) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(&SHA256)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(&SHA384)),
            (&rcgen::PKCS_RSA_SHA256, Some(&SHA256)),
            (&rcgen::PKCS_ED25519, None),
        ] {
            assert_eq!(of(&rcgen::KeyPair::generate_for(algorithm).unwrap()), hash, "{algorithm:?}");
        }
    }

    #[test]
    fn rsassa_pss_names_its_hash_in_parameters() {
        let object = |oid: &ObjectIdentifier| element(0x06, oid.as_bytes());
        let pss = |parameters: &[u8]| certificate(&element(0x30, &[&object(&PSS)[..], parameters].concat()));
        let hash =
            |oid: &str| element(0xa0, &element(0x30, &[&object(&self::oid(oid))[..], &[5, 0]].concat()));
        let salt = element(0xa2, &element(0x02, &[48]));
        let with = |fields: &[&[u8]]| pss(&element(0x30, &fields.concat()));
        assert_eq!(hash_by(&with(&[&hash("2.16.840.1.101.3.4.2.2"), &salt])), Some(&SHA384));
        assert_eq!(hash_by(&with(&[&hash("1.3.14.3.2.26"), &salt])), Some(&SHA256));
        assert_eq!(hash_by(&with(&[&salt])), Some(&SHA256), "SHA-1 is the default");
        assert_eq!(hash_by(&with(&[&hash("1.2.3")])), None);
        assert_eq!(hash_by(&pss(&[])), None);
    }

    #[test]
    fn what_is_no_certificate_has_no_hash() {
        let algorithm = element(0x30, &element(0x06, oid("1.2.840.10045.4.3.2").as_bytes()));
        let good = certificate(&algorithm);
        assert_eq!(hash_by(&good), Some(&SHA256));
        assert_eq!(end_point_hash(&[&good[..], &[0]].concat()), None);
        for length in 0..good.len() {
            assert_eq!(end_point_hash(&good[..length]), None);
        }
    }
}
