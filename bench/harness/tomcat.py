"""Owns the clusters of Tomcat that session copies are compared with: how they start, and what they measure.

The web application is that of demo/tomcat.sh; it asks each server for its heap and its messages. It must not know Linchpin.
"""

import http.client
import json
import re
import shutil
import subprocess
import time
import urllib.parse
from pathlib import Path

from .processes import LOAD_CORE, PROXY_CORE, free_port, wait_until_open

HOME = Path("/usr/share/tomcat10")
TEMPLATE = Path(__file__).parent.parent / "peers" / "tomcat.xml"
SHOP = Path(__file__).parent.parent.parent / "demo" / "tomcat"
MANAGERS = {"DeltaManager": "", "BackupManager": 'mapSendOptions="6"'}
WEB_XML = """<web-app xmlns="https://jakarta.ee/xml/ns/jakartaee" version="6.0">
  <distributable/>
  <servlet><servlet-name>shop</servlet-name><servlet-class>Shop</servlet-class></servlet>
  <servlet-mapping><servlet-name>shop</servlet-name><url-pattern>/</url-pattern></servlet-mapping>
  <servlet><servlet-name>measures</servlet-name><servlet-class>Measures</servlet-class></servlet>
  <servlet-mapping><servlet-name>measures</servlet-name><url-pattern>/measures</url-pattern></servlet-mapping>
</web-app>
"""
WARM_UP, SAVES = 100, 300  # sessions on each server; saves


def missing():
    """What has to be installed first, in a few words; nothing if all is there."""
    tools = [tool for tool in ("java", "javac") if not shutil.which(tool)]
    return tools + ([] if (HOME / "lib" / "catalina-ha.jar").exists() else ["tomcat10-common"])


class Cluster:
    """So many Tomcats with one of the two managers, until the `with` block is left."""

    def __init__(self, processes, manager, servers):
        self.processes, self.manager = processes, manager
        self.http = [free_port() for _ in range(servers)]
        self.cluster = [free_port() for _ in range(servers)]
        self.started = []

    def __enter__(self):
        shop = self._shop()
        # One after the other: Tomcats that start at the same moment wait for each other's sessions for a minute.
        for number, port in enumerate(self.http):
            self.started.append(self._start(number, shop))
            if not wait_until_open(f"127.0.0.1:{port}", self.started[-1], 60):
                log = self.processes.folder / f"tomcat-{number}.log"
                raise SystemExit(f"Tomcat did not start:\n{log.read_text(errors='replace')[-2000:]}")
        return self

    def __exit__(self, *_):
        for process in self.started:
            process.kill()  # A cluster that ends in order says goodbye to each session.
            self.processes.stop(process)

    def measure(self, sessions, size):
        """Bytes that a session of so many bytes takes on all servers together, and the messages of a save."""
        users = [User(port) for port in self._spread(WARM_UP * len(self.http))]
        for user in users:
            user.put(size)
        before = self._heap()
        users = [User(port) for port in self._spread(sessions)]
        for user in users:
            user.put(size)
        grown = (self._heap() - before) / sessions
        return {"server_bytes": grown, "messages": self._messages_of(users[:SAVES], size)}

    def _messages_of(self, users, size):
        before, start = self._messages(), time.monotonic()
        for user in users:
            user.put(size)
        # The servers also talk without any save: that is counted over as long a time, and taken off.
        window = max(time.monotonic() - start, 3)
        time.sleep(start + window - time.monotonic())
        after = self._messages()
        time.sleep(window)
        return (2 * after - before - self._messages()) / len(users)

    def _spread(self, count):
        return [self.http[number % len(self.http)] for number in range(count)]

    def _heap(self):
        return sum(min(_ask(port, "/measures?collect")["heap"] for _ in range(3)) for port in self.http)

    def _messages(self):
        return sum(_ask(port, "/measures")["messages"] for port in self.http)

    def _shop(self):
        folder = self.processes.folder / "shop"
        classes = folder / "WEB-INF" / "classes"
        if not classes.exists():
            classes.mkdir(parents=True)
            sources = [SHOP / "Shop.java", SHOP / "Measures.java"]
            subprocess.run(["javac", "-d", classes, "-cp", HOME / "lib" / "servlet-api.jar", *sources], check=True, timeout=120)
            (folder / "WEB-INF" / "web.xml").write_text(WEB_XML)
        return folder

    def _start(self, number, shop):
        base = self.processes.folder / f"tomcat-{self.http[number]}"
        for part in ("conf", "temp", "logs", "work", "webapps"):
            (base / part).mkdir(parents=True)
        values = {
            "PORT": self.http[number], "CLUSTER": self.cluster[number], "MANAGER": self.manager,
            "OPTIONS": MANAGERS[self.manager], "MEMBERS": self._members(number), "SHOP": shop,
        }
        (base / "conf" / "server.xml").write_text(
            re.sub(r"@([A-Z]+)@", lambda match: str(values[match[1]]), TEMPLATE.read_text()))
        command = [
            "java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Ddemo.server={number}",
            "-Djava.net.preferIPv4Stack=true", f"-Dcatalina.home={HOME}", f"-Dcatalina.base={base}",
            f"-Djava.io.tmpdir={base}/temp", "-cp", f"{HOME}/bin/bootstrap.jar:{HOME}/bin/tomcat-juli.jar",
            "org.apache.catalina.startup.Bootstrap", "start",
        ]
        # No time is measured here, so both cores may do it.
        return self.processes.start(command, f"{PROXY_CORE},{LOAD_CORE}", f"tomcat-{number}.log")

    def _members(self, own):
        kind = "org.apache.catalina.tribes.membership.StaticMember"
        return "".join(
            f'<{"LocalMember" if number == own else "Member"} className="{kind}" host="127.0.0.1" port="{port}"'
            f' uniqueId="{{0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,{number + 1}}}"/>'
            for number, port in enumerate(self.cluster))


class User:
    """A user with a session on one server, who changes it."""

    def __init__(self, port):
        self.port, self.cookie, self.puts = port, "", 0
        self._post("/login", {"user": "somebody"})

    def put(self, size):
        """Adds an item of so many bytes to the cart."""
        self.puts += 1
        self._post("/cart", {"item": f"item {self.puts} ".ljust(size, "x")})

    def _post(self, path, fields):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Content-Type": "application/x-www-form-urlencoded"} | ({"Cookie": self.cookie} if self.cookie else {})
        connection.request("POST", path, urllib.parse.urlencode(fields), headers)
        response = connection.getresponse()
        page = response.read()
        if response.status != 200:
            raise SystemExit(f"Tomcat answered {path} with {response.status}: {page[:200]!r}")
        for field in response.headers.get_all("set-cookie") or []:
            self.cookie = field.split(";")[0]
        connection.close()


def _ask(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer
