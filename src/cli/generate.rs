//! Owns: `linchpin completions` and `linchpin man`: what shells and `man` know of the command line.
//! Invariant: both are made of the definition by which arguments are parsed, so they can't be out of date.
//! Must not know: any command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap_complete::Shell;
use clap_mangen::Man;

use super::output::{exit_code, print};

/// The arguments of `linchpin completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// The arguments of `linchpin man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Write the pages of all commands into this folder: linchpin.1, linchpin-run.1, …
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

/// Prints the completions of a shell for the command line of this definition.
pub fn completions(args: &CompletionsArgs, mut definition: clap::Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut definition, "linchpin", &mut script);
    print(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}

/// Prints the manual page of this definition, or writes those of all of its commands.
pub fn man(args: &ManArgs, definition: clap::Command) -> ExitCode {
    match &args.output {
        Some(folder) => {
            let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(definition, folder));
            exit_code(written.map_err(|error| cannot_write(folder, &error)))
        }
        None => {
            let mut page = Vec::new();
            let rendered = Man::new(definition).render(&mut page);
            print(&String::from_utf8_lossy(&page));
            exit_code(rendered)
        }
    }
}

fn cannot_write(folder: &Path, error: &std::io::Error) -> String {
    format!("cannot write into {}: {error}; name a folder in which you may create files", folder.display())
}
