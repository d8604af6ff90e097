"""The session interface for Flask, and the WSGI layer around the application that speaks with Linchpin."""

import contextvars
import logging
import os
import time
from http import HTTPStatus

from flask_session.base import ServerSideSessionInterface

from . import field
from .memory import Memory, Request, Stored
from .seal import Keys

PATH = "/.well-known/linchpin/session"

_log = logging.getLogger(__name__)
_request = contextvars.ContextVar("linchpin_sessions.request")


class LinchpinSessions:
    """Keeps an application's sessions in this server, with a copy of each in Linchpin.

    secret: 32 bytes or more, the same on all servers; or a list of them: the first seals copies, all open them.
    folder: where the processes of this server share their sessions; without one they are in this process's memory.
    sessions: most sessions. At this limit those that were not used for the longest time are dropped.
    copy_bytes: the longest copy, as `max` of the pool's `[pools.copies]`. A session with a longer one has no copy.
    """

    def __init__(self, app=None, *, secret, folder=None, sessions=100_000, copy_bytes=32 << 10):
        self._keys = Keys(secret if isinstance(secret, (list, tuple)) else [secret])
        path = ":memory:"
        if folder is not None:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            path = os.path.join(folder, "sessions.sqlite")
        self._memory = Memory(self._keys, path, sessions)
        self._copy_bytes = copy_bytes
        if app is not None:
            self.init_app(app)

    def init_app(self, app):
        """Sets the application's session interface, and puts the layer around it."""
        config = app.config
        app.session_interface = _Interface(
            self._memory,
            app=app,
            key_prefix=config.get("SESSION_KEY_PREFIX", "session:"),
            permanent=config.get("SESSION_PERMANENT", True),
            sid_length=config.get("SESSION_ID_LENGTH", 32),
            serialization_format=config.get("SESSION_SERIALIZATION_FORMAT", "msgpack"),
        )
        inner = app.wsgi_app
        app.wsgi_app = lambda environ, start_response: self._serve(inner, environ, start_response)

    def _serve(self, inner, environ, start_response):
        session_field = field.read(environ.get("HTTP_LINCHPIN_SESSION"))
        if environ.get("PATH_INFO") == PATH:
            return self._answer_linchpin(environ, session_field, start_response)
        request = self._memory.begin(session_field)
        if request is None:
            return _respond(start_response, HTTPStatus.CONFLICT, ("Linchpin-Session-Want", "?1"))

        told = []

        def start(status, headers, *exc_info):
            # Of the response to an error that begins anew, too: its head has not been sent.
            if not told:
                told.append(self._tell(request))
            return start_response(status, [*headers, *told[0]], *exc_info)

        token = _request.set(request)
        try:
            return inner(environ, start)
        finally:
            _request.reset(token)

    def _tell(self, request):
        """Returns the fields that tell Linchpin the new state."""
        outcome = self._memory.finish(request)
        if outcome is None:
            return []
        kind, version, *rest = outcome
        if kind == "save":
            stored = rest[0]
            copy = self._keys.seal(stored)
            if len(copy) <= self._copy_bytes:
                ttl = stored.ttl if stored.until is None else max(1, int(stored.until - time.time()))
                return [("Linchpin-Session-Save", field.save(copy, version, ttl))]
            # No copy is better than an old one. The session goes on in this server's memory.
            _log.warning(
                "a session is too long for a copy (%d bytes, %d allowed): if this server dies, it is lost",
                len(copy), self._copy_bytes,
            )
        return [("Linchpin-Session-Drop", field.drop(version))]

    def _answer_linchpin(self, environ, session_field, start_response):
        """Takes a copy, or ends a session."""
        method = environ["REQUEST_METHOD"]
        if method not in ("PUT", "DELETE"):
            return _respond(start_response, HTTPStatus.METHOD_NOT_ALLOWED, ("Allow", "PUT, DELETE"))
        if session_field is None or session_field.version is None:
            return _respond(start_response, HTTPStatus.BAD_REQUEST)
        ref, version = session_field.ref, session_field.version
        if method == "DELETE":
            newer = self._memory.end(ref, version)
        else:
            length = environ.get("CONTENT_LENGTH") or ""
            if not length.isdecimal():
                return _respond(start_response, HTTPStatus.LENGTH_REQUIRED)
            if int(length) > self._copy_bytes:
                return _respond(start_response, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            sealed = environ["wsgi.input"].read(int(length))
            copy = self._keys.open(sealed)
            if copy is None:
                _log.warning("refused a copy of session %s: it was not sealed with one of the secrets", ref)
                return _respond(start_response, HTTPStatus.UNPROCESSABLE_ENTITY)
            newer = self._memory.take(ref, version, sealed, copy)
        if newer:
            return _respond(start_response, HTTPStatus.CONFLICT, ("Linchpin-Session", field.session(ref, newer)))
        return _respond(start_response, HTTPStatus.NO_CONTENT)


def _respond(start_response, status, *headers):
    length = [] if status == HTTPStatus.NO_CONTENT else [("Content-Length", "0")]
    start_response(f"{status.value} {status.phrase}", [*headers, *length])
    return [b""]


class _Interface(ServerSideSessionInterface):
    """What Flask-Session needs to know of a storage."""

    ttl = True

    def __init__(self, memory, *, app, **settings):
        super().__init__(app, **settings)
        self._memory, self._config = memory, app.config

    def _retrieve_session_data(self, store_id):
        data = self._memory.load(_running(), store_id)
        # Not by the serializer's own method: what it cannot read, it takes for a pickle.
        return None if data is None else self.serializer.decoder.decode(data)

    def _delete_session(self, store_id):
        self._memory.delete(_running(), store_id)

    def _upsert_session(self, session_lifetime, session, store_id):
        ttl = max(1, int(session_lifetime.total_seconds()))
        # Unless each request refreshes the session, it ends that long after its last change.
        until = None if self._config["SESSION_REFRESH_EACH_REQUEST"] else time.time() + ttl
        self._memory.save(_running(), Stored(store_id, self.serializer.encode(session), ttl, until))


def _running():
    """Returns the request that this thread serves. What an application changes elsewhere is saved with the next response."""
    return _request.get(None) or Request(None)
