//! Owns: what commands print, and the exit codes 0, 1 and 2.
//! Invariant: a closed output never causes a panic, nor changes an exit code.
//! Must not know: what a command does.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

/// Returns 0, or prints the error and returns 1.
pub(super) fn exit_code(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}

/// Prints an error and returns 1.
pub(super) fn failure(error: &dyn Display) -> ExitCode {
    print_error(&format_args!("linchpin: {error}\n"));
    ExitCode::FAILURE
}

/// Prints what is wrong with the command line, as the parser of arguments does, and returns 2.
pub(super) fn usage(error: &dyn Display) -> ExitCode {
    print_error(&format_args!("error: {error}\n\nFor more information, try '--help'.\n"));
    ExitCode::from(2)
}

/// Prints to standard error. `eprint!` would panic if it is closed, and end a proxy that only prints a warning.
pub(super) fn print_error(text: &dyn Display) {
    let _ = write!(io::stderr(), "{text}");
}

/// Prints to standard output at once, and ignores that it may be closed.
pub(super) fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
}
