"""A server's sessions, and which state of which session it has under each name that Linchpin has for one.

A request never runs on a state older than its version, and a state that a client was told is saved. It is a SQLite
database: in this process's memory, or in a file that all processes of one server share.
"""

import contextlib
import dataclasses
import os
import secrets
import sqlite3
import threading
import time

from .field import SessionField

_SESSION, _WAITING, _ENDED = "session", "waiting", "ended"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY, data BLOB NOT NULL, expires REAL NOT NULL, ttl INTEGER NOT NULL, until REAL,
    is_unsaved INTEGER NOT NULL, saved_under TEXT, used REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sessions_used ON sessions (used);
CREATE TABLE IF NOT EXISTS refs (
    ref TEXT PRIMARY KEY, term INTEGER NOT NULL, seq INTEGER NOT NULL, state TEXT NOT NULL, id TEXT, sealed BLOB,
    taken INTEGER NOT NULL, used REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS refs_used ON refs (used);
CREATE INDEX IF NOT EXISTS refs_waiting ON refs (used) WHERE state = 'waiting';
CREATE TABLE IF NOT EXISTS totals (sessions INTEGER NOT NULL, refs INTEGER NOT NULL, waiting_bytes INTEGER NOT NULL);
INSERT INTO totals SELECT 0, 0, 0 WHERE NOT EXISTS (SELECT * FROM totals);
CREATE TRIGGER IF NOT EXISTS sessions_added AFTER INSERT ON sessions BEGIN
    UPDATE totals SET sessions = sessions + 1; END;
CREATE TRIGGER IF NOT EXISTS sessions_removed AFTER DELETE ON sessions BEGIN
    UPDATE totals SET sessions = sessions - 1; END;
CREATE TRIGGER IF NOT EXISTS refs_added AFTER INSERT ON refs BEGIN
    UPDATE totals SET refs = refs + 1, waiting_bytes = waiting_bytes + coalesce(length(NEW.sealed), 0); END;
CREATE TRIGGER IF NOT EXISTS refs_removed AFTER DELETE ON refs BEGIN
    UPDATE totals SET refs = refs - 1, waiting_bytes = waiting_bytes - coalesce(length(OLD.sealed), 0); END;
CREATE TRIGGER IF NOT EXISTS refs_opened AFTER UPDATE OF sealed ON refs BEGIN
    UPDATE totals SET waiting_bytes = waiting_bytes - coalesce(length(OLD.sealed), 0) + coalesce(length(NEW.sealed), 0);
END;
"""


@dataclasses.dataclass(frozen=True)
class Stored:
    """A session as it is in memory."""

    id: str
    data: bytes
    ttl: int  # seconds that it lives after its last request
    until: float | None  # Unix time when it ends in any case


@dataclasses.dataclass
class Request:
    """A request that runs: what it began with, and what the application has done with its session since."""

    field: SessionField | None  # None: Linchpin has not sent it, or keeps no copies
    taken: int = 0
    session: str | None = None  # the client's session, if the application has loaded or made one
    loaded: set = dataclasses.field(default_factory=set)
    written: Stored | None = None  # the session as this request wrote it, or tried to
    has_ended_session: bool = False  # or has tried to


class Memory:
    """A server's memory. All methods may be called from several threads, and with a file from several processes."""

    def __init__(self, keys, path=":memory:", sessions=100_000, waiting_bytes=64 << 20):
        self._keys, self._path = keys, path
        self._max_sessions, self._max_waiting_bytes = sessions, waiting_bytes
        self._lock, self._database, self._process = threading.Lock(), None, None

    @contextlib.contextmanager
    def _transaction(self):
        with self._lock:
            # A connection must not be used after a fork.
            if self._process != os.getpid():
                self._database = sqlite3.connect(self._path, timeout=10, isolation_level=None, check_same_thread=False)
                self._process = os.getpid()
                self._database.execute("PRAGMA journal_mode = WAL")
                # What the system has survives the death of a process. Copies are for the death of the system.
                self._database.execute("PRAGMA synchronous = OFF")
                self._database.executescript(_SCHEMA)
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    # Linchpin's messages

    def begin(self, field):
        """Returns the Request, or None if it needs the copy before it may run."""
        if field is None:
            return Request(None)
        with self._transaction() as database:
            held = self._held(database, field.ref)
            if held and held["state"] == _SESSION:
                row = database.execute("SELECT expires FROM sessions WHERE id = ?", (held["id"],)).fetchone()
                if row is None:
                    # It was dropped to make room: its copy is needed.
                    database.execute("DELETE FROM refs WHERE ref = ?", (field.ref,))
                    held = None
                elif row[0] <= time.time():
                    database.execute("UPDATE refs SET state = ? WHERE ref = ?", (_ENDED, field.ref))
            version = held and (held["term"], held["seq"])
            if field.version is not None and (version is None or version < field.version):
                if not field.dropped:
                    return None
                self._replace(database, field.ref, field.version, _ENDED)
            elif field.version is None and version is not None and version[0] + 1 < field.term:
                # Nobody holds a copy, and more than one hand-over has passed: another server has gone on from this state.
                self._forget(database, field.ref)
            held = self._held(database, field.ref)
            return Request(field, held["taken"] if held else 0)

    def take(self, ref, version, sealed, copy):
        """Takes a copy. Returns the version of the newer state if this server has one, else None."""
        with self._transaction() as database:
            held = self._held(database, ref)
            if held:
                own = (held["term"], held["seq"])
                if own > version or (own == version and held["state"] == _ENDED):
                    return own
            self._replace(database, ref, version, _WAITING, copy.id, sealed, secrets.randbits(62))
            while self._total(database, "waiting_bytes") > self._max_waiting_bytes:
                oldest = "SELECT ref FROM refs WHERE state = 'waiting' ORDER BY used LIMIT 1"
                self._forget(database, database.execute(oldest).fetchone()[0])

    def end(self, ref, version):
        """Ends a session. Returns the version of the newer state if this server has one, else None."""
        with self._transaction() as database:
            held = self._held(database, ref)
            if held and (held["term"], held["seq"]) > version:
                return held["term"], held["seq"]
            self._replace(database, ref, version, _ENDED, taken=secrets.randbits(62))

    def finish(self, request):
        """Returns what the response tells Linchpin: None, ("save", version, Stored) or ("drop", version)."""
        field = request.field
        if field is None:
            return None
        with self._transaction() as database:
            held = self._held(database, field.ref)
            version = (field.term, max(held["seq"] if held else 0, field.seq or 0) + 1)
            if self._is_overtaken(database, request):
                # Linchpin refuses the old term, so that no client is told of a change that was left behind.
                if request.written:
                    return "save", version, request.written
                return ("drop", version) if request.has_ended_session else None
            is_held = held is not None and (held["term"], held["seq"]) == field.version
            id = request.session
            if id is None and request.has_ended_session:
                self._replace(database, field.ref, version, _ENDED)
                return "drop", version
            if id is None and held and held["state"] == _WAITING and not is_held:
                # The application did not ask for the session. Linchpin needs a copy all the same, if it holds none.
                copy = self._keys.open(held["sealed"])
                database.execute("UPDATE refs SET term = ?, seq = ? WHERE ref = ?", (*version, field.ref))
                return copy and ("save", version, Stored(copy.id, copy.data, copy.ttl, copy.until))
            if id is None and held and held["state"] == _SESSION:
                id = held["id"]
            query = "SELECT data, ttl, until, is_unsaved, saved_under FROM sessions WHERE id = ?"
            row = database.execute(query, (id,)).fetchone()
            # Not only what this request changed: a client must not be told a state that Linchpin holds no copy of.
            if row is None or (is_held and not row[3] and row[4] == field.ref):
                return None
            database.execute("UPDATE sessions SET is_unsaved = 0, saved_under = ? WHERE id = ?", (field.ref, id))
            self._replace(database, field.ref, version, _SESSION, id)
            return "save", version, Stored(id, *row[:3])

    # the application's sessions

    def load(self, request, id):
        """Returns the data of a session, from the copy that waits for a client with this id if there is one."""
        now = time.time()
        with self._transaction() as database:
            if request.field:
                self._adopt(database, request.field.ref, id, now)
            query = "SELECT data FROM sessions WHERE id = ? AND expires > ?"
            row = database.execute(query, (id, now)).fetchone()
            if row is None:
                return None
            database.execute("UPDATE sessions SET used = ? WHERE id = ?", (now, id))
            request.session = id
            request.loaded.add(id)
            return row[0]

    def save(self, request, session):
        """Adds or changes a session, unless it has ended since the request loaded it."""
        now = time.time()
        with self._transaction() as database:
            row = database.execute("SELECT data FROM sessions WHERE id = ?", (session.id,)).fetchone()
            is_changed = row is None or row[0] != session.data
            if is_changed:
                request.written = session
            if self._is_overtaken(database, request) or (row is None and session.id in request.loaded):
                return
            request.session = session.id
            if row is None:
                self._make_room(database, now)
            expires = now + session.ttl if session.until is None else session.until
            values = (session.data, expires, session.ttl, session.until, now, session.id)
            if row is None:
                insert = "INSERT INTO sessions (data, expires, ttl, until, used, id, is_unsaved) VALUES (?, ?, ?, ?, ?, ?, 1)"
                database.execute(insert, values)
            else:
                update = "UPDATE sessions SET data = ?, expires = ?, ttl = ?, until = ?, used = ? WHERE id = ?"
                database.execute(update, values)
                if is_changed:
                    database.execute("UPDATE sessions SET is_unsaved = 1 WHERE id = ?", (session.id,))

    def delete(self, request, id):
        """Ends a session."""
        with self._transaction() as database:
            if self._is_overtaken(database, request):
                request.has_ended_session = True
                return
            if request.session == id:
                request.session = None
            request.has_ended_session |= database.execute("DELETE FROM sessions WHERE id = ?", (id,)).rowcount > 0

    # rows

    def _total(self, database, what):
        return database.execute(f"SELECT {what} FROM totals").fetchone()[0]

    def _held(self, database, ref):
        row = database.execute("SELECT term, seq, state, id, sealed, taken FROM refs WHERE ref = ?", (ref,)).fetchone()
        return row and dict(zip(("term", "seq", "state", "id", "sealed", "taken"), row))

    def _is_overtaken(self, database, request):
        """Whether another server has gone on with the session while the request ran: it must change nothing."""
        held = request.field and self._held(database, request.field.ref)
        return bool(held) and held["taken"] != request.taken

    def _adopt(self, database, ref, id, now):
        held = self._held(database, ref)
        if not held or held["state"] != _WAITING or held["id"] != id:
            return
        copy = self._keys.open(held["sealed"])
        since = database.execute("SELECT used FROM refs WHERE ref = ?", (ref,)).fetchone()[0]
        # Linchpin keeps a copy alive without a message: an idle time counts from when the copy was taken.
        expires = copy and (since + copy.ttl if copy.until is None else copy.until)
        if copy is None or expires <= now:
            database.execute("UPDATE refs SET state = ?, sealed = NULL WHERE ref = ?", (_ENDED, ref))
            return
        self._make_room(database, now)
        # Not in its place: REPLACE would delete a row without its trigger.
        database.execute("DELETE FROM sessions WHERE id = ?", (id,))
        database.execute(
            "INSERT INTO sessions (id, data, expires, ttl, until, is_unsaved, saved_under, used)"
            " VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
            (id, copy.data, expires, copy.ttl, copy.until, ref, now),
        )
        database.execute("UPDATE refs SET state = ?, sealed = NULL WHERE ref = ?", (_SESSION, ref))

    def _replace(self, database, ref, version, state, id=None, sealed=None, taken=None):
        """Sets what a name stands for, and forgets what it stood for before."""
        held = self._held(database, ref)
        if taken is None:
            taken = held["taken"] if held else 0
        self._forget(database, ref, keeps=id if state == _SESSION else None)
        # A client that lost its pin has a second name for the same session.
        self._trim(database, "refs", "ref", 2 * self._max_sessions)
        row = (ref, *version, state, id, sealed, taken, time.time())
        database.execute("INSERT INTO refs (ref, term, seq, state, id, sealed, taken, used) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _forget(self, database, ref, keeps=None):
        """Forgets a name, and its session if that was saved under it last and is not the one to keep."""
        held = self._held(database, ref)
        database.execute("DELETE FROM refs WHERE ref = ?", (ref,))
        if held and held["state"] == _SESSION and held["id"] != keeps:
            database.execute("DELETE FROM sessions WHERE id = ? AND saved_under = ?", (held["id"], ref))

    def _make_room(self, database, now):
        if self._total(database, "sessions") >= self._max_sessions:
            database.execute("DELETE FROM sessions WHERE expires <= ?", (now,))
            self._trim(database, "sessions", "id", self._max_sessions)

    def _trim(self, database, table, key, limit):
        """Drops a hundredth of a full table: what was not used for the longest time."""
        if self._total(database, table) >= limit:
            oldest = f"SELECT {key} FROM {table} ORDER BY used LIMIT ?"
            database.execute(f"DELETE FROM {table} WHERE {key} IN ({oldest})", (limit // 100 + 1,))
