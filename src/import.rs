//! Owns: the conversion of a HAProxy, nginx, ingress-nginx or Traefik configuration into one of Linchpin.
//! Invariant: each line of the source becomes a setting in the output, or a comment that gives the reason.
//! Must not know: other modules, but for addresses (`net`); the disk or the network: it resolves no names and reads
//! no included files.

mod access;
mod acme;
mod address_lists;
mod backend_protocol;
mod client_limits;
mod field_edits;
mod grammar;
mod guard;
mod haproxy;
mod ingress;
mod listener;
mod nginx;
mod node;
mod notes;
mod output;
mod own_addresses;
mod pool;
mod reasons;
mod route;
mod rule;
mod scoped_edit;
mod secret;
mod source;
mod toml;
mod traefik;
mod unique_names;
mod units;
mod users;

pub use self::source::{Format, ImportError, Imported, LONGEST};

/// Converts `text`, from a file named `name`, into a Linchpin configuration.
///
/// # Errors
/// If the text is longer than [`LONGEST`], or isn't a valid configuration of `format`.
pub fn import(text: &str, name: &str, format: Format) -> Result<Imported, ImportError> {
    if text.len() > LONGEST {
        return Err(ImportError::TooLong);
    }
    let mut output = output::Output::new(name, format);
    match format {
        Format::Haproxy => haproxy::read(text, &mut output),
        Format::IngressNginx => ingress::read(text, &mut output),
        Format::Nginx => nginx::read(text, &mut output),
        Format::Traefik => traefik::read(text, &mut output),
    }
    .map_err(|broken| ImportError::Syntax { format, line: broken.line, problem: broken.problem })?;
    Ok(output.render())
}

#[cfg(test)]
mod tests;
