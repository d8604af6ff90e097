//! Owns: `[admin]`.
//! Invariant: a listener that other machines reach has a token, and a warning that the token is sent as it is.
//! Must not know: what the admin plane does.

use std::ops::Range;

use nix::unistd::{Gid, Group, getegid, geteuid, getgroups};
use toml::de::DeValue;

use super::addresses::endpoint;
use super::reader::{Spanned, Table};
use super::secrets;
use super::values::{InvalidValue, Value, must_be, plain_text, shown, text};
use crate::admin::{Settings, SocketAccess};
use crate::net::Address;

/// Reads `[admin]`.
pub(super) fn admin(table: &Table<'_>) -> Option<Spanned<Settings>> {
    let (token, read_token) = (secrets::token(table, "token_file"), secrets::token(table, "read_token_file"));
    let default = SocketAccess::default();
    let socket =
        SocketAccess { mode: table.get("mode", mode).unwrap_or(default.mode), group: table.get("group", group) };
    let address = table.required("address", "\"127.0.0.1:9090\"", endpoint(table))?;
    tokens(table, token.as_deref(), read_token.as_deref());
    match &address.value {
        Address::Tcp(socket) => {
            for key in ["mode", "group"].into_iter().filter(|key| table.has(key)) {
                let problem = format!("`{key}` has no effect: it is for a Unix socket");
                table.notes().warn(
                    &table.at(key),
                    problem,
                    "remove it, or write address = \"unix:/run/linchpin.sock\"",
                );
            }
            if !socket.ip().to_canonical().is_loopback() {
                reachable(table, &address.span);
            }
        }
        Address::Unix(_) if socket.mode & 0o006 != 0 && !table.has("token_file") => {
            let problem = "every user of this machine can change what runs: the mode lets them connect, and there is \
                           no `token_file`";
            table.notes().warn(&table.at("mode"), problem, "write mode = \"0660\" and `group`, or `token_file`");
        }
        Address::Unix(_) => {}
    }
    Some(Spanned { value: Settings { address: address.value, token, read_token, socket }, span: address.span })
}

/// Notes what is wrong with a listener that other machines can reach.
fn reachable(table: &Table<'_>, span: &Range<usize>) {
    if !table.has("token_file") {
        let problem = "other machines can reach [admin], and it has no `token_file`";
        let remedy = "write token_file = \"admin.token\", or an address on 127.0.0.1";
        table.notes().missing(span, problem, remedy);
        return;
    }
    let problem = "other machines can reach [admin], and it has no TLS: whoever is on the way can read the token";
    let remedy = "write an address on 127.0.0.1 or unix:PATH, and reach it through ssh or another proxy with TLS; \
                  on a network that you trust, leave it";
    table.notes().warn(span, problem, remedy);
}

fn tokens(table: &Table<'_>, token: Option<&str>, read_token: Option<&str>) {
    if table.has("read_token_file") && !table.has("token_file") {
        let problem = "`read_token_file` without `token_file`: without a token, everybody who reaches [admin] may \
                       change everything";
        table.notes().error(&table.at("read_token_file"), problem, "add token_file = \"admin.token\"");
    }
    if token.is_some() && token == read_token {
        let problem = "`read_token_file` has the same token as `token_file`, so it would not only read";
        let remedy = "create another one with: linchpin keygen -o read.token";
        table.notes().error(&table.at("read_token_file"), problem, remedy);
    }
}

/// Reads the mode of a file, in octal digits.
fn mode(value: &DeValue<'_>) -> Value<u32> {
    let text = text(value)?;
    let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777 && mode & 0o200 != 0);
    let remedy = "write for example \"0660\": those who may write to the socket's file may connect";
    mode.ok_or_else(|| must_be("a file mode in octal digits that lets its owner write", shown(text), remedy))
}

/// Reads the name or number of a group, and finds its number.
fn group(value: &DeValue<'_>) -> Value<u32> {
    let name = plain_text(value)?;
    let found = match name.parse() {
        Ok(number) => Some(Gid::from_raw(number)),
        Err(_) => Group::from_name(&name).ok().flatten().map(|group| group.gid),
    };
    let Some(group) = found else {
        let problem = format!("cannot be {}: there is no such group", shown(&name));
        let remedy = format!("create it with: groupadd {name}");
        return Err(InvalidValue { problem, remedy });
    };
    let is_member = || getgroups().is_ok_and(|groups| groups.contains(&group)) || group == getegid();
    if geteuid().is_root() || is_member() {
        return Ok(group.as_raw());
    }
    let problem = format!("cannot be {}: this user is not in that group, so it can't give a file to it", shown(&name));
    Err(InvalidValue { problem, remedy: "add the user who runs Linchpin to the group, or name another one".into() })
}
