//! Cookies of the responder: what a source must show under load, to prove that it receives at the address it sends from.
//!
//! A cookie is a MAC of the source's address under a secret that only we know; nothing is kept per source. The secret is
//! renewed on use once it is 120 s old, and accepted until it is 240 s old. Asked by the responder only under load.

use std::sync::{PoisonError, RwLock};

use zeroize::Zeroizing;

use super::message::{COOKIE_LEN, cookie_value, verify_mac2};
use crate::time::SECOND;
use crate::{Entropy, Now, Path};

/// A secret is renewed after so long; an initiator uses a cookie no longer than this.
pub const COOKIE_LIFE: u64 = 120 * SECOND;

/// Boxed, so that a renewal moves pointers and leaves no copy of a secret behind.
type Secret = Box<Zeroizing<[u8; 32]>>;

/// The secrets that cookies are made of.
pub struct CookieSecrets(RwLock<Secrets>);

struct Secrets {
    current: Secret,
    /// The one before, and when its time began.
    previous: Option<(Secret, u64)>,
    renewed_at: Option<u64>,
}

impl Secrets {
    fn age(&self, now: Now) -> Option<u64> {
        Some(now.mono.saturating_sub(self.renewed_at?))
    }

    fn are_fresh(&self, now: Now) -> bool {
        self.age(now).is_some_and(|age| age < COOKIE_LIFE)
    }
}

impl CookieSecrets {
    /// A first secret; its time begins when it is first used.
    pub fn new(entropy: &mut (impl Entropy + ?Sized)) -> Self {
        CookieSecrets(RwLock::new(Secrets { current: secret(entropy), previous: None, renewed_at: None }))
    }

    /// Whether an unmasked, still sealed initiation proves by its mac2 that whoever sends from `path` was sent a cookie
    /// lately.
    ///
    /// # Errors
    /// The cookie to send to `path`, if it does not.
    pub fn verify(
        &self,
        sealed: &[u8],
        path: &Path,
        now: Now,
        entropy: &mut (impl Entropy + ?Sized),
    ) -> Result<(), [u8; COOKIE_LEN]> {
        self.renew(now, entropy);
        // A renewal is done by calls that do not panic, so that a poisoned lock still guards whole secrets.
        let secrets = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let cookie = cookie_value(&secrets.current, path);
        if verify_mac2(sealed, &cookie) {
            return Ok(());
        }
        match &secrets.previous {
            Some((previous, since))
                if now.mono.saturating_sub(*since) < 2 * COOKIE_LIFE
                    && verify_mac2(sealed, &cookie_value(previous, path)) =>
            {
                Ok(())
            }
            _ => Err(cookie),
        }
    }

    fn renew(&self, now: Now, entropy: &mut (impl Entropy + ?Sized)) {
        if self.0.read().unwrap_or_else(PoisonError::into_inner).are_fresh(now) {
            return;
        }
        let next = secret(entropy);
        let mut secrets = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match secrets.age(now) {
            // Another thread was faster.
            Some(age) if age < COOKIE_LIFE => return,
            Some(age) => {
                let old = std::mem::replace(&mut secrets.current, next);
                secrets.previous = (age < 2 * COOKIE_LIFE).then(|| (old, now.mono - age));
            }
            // First use: the secret it was made with has not aged yet.
            None => {}
        }
        secrets.renewed_at = Some(now.mono);
    }
}

fn secret(entropy: &mut (impl Entropy + ?Sized)) -> Secret {
    let mut secret = Box::new(Zeroizing::new([0; 32]));
    entropy.fill(secret.as_mut_slice());
    secret
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tai64n;
    use crate::crypto::{HeaderKey, NetworkSecret, PublicKey};
    use crate::entropy::testing::Counting;
    use crate::handshake::envelope::EnvelopeKey;
    use crate::handshake::message::seal_initiation;

    fn at(seconds: u64) -> Now {
        Now { mono: seconds * SECOND, wall: Tai64n::default() }
    }

    fn path(text: &str) -> Path {
        Path::to(text.parse().unwrap())
    }

    /// An unmasked initiation with mac2 under `cookie`.
    fn initiation(cookie: Option<&[u8; COOKIE_LEN]>, entropy: &mut Counting) -> Vec<u8> {
        let (public, none) = (PublicKey([1; 32]), NetworkSecret::default());
        let (env, hp) = (EnvelopeKey::derive(&public, &none), HeaderKey::derive(&public, &none));
        let mut datagram = seal_initiation(&env, &hp, 7, &[0xa1; 113], cookie, entropy);
        hp.mask(&mut datagram);
        datagram
    }

    #[test]
    fn a_secret_serves_120_s_and_its_predecessor_as_long_again() {
        let mut entropy = Counting(1);
        let secrets = CookieSecrets::new(&mut entropy);
        let source = path("192.0.2.1:4433");
        let mut give = |sealed: &[u8], seconds| secrets.verify(sealed, &source, at(seconds), &mut entropy);
        let mut others = Counting(2);
        let without = initiation(None, &mut others);
        let first = give(&without, 1000).unwrap_err();
        assert_eq!(give(&without, 1119), Err(first), "not renewed before its time");
        let with_first = initiation(Some(&first), &mut others);
        assert_eq!(give(&with_first, 1119), Ok(()));
        let second = give(&without, 1120).unwrap_err();
        assert_ne!(first, second, "renewed after 120 s");
        assert_eq!(give(&with_first, 1239), Ok(()), "the predecessor is accepted");
        let third = give(&with_first, 1240).expect_err("for 120 s");
        assert_eq!(give(&initiation(Some(&second), &mut others), 1240), Ok(()));
        let fourth = give(&initiation(Some(&third), &mut others), 1240 + 240);
        assert!(fourth.is_err(), "after a long rest the predecessor is too old as well");
        let fifth = give(&without, 2000).unwrap_err();
        let with_fifth = initiation(Some(&fifth), &mut others);
        assert_eq!(give(&with_fifth, 2239), Ok(()), "renewed late, and accepted still");
        assert!(give(&with_fifth, 2240).is_err(), "but no longer for that");
    }

    #[test]
    fn both_spellings_of_an_address_have_one_cookie_and_another_port_has_another() {
        let mut entropy = Counting(3);
        let secrets = CookieSecrets::new(&mut entropy);
        let sealed = initiation(None, &mut Counting(4));
        let mut cookie = |text| secrets.verify(&sealed, &path(text), at(1), &mut entropy).unwrap_err();
        assert_eq!(cookie("192.0.2.1:4433"), cookie("[::ffff:192.0.2.1]:4433"));
        assert_ne!(cookie("192.0.2.1:4433"), cookie("192.0.2.1:4434"));
        assert_ne!(cookie("192.0.2.1:4433"), cookie("192.0.2.2:4433"));
    }

    #[test]
    fn of_many_threads_at_the_time_of_renewal_one_renews() {
        let secrets = CookieSecrets::new(&mut Counting(5));
        let source = path("192.0.2.1:4433");
        let ask =
            |seed, sealed: &[u8], seconds| secrets.verify(sealed, &source, at(seconds), &mut Counting(seed));
        let without = initiation(None, &mut Counting(6));
        let with = initiation(Some(&ask(0, &without, 10).unwrap_err()), &mut Counting(7));
        std::thread::scope(|s| {
            for thread in 0..4 {
                let (ask, with) = (&ask, &with);
                // Renewed twice, it would not be the predecessor's any more.
                s.spawn(move || assert_eq!(ask(100 + thread, with, 130), Ok(())));
            }
        });
    }
}
