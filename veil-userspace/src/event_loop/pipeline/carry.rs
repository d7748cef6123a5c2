//! A lone packet's way: RX, which has just brought it, steps the stages that sleep itself, on its own thread.
//!
//! To wake two threads takes a packet far longer than everything else that happens to it. So the process stage and TX lie in
//! a place of their own while their threads sleep ([`Parked`]); RX takes them from there, steps each once, and puts them
//! back. While more comes than RX could carry like that, it wakes them, and the three work side by side.

use anyhow::Result;
use veil_proto::crypto::scrubbed_shallow;

use super::Bells;
use super::parked::Parked;
use super::processor::PipelineProcessor;
use super::tx::TxStage;
use crate::host::now;
use crate::link::LinkTx;
use crate::tun::TunWrite;

/// The stages behind RX.
pub struct Others<'a, S, W> {
    pub process: Parked<&'a mut PipelineProcessor>,
    pub tx: Parked<&'a mut TxStage<S, W>>,
    pub bells: Bells,
}

impl<S: LinkTx, W: TunWrite> Others<'_, S, W> {
    /// Has everything that RX has handed on leave, if both sleep. False: the process stage has to be woken.
    ///
    /// # Errors
    /// The kernel refuses to set a timer.
    pub fn carry(&self) -> Result<bool> {
        let (Some(mut tx), Some(mut process)) = (self.tx.take(), self.process.take()) else {
            return Ok(false);
        };
        process.get_up();
        tx.get_up();
        // What the ciphers leave of their keys on this stack must not outlive a session that another thread wipes.
        // Scrubbed once the packet is on its way.
        scrubbed_shallow(|| {
            process.turn(now());
            tx.turn();
        });
        // What there is left to do is for their own threads.
        let tx_sleeps = tx.lies_down() && !tx.is_blocked();
        let process_sleeps = process.lies_down()?;
        drop((process, tx));
        if !tx_sleeps {
            self.bells.tx.wake();
        }
        if !process_sleeps {
            self.bells.process.wake();
        }
        Ok(true)
    }
}
