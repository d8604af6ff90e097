//! Owns: the `linchpin` binary: the allocator and the exit code.
//! Invariant: everything that can be tested is in the library.
//! Must not know: any module but `cli`.

#![forbid(unsafe_code)]

/// A proxy allocates small objects that live as long as a request, on the thread that frees them: mimalloc is made for
/// this.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    linchpin::cli::main()
}
