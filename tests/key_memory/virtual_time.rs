//! What takes minutes: initiations superseded, given up after 90 s, sessions expired after 180 s. The child's clock is worked by
//! hand, and it is at rest while its memory is read.

use std::collections::VecDeque;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use veil_proto::crypto::Suite;

use crate::child::Child;
use crate::other_end::{OtherEnd, Pairing, StaticKey, Wire, draw};
use crate::scanner::check;
use crate::secrets::{Secret, private_key};

/// Of the keys, the child's entropy, and this end's.
const SEEDS: [u64; 3] = [0x1111, 0x2222, 0x3333];

/// The child's stdin and stdout.
struct Pipes {
    child: Child,
    arrived: VecDeque<Vec<u8>>,
}

impl Pipes {
    /// Says this and takes in all that comes of it.
    fn command(&mut self, line: &str) -> Result<()> {
        self.child.say(line)?;
        loop {
            let line = self.child.hear()?;
            match line.split_once(' ') {
                Some(("sent", hex)) => self.arrived.push_back(unhex(hex)?),
                None if line == "done" => return Ok(()),
                _ => bail!("the child said {line:?}"),
            }
        }
    }
}

impl Wire for Pipes {
    fn send(&mut self, datagram: &[u8]) -> Result<()> {
        let hex: String = datagram.iter().map(|byte| format!("{byte:02x}")).collect();
        self.command(&format!("datagram {hex}"))
    }

    fn receive(&mut self) -> Result<Vec<u8>> {
        self.arrived.pop_front().context("the child sent nothing")
    }
}

#[test]
fn what_is_superseded_given_up_or_expired_is_wiped() -> Result<()> {
    let (child_key, own_key) = (StaticKey::draw(SEEDS[0], 0), StaticKey::draw(SEEDS[0], 1));
    let psk = draw(SEEDS[0], 2);
    let folder = TempDir::new()?;
    write_secret(&folder, "veil.key", &child_key.pair.private.to_base64())?;
    write_secret(&folder, "peer.psk", &Secret::new("", &psk).base64())?;
    let path = folder.path().to_str().context("no UTF-8")?;
    let child = Child::start("virtual", &[&SEEDS[1].to_string(), path, &own_key.pair.public.to_string()])?;
    child.expect("done")?;
    let pid = child.pid();
    let pairing = Pairing {
        child: (&child_key, SEEDS[1]),
        own: (&own_key, SEEDS[2]),
        psk,
        network_secret: None,
        suite: Suite::ChaCha20Poly1305,
    };
    let mut end = OtherEnd::new(pairing, Pipes { child, arrived: VecDeque::new() });
    let [fixed, clamped] = private_key("static key", &child_key.bytes);
    let kept = [fixed, Secret::new("pre-shared key", &psk)];

    end.wire.command("initiate")?;
    let (first, _) = end.await_initiation("first attempt")?;
    let there = [&kept[..], &first.pending].concat();
    check(
        pid,
        "an initiation is pending",
        &there,
        &[&first.passing[..], std::slice::from_ref(&clamped)].concat(),
    )?;

    end.wire.command("at 7")?;
    let (second, _) = end.await_initiation("second attempt")?;
    check(pid, "a retry took its place", &second.pending, &[first.all(), second.passing.clone()].concat())?;

    // A request of its own, 80 s later: the attempts of the first one are not given up but replaced.
    end.wire.command("at 80")?;
    end.wire.command("initiate")?;
    let (mut last, mut gone) = (second, first.all());
    while !end.wire.arrived.is_empty() {
        gone.extend(last.all());
        last = end.await_initiation("attempt of the second request")?.0;
    }
    check(pid, "another request took its place", &last.pending, &gone)?;
    end.wire.command("at 171")?;
    gone.extend(last.all());
    end.wire.arrived.clear();
    check(pid, "given up after 90 s", &kept, &gone)?;

    end.wire.command("at 200")?;
    let mut session = end.shake_hands("session")?;
    end.send_data(&mut session)?;
    check(pid, "a session lives", &session.agreed.session, &session.agreed.passing)?;
    end.wire.command("at 379")?;
    check(pid, "a session lives for 180 s", &session.agreed.session, &session.agreed.passing)?;
    end.wire.command("at 380")?;
    gone.extend(session.agreed.all());
    check(pid, "a session expired", &kept, &gone)?;

    let mut child = end.wire.child;
    child.say("end")?;
    child.expect("over")?;
    gone.extend(kept);
    check(pid, "all is dropped", &[], &gone)?;
    child.end()
}

fn write_secret(folder: &TempDir, name: &str, text: &str) -> Result<()> {
    let path = folder.path().join(name);
    fs::write(&path, text)?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o600))?)
}

fn unhex(hex: &str) -> Result<Vec<u8>> {
    let digits =
        |n: usize| u8::from_str_radix(hex.get(n..n + 2).context("half a byte")?, 16).context("no digits");
    (0..hex.len()).step_by(2).map(digits).collect()
}
