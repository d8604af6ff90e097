"""Owns what is measured and the bar for each. It must not know how."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """What the clients do, and what Linchpin must reach.

    `bar` is the highest ratio to the better peer's CPU time a request; for idle connections, bytes a connection.
    """

    key: str
    title: str
    about: str
    bar: float
    mode: str = "hit"
    baseline: tuple = ("haproxy", "nginx")  # whose cost is 1: the better of these
    path: str = "/66"
    body: int = 66
    clients: int = 64
    tls: str = ""  # "full": a handshake in full for each connection; "resumed": only for a client's first
    streams: int = 0  # of HTTP/2, at once on each client's connection
    websocket: bool = False

    @property
    def is_idle(self):
        return self.mode == "idle"

    @property
    def unit(self):
        """What a proxy's cost is divided by."""
        if self.is_idle:
            return "tunnel" if self.websocket else "connection"
        return "message" if self.websocket else "request"

    @property
    def compares_itself(self):
        """Whether the contenders are ways to run Linchpin."""
        return "haproxy" not in self.baseline


SCENARIOS = [
    Scenario("hit", "sticky hit", "64 keep-alive clients, each with its own routing cookie; 66 bytes", 1.0),
    Scenario("new", "new client", "64 keep-alive connections; every request comes without a cookie and gets one", 1.0, "new"),
    Scenario("connect", "connection per request", "64 clients with a cookie, a TCP connection for each request", 1.05, "connect"),
    Scenario("16k", "16 KiB", "64 keep-alive clients with a cookie; 16 KiB", 0.9, path="/16k", body=16 * 1024),
    Scenario("1m", "1 MiB", "16 keep-alive clients with a cookie; 1 MiB", 0.6, path="/1m", body=1024 * 1024, clients=16),
    Scenario(
        "types", "types of persistence", "64 keep-alive clients that come back; 66 bytes; how each is recognised", 1.0,
        baseline=("cookie",),
    ),
    Scenario(
        "copies", "session copies", "64 keep-alive clients with a cookie and a session of 2 KiB each, on three servers; 66 bytes", 1.0,
        baseline=("no copies",),
    ),
    Scenario("idle", "idle connections", "4000 connections: one request each, then silence", 6 * 1024, "idle", clients=4000),
    Scenario(
        "tls-full", "full TLS handshake", "64 clients with a cookie, a connection and a full TLS 1.3 handshake for each request", 1.0,
        "connect", tls="full",
    ),
    Scenario(
        "tls-resumed", "resumed TLS handshake", "64 clients with a cookie, a connection and a resumed TLS 1.3 handshake for each request",
        1.0, "connect", tls="resumed",
    ),
    Scenario("https", "HTTPS", "64 keep-alive clients with a cookie, in TLS 1.3; 66 bytes", 1.0, tls="resumed"),
    Scenario(
        "h2", "HTTP/2", "3 clients with a cookie, each with one connection in TLS 1.3 and 100 requests at once on it; 66 bytes", 1.0,
        tls="resumed", streams=100, clients=3,
    ),
    Scenario("websocket", "WebSocket", "256 tunnels, in each a message of 64 bytes and its echo", 1.0, websocket=True, body=64, clients=256),
    Scenario(
        "tunnels", "idle tunnels", "10,000 WebSockets, or as many as descriptors allow: one message each, then silence", 10 * 1024, "idle", websocket=True, body=64,
        clients=10_000,
    ),
]
