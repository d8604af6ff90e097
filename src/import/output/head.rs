//! Owns: the comments at the top of the output.
//! Invariant: they list each access restriction that has no equivalent.
//! Must not know: the formats of sources.

use super::super::pool::Pool;
use super::super::toml::comment;
use super::Output;

impl Output {
    /// Writes the comments at the top.
    pub(super) fn head(&self, guards: &[usize], text: &mut String) {
        let product = self.format.product();
        comment(
            text,
            &format!(
                "`linchpin import` made this file from {}. Each line without an equivalent is a comment here,",
                self.source
            ),
        );
        comment(text, "with its line number. Read the comments, then run: linchpin check -c FILE");
        if self.pools.iter().any(Pool::pins) {
            text.push_str("#\n");
            comment(
                text,
                &format!(
                    "Clients still hold cookies from {product}. Linchpin accepts only cookies that it sealed itself: each client gets a"
                ),
            );
            comment(text, "new pin with its first request, and may change its backend once.");
        }
        if let Some((first, rest)) = guards.split_first() {
            text.push_str("#\n");
            let lines = rest.iter().fold(first.to_string(), |lines, line| format!("{lines}, {line}"));
            comment(
                text,
                &format!(
                    "These lines of {} restricted or limited requests, and this file does not, or not all of them: {lines}.",
                    self.source
                ),
            );
            comment(
                text,
                "The importer disabled the routes behind restrictions that have no equivalent. Restrict these requests in the",
            );
            comment(text, "application or before Linchpin, then remove the #.");
        }
        if self.pools.iter().any(Pool::seals) {
            text.push_str(
                "\n# Without a key, all pins become invalid when the process ends. Create one: linchpin keygen -o linchpin.key\n",
            );
            text.push_str("#[[keys]]\n#id = \"1\"\n#file = \"linchpin.key\"\n");
        }
    }
}
