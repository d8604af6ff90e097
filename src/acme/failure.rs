//! Owns: why a certificate could not be obtained: the fact, what to do about it, and when the server wants to be asked again.
//! Invariant: what a server says is shortened and without control characters before it reaches a log.
//! Must not know: when the next attempt is.

use instant_acme::{Error, Problem};

use super::https_client::Unreachable;

/// The longest text of a server that is shown, in characters.
const MAX_CHARS: usize = 300;

/// Why a certificate could not be obtained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// What happened.
    pub(super) fact: String,
    /// What the operator can do.
    pub(super) remedy: &'static str,
    /// After how many seconds the server wants to be asked again.
    pub(super) retry_after: Option<u64>,
    /// The server can't be used at all: it is the same for every name.
    pub(super) is_of_server: bool,
}

impl Failure {
    pub(super) fn new(fact: impl Into<String>, remedy: &'static str) -> Failure {
        Failure { fact: fact.into(), remedy, retry_after: None, is_of_server: false }
    }

    /// Makes the failure of a name that the ACME server does not accept without a word why.
    pub(super) fn not_accepted() -> Failure {
        let remedy = "check that the name leads here on port 80 or 443; Linchpin tries again by itself";
        Failure::new("the ACME server did not accept the name", remedy)
    }

    /// Makes the failure of a file that can't be written: no name gets a certificate.
    pub(super) fn of_storage(error: impl std::fmt::Display) -> Failure {
        let remedy = "let the user who runs Linchpin write to the folder `storage`, and check that its disk has room";
        Failure { is_of_server: true, ..Failure::new(format!("cannot use the storage: {error}"), remedy) }
    }

    /// Makes the failure of a request to the ACME server.
    pub(super) fn of_server(error: Error, retry_after: Option<u64>) -> Failure {
        let server = |fact: String| {
            let remedy = "check `directory`, `ca` and the way to it; Linchpin tries again by itself";
            Failure { fact, remedy, retry_after, is_of_server: true }
        };
        match error {
            Error::Api(problem) => {
                let is_of_server = kind(&problem) == Some("serverInternal");
                let remedy = remedy(kind(&problem));
                Failure { fact: problem_text(&problem), remedy, retry_after, is_of_server }
            }
            Error::Json(_) => server("the ACME server's response is malformed".into()),
            Error::Timeout(_) => {
                let remedy = "Linchpin tries again by itself";
                let fact = "the ACME server did not complete the order in time";
                Failure { retry_after, ..Failure::new(fact, remedy) }
            }
            Error::Unsupported(what) => {
                Failure::new(format!("the ACME server does not support {what}"), "use another ACME server")
            }
            Error::Other(error) => match error.downcast_ref::<Unreachable>() {
                Some(Unreachable(why)) => server(format!("the ACME server cannot be reached: {}", shown(why))),
                None => server(format!("the request to the ACME server failed: {}", shown(&error.to_string()))),
            },
            error => server(format!("the ACME server gave no usable response: {}", shown(&error.to_string()))),
        }
    }
}

/// Returns the type of a problem without its namespace (RFC 8555 §6.7).
pub(super) fn kind(problem: &Problem) -> Option<&str> {
    problem.r#type.as_deref()?.strip_prefix("urn:ietf:params:acme:error:")
}

/// Says what the ACME server says.
pub(super) fn problem_text(problem: &Problem) -> String {
    let detail = problem.detail.as_deref().map(shown).unwrap_or_default();
    let details = problem.subproblems.iter().take(5).filter_map(|sub| sub.detail.as_deref().map(shown));
    let all = std::iter::once(detail).chain(details).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
    let kind = kind(problem).map_or_else(|| "an unknown error".into(), shown);
    if all.is_empty() { format!("the ACME server says {kind}") } else { format!("the ACME server says {kind}: {all}") }
}

/// Returns what the operator can do about an error of this type.
fn remedy(kind: Option<&str>) -> &'static str {
    match kind {
        Some("connection" | "dns" | "unauthorized" | "incorrectResponse" | "tls") => {
            "check that the name's address leads here: port 80 to a listener without TLS, or port 443 to this one"
        }
        Some("caa") => "let the name's CAA record in DNS allow this authority",
        Some("rateLimited") => "wait; Linchpin tries again when the server allows it",
        Some("rejectedIdentifier" | "unsupportedIdentifier") => "remove the name from `names`, or use another server",
        Some("externalAccountRequired") => "write [listeners.tls.acme.eab] with what the authority gave you",
        Some("userActionRequired") => "read and accept the authority's new terms, as its message says",
        Some("invalidContact" | "unsupportedContact") => "write another address in `email`",
        Some("invalidProfile") => "write another `profile`, or none",
        _ => "Linchpin tries again by itself; if it stays, ask the authority",
    }
}

fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(json: &str) -> Problem {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_a_server_says_is_one_short_line() {
        let long = format!(
            r#"{{"type":"urn:ietf:params:acme:error:dns","detail":"no\nsuch\u001bname{}"}}"#,
            "x".repeat(10_000)
        );
        let failure = Failure::of_server(Error::Api(problem(&long)), Some(5));
        assert!(failure.fact.starts_with("the ACME server says dns: no such name"), "{failure:?}");
        assert!(failure.fact.chars().count() < 400 && !failure.fact.contains(char::is_control));
        assert!(!failure.is_of_server && failure.retry_after == Some(5));
        assert!(failure.remedy.contains("port 80"));
        assert_eq!(problem_text(&problem("{}")), "the ACME server says an unknown error");
    }

    #[test]
    fn a_server_that_is_away_is_away_for_all_names() {
        let away = Error::Other(Box::new(Unreachable("connection refused (a:1)".into())));
        let failure = Failure::of_server(away, None);
        assert_eq!(failure.fact, "the ACME server cannot be reached: connection refused (a:1)");
        assert!(failure.is_of_server);
        // The name of a host in it is from the server's directory.
        let long = Error::Other(Box::new(Unreachable(format!("its name \u{1b}[31m{} can't", "x".repeat(10_000)))));
        let fact = Failure::of_server(long, None).fact;
        assert!(fact.chars().count() < 400 && !fact.contains(char::is_control), "{fact}");
    }

    #[test]
    fn a_name_that_is_not_accepted_without_a_reason_has_a_remedy() {
        let failure = Failure::not_accepted();
        assert!(failure.remedy.contains("port 80 or 443") && failure.remedy.contains("by itself"), "{failure:?}");
        assert!(!failure.is_of_server);
    }
}
