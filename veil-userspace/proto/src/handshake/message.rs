//! The bytes of the three handshake datagrams, of their payloads, and of every datagram's header.
//!
//! Builders seal the envelope, add mac2 and mask, in that order; openers take a datagram already unmasked and open it in
//! place. Called by initiator and responder (builders, openers, cookies) and by the data path ([`Header`]). Invariant:
//! everything read here is bounds-checked into a type, and an envelope's content is looked at only after it opened.

use super::envelope::{CookieKey, EnvelopeKey};
use crate::crypto::{HeaderKey, Suite, Suites, TAG_LEN, hmac_sha256};
use crate::{DropReason, Entropy, Path, Tai64n};
use subtle::ConstantTimeEq;

/// Header type of an initiation.
pub const TYPE_INITIATION: u8 = 1;
/// Header type of a response.
pub const TYPE_RESPONSE: u8 = 2;
/// Header type of a cookie reply.
pub const TYPE_COOKIE: u8 = 3;
/// Header type of a data datagram.
pub const TYPE_DATA: u8 = 4;

/// Length of every datagram's header.
pub const HEADER_LEN: usize = 16;
/// The shortest initiation: no TLVs, no padding.
pub const MIN_INITIATION: usize = 179;
/// The shortest response.
pub const MIN_RESPONSE: usize = 99;
/// The shortest cookie reply.
pub const MIN_COOKIE: usize = 60;
/// No handshake datagram is padded beyond this: IPv6's minimum MTU less its and UDP's header.
pub const MAX_HANDSHAKE: usize = 1232;

const NONCE_LEN: usize = 12;
const MAC2_LEN: usize = 16;
/// Length of a cookie.
pub const COOKIE_LEN: usize = 16;

/// What precedes the body of every datagram, unmasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// One of the `TYPE_` constants.
    pub kind: u8,
    /// The receiver's index; 0 in initiations.
    pub index: u32,
    /// The AEAD counter of a data datagram, otherwise 0.
    pub counter: u64,
}

impl Header {
    /// Writes the header at the start of `out`.
    ///
    /// # Panics
    /// If `out` is shorter than a header: it is always our own buffer.
    #[inline]
    pub fn write(&self, out: &mut [u8]) {
        out[..HEADER_LEN].copy_from_slice(&self.to_bytes());
    }

    /// The header as it goes, masked, on the wire, and as it is authenticated.
    #[inline]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = self.kind;
        bytes[4..8].copy_from_slice(&self.index.to_le_bytes());
        bytes[8..].copy_from_slice(&self.counter.to_le_bytes());
        bytes
    }

    /// The header of an unmasked datagram.
    #[inline]
    pub fn parse(datagram: &[u8]) -> Result<Header, DropReason> {
        let Some(&[kind, z0, z1, z2, i0, i1, i2, i3, ref counter @ ..]) =
            datagram.first_chunk::<HEADER_LEN>()
        else {
            return Err(DropReason::TooShort);
        };
        if !(TYPE_INITIATION..=TYPE_DATA).contains(&kind) || z0 | z1 | z2 != 0 {
            return Err(DropReason::BadHeader);
        }
        Ok(Header {
            kind,
            index: u32::from_le_bytes([i0, i1, i2, i3]),
            counter: u64::from_le_bytes(*counter),
        })
    }
}

/// What an initiator says under Noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitiationPayload {
    /// Greater than any this initiator sent before.
    pub timestamp: Tai64n,
    /// The index its session's datagrams shall carry; the envelope must say the same.
    pub sender: u32,
    /// What it can seal with.
    pub suites: Suites,
}

impl InitiationPayload {
    const LEN: usize = 17;

    /// As it is sealed.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::LEN);
        bytes.extend_from_slice(&self.timestamp.to_bytes());
        bytes.extend_from_slice(&self.sender.to_le_bytes());
        bytes.push(self.suites.bits());
        bytes
    }

    /// As it was opened; unknown TLVs are skipped.
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let mut rest = bytes;
        let timestamp = Tai64n::from_bytes(*take(&mut rest)?);
        let sender = parse_index(&mut rest)?;
        let [suites] = *take(&mut rest)?;
        skip_tlvs(rest)?;
        Ok(InitiationPayload { timestamp, sender, suites: Suites::from_bits(suites) })
    }
}

