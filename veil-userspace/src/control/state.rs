//! The state file: what must outlive the daemon. Each peer's last accepted timestamp, so that a captured initiation stays
//! worthless after a restart, and its endpoint, so that a restarted daemon can go and find it.
//!
//! Owned by the event loop, which writes an accepted timestamp before it answers. One record per peer, rewritten in place
//! by one `pwrite`; no fsync. Best effort: a tunnel without its file works, says so once and counts what was not written.
//! Records of peers that are not configured now are kept, for they may come back; broken ones are overwritten.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use veil_proto::crypto::{PublicKey, sha256};
use veil_proto::{PeerId, Tai64n};

/// Where the state files of this machine are.
pub const STATE_DIR: &str = "/var/lib/veil";

/// A record: public key 32, timestamp 12, endpoint 18, zeros, check 16. A power of two, so that none crosses a sector.
const RECORD: usize = 128;
const CHECKED: usize = RECORD - CHECK;
const CHECK: usize = 16;
const ENDPOINT: usize = 18;
const LABEL: &[u8] = b"VEIL/1 state";
/// What lies behind so many records is not read.
const RECORDS_MAX: usize = 1 << 16;

/// The path of the state file of interface `name`.
pub fn default_path(name: &str) -> PathBuf {
    Path::new(STATE_DIR).join(format!("{name}.state"))
}

/// What is written and what could not be; readable from any thread.
#[derive(Debug, Default)]
pub struct StateCounters {
    /// Records written.
    pub written: AtomicU64,
    /// Records that could not be written.
    pub failed: AtomicU64,
}

/// What is known of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The last initiation accepted from it.
    pub timestamp: Option<Tai64n>,
    /// Where it was.
    pub endpoint: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    key: [u8; 32],
    timestamp: [u8; 12],
    endpoint: [u8; ENDPOINT],
}

impl Record {
    fn encode(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..32].copy_from_slice(&self.key);
        bytes[32..44].copy_from_slice(&self.timestamp);
        bytes[44..62].copy_from_slice(&self.endpoint);
        let check = sha256(&[LABEL, &bytes[..CHECKED]]);
        bytes[CHECKED..].copy_from_slice(&check[..CHECK]);
        bytes
    }

    fn decode(bytes: &[u8; RECORD]) -> Option<Self> {
        let (content, check) = bytes.split_at(CHECKED);
        if sha256(&[LABEL, content])[..CHECK] != *check {
            return None;
        }
        let (&key, rest) = content.split_first_chunk()?;
        let (&timestamp, rest) = rest.split_first_chunk()?;
        Some(Record { key, timestamp, endpoint: *rest.first_chunk()? })
    }

    fn known(&self) -> Known {
        let (address, port) = self.endpoint.split_at(16);
        let address: [u8; 16] = address.try_into().unwrap_or_default();
        let port = u16::from_le_bytes(port.try_into().unwrap_or_default());
        let endpoint = SocketAddr::new(Ipv6Addr::from(address).to_canonical(), port);
        Known {
            timestamp: (self.timestamp != [0; 12]).then(|| Tai64n::from_bytes(self.timestamp)),
            endpoint: (port != 0).then_some(endpoint),
        }
    }
}

/// The state file of a running tunnel.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    /// Absent when it could not be opened.
    file: Option<File>,
    /// Each peer's place in the file and what it holds.
    records: Vec<(u64, Record)>,
    complained: bool,
    counters: Arc<StateCounters>,
}

impl StateFile {
    /// Opens the state file at `path`, making it and its folder if they are absent, and reads what it knows of `peers`.
    pub fn open(path: PathBuf, peers: &[PublicKey]) -> Self {
        let (file, bytes) = match open_and_read(&path) {
            Ok((file, bytes)) => (Some(file), bytes),
            Err(error) => {
                let shown = path.display();
                tracing::warn!(
                    "{shown}: {error}: no state is kept; after a restart peers must be the first to speak \
                     (run as root, or choose another place with --state)"
                );
                (None, Vec::new())
            }
        };
        let found = Found::read(&bytes, &path);
        let counters = Arc::default();
        StateFile { records: found.places(peers), path, complained: file.is_none(), file, counters }
    }

    /// What was known of a peer at the start, or is by now.
    pub fn known(&self, peer: PeerId) -> Option<Known> {
        self.records.get(peer.index()).map(|(_, record)| record.known())
    }

    /// What is counted here.
    pub fn counters(&self) -> Arc<StateCounters> {
        self.counters.clone()
    }

    /// An initiation of the peer's was accepted. Called before it is answered.
    pub fn accepted(&mut self, peer: PeerId, timestamp: Tai64n) {
        self.change(peer, |record| record.timestamp = timestamp.to_bytes());
    }

    /// A session with the peer is in use, there.
    pub fn reached(&mut self, peer: PeerId, at: &veil_proto::Path) {
        self.change(peer, |record| record.endpoint = at.remote_bytes());
    }

    fn change(&mut self, peer: PeerId, change: impl FnOnce(&mut Record)) {
        let Some((place, record)) = self.records.get_mut(peer.index()) else { return };
        let before = *record;
        change(record);
        if *record == before {
            return;
        }
        let written = match &self.file {
            Some(file) => file.write_all_at(&record.encode(), *place * RECORD as u64),
            None => Err(ErrorKind::NotFound.into()),
        };
        let Err(error) = written else {
            self.counters.written.fetch_add(1, Relaxed);
            return;
        };
        self.counters.failed.fetch_add(1, Relaxed);
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!(
                "{}: cannot write: {error} (further failures are only counted)",
                self.path.display()
            );
        }
    }
}

