//! Looks for secrets in another process's memory, through `/proc/PID/maps` and `/proc/PID/mem`.
//!
//! Every mapping but code is read: heap, stacks, the program's data, whatever the allocator mapped. A secret is looked for in
//! pieces of 16 bytes, at every address, so that a copy is found of which half was overwritten since.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::secrets::Secret;

const PIECE: usize = 16;
const PAGE: usize = 4096;
const CHUNK: usize = 1 << 20;
/// The child may still be about to do what was asked of it, or move its mappings. It does nothing further then: what it
/// left behind stays. Long enough for a machine busy with other things.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// Fails unless all of each of `there` is in the memory of process `pid`, and not one piece of `gone`.
pub fn check(pid: u32, when: &str, there: &[Secret], gone: &[Secret]) -> Result<()> {
    let deadline = Instant::now() + SETTLED_WITHIN;
    loop {
        match look(pid, there, gone) {
            Ok(bytes) => {
                println!("{when}: {} there, {} gone, of {bytes} bytes", there.len(), gone.len());
                return Ok(());
            }
            Err(error) if Instant::now() > deadline => return Err(error.context(when.to_owned())),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The same, at once. Returns how much was read.
fn look(pid: u32, there: &[Secret], gone: &[Secret]) -> Result<usize> {
    let scan = Scan::of(pid, &[there, gone].concat())?;
    let missing: Vec<&String> = scan.missing(there.len()).map(|n| &there[n].name).collect();
    ensure!(missing.is_empty(), "not found, so the scan proves nothing: {missing:#?}");
    // The clamped form of a key may share a half with the key itself.
    let shared = |secret: usize, piece: usize| {
        let piece = gone[secret - there.len()].bytes.chunks(PIECE).nth(piece);
        there.iter().any(|other| other.bytes.chunks(PIECE).any(|own| Some(own) == piece))
    };
    let left = scan.found.range((there.len(), 0, 0)..).filter(|&&(secret, piece, _)| !shared(secret, piece));
    let left = left.map(|&(secret, piece, address)| {
        let region = scan.regions.iter().find(|region| (region.start..region.end).contains(&address));
        let region = region.map_or("nowhere", |region| &region.name);
        format!("{}, bytes {}..: {address:#x} {region}", gone[secret - there.len()].name, piece * PIECE)
    });
    let left: Vec<String> = left.collect();
    ensure!(left.is_empty(), "still in memory: {left:#?}");
    Ok(scan.bytes)
}

/// Pieces of `secrets` in `text`, by name.
pub fn spelled_in(text: &[u8], secrets: &[Secret]) -> Vec<String> {
    let pieces = Pieces::of(secrets);
    let mut found = BTreeSet::new();
    pieces.search(text, 0, &mut found);
    found.into_iter().map(|(secret, _, _)| secrets[secret].name.clone()).collect()
}

/// Secret, piece of it, address.
type Found = BTreeSet<(usize, usize, u64)>;

struct Scan {
    found: Found,
    regions: Vec<Region>,
    bytes: usize,
    pieces_of: Vec<usize>,
}

struct Region {
    start: u64,
    end: u64,
    name: String,
}

impl Scan {
    fn of(pid: u32, secrets: &[Secret]) -> Result<Self> {
        let pieces = Pieces::of(secrets);
        let path = format!("/proc/{pid}/mem");
        let memory = File::open(&path).with_context(|| format!("opening {path}"))?;
        let regions = regions(pid)?;
        let (mut found, mut bytes, mut chunk) = (Found::new(), 0, vec![0; CHUNK + PIECE - 1]);
        for region in &regions {
            let mut at = region.start;
            while at < region.end {
                // Overlapping, so that no piece is cut in two.
                let len = chunk.len().min((region.end - at) as usize);
                memory
                    .read_exact_at(&mut chunk[..len], at)
                    .with_context(|| format!("reading {len} bytes at {at:#x}, {}", region.name))?;
                pieces.search(&chunk[..len], at, &mut found);
                bytes += len.min(CHUNK);
                at += CHUNK as u64;
            }
        }
        let pieces_of = secrets.iter().map(|secret| secret.bytes.len() / PIECE).collect();
        Ok(Scan { found, regions, bytes, pieces_of })
    }

    /// Which of the first `count` secrets were not found whole.
    fn missing(&self, count: usize) -> impl Iterator<Item = usize> {
        let whole = |n: usize| {
            let pieces: BTreeSet<usize> = self.found.range((n, 0, 0)..(n + 1, 0, 0)).map(|f| f.1).collect();
            pieces.len() == self.pieces_of[n]
        };
        (0..count).filter(move |&n| !whole(n))
    }
}

/// Where a process can have written. The kernel's pages (vvar, vsyscall) hold none of its secrets.
fn regions(pid: u32) -> Result<Vec<Region>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).context("reading the child's mappings")?;
    let mut regions = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, access) = (fields.next().context("no range")?, fields.next().context("no access")?);
        let name = fields.nth(3).unwrap_or("anonymous").to_owned();
        // What is only readable now may have been written before (relocations).
        let code = !access.starts_with('r') || access.contains('x');
        if code || ["[vvar", "[vsys"].iter().any(|kernel| name.starts_with(kernel)) {
            continue;
        }
        let (start, end) = range.split_once('-').context("no range")?;
        let hex = |digits| u64::from_str_radix(digits, 16).context("no address");
        regions.push(Region { start: hex(start)?, end: hex(end)?, name });
    }
    for needed in ["[heap]", "[stack]"] {
        ensure!(regions.iter().any(|region| region.name == needed), "no {needed} in\n{maps}");
    }
    Ok(regions)
}

