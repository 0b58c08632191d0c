//! `tls-server-end-point` (RFC 5929): the hash of the server's certificate, which a SCRAM login is bound to.
//!
//! Who stands between and shows a certificate of their own then cannot pass the login on, even where the
//! certificate is not verified. Only the certificate's signature algorithm is read, since it names the hash.

use ring::digest::{Algorithm, SHA256, SHA384, SHA512, digest};

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;

/// 1.2.840.113549.1.1: RSA with PKCS #1; the next byte says the hash.
const RSA: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
/// 1.2.840.10045.4.3: ECDSA with SHA-2; the next byte says which.
const ECDSA: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
/// 1.2.840.10045.4.1: ECDSA with SHA-1.
const ECDSA_SHA1: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];

/// The hash; `None` for an algorithm that names none (Ed25519) or that is not known here.
pub(super) fn tls_server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = hash_of(signature_algorithm(certificate)?)?;
    Some(digest(algorithm, certificate).as_ref().to_vec())
}

fn hash_of(identifier: &[u8]) -> Option<&'static Algorithm> {
    if identifier == ECDSA_SHA1 {
        return Some(&SHA256);
    }
    if let Some(kind) = identifier.strip_prefix(&RSA) {
        return match kind {
            // MD5 and SHA-1 are replaced by SHA-256: RFC 5929, section 4.1.
            [4 | 5 | 11] => Some(&SHA256),
            [12] => Some(&SHA384),
            [13] => Some(&SHA512),
            _ => None,
        };
    }
    match identifier.strip_prefix(&ECDSA)? {
        [2] => Some(&SHA256),
        [3] => Some(&SHA384),
        [4] => Some(&SHA512),
        _ => None,
    }
}

/// `Certificate ::= SEQUENCE { signed SEQUENCE, algorithm SEQUENCE { OBJECT IDENTIFIER, … }, … }`
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (whole, _) = element(certificate, SEQUENCE)?;
    let (_signed, rest) = element(whole, SEQUENCE)?;
    let (algorithm, _) = element(rest, SEQUENCE)?;
    element(algorithm, OBJECT_IDENTIFIER).map(|(identifier, _)| identifier)
}

/// The contents of the first element, which must have this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = der.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        // The length of the length; a certificate in a handshake has less than 16 MiB.
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// A certificate as far as it is read, with a signed part of `size` bytes.
    fn certificate(identifier: &[u8], size: usize) -> Vec<u8> {
        let element = |tag: u8, body: &[u8]| {
            let length = body.len();
            let head = match length {
                0..0x80 => vec![tag, length as u8],
                0x80..0x100 => vec![tag, 0x81, length as u8],
                _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
            };
            [head, body.to_vec()].concat()
        };
        let algorithm = [element(OBJECT_IDENTIFIER, identifier), vec![5, 0]].concat();
        let whole = [element(SEQUENCE, &vec![0; size]), element(SEQUENCE, &algorithm), vec![3, 1, 0]];
        element(SEQUENCE, &whole.concat())
    }

    #[test]
    fn the_hash_is_the_one_of_the_signature_and_never_a_weak_one() {
        let lengths = |prefix: &[u8], kind: u8| {
            let made = certificate(&[prefix, &[kind]].concat(), 300);
            tls_server_end_point(&made).map(|hash| hash.len())
        };
        assert_eq!([4, 5, 11, 12, 13].map(|kind| lengths(&RSA, kind)), [32, 32, 32, 48, 64].map(Some));
        assert_eq!([2, 3, 4].map(|kind| lengths(&ECDSA, kind)), [32, 48, 64].map(Some));
        assert_eq!(lengths(&RSA, 10), None, "RSASSA-PSS says its hash elsewhere");
        assert_eq!(tls_server_end_point(&certificate(&[0x2b, 0x65, 0x70], 100)), None, "Ed25519");
        for size in [0, 127, 128, 255, 256, 1000] {
            let made = certificate(&ECDSA_SHA1, size);
            assert_eq!(tls_server_end_point(&made).unwrap(), digest(&SHA256, &made).as_ref());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(prop_oneof![Just(0x30), Just(6), Just(0x82), any::<u8>()], 0..40)) {
            let _any = tls_server_end_point(&bytes);
        }
    }
}
