//! Owns: which configuration file a command uses: the one that its arguments name, or a default.
//! Invariant: a file that is named is used even if it does not exist.
//! Must not know: what a configuration holds.

use std::path::{Path, PathBuf};

/// Default configuration files; the first that exists is used.
const DEFAULT_FILES: [&str; 2] = ["linchpin.toml", "/etc/linchpin/linchpin.toml"];

/// The option that names the configuration file.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    /// The configuration file [default: ./linchpin.toml, then /etc/linchpin/linchpin.toml]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    pub(super) fn path(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}

/// The option, or the same as the only argument, for commands that take no other one.
#[derive(Debug, clap::Args)]
pub(super) struct FileArgs {
    #[command(flatten)]
    option: ConfigArgs,
    /// The same as -c FILE.
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
}

impl FileArgs {
    pub(super) fn path(&self) -> Option<&Path> {
        self.file.as_deref().or(self.option.path())
    }
}

/// No file was named, and none of the default files exists.
#[derive(Debug)]
pub(super) struct NoFile;

impl std::error::Error for NoFile {}

impl std::fmt::Display for NoFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files = DEFAULT_FILES.join(" nor ");
        write!(f, "neither {files} exists; name a configuration file with -c FILE")
    }
}

/// Returns the named file, or the first default file that exists.
///
/// # Errors
/// If none is named and none exists.
pub(super) fn find(path: Option<&Path>) -> Result<PathBuf, NoFile> {
    let default = || DEFAULT_FILES.iter().map(PathBuf::from).find(|file| file.exists());
    path.map(Path::to_path_buf).or_else(default).ok_or(NoFile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_is_used_even_if_it_does_not_exist() {
        let named = Path::new("/nowhere/linchpin.toml");
        assert_eq!(find(Some(named)).unwrap(), named);
        assert!(NoFile.to_string().contains("/etc/linchpin/linchpin.toml"));
    }
}
