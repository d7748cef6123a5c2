//! Handshakes alone: two ends, and what passes between them by hand.

use super::*;
use crate::crypto::{KeyPair, NetworkSecret, PrivateKey, Suite};
use crate::entropy::testing::Counting;
use crate::session::{MIN_DATAGRAM, TransportSession};
use crate::time::SECOND;

const PEER: PeerId = PeerId(0);
const START: u64 = 1000 * SECOND;

fn at(mono: u64) -> Now {
    Now { mono, wall: Tai64n::from_unix_nanos(mono) }
}

fn keys(n: u8) -> KeyPair {
    KeyPair::from_private(PrivateKey::from_bytes([n; 32]))
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 4433))
}

/// What an end's configuration says of itself and its peer.
struct Terms {
    psk: Psk,
    secret: NetworkSecret,
    suites: Suites,
}

impl Default for Terms {
    fn default() -> Self {
        let (psk, secret) = (Psk::default(), NetworkSecret::default());
        Terms { psk, secret, suites: Suites::supported() }
    }
}

struct End {
    number: u8,
    handshakes: Handshakes,
    entropy: Counting,
    out: HandshakeOutput,
}

impl End {
    /// End `number`, whose only peer has this public key.
    fn new(number: u8, peer: PublicKey, Terms { psk, secret, suites }: Terms) -> End {
        let settings = PeerSettings {
            public_key: peer,
            psk,
            suites,
            allowed_ips: Vec::new(),
            keepalive: None,
            has_endpoint: true,
            lease: false,
        };
        let mut entropy = Counting(number.into());
        let handshakes = Handshakes::new(Identity::new(keys(number), secret), &[settings], &mut entropy);
        End { number, handshakes, entropy, out: HandshakeOutput::default() }
    }

    fn handle(&mut self, message: ToHandshakes, now: Now) {
        self.handshakes.handle(message, now, &mut self.entropy, &mut self.out);
    }

    fn resolved(&mut self, addresses: Vec<SocketAddr>, now: Now) {
        self.handle(ToHandshakes::Resolved { peer: PEER, addresses }, now);
    }

    fn work(&mut self, now: Now) {
        while self.handshakes.has_work() {
            self.handshakes.step(now, &mut self.entropy, &mut self.out);
        }
    }

    /// Begins a request, whatever came of the one before.
    fn ask(&mut self, number: u64, now: Now) {
        self.handle(ToHandshakes::Initiate { peer: PEER, number, path: None }, now);
        self.work(now);
    }

    /// Lets time pass up to `now`, as far as the next try.
    fn retry(&mut self, now: Now) {
        self.handshakes.on_timer(now, &mut self.out);
        self.work(now);
    }

    /// Takes a datagram of end `from` in, masked as it came.
    fn hear(&mut self, from: u8, sent: &Transmit, now: Now) {
        let mut bytes = sent.bytes.clone();
        self.handshakes.identity.header_key.mask(&mut bytes);
        self.handle(ToHandshakes::Datagram { path: Path::to(address(from)), bytes }, now);
        self.work(now);
    }

    /// The oldest datagram that is to be sent.
    fn sent(&mut self) -> Option<Transmit> {
        self.out.transmits.pop_front()
    }

    /// The session that was made last.
    fn made(&mut self) -> Option<Box<TransportSession>> {
        let mut made = self.out.to_sessions.drain(..).filter_map(|message| match message {
            ToSessions::Ready(new) => Some(new.session),
            _ => None,
        });
        made.next_back()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.handshakes.drops.of(reason)
    }
}

/// Two ends that are each other's peers; the first knows where the second is.
fn pair(terms: [Terms; 2]) -> [End; 2] {
    let [first, second] = terms;
    let mut ends = [End::new(1, keys(2).public, first), End::new(2, keys(1).public, second)];
    ends[0].resolved(vec![address(2)], at(START));
    ends
}

fn plain() -> [End; 2] {
    pair([Terms::default(), Terms::default()])
}

/// A handshake of the first end's; the session of each end, if they agree.
fn shake([a, b]: &mut [End; 2], now: Now) -> Option<[Box<TransportSession>; 2]> {
    a.ask(1, now);
    b.hear(a.number, &a.sent().expect("an initiation"), now);
    a.hear(b.number, &b.sent()?, now);
    Some([a.made()?, b.made()?])
}

