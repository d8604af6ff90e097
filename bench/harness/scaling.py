"""Owns how a request's cost grows with backends, routes and sessions: instructions of the program, counted by callgrind.

Instructions do not depend on what else the machine does. It must not know the other scenarios.
"""

import http.client
import os
import random
import re
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .processes import LOAD_CORE, PROXY_CORE, free_port, wait_until_open

BALANCES = ["round_robin", "least_requests", "least_sessions", "random_two", "hash"]
BACKENDS = [10, 100, 1_000, 10_000]
ROUTES = [1, 100, 10_000]
SESSIONS = [1_000, 10_000, 100_000]
COUNTED = 300


@dataclass
class Cost:
    """Instructions a request, of one kind of request with one size of the configuration."""

    axis: str
    kind: str
    size: int
    instructions: float


class Origin:
    """A server at every loopback address: it closes the connection if the path asks for it."""

    def __init__(self):
        self.listener = socket.create_server(("0.0.0.0", free_port()), backlog=512)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            threading.Thread(target=self._serve, args=(self.listener.accept()[0],), daemon=True).start()

    @staticmethod
    def _serve(stream):
        with stream:
            head = b""
            while chunk := stream.recv(4096):
                head += chunk
                if not head.endswith(b"\r\n\r\n"):
                    continue
                ends = b" /close" in head.split(b"\r\n", 1)[0]
                stream.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n" + (b"connection: close\r\n" if ends else b"") + b"\r\nok")
                if ends:
                    return
                head = b""


class Counted:
    """A Linchpin under callgrind, which counts only while it is told to."""

    def __init__(self, processes, program, text):
        self.folder = processes.folder
        self.file = self.folder / f"scaling-{free_port()}.toml"
        self.address = f"127.0.0.1:{free_port()}"
        self.head = f'[server]\nthreads = 1\n[log]\naccess = "{self.folder}/access.log"\n[[listeners]]\naddress = "{self.address}"\n'
        self.file.write_text(self.head + text)
        self.counts = self.folder / f"{self.file.stem}.callgrind"
        options = ["--instr-atstart=no", "--separate-threads=yes", f"--callgrind-out-file={self.counts}"]
        command = ["valgrind", "--tool=callgrind", *options]
        self.process = processes.start([*command, program, "run", "-c", self.file], PROXY_CORE, "scaling.log")
        if not wait_until_open(self.address, self.process, 120):
            raise SystemExit((self.folder / "scaling.log").read_text()[-2000:])
        self.client = http.client.HTTPConnection(self.address, timeout=60)
        # Once it serves, all threads have their names; callgrind numbers them as they begin.
        self.client.request("GET", "/")
        self.client.getresponse().read()
        tasks = sorted(int(task.name) for task in Path(f"/proc/{self.process.pid}/task").iterdir())
        names = [Path(f"/proc/{self.process.pid}/task/{task}/comm").read_text().strip() for task in tasks]
        self.thread = 1 + names.index("worker-0")

    def reload(self, text):
        """Installs another configuration. What backends have counted stays."""
        self.file.write_text(self.head + text)
        os.kill(self.process.pid, 1)
        time.sleep(3)

    def request(self, path, host="a.test", cookie=None):
        """Sends one request on the kept connection, and returns the cookie that it got."""
        self.client.request("GET", path, headers={"Host": host, **({"Cookie": cookie} if cookie else {})})
        response = self.client.getresponse()
        if response.read() != b"ok":
            raise SystemExit(f"{path}: {response.status}")
        return (response.headers.get("set-cookie") or "").split(";")[0] or None

    def instructions(self, send):
        """Instructions of one call of `send`, over many."""
        for _ in range(30):
            send()
        counts = []
        self._control("-i", "on")
        self._control("-z")
        for calls in (COUNTED, 2 * COUNTED):
            for _ in range(calls):
                send()
            self._control("-d")
            counts.append(self._dumped())
        self._control("-i", "off")
        # The difference: what it takes to switch counting on and off is in both.
        return (counts[1] - counts[0]) / COUNTED

    def _dumped(self):
        """Instructions of the data-path thread. The control thread looks at all backends several times a second."""
        found = 0
        for file in self.folder.glob(f"{self.counts.name}*"):
            text = file.read_text()
            thread, total = re.search(r"^thread: (\d+)", text, re.M), re.search(r"^(?:summary|totals): (\d+)", text, re.M)
            if thread and total and int(thread[1]) == self.thread:
                found += int(total[1])
            file.unlink()
        return found

    def _control(self, *arguments):
        subprocess.run(["callgrind_control", *arguments, str(self.process.pid)], check=True, capture_output=True, timeout=120)


def _backends(count, port):
    addresses = (f"127.{1 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}:{port}" for number in range(count))
    return "".join(f'[[pools.backends]]\nname = "b{number}"\naddress = "{address}"\n' for number, address in enumerate(addresses))


def _pool(balance, count, port):
    pool = f'[[pools]]\nname = "app"\nbalance = "{balance}"\nhealth = {{ type = "none" }}\n'
    by = 'hash = { by = "query", name = "key" }\n' if balance == "hash" else ""
    return pool + by + _backends(count, port)