/// What a responder says under Noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponsePayload {
    /// The index its session's datagrams shall carry.
    pub sender: u32,
    /// The suite it chose.
    pub suite: Suite,
}

impl ResponsePayload {
    const LEN: usize = 5;

    /// As it is sealed.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::LEN);
        bytes.extend_from_slice(&self.sender.to_le_bytes());
        bytes.push(self.suite.bit());
        bytes
    }

    /// As it was opened; unknown TLVs are skipped.
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let mut rest = bytes;
        let sender = parse_index(&mut rest)?;
        let [suite] = *take(&mut rest)?;
        let suite = Suite::from_bit(suite).ok_or(DropReason::BadNoise)?;
        skip_tlvs(rest)?;
        Ok(ResponsePayload { sender, suite })
    }
}

/// The next `N` bytes of a payload.
fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], DropReason> {
    let (head, tail) = rest.split_first_chunk().ok_or(DropReason::BadNoise)?;
    *rest = tail;
    Ok(head)
}

/// A receiver index; 0 is none.
fn parse_index(rest: &mut &[u8]) -> Result<u32, DropReason> {
    match u32::from_le_bytes(*take(rest)?) {
        0 => Err(DropReason::BadNoise),
        index => Ok(index),
    }
}

/// Version 1 knows no TLVs; those of its successors must still be well-formed.
fn skip_tlvs(mut rest: &[u8]) -> Result<(), DropReason> {
    while !rest.is_empty() {
        let [_kind, l0, l1] = *take(&mut rest)?;
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        rest = rest.get(length..).ok_or(DropReason::BadNoise)?;
    }
    Ok(())
}

/// An initiation whose envelope has opened. Its sender is not authenticated yet.
#[derive(Debug)]
pub struct OpenedInitiation<'a> {
    /// The initiator's index, for a cookie reply; it must reappear inside Noise.
    pub sender: u32,
    /// Noise message 1.
    pub noise: &'a [u8],
    /// The envelope's tag, which a cookie reply is bound to.
    pub tag: [u8; TAG_LEN],
}

/// Makes an initiation: to the owner of `env` and `hp`, from our index `sender`, with mac2 under the cookie if there is one.
pub fn seal_initiation(
    env: &EnvelopeKey,
    hp: &HeaderKey,
    sender: u32,
    noise1: &[u8],
    mac2: Option<&[u8; COOKIE_LEN]>,
    entropy: &mut dyn Entropy,
) -> Vec<u8> {
    let header = Header { kind: TYPE_INITIATION, index: 0, counter: 0 };
    let content = [&sender.to_le_bytes()[..], &noise_length(noise1), noise1];
    let seal = |nonce, aad: &[u8], buf: &mut [u8]| env.seal(nonce, aad, buf);
    let mut datagram = seal_datagram(header, &content, MAX_HANDSHAKE - MAC2_LEN, seal, entropy);
    let mac2 = match mac2 {
        Some(cookie) => compute_mac2(cookie, &datagram),
        None => random(entropy),
    };
    datagram.extend_from_slice(&mac2);
    hp.mask(&mut datagram);
    datagram
}

/// Opens an unmasked initiation in place. mac2 covers the sealed bytes, so [`verify_mac2`] comes before this if it is wanted.
pub fn open_initiation<'a>(
    env: &EnvelopeKey,
    datagram: &'a mut [u8],
) -> Result<OpenedInitiation<'a>, DropReason> {
    if datagram.len() < MIN_INITIATION {
        return Err(DropReason::TooShort);
    }
    if Header::parse(datagram)? != (Header { kind: TYPE_INITIATION, index: 0, counter: 0 }) {
        return Err(DropReason::BadHeader);
    }
    let tag = envelope_tag(datagram).ok_or(DropReason::TooShort)?;
    let (sealed, _mac2) = datagram.split_last_chunk_mut::<MAC2_LEN>().ok_or(DropReason::TooShort)?;
    let content = open_datagram(sealed, |nonce, aad, buf| env.open(nonce, aad, buf).ok())?;
    let (sender, rest) = content.split_first_chunk::<4>().ok_or(DropReason::BadEnvelope)?;
    Ok(OpenedInitiation { sender: u32::from_le_bytes(*sender), noise: noise_message(rest)?, tag })
}

