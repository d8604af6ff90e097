"""Owns what is compared: how each proxy is configured, started and asked for its version.

Each has one worker on one core, its access log in a file and its metrics on. It must not know scenarios.
"""

import getpass
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .processes import PROXY_CORE, free_port, members, wait_until_open

PEERS = ("haproxy", "nginx")
CERTIFICATE = "app.pem"  # what every proxy shows, and its key, in the folder of the run
CONFIGURATIONS = Path(__file__).parent.parent / "peers"


@dataclass
class Proxy:
    """One contender: a name, the program behind it, and which configuration it is given."""

    name: str
    kind: str
    program: str
    sticky: bool = True
    persistence: str = ""
    copies: str = ""  # where the pool holds copies of sessions; nothing: it has none
    path: str = ""  # instead of the scenario's
    bar: float | None = None  # instead of the scenario's
    fill: int = 0  # sessions that it knows before it is measured

    def version(self):
        """The program's own version, digits only."""
        if self.kind == "relay":
            return ""
        flag = "-v" if self.kind in PEERS else "--version"
        done = subprocess.run([self.program, flag], capture_output=True, text=True, timeout=10)
        found = re.search(r"\d+(\.\d+)+(-dev\d*)?", done.stdout + done.stderr)
        version = found.group() if found else "?"
        return f"{version} (with its own sticky sessions)" if self.is_sticky_nginx() else version

    def start(self, processes, origins):
        """Starts the proxy in front of the origins, and waits until it serves."""
        address, secure = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        command = self._command(processes, address, secure, origins)
        output = f"{self.name.replace(' ', '-')}.log"
        process = processes.start(command, PROXY_CORE, output)
        if not wait_until_open(address, process):
            output_text = (processes.folder / output).read_text(errors="replace")
            raise SystemExit(f"{self.name} did not start:\n{output_text}")
        return Running(process, address, secure, members(process.pid))

    def _command(self, processes, address, secure, origins):
        folder = processes.folder
        if self.kind == "relay":
            return [self.program, "relay", "--listen", address, *(f"--origin={o}" for o in origins.values())]
        template = next(CONFIGURATIONS.glob(f"{self.kind}.*"))
        pins = self._pins() if self.kind == "nginx" else {}
        values = {
            "LISTEN": address,
            "SECURE": secure,
            "CERTIFICATE": str(folder / CERTIFICATE),
            "DESCRIPTORS": str(processes.descriptors),
            # A connection takes two, and a few go elsewhere.
            "CONNECTIONS": str(processes.descriptors // 2 - 200),
            "ADMIN": f"127.0.0.1:{free_port()}",
            "DIR": str(folder),
            "NAME": self.name.replace(" ", "-"),
            "PERSISTENCE": self.persistence,
            "COPIES": f'[pools.copies]\nhold = "{self.copies}"' if self.copies else "",
            "BACKENDS": "\n\n".join(
                f'[[pools.backends]]\nname = "{name}"\naddress = "{origin}"' for name, origin in origins.items()),
            "USER": getpass.getuser(),
            **{name.upper(): origin for name, origin in origins.items()},
        }
        text = template.read_text()
        for given in (pins, values):
            text = re.sub(r"@([A-Z]+)@", lambda match: given.get(match[1], match[0]), text)
        config = folder / f"{values['NAME']}{template.suffix}"
        config.write_text(text)
        if self.kind == "haproxy":
            return [self.program, "-db", "-f", config]
        if self.kind == "nginx":
            return [self.program, "-p", folder, "-c", config]
        key = subprocess.run([self.program, "keygen"], capture_output=True, check=True, timeout=10).stdout
        (folder / f"{values['NAME']}.key").write_bytes(key)
        (folder / f"{values['NAME']}.key").chmod(0o600)
        return [self.program, "run", "-c", config]


    def _pins(self):
        """How this nginx pins clients: by its own sticky sessions, if it was built with them."""
        if self.is_sticky_nginx():
            pool, cookie, file = "app", "", "nginx-sticky.conf"
        else:
            # Always: a 101 gets none otherwise.
            pool, cookie, file = "$pool", "add_header Set-Cookie $new_pin always;", "nginx-map.conf"
        return {"PINS": (CONFIGURATIONS / file).read_text(), "POOL": pool, "SETCOOKIE": cookie}

    def is_sticky_nginx(self):
        """Whether it is an nginx with the directive `sticky`."""
        if self.kind != "nginx":
            return False
        text = "events {}\nhttp { upstream app { server 127.0.0.1:1; sticky cookie SRV; } }\n"
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "nginx.conf").write_text(f"pid {folder}/pid; error_log {folder}/error.log;\n{text}")
            check = [self.program, "-t", "-q", "-p", folder, "-c", f"{folder}/nginx.conf"]
            return subprocess.run(check, capture_output=True, timeout=10).returncode == 0


