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

    @property
    def is_idle(self):
        return self.mode == "idle"

    @property
    def compares_types(self):
        return self.key == "types"


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
    Scenario("idle", "idle connections", "4000 connections: one request each, then silence", 6 * 1024, "idle", clients=4000),
]
