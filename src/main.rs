//! Arguments in, exit code out.

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // The allocator asks for huge pages, each of which is resident as a whole: small requests take 27 MiB at their peak
    // with them and 15 without, and no bench is faster (benches/README.md). A kernel without this switch has its way.
    let _ = nix::sys::prctl::set_thp_disable(true);
    seawall::command::run(seawall::command::Arguments::parse())
}
