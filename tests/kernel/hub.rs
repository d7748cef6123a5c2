//! One daemon, three peers, all at work at once.

use anyhow::{Result, ensure};
use veil_lab::{Daemon, Lab, Node, Transfer, ping, require_privileges};
use veil_tests::{assert_conserved, number, peer};

use crate::tunnel::PATIENCE;

const BYTES: u64 = 4 << 20;

#[test]
fn three_peers_at_once_on_one_daemon() -> Result<()> {
    if !require_privileges("three_peers_at_once_on_one_daemon") {
        return Ok(());
    }
    let lab = Lab::new("hub")?;
    let (hub, spokes) = star(&lab)?;
    let hub_daemon = hub.start()?;
    let daemons = spokes.iter().map(Node::start).collect::<Result<Vec<Daemon>>>()?;
    for spoke in &spokes {
        ping(&spoke.namespace, "10.8.0.254", PATIENCE)?;
    }

    // All six directions together.
    let mut transfers = Vec::new();
    for spoke in &spokes {
        let host = spoke.hosts().next().expect("a spoke has an address");
        transfers.push(Transfer::start(&spoke.namespace, &hub.namespace, "10.8.0.254")?);
        transfers.push(Transfer::start(&hub.namespace, &spoke.namespace, host)?);
    }
    for transfer in &transfers {
        transfer.wait_for(BYTES, 3 * PATIENCE)?;
    }
    for transfer in transfers {
        transfer.finish()?;
    }

    let shown = assert_conserved(&hub_daemon)?;
    for spoke in &spokes {
        let spoke = peer(&shown, &spoke.interface)?;
        ensure!(number(spoke, "rx_bytes")? > BYTES && number(spoke, "tx_bytes")? > BYTES, "{spoke:#}");
    }
    for daemon in &daemons {
        assert_conserved(daemon)?;
    }
    Ok(())
}

/// A hub with a wire of its own to each of three spokes, which know where it is.
fn star(lab: &Lab) -> Result<(Node, Vec<Node>)> {
    let mut hub = lab.node("h", &["10.8.0.254/24"])?;
    let mut spokes = Vec::new();
    for number in 1..=3 {
        let mut spoke = lab.node(&format!("s{number}"), &[&format!("10.8.0.{number}/24")])?;
        let wire = format!("eth{number}");
        lab.veth(&hub.namespace, &wire, &spoke.namespace, "eth0")?;
        hub.namespace.address(&wire, &format!("10.99.{number}.1/24"))?;
        spoke.namespace.address("eth0", &format!("10.99.{number}.2/24"))?;
        spoke.add_peer(&hub, Some(&format!("10.99.{number}.1:4433")));
        hub.add_peer(&spoke, None);
        spokes.push(spoke);
    }
    Ok((hub, spokes))
}
