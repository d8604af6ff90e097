#!/usr/bin/env python3
"""The clients of failover.sh: browsers in little, each with its own cookies and its own keep-alive connection.

They take one order a line on standard input, say on standard error what they find, and answer each order with one line
on standard output: `ok`, followed by what was asked for, or `failed`. No client ever sends a request a second time: what
goes wrong once has gone wrong.
"""

import collections
import http.client
import json
import random
import sys
import threading
import time

CLIENTS = 30
SESSION_COOKIE = "DEMOSESSION"
PATIENCE = 10  # seconds until something that is due must have happened
PAUSE = 0.04  # seconds between two requests of a client, at most: no two clients keep step

Entry = collections.namedtuple("Entry", "client path took status server new_pins said")


class Differs(Exception):
    """Something was not as it must be."""


class Client:
    """One user: a cookie jar, a keep-alive connection and a log of every request."""

    def __init__(self, name, address):
        self.name = name
        self.jar = {}
        self.log = []
        self.waiting = False
        self.connection = http.client.HTTPConnection(address, timeout=PATIENCE)

    def send(self, method, path, fields=None):
        """Sends one request, once, and logs what came back."""
        headers = {"Accept": "application/json"}
        if self.jar:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        body = None
        if fields is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(fields)
        sent, self.waiting = time.monotonic(), True
        try:
            self.connection.request(method, path, body, headers)
            response = self.connection.getresponse()
            said = json.loads(response.read() or b"null")
            status, server = response.status, response.headers["x-served-by"]
            new_pins = self.keep(response.headers.get_all("set-cookie") or [])
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.connection.close()
            status, server, new_pins, said = f"{type(error).__name__}: {error}", None, 0, None
        self.waiting = False
        entry = Entry(self.name, path, time.monotonic() - sent, status, server, new_pins, said)
        self.log.append(entry)
        return entry

    def keep(self, fields):
        """Keeps the cookies of a response; counts those that are not the application's own: new pins."""
        pins = 0
        for field in fields:
            name, _, value = field.split(";")[0].partition("=")
            self.jar[name.strip()] = value.strip()
            pins += name.strip() != SESSION_COOKIE
        return pins


