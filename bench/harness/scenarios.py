"""Owns what is measured and the bar for each. It must not know how."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pattern:
    """How the clients and origins work beside the proxy."""

    key: str
    about: str
    batch: int  # sockets that a process serves between two looks at which are ready


PATTERNS = [
    Pattern("together", "clients and origins serve every socket that is ready, and then look again: many are ready at once", 1024),
    Pattern("separate", "clients and origins look again after each socket, which leaves the proxy few at a time", 1),
]


@dataclass(frozen=True)
class Scenario:
    """What the clients do, and what Linchpin must reach.

    `bar` is the highest ratio to the better peer's CPU time a request; for idle connections, bytes a connection.
    `p50_bar` and `p99_bar` are the highest ratios of latency to nginx's.
    """

    key: str
    title: str
    about: str
    bar: float | None
    mode: str = "hit"
    baseline: tuple = ("haproxy", "nginx")  # whose cost is 1: the better of these
    path: str = "/66"
    body: int = 66
    clients: int = 64
    tls: str = ""  # "full": a handshake in full for each connection; "resumed": only for a client's first
    streams: int = 0  # of HTTP/2, at once on each client's connection
    websocket: bool = False
    p50_bar: float | None = None
    p99_bar: float | None = None

    @property
    def patterns(self):
        """The keys of the patterns in which it is measured. Memory and comparisons of Linchpin with itself have but one."""
        return ["together"] if self.is_idle or self.compares_itself else [pattern.key for pattern in PATTERNS]

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
    Scenario("hit", "sticky hit", "64 keep-alive clients, each with its own routing cookie; 66 bytes", 1.0, p99_bar=1.1),
    Scenario("new", "new client", "64 keep-alive connections; every request comes without a cookie and gets one", 1.0, "new"),
    Scenario("connect", "connection per request", "64 clients with a cookie, a TCP connection for each request", 1.0, "connect"),
    Scenario("one", "one client", "one keep-alive client with a cookie, one request at a time; 66 bytes", None, clients=1, p50_bar=1.1),
    *(
        Scenario(f"clients-{count}", f"{count} clients", f"{count} keep-alive clients with a cookie; 66 bytes", None, clients=count)
        for count in (4, 16, 256)
    ),
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
    Scenario("idle", "idle connections", "4000 connections: one request each, then silence", 1.2 * 1024, "idle", clients=4000),
    Scenario(
        "tls-full", "full TLS handshake", "64 clients with a cookie, a connection and a full TLS 1.3 handshake for each request", 1.0,
        "connect", tls="full",
    ),
    Scenario(
        "tls-resumed", "resumed TLS handshake", "64 clients with a cookie, a connection and a resumed TLS 1.3 handshake for each request",
        1.0, "connect", tls="resumed",
    ),
    Scenario("https", "HTTPS", "64 keep-alive clients with a cookie, in TLS 1.3; 66 bytes", 0.85, tls="resumed"),
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

# The scenarios that differ in the number of clients alone: the points of the curve.
CURVE = ["one", "clients-4", "clients-16", "hit", "clients-256"]
