//! Owns: the names of the access log's fields, and which of them a line has, in which order.
//! Invariant: no field holds a token or a cookie; a query is in a line only if the configuration names it.
//! Must not know: the values of a record; how a line is written.

/// Defines the fields, each with its name in the log and in the configuration.
macro_rules! access_fields {
    ($($(#[$doc:meta])* $field:ident => $name:literal,)*) => {
        /// A field of the access log.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum AccessField {
            $($(#[$doc])* $field,)*
        }

        impl AccessField {
            /// All fields.
            pub const ALL: [AccessField; [$($name),*].len()] = [$(AccessField::$field),*];

            /// Returns the field's name, in the log and in the configuration.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(AccessField::$field => $name,)*
                }
            }
        }
    };
}

access_fields! {
    /// When the request's head was complete.
    Time => "time",
    /// The listener's name.
    Listener => "listener",
    /// The client's address.
    Client => "client",
    /// The user whose password was verified.
    User => "user",
    /// The method.
    Method => "method",
    /// The Host field.
    Host => "host",
    /// The path, without the values of its parameters.
    Path => "path",
    /// The query, as the client sent it.
    Query => "query",
    /// The version of HTTP.
    Protocol => "protocol",
    /// The version of TLS.
    TlsVersion => "tls_version",
    /// The response's status code.
    Status => "status",
    /// Bytes of the request's body.
    BytesIn => "bytes_in",
    /// Bytes of the response's body.
    BytesOut => "bytes_out",
    /// The time until the last byte of the response.
    TotalMs => "total_ms",
    /// The time until the last attempt had a connection.
    ConnectMs => "connect_ms",
    /// The time until the response's head.
    AnswerMs => "answer_ms",
    /// The time that it waited for its backend.
    WaitMs => "wait_ms",
    /// The pool's name.
    Pool => "pool",
    /// The backend's name.
    Backend => "backend",
    /// The number of attempts.
    Attempts => "attempts",
    /// The verdict of persistence.
    Verdict => "verdict",
    /// Why the pin did not hold.
    Cause => "cause",
    /// The backend that a moved session left.
    MovedFrom => "moved_from",
    /// The backend that the session is still pinned to.
    Pinned => "pinned",
    /// The session's id.
    Session => "session",
    /// The rule of persistence that matched.
    Rule => "rule",
    /// What became of the session's copy.
    SessionCopy => "copy",
    /// Why the request failed.
    Error => "error",
    /// The field User-Agent.
    UserAgent => "user_agent",
    /// The field Referer.
    Referer => "referer",
    /// The id of the trace that the request belongs to.
    TraceId => "trace_id",
    /// The request's id.
    Request => "request",
}

use AccessField::{
    AnswerMs, Attempts, Backend, BytesIn, BytesOut, Cause, Client, ConnectMs, Error, Host, Listener, Method, MovedFrom,
    Path, Pinned, Pool, Protocol, Query, Referer, Request, Rule, Session, SessionCopy, Status, Time, TlsVersion,
    TotalMs, TraceId, User, UserAgent, Verdict, WaitMs,
};

impl AccessField {
    /// The fields of a line unless the configuration names others. Those that it leaves out come from the client, and
    /// may hold what its user would not want to be kept.
    pub const DEFAULT: [AccessField; 28] = [
        Time,
        Listener,
        Client,
        User,
        Method,
        Host,
        Path,
        Status,
        BytesIn,
        BytesOut,
        TotalMs,
        ConnectMs,
        AnswerMs,
        Pool,
        Backend,
        Attempts,
        Verdict,
        Cause,
        MovedFrom,
        Pinned,
        Session,
        Rule,
        SessionCopy,
        WaitMs,
        Error,
        Protocol,
        TlsVersion,
        Request,
    ];
}

/// The format of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessFormat {
    /// Lines of `name=value`, for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
    /// The combined format of Apache and nginx, whose fields are fixed.
    Combined,
}

/// What a line of the access log has. Made once per configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLayout {
    pub(super) format: AccessFormat,
    pub(super) fields: Box<[AccessField]>,
    pub(super) captures: Captures,
}

/// What the record of a request keeps of its head for the access log alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Captures {
    /// The query of its target.
    pub query: bool,
    /// Its User-Agent.
    pub user_agent: bool,
    /// Its Referer.
    pub referer: bool,
    /// The id of its caller's trace.
    pub trace_id: bool,
}

impl Captures {
    /// Whether it keeps anything.
    #[inline]
    pub fn any(self) -> bool {
        self.query | self.user_agent | self.referer | self.trace_id
    }
}

impl AccessLayout {
    /// Makes the layout of lines with these fields. In the combined format they matter only in that [`Query`] adds the
    /// query to the request's target and to Referer.
    pub fn new(format: AccessFormat, fields: impl Into<Box<[AccessField]>>) -> AccessLayout {
        let fields = fields.into();
        let is_combined = format == AccessFormat::Combined;
        let captures = Captures {
            query: fields.contains(&Query),
            user_agent: is_combined || fields.contains(&UserAgent),
            referer: is_combined || fields.contains(&Referer),
            trace_id: !is_combined && fields.contains(&TraceId),
        };
        AccessLayout { format, fields, captures }
    }
}

impl Default for AccessLayout {
    fn default() -> Self {
        AccessLayout::new(AccessFormat::default(), AccessField::DEFAULT)
    }
}
