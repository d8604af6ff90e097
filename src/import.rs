//! Owns: how a configuration of HAProxy, nginx or Traefik becomes one of Linchpin.
//! Invariant: what a line of the source asks for is in the output, or the line stands there as a comment that says so.
//! Must not know: any other room, the disk, the network: names are not looked up, and nothing is followed.

mod grammar;
mod guard;
mod haproxy;
mod listener;
mod names;
mod nginx;
mod output;
mod pool;
mod reasons;
mod route;
mod rule;
mod secret;
mod source;
mod speech;
mod toml;
mod traefik;
mod units;

pub use self::source::{Format, Imported, LONGEST, Refused};

/// Makes a configuration for Linchpin of the text of a file named `name`.
///
/// # Errors
/// If the text is too long, or isn't a configuration of `format`.
pub fn import(text: &str, name: &str, format: Format) -> Result<Imported, Refused> {
    if text.len() > LONGEST {
        return Err(Refused::TooLong);
    }
    let mut output = output::Output::new(name, format);
    match format {
        Format::Haproxy => haproxy::read(text, &mut output),
        Format::Nginx => nginx::read(text, &mut output),
        Format::Traefik => traefik::read(text, &mut output),
    }
    .map_err(|broken| Refused::Syntax { format, line: broken.line, problem: broken.problem })?;
    Ok(output.written())
}

#[cfg(test)]
mod tests;