/// All pieces, found by their first two bytes.
struct Pieces {
    by_start: Vec<Vec<(usize, usize, [u8; PIECE])>>,
}

impl Pieces {
    fn of(secrets: &[Secret]) -> Self {
        let mut by_start = vec![Vec::new(); 1 << 16];
        for (secret, Secret { name, bytes }) in secrets.iter().enumerate() {
            assert!(bytes.len() >= PIECE, "{name} is too short to be looked for");
            assert!(bytes.iter().any(|&byte| byte != 0), "{name} is zero");
            for (n, piece) in bytes.chunks_exact(PIECE).enumerate() {
                let piece: [u8; PIECE] = piece.try_into().expect("an exact chunk");
                by_start[start(&piece)].push((secret, n, piece));
            }
        }
        Pieces { by_start }
    }

    fn search(&self, bytes: &[u8], address: u64, found: &mut Found) {
        for from in (0..bytes.len()).step_by(PAGE) {
            // With the beginning of the next page, where a piece that begins here may end.
            let page = &bytes[from..bytes.len().min(from + PAGE + PIECE - 1)];
            // Most of a process is zeros, and no piece is.
            if page == &[0; PAGE + PIECE - 1][..page.len()] {
                continue;
            }
            for (at, window) in page.windows(PIECE).enumerate() {
                for &(secret, n, ref piece) in &self.by_start[start(window)] {
                    if window == piece {
                        found.insert((secret, n, address + (from + at) as u64));
                    }
                }
            }
        }
    }
}

fn start(window: &[u8]) -> usize {
    usize::from(window[0]) << 8 | usize::from(window[1])
}

mod tests {
    use veil_tests::seeded::Seeded;

    use super::*;
    use crate::child::Child;

    #[test]
    fn what_is_planted_is_found_wherever_it_is_and_nothing_else() -> Result<()> {
        let mut child = Child::start("plant", &["4711"])?;
        child.expect("planted")?;
        let drawn = |draw: u64| {
            let mut bytes = [0; 32];
            Seeded::draw(4711, draw, &mut bytes);
            Secret::new(format!("draw {draw}"), &bytes)
        };
        let [stack, heap, large, half, absent] = [0, 1, 2, 3, 4].map(drawn);
        let second = Secret::new("second half", &half.bytes[16..]);
        let first = Secret::new("first half", &half.bytes[..16]);
        let planted = [stack, heap, large, second];
        check(child.pid(), "planted", &planted, &[first, absent.clone()])?;
        // Half a secret counts as left behind, and not as there.
        let error =
            |there: &[Secret], gone: &[Secret]| look(child.pid(), there, gone).unwrap_err().to_string();
        assert!(error(&planted[..3], std::slice::from_ref(&half)).contains("draw 3, bytes 16..: 0x"));
        assert!(error(&[half, absent], &[]).contains("not found"));
        child.say("wipe")?;
        child.expect("over")?;
        check(child.pid(), "wiped", &[], &planted)
    }
}
