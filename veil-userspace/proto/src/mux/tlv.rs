//! `type 1 | length 2 | value`, as control messages and what is in them are written.

use crate::DropReason;

/// Bytes in front of a value.
pub const HEADER: usize = 3;

/// Appends one `type 1 | length 2 | value`.
pub fn write_tlv(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&(value.len() as u16).to_le_bytes());
    out.extend_from_slice(value);
}

/// Takes the first `type 1 | length 2 | value` off `rest`; none at its end.
pub fn split_tlv<'a>(rest: &mut &'a [u8]) -> Result<Option<(u8, &'a [u8])>, DropReason> {
    if rest.is_empty() {
        return Ok(None);
    }
    let (&[kind, low, high], after) = rest.split_first_chunk::<HEADER>().ok_or(DropReason::FrameMalformed)?;
    let len = usize::from(u16::from_le_bytes([low, high]));
    let (value, after) = after.split_at_checked(len).ok_or(DropReason::FrameMalformed)?;
    *rest = after;
    Ok(Some((kind, value)))
}
