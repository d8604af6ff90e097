//! Owns: what is said at the head of a configuration that is made.
//! Invariant: what kept requests out and does so no more is named there.
//! Must not know: how a source is read.

use super::super::pool::Pool;
use super::super::toml::comment;
use super::Output;

impl Output {
    /// What is said before all else.
    pub(super) fn head(&self, guards: &[usize], text: &mut String) {
        let product = self.format.product();
        comment(
            text,
            &format!(
                "Made of {} by `linchpin import`. A line of it that has no equivalent stands here as a",
                self.source
            ),
        );
        comment(text, "comment, with its number. Read them, then run: linchpin check -c FILE");
        if self.pools.iter().any(Pool::pins) {
            text.push_str("#\n");
            comment(
                text,
                &format!(
                    "Clients bring the cookies that {product} gave them. Linchpin opens none but those it sealed itself,"
                ),
            );
            comment(
                text,
                "so that each client gets a new pin with its first request, and maybe another backend, once.",
            );
        }
        if let Some((first, rest)) = guards.split_first() {
            text.push_str("#\n");
            let lines = rest.iter().fold(first.to_string(), |lines, line| format!("{lines}, {line}"));
            comment(
                text,
                &format!(
                    "Requests were kept out or held back by what stands in line {lines} of {}. What was behind it is switched off,",
                    self.source
                ),
            );
            comment(
                text,
                "as far as it could be told: let the application do it, or something before Linchpin, and take the # away.",
            );
        }
        if self.pools.iter().any(Pool::seals) {
            text.push_str(
                "\n# Without a key, pins end with the process. Make one with: linchpin keygen -o linchpin.key\n",
            );
            text.push_str("#[[keys]]\n#id = \"1\"\n#file = \"linchpin.key\"\n");
        }
    }
}
