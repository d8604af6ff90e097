//! What must hold of any text that is imported as a configuration of haproxy.

use linchpin::import::Format;

pub fn holds(data: &[u8]) {
    super::imported::holds(data, Format::Haproxy);
}
