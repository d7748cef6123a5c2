//! Which packets the steering program takes: the table of verdicts, random frames against a second parser, and all of
//! it again on the committed program, run by the kernel (`BPF_PROG_TEST_RUN`), through aya and through libbpf.

mod by_aya;
mod by_libbpf;
mod classify;
mod frames;
mod object;
mod reference;
mod verdicts;
