//! `pgpoke`: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    pgpoke::cli::main()
}
