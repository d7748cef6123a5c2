//! The `veil` command: everything is in the library.

fn main() -> std::process::ExitCode {
    veil_userspace::cli::main()
}
