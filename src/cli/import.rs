//! Owns: `linchpin import`: it reads a file, writes the translation, and reports the result.
//! Invariant: it overwrites no file without --force, and checks what it has written.
//! Must not know: the contents of either configuration.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::output::{failure, print_error};
use crate::config;
use crate::import::{self, Format, ImportError, Imported, LONGEST};

/// The command line of `linchpin import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An haproxy.cfg; an nginx.conf, best as `nginx -T` prints it, with all included files; a dynamic Traefik file in YAML
    /// or TOML; or Ingresses for ingress-nginx, as `kubectl get ingress,service -o yaml` prints them.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The product that the file configures, if neither its name nor its content shows it.
    #[arg(long, value_name = "PRODUCT")]
    from: Option<Product>,
    /// Write to this file instead of standard output.
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Exit with 0 although restrictions of access were lost.
    #[arg(long)]
    accept_losses: bool,
    /// Overwrite OUT.
    #[arg(long, requires = "output")]
    force: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Product {
    Haproxy,
    Nginx,
    IngressNginx,
    Traefik,
}

/// Imports a file.
///
/// The exit code is 0 once the output is written, even if it has errors: the last line states whether it can be run, and
/// `linchpin check` has an exit code for that. It is 1 if the source restricted access in a way that the output does not,
/// unless the operator accepts that.
pub fn run(args: &Args) -> ExitCode {
    let shown = args.file.display();
    let imported = match read(&args.file)
        .map_err(|error| error.to_string())
        .and_then(|text| import(&args.file, &text, args.from).map_err(|refused| refused.to_string()))
    {
        Ok(imported) => imported,
        Err(error) => return failure(&format!("cannot import {shown}: {error}")),
    };
    if let Err(error) = write(args, &imported.text) {
        return failure(&error);
    }
    let out = args.output.as_deref().unwrap_or(Path::new("standard output"));
    print_error(&summary(&imported, &args.file, out));
    if !imported.lost_access_control || args.accept_losses {
        return ExitCode::SUCCESS;
    }
    let lost = "the output does not restrict access as the source did";
    failure(&format!("{lost}: read the top of it; if that is fine, run this again with --accept-losses"))
}

/// Reads a file; of one that is too long, just more than the limit.
fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST as u64 + 1).read_to_end(&mut bytes)?;
    // Comments may have any encoding; keywords are ASCII.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn import(path: &Path, text: &str, from: Option<Product>) -> Result<Imported, ImportError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let format = match from {
        Some(Product::Haproxy) => Some(Format::Haproxy),
        Some(Product::Nginx) => Some(Format::Nginx),
        Some(Product::IngressNginx) => Some(Format::IngressNginx),
        Some(Product::Traefik) => Some(Format::Traefik),
        None => Format::guess(&name, text),
    };
    import::import(text, &name, format.ok_or(ImportError::Unknown)?)
}

fn write(args: &Args, text: &str) -> Result<(), String> {
    let Some(out) = &args.output else {
        return io::stdout()
            .write_all(text.as_bytes())
            .map_err(|error| format!("cannot write to standard output: {error}"));
    };
    let shown = out.display();
    let mut options = OpenOptions::new();
    options.write(true);
    match args.force {
        true => options.create(true).truncate(true),
        false => options.create_new(true),
    };
    let is_itself = || matches!((out.canonicalize(), args.file.canonicalize()), (Ok(out), Ok(file)) if out == file);
    if is_itself() {
        return Err(format!("{shown} is the imported file itself: name another one"));
    }
    match options.open(out).and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(format!("{shown} already exists: name another file, or overwrite it with --force"))
        }
        Err(error) => Err(format!("cannot write {shown}: {error}")),
    }
}

/// Returns the findings of a check of the translation, and a summary line.
fn summary(imported: &Imported, file: &Path, out: &Path) -> String {
    let (report, good) = match config::parse(&imported.text, out) {
        Ok((_, report)) if imported.may_serve => (report, "it can be run"),
        Ok((_, report)) => (report, "it can't be run as it is, as no request would reach a backend"),
        Err(report) => (report, "it can't be run as it is"),
    };
    let lost = match imported.unsupported {
        0 => "every line has an equivalent".to_owned(),
        1 => "1 line has no equivalent and is a comment".to_owned(),
        lost => format!("{lost} lines have no equivalent and are comments"),
    };
    let guards = match imported.guards.len() {
        0 => String::new(),
        count => format!("; {count} of them restricted or limited requests: read the top of the output"),
    };
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (errors, warnings) = (count(report.errors(), "error"), count(report.warnings(), "warning"));
    format!("{report}{}: {lost}{guards}; {good}: {errors}, {warnings}\n", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imported(text: &str) -> Imported {
        import(Path::new("haproxy.cfg"), text, None).unwrap()
    }

    #[test]
    fn the_last_line_counts_lost_lines_and_states_whether_it_runs() {
        let good = imported("backend app\n server a 127.0.0.1:9001\n");
        let text = summary(&good, Path::new("haproxy.cfg"), Path::new("out"));
        assert!(
            text.ends_with("haproxy.cfg: every line has an equivalent; it can be run: 0 errors, 0 warnings\n"),
            "{text}"
        );
        let named = imported("backend app\n server a app.example.com:80\n");
        let text = summary(&named, Path::new("haproxy.cfg"), Path::new("out"));
        assert!(
            text.ends_with("haproxy.cfg: every line has an equivalent; it can be run: 0 errors, 0 warnings\n"),
            "{text}"
        );
        let closed = imported("backend app\n server a ${HOST}:80\n");
        let text = summary(&closed, Path::new("haproxy.cfg"), Path::new("out"));
        assert!(
            text.contains("1 line has no equivalent") && text.contains("can't be run as it is: 1 error,"),
            "{text}"
        );
    }

    #[test]
    fn an_unknown_format_needs_the_product_s_name() {
        assert_eq!(import(Path::new("x"), "nothing", None), Err(ImportError::Unknown));
        assert!(import(Path::new("x"), "nothing", Some(Product::Haproxy)).is_ok());
    }
}