#[test]
fn two_ends_agree_only_with_the_same_pre_shared_key_and_the_same_network_secret() {
    let terms = |psk: u8, secret: u8| {
        let secret =
            if secret == 0 { NetworkSecret::default() } else { NetworkSecret::from_bytes([secret; 32]) };
        Terms { psk: Psk::from_bytes([psk; 32]), secret, ..Terms::default() }
    };
    for (one, other) in [((0, 0), (0, 0)), ((7, 0), (7, 0)), ((0, 9), (0, 9)), ((7, 9), (7, 9))] {
        let mut ends = pair([terms(one.0, one.1), terms(other.0, other.1)]);
        let mut sessions = shake(&mut ends, at(START)).expect("they agree");
        for (from, to) in [(0, 1), (1, 0)] {
            let mut datagram = [0; MIN_DATAGRAM];
            sessions[from].sealer.seal(&mut datagram).expect("a fresh key");
            ends[to].handshakes.identity.header_key.mask(&mut datagram);
            let header = Header::parse(&datagram).expect("it is masked for its receiver");
            assert_eq!((header.kind, header.index), (TYPE_DATA, sessions[to].rotator.index()), "{one:?}");
            assert_eq!(sessions[to].opener.open(header.counter, &mut datagram), Ok((0, true)), "{one:?}");
        }
    }
    for (one, other) in
        [((7, 0), (0, 0)), ((0, 0), (7, 0)), ((7, 0), (8, 0)), ((0, 9), (0, 0)), ((0, 8), (0, 9))]
    {
        let mut ends = pair([terms(one.0, one.1), terms(other.0, other.1)]);
        assert!(shake(&mut ends, at(START)).is_none(), "{one:?} and {other:?}");
    }
}

#[test]
fn a_peer_that_is_pinned_to_a_suite_is_spoken_to_in_no_other() {
    let only = |suite| Terms { suites: Suites::only(suite), ..Terms::default() };
    let chacha = || only(Suite::ChaCha20Poly1305);
    for terms in [[chacha(), Terms::default()], [Terms::default(), chacha()], [chacha(), chacha()]] {
        let sessions = shake(&mut pair(terms), at(START)).expect("they agree");
        assert!(sessions.iter().all(|session| session.sealer.key().suite() == Suite::ChaCha20Poly1305));
    }
    let mut ends = pair([only(Suite::Aes256Gcm), chacha()]);
    assert!(shake(&mut ends, at(START)).is_none());
    assert_eq!(ends[1].dropped(DropReason::NoCommonSuite), 1);
}

#[test]
fn a_response_goes_to_where_the_initiation_came_from_and_is_no_longer() {
    let [mut a, mut b] = plain();
    for n in 1..40 {
        let now = at(START + n * SECOND);
        a.ask(n, now);
        let initiation = a.sent().expect("an initiation");
        b.hear(77, &initiation, now);
        let response = b.sent().expect("a response");
        assert_eq!(response.path, Path::to(address(77)));
        assert!(response.bytes.len() <= initiation.bytes.len());
    }
}

#[test]
fn timestamps_go_up_where_the_clock_stands_still_or_goes_back() {
    let [mut a, mut b] = plain();
    for (n, wall) in [(1, 500), (2, 500), (3, 500), (4, 400), (5, 501)] {
        let now = Now { mono: START + n * SECOND, wall: Tai64n::from_unix_nanos(wall * SECOND) };
        a.ask(n, now);
        b.hear(1, &a.sent().expect("an initiation"), now);
    }
    let accepted: Vec<Tai64n> = b.out.accepted.iter().map(|accepted| accepted.timestamp).collect();
    assert_eq!(accepted.len(), 5);
    assert!(accepted.windows(2).all(|pair| pair[0] < pair[1]), "{accepted:?}");
    assert_eq!(accepted.last(), Some(&Tai64n::from_unix_nanos(501 * SECOND)), "and follow the clock again");
}

#[test]
fn whatever_becomes_of_an_initiation_its_index_comes_back() {
    // A try that is followed by another, and a request by another.
    let mut a = End::new(1, keys(2).public, Terms::default());
    a.resolved(vec![address(2)], at(START));
    a.ask(1, at(START));
    for n in 1..10 {
        a.retry(at(START + n * 6 * SECOND));
        assert_eq!(a.handshakes.indices_in_use(), 1, "try {n}");
    }
    a.ask(2, at(START + 60 * SECOND));
    assert_eq!((a.handshakes.indices_in_use(), a.handshakes.pending.len()), (1, 1));
    assert_eq!(a.out.transmits.len(), 11);
    a.handle(ToHandshakes::Confirmed(PEER), at(START + 61 * SECOND));
    assert_eq!((a.handshakes.indices_in_use(), a.handshakes.pending.len()), (0, 0));

    // One that nobody answers.
    a.ask(3, at(START + 100 * SECOND));
    for n in 1..=20 {
        a.retry(at(START + 100 * SECOND + n * 5 * SECOND));
    }
    assert_eq!((a.handshakes.indices_in_use(), a.handshakes.pending.len()), (0, 0));
    let given_up = |message: &ToSessions| matches!(message, ToSessions::GaveUp { peer: PEER, number: 3 });
    assert_eq!(a.out.to_sessions.iter().filter(|message| given_up(message)).count(), 1);

    // One that goes nowhere, and one to nobody.
    let mut nowhere = End::new(1, keys(2).public, Terms::default());
    nowhere.ask(1, at(START));
    let mut nobody = End::new(1, PublicKey([0; 32]), Terms::default());
    nobody.resolved(vec![address(2)], at(START));
    nobody.ask(1, at(START));
    assert_eq!(nobody.dropped(DropReason::LowOrderKey), 1);
    for end in [&nowhere, &nobody] {
        assert_eq!((end.out.transmits.len(), end.handshakes.indices_in_use()), (0, 0));
    }

    // Those that are refused, after the curve work and before.
    let [mut a, mut b] = plain();
    a.ask(1, at(START));
    let early = a.sent().expect("an initiation");
    a.ask(2, at(START + SECOND));
    let later = a.sent().expect("another");
    b.hear(1, &later, at(START + SECOND));
    assert_eq!(b.handshakes.indices_in_use(), 1, "one session");
    let mut stranger = End::new(3, keys(2).public, Terms::default());
    stranger.resolved(vec![address(2)], at(START));
    stranger.ask(1, at(START));
    let unknown = stranger.sent().expect("an initiation");
    for (datagram, reason) in [
        (&early, DropReason::OldTimestamp),
        (&later, DropReason::ReplayedInitiation),
        (&unknown, DropReason::UnknownPeer),
    ] {
        b.hear(1, datagram, at(START + 2 * SECOND));
        assert_eq!((b.dropped(reason), b.handshakes.indices_in_use()), (1, 1), "{}", reason.name());
    }
}

