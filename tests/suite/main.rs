//! pgpoke against real servers and backends that are really stuck.

mod capture;
mod harness;
/// The rehearsal, by trainees that are scripts.
mod rehearsal;
/// The JSON, held to what scripts rely on.
mod report;
mod safe_instruction;
/// Whether the code of a library shows all spinlocks that it may hold.
mod spinlocks;

/// What is advised, done.
mod advice;
/// What comes after an interrupt that was called safe.
mod aftermath;
/// Programs that a backend waits for.
mod children;
/// Servers in containers.
mod containers;
/// Core files, beside what gdb sees of the living process.
mod core_file;
/// Debug files beside an image, and files that were replaced under a running server.
mod debug_files;
/// What a maintainer asks for, in one directory.
mod evidence;
/// The extension in docs/examples, as it is and mended.
mod examples;
/// Foreign code: language runtimes, client libraries, C++; and several looks at a loop.
mod foreign;
/// Why it is stuck and whether it is safe to step in, for every way of getting stuck.
mod inspect;
/// Stepping in, where it may, once, and only when asked.
mod interrupt;
/// Rung by rung, for every kind of backend, and for several at once.
mod ladder;
/// All backends of all servers, read without stopping any.
mod list;
/// Well backends under load, looked at a thousand times.
mod load;
/// Which lock, and who holds it.
mod locks;
/// Connections that are not, or not yet, sessions; and a loop that sleeps.
mod logins;
/// What one look cannot tell.
mod looks;
/// The manual page and the completions, read by those whom they are for.
mod manual;
/// Every state of a backend × every kind of build.
mod matrix;
/// PostgreSQL on another C library.
mod musl;
/// The packages, installed, used and removed.
mod packages;
/// The commands in README.md and docs/ that are no transcripts.
mod pages;
/// Kernels that lack a call, filters that deny one, users who lack a right.
mod places;
/// PostGIS's signal handler, and libraries on behalf of others.
mod postgis;
/// What pgpoke refuses to touch.
mod refusals;
/// Nothing that pgpoke does can take the server down.
mod safety;
/// What is printed as JSON is what the published schema says.
mod schema;
/// What a person reads: on a terminal, in a pipe, in colour.
mod screen;
/// The harness is the measuring instrument of every other test, so it is measured first.
mod self_test;
mod server_end;
/// pgpoke's stacks beside those of gdb and eu-stack.
mod stacks;
/// One file that runs anywhere.
mod static_build;
/// On the way into a subtransaction or out of it.
mod subtransactions;
/// What a blocked system call waits for.
mod syscalls;
/// Cancels that were taken, and what hangs or goes on after that.
mod taken;
/// What README.md shows is what is printed.
mod transcripts;
/// Arguments and local variables beside those of gdb.
mod variables;
/// Every version, and every way to build it.
mod versions;
