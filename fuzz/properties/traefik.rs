//! What must hold of any text that is imported as a configuration of traefik.

use linchpin::import::Format;

pub fn holds(data: &[u8]) {
    super::imported::holds(data, Format::Traefik);
}
