//! What holds a secret has no `Debug` and no `Display`: no log line, error or panic can print it.

use std::fmt::{Debug, Display};

use veil_proto::crypto::{
    AeadKey, HeaderKey, KeyPair, NetworkSecret, PrivateKey, Psk, SessionKeys, SharedSecret,
};
use veil_proto::handshake::envelope::{CookieKey, EnvelopeKey};
use veil_proto::handshake::{
    CookieSecrets, HandshakeInitiator, HandshakeResponder, Identity, NewSession, noise,
};
use veil_proto::session::{Opener, Sealer, SessionTable, TransportSession};
use veil_proto::tunnel::{Handshakes, Sessions, ToHandshakes, ToSessions};

/// Whether a type can be printed: the inherent constant wins where its bound holds, the trait's is there otherwise.
struct Printable<T: ?Sized>(std::marker::PhantomData<T>);

trait Otherwise {
    const DEBUG: bool = false;
}

impl<T: ?Sized> Otherwise for Printable<T> {}

impl<T: ?Sized + Debug> Printable<T> {
    const DEBUG: bool = true;
}

struct Displayable<T: ?Sized>(std::marker::PhantomData<T>);

trait OtherwiseHidden {
    const DISPLAY: bool = false;
}

impl<T: ?Sized> OtherwiseHidden for Displayable<T> {}

impl<T: ?Sized + Display> Displayable<T> {
    const DISPLAY: bool = true;
}

macro_rules! printable {
    ($($secret:ty),* $(,)?) => {
        [$((stringify!($secret), <Printable<$secret>>::DEBUG || <Displayable<$secret>>::DISPLAY)),*]
    };
}

#[test]
fn nothing_that_holds_a_secret_can_be_printed() {
    let secrets = printable![
        AeadKey,
        CookieKey,
        CookieSecrets,
        EnvelopeKey,
        HandshakeInitiator,
        HandshakeResponder,
        Handshakes,
        HeaderKey,
        Identity,
        KeyPair,
        NetworkSecret,
        NewSession,
        Opener,
        PrivateKey,
        Psk,
        Sealer,
        SessionKeys,
        SessionTable,
        Sessions,
        SharedSecret,
        ToHandshakes,
        ToSessions,
        TransportSession,
        noise::Finished,
        noise::Initiator,
        noise::Received,
    ];
    let seen: Vec<_> = secrets.iter().filter(|(_, printable)| *printable).collect();
    assert!(seen.is_empty(), "{seen:?}");
    // The question can be answered with yes.
    assert_eq!(printable![veil_proto::crypto::PublicKey, String].map(|(_, printable)| printable), [true; 2]);
}
