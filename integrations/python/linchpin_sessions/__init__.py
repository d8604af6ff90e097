"""Session copies for Flask-Session: behind Linchpin, a session survives the death of its server."""

from .flask import LinchpinSessions

__all__ = ["LinchpinSessions"]
