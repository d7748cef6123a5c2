//! No key byte in a log, or in memory after destruction (`protocol.md`, Must hold).
//!
//! A child process runs the real code, optimised, with entropy that this process foresees. This process speaks the other end,
//! derives every secret of the child by itself ([`transcript`]) and reads the child's memory ([`scanner`]), so that no copy of
//! the scanner's own can match. Each scenario first finds what must be there: a scanner that finds nothing proves nothing.

mod child;
mod daemon;
mod other_end;
mod scanner;
mod secrets;
mod transcript;
mod virtual_time;
