"""Owns what the copies of a session take: bytes and messages, for two to six servers, beside Tomcat's clusters.

Memory is measured as it grows with sessions; messages are counted by those that receive them. It must not know what a
request costs.
"""

import http.client
import json
import sys
from dataclasses import dataclass

from . import tomcat
from .processes import LOAD_CORE, free_port, resident_bytes, wait_until_open
from .proxies import Proxy, holds

SERVERS = range(2, 7)
SESSIONS = 5000  # of Linchpin's: resident memory grows by pages
WARM_UP = 1000
TOMCAT_SESSIONS = 1000
SIZE = 2048


@dataclass
class Footprint:
    """What one way to keep sessions takes, with so many servers."""

    way: str
    servers: int
    bytes: float  # a session, on all servers and in Linchpin together
    in_linchpin: float
    messages: float  # a save, between servers, or between Linchpin and servers


def check_tools():
    """Ends the run before it has begun if something is missing that it would need at its end."""
    if missing := tomcat.missing():
        raise SystemExit(f"missing: {', '.join(missing)}. The scenario copies needs a JDK and Debian's tomcat10-common")


def measure(processes, program, own, learn):
    """Every way with every number of servers. `learn(proxy, target, sessions)` makes so many new sessions."""
    found = []
    known = holds(program)
    for servers in SERVERS:
        for hold in known:
            found.append(_linchpin(processes, program, own, learn, hold, servers))
            _say(found[-1])
        for manager in tomcat.MANAGERS:
            with tomcat.Cluster(processes, manager, servers) as cluster:
                taken = cluster.measure(TOMCAT_SESSIONS, SIZE)
            found.append(Footprint(f"Tomcat {manager}", servers, taken["server_bytes"], 0, taken["messages"]))
            _say(found[-1])
    return found


def _linchpin(processes, program, own, learn, hold, servers):
    origins = {f"s{number}": f"127.0.0.1:{free_port()}" for number in range(servers)}
    command = [own, "origin", *(f"--listen={name}={address}" for name, address in origins.items())]
    origin = processes.start(command, LOAD_CORE, "origin.log")
    if not all(wait_until_open(address, origin) for address in origins.values()):
        raise SystemExit("the origins did not start")
    proxy = Proxy(f"{hold} {servers}", "linchpin", program, copies=hold, path="/session/change")
    target = proxy.start(processes, origins)
    learn(proxy, target, WARM_UP)
    before, counts = _resident(target, origin), _counts(origins)
    learn(proxy, target, SESSIONS)
    after, now = _resident(target, origin), _counts(origins)
    for process in (target.process, origin):
        processes.stop(process)
    saves = now["saves"] - counts["saves"]
    messages = sum(now[kind] - counts[kind] for kind in ("puts", "deletes"))
    in_linchpin, on_servers = ((now - then) / saves for now, then in zip(after, before))
    return Footprint(hold, servers, in_linchpin + on_servers, in_linchpin, messages / saves)


def _resident(target, origin):
    return resident_bytes(target.pids), resident_bytes([origin.pid])


def _counts(origins):
    total = {}
    for address in origins.values():
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", "/counts")
        for name, count in json.loads(connection.getresponse().read()).items():
            total[name] = total.get(name, 0) + count
        connection.close()
    return total


def _say(found):
    print(f"  {found.servers} servers  {found.way:22} {found.bytes:8.0f} bytes/session  {found.messages:.2f} messages/save", file=sys.stderr)
