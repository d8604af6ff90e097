"""Owns the order of a run and one measurement: what a proxy used between the first request and the last.

Each round measures every proxy, so that changes of the machine's load affect all of them, and each begins with another
one: what comes after whom makes a difference. It must not know which is which.
"""

import json
import subprocess
import time

from .processes import (
    LOAD_CORE, PROXY_CORE, core_busy_seconds, cpu_seconds, free_port, read_line, resident_bytes, wait_until_open,
)
from .proxies import CERTIFICATE

ORIGINS = ("a", "b", "c")
IDLE_ROUNDS = 2  # Memory does not vary as time does.


class Bench:
    """The origins and one running process for each proxy."""

    def __init__(self, processes, program, pattern, seconds, settle):
        self.processes, self.program, self.pattern = processes, program, pattern
        self.seconds, self.settle = seconds, settle
        self.origins = {name: f"127.0.0.1:{free_port()}" for name in ORIGINS}
        listens = [f"--listen={name}={address}" for name, address in self.origins.items()]
        process = self.origin = processes.start([program, "origin", f"--batch={pattern.batch}", *listens], LOAD_CORE, "origin.log")
        if not all(wait_until_open(address, process) for address in self.origins.values()):
            raise SystemExit("the origins did not start")
        self.certificate = processes.folder / CERTIFICATE
        if not self.certificate.exists():
            subprocess.run([program, "certificate", self.certificate], check=True, timeout=10)
        self.running = {}
        self.learned_bytes = None  # of resident memory, for each session of a filled table

    def run(self, scenario, proxies, rounds):
        """Yields one record for each proxy and round: A B C, B C A, …"""
        if scenario.tls:
            # A relay takes no part in TLS.
            proxies = [proxy for proxy in proxies if proxy.kind != "relay"]
        if scenario.is_idle:
            rounds = min(rounds, IDLE_ROUNDS)
            # A relay keeps both its buffers while a client is silent: no floor for those that need not.
            proxies = [proxy for proxy in proxies if proxy.kind != "relay"]
        for number in range(rounds):
            first = number % max(len(proxies), 1)
            for proxy in proxies[first:] + proxies[:first]:
                measure = self._idle if scenario.is_idle else self._busy
                record = measure(scenario, proxy)
                yield {"scenario": scenario.key, "pattern": self.pattern.key, "round": number, "proxy": proxy.name, **record}

    def _busy(self, scenario, proxy):
        if proxy.name not in self.running:
            self.running[proxy.name] = proxy.start(self.processes, self.origins)
            if proxy.fill:
                self._fill(proxy, self.running[proxy.name])
        target = self.running[proxy.name]
        load = self._start_load(scenario, proxy, target)
        core, cpu = core_busy_seconds(PROXY_CORE), cpu_seconds(target.pids)
        report = self._go(load)
        time.sleep(0.1)  # Log lines that are still queued are part of the cost.
        cpu = cpu_seconds(target.pids) - cpu
        core = core_busy_seconds(PROXY_CORE) - core
        self._finish(load)
        return {
            **report,
            "requests_per_second": report["requests"] / report["seconds"],
            "cpu_us": cpu * 1e6 / max(report["requests"], 1),
            "busy": cpu / report["seconds"],
            "foreign": max(core - cpu, 0) / report["seconds"],
        }

    def _fill(self, proxy, target):
        self.learn(proxy, target, 2000)  # what every process takes once is not the table's
        before = resident_bytes(target.pids)
        self.learn(proxy, target, proxy.fill)
        self.learned_bytes = (resident_bytes(target.pids) - before) / proxy.fill

    def stop(self):
        """Ends what runs."""
        for target in self.running.values():
            self.processes.stop(target.process)
        self.processes.stop(self.origin)
        self.running = {}

    def learn(self, proxy, target, sessions):
        """Makes so many new sessions, each by one request."""
        command = [
            self.program, "load", f"--target={target.address}", "--mode=new", f"--path={proxy.path}", "--body=66",
            "--clients=64", f"--requests={sessions}",
        ]
        load = self.processes.start(command, LOAD_CORE, "load.log", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        read_line(load, 60)
        load.stdin.write(b"go\n")
        load.stdin.flush()
        report = json.loads(read_line(load, 150))
        if report["errors"] or report["requests"] < sessions:
            raise SystemExit(f"{proxy.name} could not be filled: {report}")
        self._finish(load)

    def _idle(self, scenario, proxy):
        # A fresh process: memory that busy clients left behind would be used again, and not be seen.
        target = proxy.start(self.processes, self.origins)
        load = self._start_load(scenario, proxy, target)
        before = resident_bytes(target.pids)
        report = self._go(load)
        time.sleep(self.settle)
        grown = resident_bytes(target.pids) - before
        kept, clients = self._finish(load), self._clients(scenario)
        self.processes.stop(target.process)
        if kept < clients:
            report["errors"] += clients - kept
            report["first_error"] = report["first_error"] or "idle connections were closed"
        return {**report, "idle_bytes": grown / clients}

    def _clients(self, scenario):
        """How many there are; fewer tunnels than wanted where descriptors do not allow more."""
        return min(scenario.clients, self.processes.descriptors // 2 - 500)

    def _start_load(self, scenario, proxy, target):
        command = [
            self.program, "load", f"--target={target.secure if scenario.tls else target.address}", f"--mode={scenario.mode}",
            f"--path={proxy.path or scenario.path}",
            f"--body={scenario.body}", f"--clients={self._clients(scenario)}", f"--seconds={self.seconds}",
            f"--batch={self.pattern.batch}",
        ]
        if proxy.sticky:
            command.append("--sticky")
        if scenario.websocket:
            command.append("--websocket")
        if scenario.tls:
            command.append(f"--tls={self.certificate}")
        if scenario.tls == "full":
            command.append("--full")
        if scenario.streams:
            command.append(f"--streams={scenario.streams}")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        load = self.processes.start(command, LOAD_CORE, "load.log", **pipes)
        if read_line(load, 60) != "ready":
            raise SystemExit("the load generator did not get ready")
        return load

    def _go(self, load):
        load.stdin.write(b"go\n")
        load.stdin.flush()
        return json.loads(read_line(load, self.seconds + 60))

    def _finish(self, load):
        """Lets the clients hang up; how many connections the proxy had kept."""
        load.stdin.close()
        kept = int(read_line(load, 10))
        load.wait(10)
        self.processes.stop(load)
        return kept