/// Makes a response to the initiator that named `receiver_index`, never longer than `max_len`, the initiation it answers.
///
/// Empty if `noise2` does not fit, which no response without TLVs can bring about: it is shorter than any initiation.
pub fn seal_response(
    env: &EnvelopeKey,
    hp: &HeaderKey,
    receiver_index: u32,
    noise2: &[u8],
    max_len: usize,
    entropy: &mut dyn Entropy,
) -> Vec<u8> {
    let header = Header { kind: TYPE_RESPONSE, index: receiver_index, counter: 0 };
    let content = [&noise_length(noise2)[..], noise2];
    let seal = |nonce, aad: &[u8], buf: &mut [u8]| env.seal(nonce, aad, buf);
    let mut datagram = seal_datagram(header, &content, max_len.min(MAX_HANDSHAKE), seal, entropy);
    if datagram.len() > max_len {
        return Vec::new();
    }
    hp.mask(&mut datagram);
    datagram
}

/// Opens an unmasked response in place: Noise message 2.
pub fn open_response<'a>(env: &EnvelopeKey, datagram: &'a mut [u8]) -> Result<&'a [u8], DropReason> {
    if datagram.len() < MIN_RESPONSE {
        return Err(DropReason::TooShort);
    }
    let header = Header::parse(datagram)?;
    if header.kind != TYPE_RESPONSE || header.counter != 0 {
        return Err(DropReason::BadHeader);
    }
    noise_message(open_datagram(datagram, |nonce, aad, buf| env.open(nonce, aad, buf).ok())?)
}

/// The cookie of whoever sends from `path`, under a secret that is renewed every 120 s.
pub fn cookie_value(secret: &[u8; 32], path: &Path) -> [u8; COOKIE_LEN] {
    truncated(&hmac_sha256(secret, &[&path.remote_bytes()]))
}

/// The envelope tag of an initiation, masked or not; a cookie reply to it is bound to this.
pub fn envelope_tag(initiation: &[u8]) -> Option<[u8; TAG_LEN]> {
    let (sealed, _mac2) = initiation.split_last_chunk::<MAC2_LEN>()?;
    sealed.last_chunk().copied()
}

/// Makes a cookie reply to the initiation with envelope tag `tag` and sender `receiver_index`; `ck` and `hp` are our own
/// keys, since we do not know the initiator yet. Never longer than `max_len`, the initiation it answers.
pub fn seal_cookie_reply(
    ck: &CookieKey,
    hp: &HeaderKey,
    receiver_index: u32,
    tag: &[u8; TAG_LEN],
    cookie: &[u8; COOKIE_LEN],
    max_len: usize,
    entropy: &mut dyn Entropy,
) -> Vec<u8> {
    let header = Header { kind: TYPE_COOKIE, index: receiver_index, counter: 0 };
    let seal = |nonce, aad: &[u8], buf: &mut [u8]| ck.seal(nonce, &[aad, tag].concat(), buf);
    let mut datagram = seal_datagram(header, &[cookie], max_len.min(MAX_HANDSHAKE), seal, entropy);
    if datagram.len() > max_len {
        return Vec::new();
    }
    hp.mask(&mut datagram);
    datagram
}

