"""Owns every process of a run: where it runs, what it has used, and that it ends.

Nothing that was started outlives the driver. It must not know proxies or HTTP.
"""

import os
import resource
import select
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROXY_CORE = 0
LOAD_CORE = 1
DESCRIPTORS = 30_000  # A tunnel takes a proxy two.


class Processes:
    """A temporary folder and the processes that live in it, until the `with` block is left."""

    def __enter__(self):
        self.descriptors = _raise_descriptors()
        self._folder = tempfile.TemporaryDirectory(prefix="linchpin-bench-")
        self.folder = Path(self._folder.name)
        self._running = []
        return self

    def __exit__(self, *_):
        while self._running:
            self.stop(self._running[-1])
        self._folder.cleanup()

    def start(self, command, core, output, **pipes):
        """Starts a command on one core; its output goes to a file of the temporary folder."""
        # The kernel ends the child if this driver is killed and cannot.
        command = ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(core), *map(str, command)]
        with open(self.folder / output, "ab") as sink:
            process = subprocess.Popen(command, **{"stdout": sink, "stderr": sink, **pipes})
        self._running.append(process)
        return process

    def stop(self, process):
        """Asks a process to end, then makes it."""
        self._running.remove(process)
        family = members(process.pid)
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        for pid in family[1:]:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()


def _raise_descriptors():
    """Raises the limit of open descriptors to what is wanted, or as far as we may; what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
            hard = DESCRIPTORS
        except (ValueError, OSError):
            pass  # Only root may: there will be fewer tunnels.
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


# Below the ephemeral range, so that no outgoing connection can hold one; each is handed out once.
_ports = iter(range(20_000, 32_000))


def free_port():
    """A free loopback port."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise SystemExit("no free port on the loopback address")


def wait_until_open(address, process, seconds=10):
    """Waits until something accepts connections at `host:port`; a process that has ended never will."""
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((host, int(port)), 1).close()
            return True
        except OSError:
            time.sleep(0.05)
    return False


def read_line(process, seconds):
    """The next line that a process prints, or a failure: never an endless wait."""
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    line = process.stdout.readline() if ready else b""
    if not line:
        raise SystemExit("the load generator fell silent")
    return line.decode().strip()


def members(pid):
    """A process and all its descendants, itself first."""
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for member in found:
        found.extend(children.get(member, []))
    return found


def cpu_seconds(pids):
    """User and system time of whole processes, in nanosecond precision, threads that have ended included.

    This is the clock of `clock_getcpuclockid(3)`: what `/proc/PID/stat` rounds to ticks of 10 ms.
    """
    process_clock = 2  # CPUCLOCK_SCHED, the low bits of such a clock's number.
    return sum(time.clock_gettime((~pid << 3) | process_clock) for pid in pids)


def resident_bytes(pids):
    """Resident memory; `smaps_rollup` counts pages, where `status` may lag."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
    return total


def core_busy_seconds(core):
    """The time that a core was not idle, or was not ours because the host took it."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
            return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    raise SystemExit(f"there is no core {core}: the comparison needs two")