def measure(processes, program, say):
    """Every size of every axis."""
    found, origin = [], Origin()
    os.sched_setaffinity(0, {LOAD_CORE})

    def add(axis, kind, size, cost):
        found.append(Cost(axis, kind, size, cost))
        say(f"{axis} {size:,}: {kind}: {cost:,.0f} instructions")

    for size in BACKENDS:
        counted = Counted(processes, program, _pool("round_robin", size, origin.port))
        # A backend's first request makes its counters: each has had one.
        for _ in range(size + size // 10):
            counted.request("/close")
        pin = counted.request("/")
        add("backends", "known client", size, counted.instructions(lambda: counted.request("/", cookie=pin)))
        for balance in BALANCES:
            counted.reload(_pool(balance, size, origin.port))
            cost = counted.instructions(lambda: counted.request(f"/close?key={random.getrandbits(64)}"))
            add("backends", f"new client, {balance}", size, cost)
        processes.stop(counted.process)
    for size in ROUTES:
        routes = "".join(
            f'[[routes]]\nhosts = ["h{number % 1000}.test"]\npath_prefix = "/p{number // 1000}"\npool = "app"\n' for number in range(size)
        )
        counted = Counted(processes, program, routes + _pool("round_robin", 10, origin.port))
        def known():
            number = random.randrange(size)
            counted.request(f"/p{number // 1000}/x", f"h{number % 1000}.test", pin)
        add("routes", "known client", size, counted.instructions(known))
        processes.stop(counted.process)
    counted = Counted(processes, program, _pool("least_sessions", 10, origin.port))
    begun = 0
    for size in SESSIONS:
        while begun < size:
            begun, pin = begun + 1, counted.request("/")
        add("sessions", "known client", size, counted.instructions(lambda: counted.request("/", cookie=pin)))
        add("sessions", "new client, least_sessions", size, counted.instructions(lambda: counted.request("/close")))
        begun += 3 * COUNTED + 30
    processes.stop(counted.process)
    return found


BEGIN, END = "<!-- scaling: begin; bench/scale writes this -->", "<!-- scaling: end -->"


def section(found):
    """The section of the page."""
    lines = [
        BEGIN, "## Scaling", "",
        "Instructions of the program for a request (callgrind; the kernel's are not in it), in thousands, and the ratio to the smallest size.",
        "One thread, one client, the access log on. A new client's request also opens a connection to its backend and closes it; each backend",
        "had served before. Rendezvous hashing computes a hash for each backend, and its choice is promised: `hash` is not flat.", "",
        "![Instructions of a request, by the number of backends](scaling.svg)",
    ]
    for axis in dict.fromkeys(cost.axis for cost in found):
        mine = [cost for cost in found if cost.axis == axis]
        sizes = list(dict.fromkeys(cost.size for cost in mine))
        lines += ["", "| " + " | ".join([f"{axis}:", *(f"{size:,}" for size in sizes)]) + " |", "|" + " --- |" * (len(sizes) + 1)]
        for kind in dict.fromkeys(cost.kind for cost in mine):
            costs = [next(cost.instructions for cost in mine if (cost.kind, cost.size) == (kind, size)) for size in sizes]
            cells = [f"{cost / 1000:.1f} ({cost / costs[0]:.2f} ×)" for cost in costs]
            lines.append("| " + " | ".join([kind, *cells]) + " |")
    return "\n".join([*lines, END, ""])


def replace(page, text):
    """The page with this section in the place of the one that it has, or at its end."""
    before, begin, rest = page.partition(BEGIN)
    after = rest.partition(END)[2].lstrip("\n") if begin else ""
    return before.rstrip("\n") + "\n\n" + text + ("\n" + after if after else "")


def kept(before, page):
    """A new page with the section that the one before it has."""
    _, begin, rest = before.partition(BEGIN)
    return replace(page, begin + rest.partition(END)[0] + END + "\n") if begin else page


COLOURS = ["#57606a", "#0099cc", "#e8702a", "#c2439a", "#2ca58d", "#d6a100"]


def svg(found):
    """Lines over the number of backends, each step ten times as many."""
    from .plot import WIDTH, picture, text

    mine = [cost for cost in found if cost.axis == "backends"]
    sizes = list(dict.fromkeys(cost.size for cost in mine))
    most = max(cost.instructions for cost in mine)
    left, top, tall, wide = 76, 60, 260, WIDTH - 110
    bottom, parts = top + tall, []
    for number, kind in enumerate(dict.fromkeys(cost.kind for cost in mine)):
        line = [
            (left + sizes.index(cost.size) / (len(sizes) - 1) * wide, bottom - cost.instructions / most * tall)
            for cost in mine if cost.kind == kind
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[number]}" stroke-width="2.5"/>')
        x, y = 16 + number % 3 * 240, bottom + 50 + number // 3 * 22
        parts += [f'<path d="M{x},{y - 4} h22" stroke="{COLOURS[number]}" stroke-width="2.5"/>', text(x + 30, y, kind)]
    parts += [f'<path class="axis" fill="none" d="M{left - 8},{top} V{bottom} H{left + wide}"/>']
    parts += [text(16, top + 6, f"{most / 1000:,.0f}", "small"), text(left - 24, bottom + 4, "0", "small")]
    parts += [text(left + number / (len(sizes) - 1) * wide - 12, bottom + 20, f"{size:,}", "small") for number, size in enumerate(sizes)]
    title = "Thousand instructions a request, by the number of backends: lower is better"
    return picture(bottom + 90, "Instructions of a request, by the number of backends", title, parts)