@dataclass
class Running:
    """A started proxy: its process, where it listens, in clear text and in TLS, and all the processes that work for it."""

    process: object
    address: str
    secure: str
    pids: list


# Where copies of sessions are, and what a save with each request may cost beside none.
HOLDS = {"balancer": 1.15, "secondary": 1.6, "all": None}
LEARNED = 'type = "learned"\nlearned = { cookie = "SID" }'


def types(program):
    """One Linchpin for each type of persistence."""
    def by(name, lines, **more):
        return Proxy(name, "linchpin", program, persistence=lines, **more)

    return [
        by("cookie", ""),
        by("header", 'type = "header"\nheader = { name = "X-Pin" }'),
        by("route", 'type = "route"\nroute = { cookie = "SID" }', path="/app"),
        by("learned", LEARNED, path="/app"),
        by("learned, one of a million", LEARNED, path="/app", fill=1_000_000),
    ]


def copies(program):
    """One Linchpin for each place of session copies, and whether each request changes its session."""
    def by(name, hold, path, bar=None):
        return Proxy(name, "linchpin", program, copies=hold, path=path, bar=bar)

    known = holds(program)
    unchanged = [by(f"{hold}, no change", hold, "/session", 1.02) for hold in known]
    changed = [by(f"{hold}, 2 KiB saved", hold, "/session/change", HOLDS[hold]) for hold in known]
    return [by("no copies", "", "/session"), *unchanged, *changed]


def holds(program):
    """The places for session copies that this build has."""
    def has(hold):
        text = f'[[listeners]]\naddress = "127.0.0.1:1"\n[[pools]]\nname = "app"\n[pools.copies]\nhold = "{hold}"\n'
        text += '[[pools.backends]]\nname = "a"\naddress = "127.0.0.1:2"\n[[pools.backends]]\nname = "b"\naddress = "127.0.0.1:3"\n'
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
            config.write(text)
            config.flush()
            check = [program, "check", "-c", config.name]
            return subprocess.run(check, capture_output=True, timeout=10).returncode == 0

    return [hold for hold in HOLDS if has(hold)]


# Each compares ways to run Linchpin: the scenario's key, and the contenders.
VARIANTS = {"types": types, "copies": copies}


def find_peers(names):
    """The peers' programs; Debian's packages are installed if they are missing and we may."""
    missing = [name for name in names if not _which(name)]
    if missing:
        install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
        try:
            subprocess.run(["apt-get", "update"], check=True, capture_output=True, timeout=300)
            subprocess.run(install, check=True, capture_output=True, timeout=600)
        except (OSError, subprocess.SubprocessError):
            raise SystemExit(f"missing: {', '.join(missing)}. As root: {' '.join(install)}") from None
    return [Proxy(name, name, _which(name)) for name in names]


def _which(name):
    """Returns the program: what the environment names (`NGINX=`, `HAPROXY=`), or the one that is installed."""
    if given := os.environ.get(name.upper()):
        return str(Path(given).resolve(strict=True))
    # Debian keeps servers where only root's PATH looks.
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
