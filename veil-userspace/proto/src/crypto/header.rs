//! Header protection: one AES-128 block that makes a datagram's header look random.
//!
//! Senders mask after sealing, under the receiver's key; receivers unmask before they look anything up. The mask comes
//! from the body, which is random to outsiders, so equal headers never look equal. It hides; it does not authenticate.

use super::kdf::receiver_key;
use super::keys::{NetworkSecret, PublicKey};
use aes::Aes128Enc;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use zeroize::Zeroizing;

/// Length of the header, and of the piece of body the mask is made from.
const BLOCK: usize = 16;
/// Blocks encrypted in one call: what one call costs besides is worth several blocks.
const BATCH: usize = 32;

/// A key schedule, on as few cache lines as it can be.
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct Schedule(Aes128Enc);

/// The header key of one receiver (`hp_key` in `protocol.md`); wiped on drop.
#[derive(Clone)]
pub struct HeaderKey(Box<Schedule>);

impl HeaderKey {
    /// The key of whoever receives under `public`.
    pub fn derive(public: &PublicKey, network: &NetworkSecret) -> Self {
        let mut key = Zeroizing::new([0; BLOCK]);
        receiver_key(public, network, "VEIL/1 header", key.as_mut_slice());
        HeaderKey(Box::new(Schedule(Aes128Enc::new((&*key).into()))))
    }

    /// Where the key schedule lies; nothing can be read of it this way.
    pub(crate) fn schedule(&self) -> &Schedule {
        &self.0
    }

    /// Masks or unmasks the 16 header bytes in place; it is its own inverse.
    ///
    /// False, and nothing done, for a datagram without 16 bytes of body: there is no such datagram.
    #[inline]
    pub fn mask(&self, datagram: &mut [u8]) -> bool {
        let Some((header, rest)) = datagram.split_first_chunk_mut::<BLOCK>() else { return false };
        let Some(sample) = rest.first_chunk::<BLOCK>() else { return false };
        let mut block = [aes::Block::from(*sample)];
        self.encrypt(&mut block);
        xor(header, block[0]);
        true
    }

    /// Masks or unmasks every datagram of a run: each begins `segment` bytes after the one before.
    pub fn mask_run(&self, run: &mut [u8], segment: usize) {
        if segment == 0 || segment >= run.len() {
            self.mask(run);
            return;
        }
        let mut blocks = [aes::Block::default(); BATCH];
        for datagrams in run.chunks_mut(segment.saturating_mul(BATCH)) {
            let mut count = 0;
            for (block, datagram) in blocks.iter_mut().zip(datagrams.chunks(segment)) {
                // One without 16 bytes of body can only be the last.
                let Some(sample) = datagram.get(BLOCK..2 * BLOCK) else { break };
                block.copy_from_slice(sample);
                count += 1;
            }
            let masks = &mut blocks[..count];
            self.encrypt(masks);
            for (block, datagram) in masks.iter().zip(datagrams.chunks_mut(segment)) {
                if let Some(header) = datagram.first_chunk_mut() {
                    xor(header, *block);
                }
            }
        }
    }

    /// The only place that encrypts: with a second one, the compiler leaves parts of `aes` out of line, where each costs a
    /// call per round key, and a lone block several times as much.
    #[inline(never)]
    fn encrypt(&self, blocks: &mut [aes::Block]) {
        self.0.0.encrypt_blocks(blocks);
    }
}

#[inline]
fn xor(header: &mut [u8; BLOCK], mask: aes::Block) {
    let masked = u128::from_ne_bytes(*header) ^ u128::from_ne_bytes(mask.into());
    *header = masked.to_ne_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(public: u8, network: &NetworkSecret) -> HeaderKey {
        HeaderKey::derive(&PublicKey([public; 32]), network)
    }

    #[test]
    fn masking_twice_restores_the_header_and_never_touches_the_body() {
        let key = key(1, &NetworkSecret::default());
        let original: Vec<u8> = (0..100).collect();
        for len in 32..=100 {
            let mut datagram = original[..len].to_vec();
            assert!(key.mask(&mut datagram));
            assert_ne!(datagram[..16], original[..16]);
            assert_eq!(datagram[16..], original[16..len]);
            assert!(key.mask(&mut datagram));
            assert_eq!(datagram, original[..len]);
        }
    }

    #[test]
    fn a_run_is_masked_as_its_datagrams_are() {
        let key = key(1, &NetworkSecret::default());
        for segment in [32, 33, 64, 1452] {
            for len in (0..70).map(|count| count * segment).flat_map(|whole| [whole, whole + 7, whole + 31]) {
                let mut run: Vec<u8> = (0..len).map(|n| (n * 7 % 251) as u8).collect();
                let mut one_by_one = run.clone();
                one_by_one.chunks_mut(segment).for_each(|datagram| _ = key.mask(datagram));
                key.mask_run(&mut run, segment);
                assert!(run == one_by_one, "{len} bytes in datagrams of {segment}");
            }
        }
        let mut nothing = [1; 10];
        key.mask_run(&mut nothing, 0);
        assert_eq!(nothing, [1; 10]);
    }

    #[test]
    fn a_datagram_without_a_whole_body_block_is_left_alone() {
        let key = key(1, &NetworkSecret::default());
        for len in 0..32 {
            let mut datagram = vec![3; len];
            assert!(!key.mask(&mut datagram));
            assert_eq!(datagram, vec![3; len]);
        }
    }

    #[test]
    fn the_mask_depends_on_the_receiver_the_network_secret_and_the_body() {
        let mask = |key: &HeaderKey, body| {
            let mut datagram = [0; 32];
            datagram[16..].fill(body);
            key.mask(&mut datagram);
            datagram[..16].to_vec()
        };
        let (plain, secret) = (NetworkSecret::default(), NetworkSecret::from_bytes([9; 32]));
        let masks = [
            mask(&key(1, &plain), 1),
            mask(&key(2, &plain), 1),
            mask(&key(1, &secret), 1),
            mask(&key(1, &plain), 2),
        ];
        for (i, a) in masks.iter().enumerate() {
            assert!(masks[..i].iter().all(|b| a != b));
        }
    }

    #[test]
    fn the_mask_is_one_aes_128_block() {
        // FIPS 197 appendix C.1.
        let key = std::array::from_fn::<u8, 16, _>(|i| i as u8);
        let aes = HeaderKey(Box::new(Schedule(Aes128Enc::new(&key.into()))));
        let mut datagram = [0; 32];
        for (i, byte) in datagram[16..].iter_mut().enumerate() {
            *byte = 0x11 * i as u8;
        }
        aes.mask(&mut datagram);
        assert_eq!(
            u128::from_be_bytes(datagram[..16].try_into().unwrap()),
            0x69c4e0d86a7b0430d8cdb78070b4c55a
        );
    }
}
