//! Owns: the names of the access log's fields, and which of them a line has, in which order.
//! Invariant: no field holds a token or a cookie; a query is in a line only if the configuration names it.
//! Must not know: the values of a record; how a line is written.

/// A field of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessField {
    /// When the request's head was complete.
    Time,
    /// The listener's name.
    Listener,
    /// The client's address.
    Client,
    /// The user whose password was verified.
    User,
    /// The method.
    Method,
    /// The Host field.
    Host,
    /// The path, without the values of its parameters.
    Path,
    /// The query, as the client sent it.
    Query,
    /// The version of HTTP.
    Protocol,
    /// The version of TLS.
    TlsVersion,
    /// The response's status code.
    Status,
    /// Bytes of the request's body.
    BytesIn,
    /// Bytes of the response's body.
    BytesOut,
    /// The time until the last byte of the response.
    TotalMs,
    /// The time until the last attempt had a connection.
    ConnectMs,
    /// The time until the response's head.
    AnswerMs,
    /// The time that it waited for its backend.
    WaitMs,
    /// The pool's name.
    Pool,
    /// The backend's name.
    Backend,
    /// The number of attempts.
    Attempts,
    /// The verdict of persistence.
    Verdict,
    /// Why the pin did not hold.
    Cause,
    /// The backend that a moved session left.
    MovedFrom,
    /// The backend that the session is still pinned to.
    Pinned,
    /// The session's id.
    Session,
    /// The rule of persistence that matched.
    Rule,
    /// What became of the session's copy.
    SessionCopy,
    /// Why the request failed.
    Error,
    /// The field User-Agent.
    UserAgent,
    /// The field Referer.
    Referer,
    /// The request's id.
    Request,
}

use AccessField::{
    AnswerMs, Attempts, Backend, BytesIn, BytesOut, Cause, Client, ConnectMs, Error, Host, Listener, Method, MovedFrom,
    Path, Pinned, Pool, Protocol, Query, Referer, Request, Rule, Session, SessionCopy, Status, Time, TlsVersion,
    TotalMs, User, UserAgent, Verdict, WaitMs,
};

impl AccessField {
    /// All fields.
    pub const ALL: [AccessField; 31] = [
        Time,
        Listener,
        Client,
        User,
        Method,
        Host,
        Path,
        Query,
        Protocol,
        TlsVersion,
        Status,
        BytesIn,
        BytesOut,
        TotalMs,
        ConnectMs,
        AnswerMs,
        WaitMs,
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
        Error,
        UserAgent,
        Referer,
        Request,
    ];

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

    /// Returns the field's name, in the log and in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Time => "time",
            Listener => "listener",
            Client => "client",
            User => "user",
            Method => "method",
            Host => "host",
            Path => "path",
            Query => "query",
            Protocol => "protocol",
            TlsVersion => "tls_version",
            Status => "status",
            BytesIn => "bytes_in",
            BytesOut => "bytes_out",
            TotalMs => "total_ms",
            ConnectMs => "connect_ms",
            AnswerMs => "answer_ms",
            WaitMs => "wait_ms",
            Pool => "pool",
            Backend => "backend",
            Attempts => "attempts",
            Verdict => "verdict",
            Cause => "cause",
            MovedFrom => "moved_from",
            Pinned => "pinned",
            Session => "session",
            Rule => "rule",
            SessionCopy => "copy",
            Error => "error",
            UserAgent => "user_agent",
            Referer => "referer",
            Request => "request",
        }
    }
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
}

impl Captures {
    /// Whether it keeps anything.
    #[inline]
    pub fn any(self) -> bool {
        self.query | self.user_agent | self.referer
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
        };
        AccessLayout { format, fields, captures }
    }
}

impl Default for AccessLayout {
    fn default() -> Self {
        AccessLayout::new(AccessFormat::default(), AccessField::DEFAULT)
    }
}
