//! Owns: the messages of a takeover and what they carry, as plain data.
//! Invariant: every field has a default, so that a message of an earlier version is still read; no message changes its kind.
//! Must not know: where the data come from, or what is done with them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::frame::Frame;

/// The version of the messages. A later one adds kinds and fields, which this one skips.
pub const VERSION: u32 = 1;

/// A message with a kind of its own.
pub trait Part: Serialize + for<'de> Deserialize<'de> {
    /// The kind of its frames.
    const KIND: u16;

    /// Makes its frame.
    ///
    /// # Errors
    /// Never, for the messages of this module.
    fn frame(&self) -> std::io::Result<Frame> {
        Ok(Frame::new(Self::KIND, serde_json::to_vec(self)?.into(), Bytes::new()))
    }
}

/// Declares the messages, and the enumeration of all.
macro_rules! messages {
    ($($(#[$doc:meta])* $kind:literal $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
            #[serde(default)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $type,)*
            }

            impl Part for $name {
                const KIND: u16 = $kind;
            }
        )*

        /// Any message.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Message {
            $($(#[$doc])* $name($name),)*
            /// One that this version does not know.
            Unknown(u16),
        }

        impl Message {
            /// Reads the document of a frame.
            ///
            /// # Errors
            /// It is no document of its kind.
            pub fn of(frame: &Frame) -> std::io::Result<Message> {
                Ok(match frame.kind {
                    $($kind => Message::$name(serde_json::from_slice(&frame.document)?),)*
                    unknown => Message::Unknown(unknown),
                })
            }
        }
    };
}

messages! {
    /// The new process asks for everything.
    1 Hello {
        /// The version that it speaks.
        version: u32,
        /// Its process id.
        pid: u32,
    }

    /// The old process begins to hand over. Sockets and states follow.
    2 Offer {
        /// The version that it speaks.
        version: u32,
        /// Its process id.
        pid: u32,
        /// The secret of the key that it made, since its file had none: 64 hex digits.
        random_key: Option<String>,
        /// When it started, in milliseconds since the Unix epoch.
        started: u64,
    }

    /// Sockets of one listener, in its frame's descriptors. More of the same may follow.
    3 ListenerSockets {
        /// Its address as the configuration writes it.
        address: String,
        /// A service manager keeps it, too.
        is_shared: bool,
    }

    /// The socket of the admin listener, in its frame's descriptors.
    4 AdminSocket {
        /// Its address as the configuration writes it.
        address: String,
    }

    /// The socket at which a process waits for its successor, in its frame's descriptors.
    5 WaitingSocket {
        /// Its path.
        path: String,
    }

    /// The state of each backend: all of it at first, and what the operator changes later.
    6 RuntimeState {
        /// By pool.
        pools: Vec<crate::pool::inherited::PoolState>,
    }

    /// The end of what is needed before the new process can build its parts. Sessions follow.
    7 SnapshotEnd {}

    /// Learned sessions of one pool: all of them at first, and later those that were learned or moved.
    8 SessionsPart {
        /// The pool.
        pool: String,
        /// The sessions.
        sessions: Vec<SessionPart>,
    }

    /// Learned sessions of one pool that have ended.
    9 SessionsRemoved {
        /// The pool.
        pool: String,
        /// Their keys, as 32 hex digits.
        keys: Vec<String>,
    }

    /// A session copy; the copy is in its frame's bytes.
    10 CopyPart {
        /// The pool.
        pool: String,
        /// The ref, as 32 hex digits.
        session: String,
        /// The term of the state.
        term: u32,
        /// The seq of the state.
        seq: u64,
        /// The current term of the session.
        current_term: u32,
        /// Whether the session has ended.
        is_dropped: bool,
        /// Whether there is a copy.
        is_held: bool,
        /// How long the application keeps it, in seconds.
        ttl: Option<u64>,
        /// The name of the server that has this state, if that has not been lost since.
        holder: Option<String>,
        /// The incarnation of that server's address.
        incarnation: u64,
    }

    /// The end of the sessions that there were. Later messages say what has changed.
    11 StateEnd {}

    /// The sessions of one backend, for its count.
    17 SessionCounts {
        /// The pool.
        pool: String,
        /// The backend.
        backend: String,
        /// The sessions.
        state: crate::pool::sessions::SessionsState,
    }

    /// The new process has built everything and would be ready.
    12 Prepared {
        /// The addresses of the listeners whose sockets it uses, as the configuration of the old process writes them. The
        /// old process closes all others as at a reload.
        listeners: Vec<String>,
        /// Whether it uses the socket of the admin listener.
        has_admin: bool,
    }

    /// The new process may accept connections.
    13 Commit {}

    /// The old process does not hand over, or the new one does not take over.
    14 Refused {
        /// Why.
        why: String,
    }

    /// The new process accepts connections: the old one stops accepting, and keeps the sockets.
    15 Accepting {}

    /// The old process shall end: the new one was asked to stop.
    16 Stop {
        /// The new one goes on. Too many old processes live, and this is the oldest.
        is_too_many: bool,
    }

    /// The new process has proven itself: the sockets are its own.
    18 Settled {
        /// The path at which it waits for its successor, and for older processes; `None` if nowhere.
        handover: Option<String>,
    }

    /// A process that another one has superseded introduces itself to the newest one.
    19 Older {
        /// The version that it speaks.
        version: u32,
        /// Its process id.
        pid: u32,
        /// When it started, in milliseconds since the Unix epoch.
        started: u64,
    }

    /// A third process has the sockets now.
    20 Superseded {
        /// The path at which it waits for its successor, and for older processes; `None` if nowhere.
        path: Option<String>,
    }
}

/// A learned session. Times are seconds since the Unix epoch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionPart {
    /// Its key, as 32 hex digits.
    pub key: String,
    /// The name of its backend.
    pub backend: String,
    /// The incarnation of its backend's address.
    pub incarnation: u64,
    /// When it began.
    pub issued: u64,
    /// When it was last seen.
    pub seen: u64,
    /// The number of its moves.
    pub version: u32,
    /// How often it was handed over together with its copy.
    pub term: u32,
    /// The name of a second backend that holds its state.
    pub replica: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn session() -> impl Strategy<Value = SessionPart> {
        let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>(), any::<u32>());
        ("[0-9a-f]{32}", "\\PC{0,20}", proptest::option::of("\\PC{0,20}"), numbers).prop_map(
            |(key, backend, replica, (incarnation, issued, seen, version, term))| SessionPart {
                key,
                backend,
                incarnation,
                issued,
                seen,
                version,
                term,
                replica,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_is_received(pool in "\\PC{0,20}", sessions in proptest::collection::vec(session(), 0..20)) {
            let part = SessionsPart { pool, sessions };
            prop_assert_eq!(Message::of(&part.frame().unwrap()).unwrap(), Message::SessionsPart(part));
        }

        #[test]
        fn fields_and_kinds_of_a_later_version_are_skipped_and_those_that_are_missing_have_a_default(
            name in "later_[a-z]{1,10}", value in any::<i64>(), kind in 1000u16.., term in any::<u32>(),
        ) {
            let mut document = serde_json::json!({ "pool": "app", "session": "00", "term": term, "holder": "a" });
            document[&name] = value.into();
            document[format!("{name}_2")] = serde_json::json!({ "nested": [value] });
            let frame = Frame::new(CopyPart::KIND, document.to_string().into(), Bytes::new());
            let expected = CopyPart { pool: "app".into(), session: "00".into(), term, holder: Some("a".into()), ..CopyPart::default() };
            prop_assert_eq!(Message::of(&frame).unwrap(), Message::CopyPart(expected));
            let frame = Frame::new(kind, document.to_string().into(), Bytes::new());
            prop_assert_eq!(Message::of(&frame).unwrap(), Message::Unknown(kind));
        }

        #[test]
        fn no_document_panics(kind in 0u16..20, document in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Message::of(&Frame::new(kind, document.into(), Bytes::new()));
        }
    }
}
