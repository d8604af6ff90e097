#!/usr/bin/env python3
"""Makes the screenshots of the dashboard and of the demo shop that are in docs/img.

    demo/screenshots.py [--linchpin target/release/linchpin] [--minutes 10] [--out docs/img]

Starts demo servers and a Linchpin in front of them, plays some clients for as many minutes, kills one server and
drains another, and takes the pictures in headless Chromium. It needs Python 3 and Chromium, and listens on loopback only.
"""

import argparse
import base64
import fcntl
import http.client
import json
import os
import random
import signal
import subprocess
import tempfile
import threading
import time

POOLS = {"shop": ["a", "b", "c", "d"], "forum": ["red", "blue"], "files": ["one"]}
CLIENTS = {"shop": 60, "forum": 20, "files": 6}


class Browser:
    """A headless Chromium, driven over pipes by the DevTools protocol."""

    def __init__(self, folder):
        program = os.environ.get("CHROMIUM", "chromium")
        ends = [os.pipe(), os.pipe()]
        # Copies from 10 on: none of them is 3 or 4, where Chromium reads commands and writes results.
        (read, self.commands), (self.results, write) = [[fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pair] for pair in ends]
        for end in [end for pair in ends for end in pair]:
            os.close(end)
        arguments = [program, "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
                     "--no-proxy-server", "--remote-debugging-pipe", f"--user-data-dir={folder}/browser"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(arguments, pass_fds=(3, 4), preexec_fn=lambda: (os.dup2(read, 3), os.dup2(write, 4)), **quiet)
        os.close(read)
        os.close(write)
        self.last, self.rest = 0, b""
        jar = self.call("Target.createTarget", url="about:blank")
        self.session = self.call("Target.attachToTarget", targetId=jar["targetId"], flatten=True)["sessionId"]

    def call(self, method, **parameters):
        self.last += 1
        command = {"id": self.last, "method": method, "params": parameters}
        if hasattr(self, "session"):
            command["sessionId"] = self.session
        os.write(self.commands, json.dumps(command).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                more = os.read(self.results, 1 << 20)
                if not more:
                    raise SystemExit("the browser has ended")
                self.rest += more
            message, self.rest = self.rest.split(b"\0", 1)
            message = json.loads(message)
            if message.get("id") == self.last:
                return message.get("result", {})

    def value(self, expression):
        return self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)["result"].get("value")

    def until(self, expression):
        for _ in range(200):
            if self.value(expression) is True:
                return
            time.sleep(0.05)
        raise SystemExit(f"waited in vain: {expression}")

    def look(self, width, height, scheme):
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def picture(self, file):
        time.sleep(1.2)
        data = self.call("Page.captureScreenshot", format="png")["data"]
        with open(file, "wb") as out:
            out.write(base64.b64decode(data))
        print(file)


def start(arguments):
    """Starts a process of Linchpin, and returns it with its first line that has an address."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if "http://" in line or "listening address=" in line:
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return process, line
    raise SystemExit(f"{arguments} has ended")


def configuration(servers, ports):
    text = ('[log]\naccess = "off"\nlevel = "info"\n[admin]\naddress = "127.0.0.1:%d"\n[[listeners]]\nname = "web"\naddress = "127.0.0.1:%d"\n' % ports)
    for pool in POOLS:
        if pool != "shop":
            text += f'[[routes]]\nhosts = ["{pool}.example"]\npool = "{pool}"\n'
    text += '[[routes]]\npool = "shop"\n'
    for pool, names in POOLS.items():
        text += f'[[pools]]\nname = "{pool}"\n[pools.health]\ntype = "http"\npath = "/whoami"\ninterval = "1s"\n'
        for name in names:
            text += f'[[pools.backends]]\nname = "{name}"\naddress = "{servers[name]}"\n'
    return text


def free_port():
    import socket
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def client(pool, address, ending, seed):
    """One client with its cookies, which comes and goes."""
    dice = random.Random(seed)
    time.sleep(dice.random() * 20)
    while not ending.is_set():
        cookies, connection = {}, http.client.HTTPConnection(*address, timeout=10)
        for _ in range(dice.randint(20, 200)):
            try:
                fields = {"Host": f"{pool}.example"}
                if cookies:
                    fields["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
                connection.request("GET", "/whoami", headers=fields)
                response = connection.getresponse()
                response.read()
                for field in response.headers.get_all("set-cookie") or []:
                    name, value = field.split(";")[0].split("=", 1)
                    cookies[name] = value
            except OSError:
                connection.close()
            if ending.wait(dice.expovariate(1)):
                return
        connection.close()


def ask(admin, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=10)
    connection.request(method, path, body=json.dumps(body) if body else None)
    response = connection.getresponse()
    return json.loads(response.read() or b"null")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--linchpin", default="target/release/linchpin")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", default="docs/img")
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)
    ending, processes, servers = threading.Event(), {}, {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            for name in [name for names in POOLS.values() for name in names]:
                processes[name], line = start([options.linchpin, "demo-backend", "--name", name, "--listen", "127.0.0.1:0"])
                servers[name] = line.strip().rsplit("/", 1)[1]
            ports = (free_port(), free_port())
            file = f"{folder}/linchpin.toml"
            with open(file, "w") as out:
                out.write(configuration(servers, ports))
            processes["linchpin"], _ = start([options.linchpin, "run", "-c", file])
            for pool, count in CLIENTS.items():
                for n in range(count):
                    threading.Thread(target=client, args=(pool, ("127.0.0.1", ports[1]), ending, f"{pool}{n}"), daemon=True).start()
            pictures(options, ports, processes, file, servers)
        finally:
            ending.set()
            for process in processes.values():
                process.kill()
                process.wait()


def pictures(options, ports, processes, file, servers):
    admin, web = ports
    seconds = options.minutes * 60
    time.sleep(seconds * 0.5)
    with open(file, "w") as out:
        out.write(configuration(servers, ports).replace('name = "blue"', 'weight = 2\nname = "blue"'))
    ask(admin, "POST", "/api/v1/reload")
    time.sleep(seconds * 0.15)
    processes["c"].send_signal(signal.SIGKILL)
    time.sleep(seconds * 0.2)
    ask(admin, "POST", "/api/v1/pools/shop/backends/b/drain", {"deadline": f"{max(60, int(seconds * 0.3))}s", "then": "maintenance", "idle": "500ms"})
    time.sleep(seconds * 0.15)
    browser = Browser(os.path.dirname(file))
    try:
        for name, width, height, scheme in [("dashboard-light", 1440, 1150, "light"), ("dashboard-dark", 1920, 1150, "dark"), ("dashboard-phone", 390, 844, "light")]:
            browser.look(width, height, scheme)
            browser.open(f"http://127.0.0.1:{admin}/")
            browser.until("!!document.querySelector('tr.backend')")
            browser.picture(f"{options.out}/{name}.png")
        browser.look(390, 844, "light")
        browser.open(f"http://127.0.0.1:{web}/")
        browser.value("document.querySelector('form[action=\"/login\"] button').click()")
        browser.until("!!document.querySelector('form[action=\"/logout\"]')")
        browser.value("document.querySelector('button.kill').click()")
        browser.until("document.body.textContent.includes('You killed server')")
        browser.picture(f"{options.out}/demo-phone.png")
    finally:
        browser.process.kill()
        browser.process.wait()


if __name__ == "__main__":
    main()