/// Opens an unmasked cookie reply in place; `ck` is the replier's, `tag` that of the initiation we have pending.
pub fn open_cookie_reply(
    ck: &CookieKey,
    tag: &[u8; TAG_LEN],
    datagram: &mut [u8],
) -> Result<[u8; COOKIE_LEN], DropReason> {
    if datagram.len() < MIN_COOKIE {
        return Err(DropReason::TooShort);
    }
    let header = Header::parse(datagram)?;
    if header.kind != TYPE_COOKIE || header.counter != 0 {
        return Err(DropReason::BadHeader);
    }
    let content = open_datagram(datagram, |nonce, aad, buf| ck.open(nonce, &[aad, tag].concat(), buf).ok())?;
    content.first_chunk().copied().ok_or(DropReason::BadEnvelope)
}

/// Whether an unmasked, still sealed initiation proves that its sender got `cookie`; in constant time.
pub fn verify_mac2(datagram: &[u8], cookie: &[u8; COOKIE_LEN]) -> bool {
    match datagram.split_last_chunk::<MAC2_LEN>() {
        Some((covered, mac2)) => compute_mac2(cookie, covered).ct_eq(mac2).into(),
        None => false,
    }
}

/// mac2 over `covered`, the unmasked header and all of the body before mac2.
fn compute_mac2(cookie: &[u8; COOKIE_LEN], covered: &[u8]) -> [u8; MAC2_LEN] {
    truncated(&hmac_sha256(cookie, &[covered]))
}

fn truncated(mac: &[u8; 32]) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&mac[..16]);
    out
}

fn random<const N: usize>(entropy: &mut dyn Entropy) -> [u8; N] {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes);
    bytes
}

/// The length field before a Noise message, which is one of our own and far below 64 KiB.
fn noise_length(noise: &[u8]) -> [u8; 2] {
    u16::try_from(noise.len()).expect("a Noise message fits a datagram").to_le_bytes()
}

/// Header, nonce, and `content` with random padding sealed behind them: not yet masked, at most `max_len` long if the
/// content allows. Padding is zeros: it is sealed, only its length is random.
fn seal_datagram(
    header: Header,
    content: &[&[u8]],
    max_len: usize,
    seal: impl FnOnce([u8; NONCE_LEN], &[u8], &mut [u8]),
    entropy: &mut dyn Entropy,
) -> Vec<u8> {
    const SEALED: usize = HEADER_LEN + NONCE_LEN;
    let min_len = SEALED + content.iter().map(|part| part.len()).sum::<usize>() + TAG_LEN;
    let choices = max_len.saturating_sub(min_len) as u64 + 1;
    let len = min_len + (entropy.next_u64() % choices) as usize;
    let aad = header.to_bytes();
    let nonce: [u8; NONCE_LEN] = random(entropy);

    // Room for mac2 too, so that an initiation is one allocation.
    let mut datagram = Vec::with_capacity(len + MAC2_LEN);
    datagram.extend_from_slice(&aad);
    datagram.extend_from_slice(&nonce);
    content.iter().for_each(|part| datagram.extend_from_slice(part));
    datagram.resize(len, 0);
    seal(nonce, &aad, &mut datagram[SEALED..]);
    datagram
}

/// The content, with its padding, of what [`seal_datagram`] made.
fn open_datagram<'a>(
    datagram: &'a mut [u8],
    open: impl FnOnce([u8; NONCE_LEN], &[u8], &'a mut [u8]) -> Option<&'a mut [u8]>,
) -> Result<&'a [u8], DropReason> {
    let (header, body) = datagram.split_first_chunk_mut::<HEADER_LEN>().ok_or(DropReason::TooShort)?;
    let (nonce, sealed) = body.split_first_chunk_mut::<NONCE_LEN>().ok_or(DropReason::TooShort)?;
    open(*nonce, header, sealed).map(|content| &*content).ok_or(DropReason::BadEnvelope)
}

/// The Noise message that `length 2 ‖ message ‖ padding` holds.
fn noise_message(content: &[u8]) -> Result<&[u8], DropReason> {
    let (length, rest) = content.split_first_chunk::<2>().ok_or(DropReason::BadEnvelope)?;
    rest.get(..usize::from(u16::from_le_bytes(*length))).ok_or(DropReason::BadEnvelope)
}

#[cfg(test)]
mod tests;