/// Makes or opens the file for us alone.
fn open_and_read(path: &Path) -> io::Result<(File, Vec<u8>)> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    // A pipe in its place must not hang us, a link must not lead us away.
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(io::Error::other("in use by another daemon")),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let mut bytes = Vec::new();
    (&file).take((RECORDS_MAX * RECORD) as u64).read_to_end(&mut bytes)?;
    Ok((file, bytes))
}

/// The valid records of a file, and where there is room for others.
struct Found {
    records: HashMap<[u8; 32], (u64, Record)>,
    free: Vec<u64>,
    end: u64,
}

impl Found {
    fn read(bytes: &[u8], path: &Path) -> Self {
        let (chunks, rest) = bytes.as_chunks::<RECORD>();
        let mut found = Found { records: HashMap::new(), free: Vec::new(), end: chunks.len() as u64 };
        for (place, chunk) in (0..).zip(chunks) {
            match Record::decode(chunk) {
                Some(record) => {
                    let newest = found.records.get(&record.key).map(|(_, other)| other.timestamp);
                    if newest.is_none_or(|newest| newest < record.timestamp) {
                        found.records.insert(record.key, (place, record));
                    }
                }
                None => found.free.push(place),
            }
        }
        let broken = found.free.len() + usize::from(!rest.is_empty());
        if broken > 0 {
            tracing::warn!("{}: {broken} broken records ignored", path.display());
        }
        found
    }

    /// Each peer's record, or an empty one in a place of its own.
    fn places(mut self, peers: &[PublicKey]) -> Vec<(u64, Record)> {
        let mut place = |key: &PublicKey| {
            if let Some(record) = self.records.get(key.as_bytes()) {
                return *record;
            }
            let place = self.free.pop().unwrap_or_else(|| {
                self.end += 1;
                self.end - 1
            });
            (place, Record { key: *key.as_bytes(), timestamp: [0; 12], endpoint: [0; ENDPOINT] })
        };
        peers.iter().map(&mut place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const PEERS: [PublicKey; 2] = [PublicKey([1; 32]), PublicKey([2; 32])];

    fn stamp(n: u64) -> Tai64n {
        Tai64n::from_unix_nanos(n)
    }

    fn path_to(text: &str) -> veil_proto::Path {
        veil_proto::Path::to(text.parse().unwrap())
    }

    #[test]
    fn what_was_written_is_known_after_a_restart_whatever_the_order_of_peers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lib/veil0.state");
        let mut state = StateFile::open(path.clone(), &PEERS);
        assert_eq!(state.known(PeerId(0)), Some(Known { timestamp: None, endpoint: None }));
        state.accepted(PeerId(0), stamp(5));
        state.reached(PeerId(0), &path_to("192.0.2.1:4433"));
        state.reached(PeerId(1), &path_to("[2001:db8::1]:7"));
        drop(state);
        let state = StateFile::open(path.clone(), &[PEERS[1], PEERS[0]]);
        let second = Known { timestamp: None, endpoint: "[2001:db8::1]:7".parse().ok() };
        let first = Known { timestamp: Some(stamp(5)), endpoint: "192.0.2.1:4433".parse().ok() };
        assert_eq!((state.known(PeerId(0)), state.known(PeerId(1))), (Some(second), Some(first)));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&path).unwrap().len(), 2 * RECORD as u64);
    }

    #[test]
    fn a_peer_that_is_not_configured_now_keeps_its_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("veil0.state");
        StateFile::open(path.clone(), &PEERS[..1]).accepted(PeerId(0), stamp(5));
        StateFile::open(path.clone(), &PEERS[1..]).accepted(PeerId(0), stamp(6));
        let state = StateFile::open(path, &PEERS);
        let timestamp = |n| state.known(PeerId(n)).unwrap().timestamp;
        assert_eq!((timestamp(0), timestamp(1)), (Some(stamp(5)), Some(stamp(6))));
    }

    #[test]
    fn every_changed_bit_makes_a_record_unknown_and_its_place_is_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("veil0.state");
        StateFile::open(path.clone(), &PEERS[..1]).accepted(PeerId(0), stamp(5));
        let whole = fs::read(&path).unwrap();
        for at in 0..RECORD {
            let mut broken = whole.clone();
            broken[at] ^= 0x10;
            fs::write(&path, &broken).unwrap();
            assert_eq!(StateFile::open(path.clone(), &PEERS[..1]).known(PeerId(0)).unwrap().timestamp, None);
        }
        StateFile::open(path.clone(), &PEERS[..1]).accepted(PeerId(0), stamp(9));
        assert_eq!(fs::read(&path).unwrap().len(), RECORD);
        for len in 0..RECORD {
            fs::write(&path, &whole[..len]).unwrap();
            assert_eq!(StateFile::open(path.clone(), &PEERS[..1]).known(PeerId(0)).unwrap().timestamp, None);
        }
    }

    #[test]
    fn a_file_in_use_or_impossible_is_done_without_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("veil0.state");
        let mut first = StateFile::open(path.clone(), &PEERS);
        let mut second = StateFile::open(path.clone(), &PEERS);
        second.accepted(PeerId(0), stamp(1));
        first.accepted(PeerId(0), stamp(2));
        first.accepted(PeerId(0), stamp(2));
        assert_eq!((second.counters().failed.load(Relaxed), first.counters().written.load(Relaxed)), (1, 1));
        let mut none = StateFile::open(path.join("below a file"), &PEERS);
        none.accepted(PeerId(0), stamp(1));
        assert_eq!(none.counters().failed.load(Relaxed), 1);
    }
}
