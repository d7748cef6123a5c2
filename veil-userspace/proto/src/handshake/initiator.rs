//! One attempt of ours to agree on a session: single-use, dropped when superseded, answered or given up.

use super::envelope::{CookieKey, EnvelopeKey};
use super::message::{
    COOKIE_LEN, Header, InitiationPayload, ResponsePayload, TYPE_COOKIE, envelope_tag, open_cookie_reply,
    open_response, seal_initiation,
};
use super::{Identity, NewSession, Outcome, make_session, noise};
use crate::crypto::{HeaderKey, Psk, PublicKey, Suites, TAG_LEN};
use crate::session::Role;
use crate::{DropReason, Entropy, Now, Path, PeerId, Tai64n};

/// What an attempt is made with.
pub struct Attempt<'a> {
    /// The peer to reach.
    pub peer: PeerId,
    /// Its static public key.
    pub remote: &'a PublicKey,
    /// Its pre-shared key.
    pub psk: &'a Psk,
    /// The suites to offer.
    pub suites: Suites,
    /// The timestamp to send: newer than any sent before.
    pub timestamp: Tai64n,
    /// Our receiver index, unique among ours.
    pub local_index: u32,
    /// Where the initiation goes.
    pub path: Path,
    /// The request this answers.
    pub number: u64,
    /// The cookie that the peer gave us lately.
    pub cookie: Option<&'a [u8; COOKIE_LEN]>,
}

/// A pending initiation. Its ephemeral key is wiped with it.
pub struct HandshakeInitiator {
    noise: noise::Initiator,
    peer: PeerId,
    suites: Suites,
    local_index: u32,
    path: Path,
    number: u64,
    /// Unmasks the peer's cookie replies: it masks them under its own key.
    header: HeaderKey,
    /// What a cookie reply to this attempt is bound to; none once there was one.
    tag: Option<[u8; TAG_LEN]>,
}

impl HandshakeInitiator {
    /// Starts an attempt; returns it with the datagram to send.
    ///
    /// # Errors
    /// [`DropReason::LowOrderKey`] when the peer's public key is of low order.
    pub fn start(
        identity: &Identity,
        attempt: Attempt<'_>,
        entropy: &mut dyn Entropy,
    ) -> Result<(Box<Self>, Vec<u8>), DropReason> {
        let Attempt { peer, remote, psk, suites, timestamp, local_index, path, number, cookie } = attempt;
        let payload = InitiationPayload { timestamp, sender: local_index, suites }.encode();
        let (noise, message) = noise::Initiator::start(&identity.keys, remote, psk, &payload, entropy)
            .map_err(|_| DropReason::LowOrderKey)?;
        let envelope = EnvelopeKey::derive(remote, &identity.network_secret);
        let header = HeaderKey::derive(remote, &identity.network_secret);
        let datagram = seal_initiation(&envelope, &header, local_index, &message, cookie, entropy);
        let tag = envelope_tag(&datagram);
        let pending = HandshakeInitiator { noise, peer, suites, local_index, path, number, header, tag };
        Ok((Box::new(pending), datagram))
    }

    /// The peer it is for.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Our receiver index for it.
    pub fn local_index(&self) -> u32 {
        self.local_index
    }

    /// Where the initiation went.
    pub fn path(&self) -> Path {
        self.path
    }

    /// Opens a datagram, masked as it was received, as `remote`'s cookie reply to this attempt. There is one for each.
    ///
    /// # Errors
    /// [`DropReason::BadHeader`] when it is no cookie reply to this attempt; the datagram is unchanged then. Other reasons
    /// when it looked like one.
    pub fn open_cookie_reply(
        &mut self,
        identity: &Identity,
        remote: &PublicKey,
        datagram: &mut [u8],
    ) -> Result<[u8; COOKIE_LEN], DropReason> {
        self.header.mask(datagram);
        if Header::parse(datagram) != Ok(Header { kind: TYPE_COOKIE, index: self.local_index, counter: 0 }) {
            self.header.mask(datagram);
            return Err(DropReason::BadHeader);
        }
        let tag = self.tag.ok_or(DropReason::NotPending)?;
        let key = CookieKey::derive(remote, &identity.network_secret);
        let cookie = open_cookie_reply(&key, &tag, datagram)?;
        self.tag = None;
        Ok(cookie)
    }

    /// Finishes with an unmasked response datagram.
    ///
    /// # Errors
    /// Gives the unchanged attempt back with the reason when the response is not a valid answer to it.
    pub fn finish(
        self: Box<Self>,
        identity: &Identity,
        remote: &PublicKey,
        psk: &Psk,
        datagram: &mut [u8],
        now: Now,
    ) -> Result<NewSession, (Box<Self>, DropReason)> {
        let finished = open_response(&identity.envelope_key, datagram)
            .and_then(|message| self.noise.finish(&identity.keys, psk, message))
            .and_then(|finished| Ok((ResponsePayload::parse(&finished.payload)?, finished)));
        let (payload, finished) = match finished {
            Ok(parts) => parts,
            Err(reason) => return Err((self, reason)),
        };
        if self.suites.bits() & payload.suite.bit() == 0 {
            return Err((self, DropReason::NoCommonSuite));
        }
        let outcome = Outcome {
            peer: self.peer,
            role: Role::Initiator,
            suite: payload.suite,
            local_index: self.local_index,
            receiver_index: payload.sender,
            now: now.mono,
        };
        let session = make_session(identity, remote, &finished, outcome);
        Ok(NewSession { session, path: self.path, number: Some(self.number) })
    }
}