class Crowd:
    """All the clients, and what must be true of them."""

    def __init__(self, address):
        self.address = address
        self.clients = [Client(f"user{number:02}", address) for number in range(1, CLIENTS + 1)]
        self.home = {}
        self.killed = None
        self.victims = []
        self.first = {}  # where in its log a client's time under observation begins
        self.stop = threading.Event()
        self.threads = []

    # The orders, in the order in which failover.sh gives them.

    def wait(self, *servers):
        """Waits until clients without a pin are sent to each of the servers."""
        missing, until = set(servers), time.monotonic() + PATIENCE
        while missing:
            expect(time.monotonic() < until, f"no new client was sent to {', '.join(sorted(missing))} in {PATIENCE} s")
            entry = Client("newcomer", self.address).send("GET", "/whoami")
            missing.discard(entry.server)
            time.sleep(0.05)

    def login(self):
        """Everybody logs in and fills a cart."""
        for client in self.clients:
            entry = client.send("POST", "/login", {"user": client.name, "password": "linchpin"})
            expect(entry.status == 200 and entry.server, f"the login went wrong: {entry}")
            expect(entry.new_pins == 1, f"the first response must pin the client, once: {entry}")
            self.home[client] = entry.server
            entry = client.send("POST", "/cart", {"item": f"axle of {client.name}"})
            expect(entry.status == 200 and entry.server == self.home[client], f"the cart went wrong: {entry}")
        shares = collections.Counter(self.home.values())
        spread = ", ".join(f"{count} on {server}" for server, count in sorted(shares.items()))
        say(f"{len(self.clients)} users logged in, each with an item in the cart: {spread}")
        return shares.most_common(1)[0][0]

    def browse(self):
        """Everybody sends requests, one after another, until the end."""
        for client in self.clients:
            self.first[client] = len(client.log)
            self.threads.append(threading.Thread(target=self.keep_sending, args=(client,), daemon=True))
        for thread in self.threads:
            thread.start()

    def stayed(self):
        """So far everybody is where the login was."""
        requests = 0
        for client in self.clients:
            seen = self.observed(client)
            requests += len(seen)
            expect(len(seen) > 2, f"{client.name} sent next to nothing")
            for entry in seen:
                self.at_home(client, entry)
        say(f"{requests} requests: each was answered by the server that holds the user's login and cart")

    def dying(self, server):
        """Told just before a server is killed."""
        self.killed = server
        self.victims = [client for client in self.clients if self.home[client] == server]
        expect(self.victims, f"nobody is on {server}: its death would show nothing")
        waiting = sum(client.waiting for client in self.victims)
        say(f"{len(self.victims)} users are on {self.killed}, {waiting} of them waiting for an answer this very moment")

    def moved(self):
        """The killed server's clients were moved once, nobody else was, and nobody saw an error."""
        others, new_homes = self.check()
        spread = ", ".join(f"{count} to {server}" for server, count in sorted(new_homes.items()))
        say(f"the {len(self.victims)} users of {self.killed} were moved once and pinned anew once: {spread}")
        say(f"they read: this server does not know your session. It was in the memory of {self.killed} and nowhere else")
        say(f"the {len(others)} users of the other servers noticed nothing: same server, same login, same cart")

    def end(self):
        """Everybody stops; the whole story is looked at once more."""
        self.stop.set()
        for thread in self.threads:
            thread.join(PATIENCE + 2)
            expect(not thread.is_alive(), "a request is still waiting for its answer")
        others, _ = self.check()
        for client in others:
            self.nothing_ran_twice(client)
        log = [entry for client in self.clients for entry in client.log]
        slowest = max(entry.took for entry in log)
        say(f"nobody was moved back to {self.killed}, and nobody else was moved")
        say(f"{len(log)} requests, none failed, none was sent twice; the slowest took {slowest * 1000:.0f} ms")

    def check(self):
        """What must be true from the kill until the end. Returns the clients of the other servers, and the new homes."""
        failed = [entry for client in self.clients for entry in self.observed(client) if entry.status != 200]
        expect(not failed, f"{len(failed)} requests failed, the first: {failed[:1]}")
        others = [client for client in self.clients if client not in self.victims]
        for client in others:
            for entry in self.observed(client):
                self.at_home(client, entry)
        return others, collections.Counter(self.once_moved(client) for client in self.victims)

    # What a client does, and what must be true of it.

    def keep_sending(self, client):
        while not self.stop.is_set():
            # Some that take a while, so that whenever the server dies somebody is waiting for it.
            turn = len(client.log) % 4
            entry = client.send("GET", "/slow?ms=100" if turn == 0 else "/whoami")
            if entry.status != 200:
                return
            time.sleep(random.uniform(0, PAUSE))

    def observed(self, client):
        return list(client.log[self.first[client]:])

    def at_home(self, client, entry):
        expect(entry.status == 200, f"failed: {entry}")
        expect(entry.server == self.home[client], f"{client.name} left {self.home[client]}: {entry}")
        expect(entry.new_pins == 0, f"{client.name} was pinned anew without a reason: {entry}")
        if entry.path == "/whoami":
            said = (entry.said["session"], entry.said["user"], entry.said["cart"])
            expect(said == ("known", client.name, [f"axle of {client.name}"]), f"{client.name} lost something: {entry}")

    def once_moved(self, client):
        """Home, then one other server for good; one new pin, with that server's first answer. Returns that server."""
        seen = self.observed(client)
        turn = next((number for number, entry in enumerate(seen) if entry.server != self.killed), None)
        expect(turn is not None, f"{client.name} was never moved")
        for entry in seen[:turn]:
            self.at_home(client, entry)
        first, later = seen[turn], seen[turn + 1:]
        expect(first.new_pins == 1, f"{client.name} was moved without one new pin: {first}")
        for entry in later:
            expect(entry.server == first.server, f"{client.name} was moved to {first.server}, then again: {entry}")
            expect(entry.new_pins == 0, f"{client.name} was pinned anew more than once: {entry}")
        for entry in seen[turn:]:
            if entry.path == "/whoami":
                expect(entry.said["session"] == "unknown", f"{entry.server} cannot know this session: {entry}")
        return first.server

    def nothing_ran_twice(self, client):
        """The server counted what the client sent: a request that ran twice would show."""
        sent, last = [(n, entry) for n, entry in enumerate(client.log, 1) if entry.path == "/whoami"][-1]
        ran = last.said["requests"]
        expect(ran == sent, f"{client.name} had sent {sent} requests, {last.server} had run {ran}")


def expect(true, otherwise):
    if not true:
        raise Differs(otherwise)


def say(text):
    print(f"   {text}", file=sys.stderr, flush=True)


def main():
    crowd = Crowd(sys.argv[1])
    orders = {name: getattr(crowd, name) for name in "wait login browse stayed dying moved end".split()}
    for line in sys.stdin:
        order, *words = line.split()
        try:
            print("ok", orders[order](*words) or "", flush=True)
        except Differs as difference:
            say(f"NOT AS IT MUST BE: {difference}")
            print("failed", flush=True)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
