//! The `linchpin` binary: the allocator and the exit code.
//! Everything that can be tested is in the library, and not here.
//! It must not know any room but `cli`.

#![forbid(unsafe_code)]

/// A proxy allocates small things that live as long as a request, on the thread that frees them:
/// what mimalloc is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    linchpin::cli::main()
}
