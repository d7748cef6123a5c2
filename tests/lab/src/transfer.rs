//! A TCP transfer between two namespaces whose every byte is checked on arrival.
//!
//! The sender repeats a block whose length shares no factor with any packet size, so that a lost, doubled or moved
//! piece cannot pass as the right one.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::namespace::Namespace;

/// A prime, near the size of a good write.
const BLOCK: usize = 65_521;
/// How long either end waits without progress before the transfer counts as broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// A transfer under way on two threads.
#[derive(Debug)]
pub struct Transfer {
    arrived: Arc<AtomicU64>,
    finish: Arc<AtomicBool>,
    sender: Option<JoinHandle<Result<u64>>>,
    receiver: Option<JoinHandle<Result<u64>>>,
}

impl Transfer {
    /// Starts sending from namespace `from` to the address `to` in namespace `into`, until [`Transfer::finish`].
    pub fn start(from: &Namespace, into: &Namespace, to: &str) -> Result<Transfer> {
        let address = SocketAddr::new(to.parse().with_context(|| format!("{to} is no address"))?, 0);
        let (arrived, finish) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (port, listening) = mpsc::channel();
        let receiver = into.spawn({
            let (arrived, finish) = (Arc::clone(&arrived), Arc::clone(&finish));
            move || {
                let listener =
                    TcpListener::bind(address).with_context(|| format!("listening at {address}"))?;
                port.send(listener.local_addr()?).ok();
                receive(&accept(&listener, &finish)?, &arrived)
            }
        });
        let Ok(address) = listening.recv() else {
            return Err(receiver
                .join()
                .map_err(|_| anyhow!("the receiver panicked"))?
                .expect_err("no port came"));
        };
        let sender = from.spawn({
            let finish = Arc::clone(&finish);
            move || {
                let stream = TcpStream::connect_timeout(&address, PATIENCE)
                    .with_context(|| format!("connecting to {address}"));
                if stream.is_err() {
                    finish.store(true, Ordering::Relaxed);
                }
                send(&stream?, &finish)
            }
        });
        Ok(Transfer { arrived, finish, sender: Some(sender), receiver: Some(receiver) })
    }

    /// Bytes that have arrived and were right.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Whether both ends are still at work; `false` early means that [`Transfer::finish`] will return the error.
    pub fn running(&self) -> bool {
        let threads = [&self.sender, &self.receiver];
        threads.iter().all(|thread| thread.as_ref().is_some_and(|thread| !thread.is_finished()))
    }

    /// Ends the transfer, waits for the last byte and returns how many arrived: exactly those sent.
    pub fn finish(mut self) -> Result<u64> {
        self.finish.store(true, Ordering::Relaxed);
        let sent = join(self.sender.take())?;
        let received = join(self.receiver.take())?;
        ensure!(sent == received, "{sent} bytes were sent and {received} arrived");
        Ok(received)
    }

    /// Waits until `bytes` have arrived, or an end of the transfer, or `deadline`.
    pub fn wait_for(&self, bytes: u64, deadline: Duration) -> Result<()> {
        let start = std::time::Instant::now();
        while self.arrived() < bytes {
            ensure!(self.running(), "the transfer ended after {} bytes", self.arrived());
            ensure!(start.elapsed() < deadline, "{} of {bytes} bytes within {deadline:?}", self.arrived());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // The threads end by themselves: at the latest when their patience does.
        self.finish.store(true, Ordering::Relaxed);
    }
}

fn join(thread: Option<JoinHandle<Result<u64>>>) -> Result<u64> {
    thread.context("joined twice")?.join().map_err(|_| anyhow!("a transfer thread panicked"))?
}

/// Waits for the sender, or for word that it will not come.
fn accept(listener: &TcpListener, finish: &AtomicBool) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ensure!(!finish.load(Ordering::Relaxed), "the sender never connected");
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(error).context("accepting the sender"),
        }
    }
}

fn send(mut stream: &TcpStream, finish: &AtomicBool) -> Result<u64> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let block = block();
    let mut sent = 0;
    while !finish.load(Ordering::Relaxed) {
        stream.write_all(&block).with_context(|| format!("sending after {sent} bytes"))?;
        sent += block.len() as u64;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // The receiver says how much it has, so that "sent" is not merely "queued here".
    let mut total = [0; 8];
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut total).context("waiting for the receiver's count")?;
    ensure!(u64::from_le_bytes(total) == sent, "the receiver counts {}", u64::from_le_bytes(total));
    Ok(sent)
}

fn receive(mut stream: &TcpStream, arrived: &AtomicU64) -> Result<u64> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let block = block();
    let mut buffer = vec![0; BLOCK];
    let mut total = 0_u64;
    loop {
        let offset = (total % BLOCK as u64) as usize;
        let room = BLOCK - offset;
        let length = match stream.read(&mut buffer[..room]) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).with_context(|| format!("receiving after {total} bytes")),
        };
        ensure!(buffer[..length] == block[offset..offset + length], "wrong bytes after {total}");
        total += length as u64;
        arrived.store(total, Ordering::Relaxed);
    }
    stream.write_all(&total.to_le_bytes()).context("sending the count back")?;
    Ok(total)
}

/// Bytes without a pattern (xorshift64), the same at both ends.
fn block() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    bytes.take(BLOCK).collect()
}
