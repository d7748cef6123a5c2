//! Time as an argument: a monotonic clock for intervals, a wall clock for initiation timestamps.

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
/// Nanoseconds in a millisecond.
pub const MILLISECOND: u64 = 1_000_000;

/// The time at which something is asked of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic nanoseconds that go on while the machine sleeps (Linux: `CLOCK_BOOTTIME`), so that keys age.
    pub mono: u64,
    /// Wall-clock time.
    pub wall: Tai64n,
}

/// A TAI64N label (<https://cr.yp.to/libtai/tai64.html>): 8 bytes of seconds, 4 of nanoseconds, big-endian, ordered as bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tai64n([u8; 12]);

/// TAI64 labels count from 2^62; TAI was 10 s ahead of UTC in 1970.
const TAI_EPOCH: u64 = (1 << 62) + 10;

impl Tai64n {
    /// Nanoseconds since the Unix epoch as a label.
    pub fn from_unix_nanos(nanos: u64) -> Self {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&(TAI_EPOCH + nanos / SECOND).to_be_bytes());
        bytes[8..].copy_from_slice(&((nanos % SECOND) as u32).to_be_bytes());
        Tai64n(bytes)
    }

    /// The label a peer sent. Any 12 bytes are accepted: labels are only compared.
    pub fn from_bytes(bytes: [u8; 12]) -> Self {
        Tai64n(bytes)
    }

    /// The 12 bytes that go on the wire.
    pub fn to_bytes(self) -> [u8; 12] {
        self.0
    }

    /// The label one nanosecond later.
    pub fn next(self) -> Self {
        let mut seconds = [0; 8];
        let mut nanos = [0; 4];
        seconds.copy_from_slice(&self.0[..8]);
        nanos.copy_from_slice(&self.0[8..]);
        let (mut seconds, nanos) = (u64::from_be_bytes(seconds), u32::from_be_bytes(nanos));
        let mut bytes = [0; 12];
        let nanos = if nanos >= SECOND as u32 - 1 {
            seconds = seconds.saturating_add(1);
            0
        } else {
            nanos + 1
        };
        bytes[..8].copy_from_slice(&seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&nanos.to_be_bytes());
        Tai64n(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_ordered_as_time_is() {
        let early = Tai64n::from_unix_nanos(1_999_999_999);
        assert_eq!(early.next(), Tai64n::from_unix_nanos(2_000_000_000));
        assert!(early < early.next());
    }

    #[test]
    fn the_unix_epoch_has_the_published_label() {
        // libtai: 1970-01-01 00:00:10 TAI is 4000 0000 0000 000a.
        assert_eq!(Tai64n::from_unix_nanos(0).to_bytes(), [0x40, 0, 0, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0]);
    }
}