#[test]
fn no_index_is_0_or_given_out_twice_at_a_time() {
    struct Script(VecDeque<u32>);
    impl Entropy for Script {
        fn fill(&mut self, out: &mut [u8]) {
            out.copy_from_slice(&self.0.pop_front().expect("no more is asked for").to_le_bytes());
        }
    }
    let mut end = End::new(1, keys(2).public, Terms::default());
    let mut script = Script([0, 7, 7, 0, 8, 7].into());
    let mut handle = |message| {
        end.handshakes.handle(message, at(START), &mut script, &mut end.out);
        match end.out.to_sessions.pop_front() {
            Some(ToSessions::Indices(indices)) => indices,
            _ => Vec::new(),
        }
    };
    assert_eq!(handle(ToHandshakes::WantIndices(2)), [7, 8]);
    handle(ToHandshakes::Retired(7));
    assert_eq!(handle(ToHandshakes::WantIndices(1)), [7], "it was given back");
}

#[test]
fn a_cookie_serves_for_120_seconds() {
    for (age, serves) in [(120 * SECOND - 1, true), (120 * SECOND, false)] {
        let [mut a, mut b] = plain();
        let under_load = |b: &mut End, now: Now| b.handshakes.meter.queue(1024, 1024, now.mono);
        under_load(&mut b, at(START));
        a.ask(1, at(START));
        b.hear(1, &a.sent().expect("an initiation"), at(START));
        a.hear(2, &b.sent().expect("a cookie reply"), at(START));
        assert_eq!(a.handshakes.counters.cookies_received.load(Relaxed), 1);

        // The responder would take it for twice as long.
        let now = at(START + age);
        under_load(&mut b, now);
        a.ask(2, now);
        b.hear(1, &a.sent().expect("an initiation"), now);
        assert_eq!(b.out.accepted.len(), usize::from(serves), "{age}");
        assert_eq!(b.dropped(DropReason::NoCookie), 2 - u64::from(serves), "{age}");
    }
}

#[test]
fn tries_take_the_addresses_in_turn_where_the_peer_was_heard_first_and_none_twice() {
    let mut a = End::new(1, keys(2).public, Terms::default());
    a.resolved(vec![address(2), address(3), address(4)], at(START));
    let path = Some(Path::to(address(3)));
    a.handle(ToHandshakes::Initiate { peer: PEER, number: 1, path }, at(START));
    a.work(at(START));
    for n in 1..7 {
        let now = at(START + n * 6 * SECOND);
        a.retry(now);
        assert_eq!(a.out.resolve.pop_front(), Some(PEER), "asked for again before each try");
        // The name does not resolve at the moment: it keeps the addresses it had.
        a.resolved(Vec::new(), now);
    }
    let tried: Vec<SocketAddr> = a.out.transmits.iter().map(|sent| sent.path.remote()).collect();
    assert_eq!(tried, [3, 2, 4, 3, 2, 4, 3].map(address));
}

#[test]
fn no_more_than_64_responses_wait_where_one_is_awaited() {
    let mut a = End::new(1, keys(2).public, Terms::default());
    a.resolved(vec![address(2)], at(START));
    a.ask(1, at(START));
    let index = *a.handshakes.indices.iter().next().expect("that of the initiation");
    for _ in 0..100 {
        let mut bytes = vec![0; 120];
        Header { kind: TYPE_RESPONSE, index, counter: 0 }.write(&mut bytes);
        a.handle(ToHandshakes::Datagram { path: Path::to(address(2)), bytes }, at(START));
    }
    assert_eq!((a.handshakes.responses.len(), a.dropped(DropReason::HandshakeQueueFull)), (64, 36));
    a.work(at(START));
    assert_eq!((a.dropped(DropReason::BadEnvelope), a.handshakes.pending.len()), (64, 1));
}
