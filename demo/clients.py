#!/usr/bin/env python3
"""The clients of failover.sh and chaos.sh: browsers in little, each with its own cookies and keep-alive connections.

They take one order a line on standard input, say on standard error what they find, and answer each order with one line
on standard output: `ok`, followed by what was asked for, or `failed`. No client ever sends a request a second time: what
goes wrong once has gone wrong.

Each client counts in its session by POST, and remembers what it was told. Let A be the POSTs that were answered with a
count, and U those whose fate is unknown, as their server died with them. Whatever a client is told must not be below
anything that it was told before it asked; it must be at least A and at most A + U; and no two POSTs are told the same.
"""

import collections
import http.client
import json
import random
import sys
import threading
import time

SESSION_COOKIE = "DEMOSESSION"
PATIENCE = 15  # seconds until something that is due must have happened
OVERTAKEN = "your session continued on another server"
PAUSE = 0.01  # seconds until the next click, at most

Response = collections.namedtuple("Response", "status server said new_pins took")


class Differs(Exception):
    """Something was not as it must be."""


def expect(true, otherwise):
    if not true:
        raise Differs(otherwise)


def say(text):
    print(f"   {text}", file=sys.stderr, flush=True)


class Jar:
    """The cookies of one client, which its connections share."""

    def __init__(self):
        self.cookies, self.lock = {}, threading.Lock()

    def field(self):
        with self.lock:
            return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def keep(self, fields):
        """Keeps the cookies of a response; returns how many are not the application's own: new pins."""
        pins = 0
        with self.lock:
            for field in fields:
                name, _, value = field.split(";")[0].partition("=")
                self.cookies[name.strip()] = value.strip()
                pins += name.strip() != SESSION_COOKIE
        return pins


class Connection:
    """A keep-alive connection to the proxy."""

    def __init__(self, address, jar):
        self.jar, self.http = jar, http.client.HTTPConnection(address, timeout=PATIENCE)

    def send(self, method, path, fields=None):
        """Sends one request, once. A request without a response has the error's name as its status."""
        headers, body = {"Accept": "application/json"}, None
        if cookies := self.jar.field():
            headers["Cookie"] = cookies
        if fields is not None:
            headers["Content-Type"], body = "application/json", json.dumps(fields)
        sent = time.monotonic()
        try:
            self.http.request(method, path, body, headers)
            response = self.http.getresponse()
            text = response.read()
            pins = self.jar.keep(response.headers.get_all("set-cookie") or [])
            said = json.loads(text or b"null") if response.status == 200 else text.decode(errors="replace")
            return Response(response.status, response.headers["x-served-by"], said, pins, time.monotonic() - sent)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.http.close()
            return Response(f"{type(error).__name__}: {error}", None, None, 0, time.monotonic() - sent)


class Client:
    """One user: what it has sent, and what it was told."""

    def __init__(self, name, address):
        self.name, self.address, self.jar = name, address, Jar()
        self.connection = Connection(address, self.jar)
        self.lock = threading.Lock()
        self.acknowledged = self.unknown = self.sent = self.highest = 0
        self.told = set()  # the counts that POSTs were answered with
        self.servers = []  # those that answered, without repetitions in a row
        self.pins = 0
        self.slowest = self.overtaken = 0
        self.problem = None
        self.ended = None  # the cookie of a session whose end was acknowledged

    def log_in(self):
        """Opens a new session."""
        response = self.connection.send("POST", "/login", {"user": self.name, "password": "linchpin"})
        expect(response.status == 200 and response.server, f"the login of {self.name} went wrong: {response}")
        with self.lock:
            self.servers, self.pins = [response.server], response.new_pins
            self.acknowledged = self.unknown = self.sent = self.highest = 0
            self.told, self.slowest, self.overtaken = set(), 0, 0
        response = self.connection.send("POST", "/cart", {"item": f"axle of {self.name}"})
        expect(response.status == 200, f"the cart of {self.name} went wrong: {response}")
        return response.server

    def count(self, connection, may_fail, only_reads=False):
        """Counts by POST, or reads; checks what it is told. `may_fail`: the statuses of a POST whose server died."""
        is_post = not only_reads and random.random() < 0.7
        with self.lock:
            before, acknowledged = self.highest, self.acknowledged
            self.sent += is_post
        response = connection.send("POST", "/count") if is_post else connection.send("GET", "/whoami")
        with self.lock:
            self.slowest = max(self.slowest, response.took)
            if is_post and response.status in may_fail:
                self.unknown += 1
                return response
            if not is_post and response.status == 502 and OVERTAKEN in response.said and may_fail:
                # Of two requests of a session, one has moved it while the other's response was on its way.
                self.overtaken += 1
                return response
            what = f"{self.name}, {'POST' if is_post else 'GET'}: {response}"
            expect(response.status == 200, f"a request failed: {what}")
            value = response.said
            if not is_post:
                expect(response.said["user"] == self.name, f"a session was lost: {what}")
                expect(response.said["cart"] == [f"axle of {self.name}"], f"a cart was lost: {what}")
                value = response.said["count"]
            expect(value >= before, f"told {before} before, and now less: {what}")
            expect(value >= acknowledged, f"{acknowledged} were acknowledged before: {what}")
            # Of the requests under way, each may have been counted already.
            expect(value <= self.sent, f"only {self.sent} were sent, so one ran twice: {what}")
            if is_post:
                expect(value not in self.told, f"told {value} twice: {what}")
                self.told.add(value)
                self.acknowledged += 1
            self.highest = max(self.highest, value)
            self.pins += response.new_pins
            if self.servers[-1] != response.server:
                self.servers.append(response.server)
        return response

    def settle(self):
        """Once nothing is under way: nothing acknowledged is missing, and nothing ran twice."""
        until = time.monotonic() + PATIENCE
        while (response := self.connection.send("GET", "/whoami")).status != 200:
            expect(time.monotonic() < until, f"{self.name} is not served: {response}")
        expect(response.said["user"] == self.name, f"a session was lost: {self.name}: {response}")
        value, low, high = response.said["count"], self.acknowledged, self.acknowledged + self.unknown
        expect(low <= value <= high, f"{self.name}'s count is {value}, and must be from {low} to {high}")
        expect(value >= self.highest, f"{self.name} was told {self.highest}, and now {value}")


class Crowd:
    """All the clients, and what must be true of them."""

    def __init__(self, address, size):
        self.address = address
        self.clients = [Client(f"user{number:02}", address) for number in range(1, size + 1)]
        self.killed = None
        self.threads, self.stop = [], threading.Event()
        self.connections, self.may_fail = 1, set()
        self.done = collections.Counter()

    # The orders of both scripts.

    def wait(self, *servers):
        """Waits until clients without a pin are sent to each of the servers. Nobody has been wronged so far."""
        self.check()
        missing, until = set(servers), time.monotonic() + PATIENCE
        while missing:
            expect(time.monotonic() < until, f"no new client was sent to {', '.join(sorted(missing))} in {PATIENCE} s")
            missing.discard(Connection(self.address, Jar()).send("GET", "/whoami").server)
            time.sleep(0.02)

    def login(self):
        """Everybody logs in and fills a cart. Returns the server with the most users."""
        homes = collections.Counter(client.log_in() for client in self.clients)
        self.done["logins"] += len(self.clients)
        spread = ", ".join(f"{count} on {server}" for server, count in sorted(homes.items()))
        say(f"{len(self.clients)} users logged in, each with an item in the cart: {spread}")
        return homes.most_common(1)[0][0]

    def count(self, connections="1", *may_fail):
        """Everybody counts, on so many connections at once, until `end`. A POST under way may end with these statuses; with
        `none`, no request may fail."""
        self.connections = int(connections)
        self.may_fail = {502} if not may_fail else {int(status) for status in may_fail if status != "none"}
        self.resume()

    def end(self, deaths):
        """Everybody stops, after so many deaths of servers. Nothing was lost, and nothing ran twice."""
        self.pause()
        for client in self.clients:
            # A death ends the requests that were under way, and no later ones.
            most = int(deaths) * self.connections
            expect(client.unknown <= most, f"{client.unknown} POSTs of {client.name} failed at {deaths} deaths")
            client.settle()
        total = lambda what: sum(getattr(client, what) for client in self.clients)
        moves = sum(len(client.servers) - 1 for client in self.clients)
        self.done.update({"sent": total("sent"), "acknowledged": total("acknowledged"), "unknown": total("unknown")})
        self.done["moves"] += moves
        slowest = max(client.slowest for client in self.clients)
        say(f"{total('acknowledged')} counts acknowledged, {total('unknown')} unknown: their servers died with them")
        if overtaken := total("overtaken"):
            say(f"{overtaken} GETs were refused, since another request had moved their session meanwhile")
        say(f"no session lost, no count below what its client was told, none counted twice; {moves} moves")
        say(f"the slowest answer took {slowest * 1000:.0f} ms")
        return f"{slowest * 1000:.0f}"

    # The orders of failover.sh.

    def stayed(self):
        """So far everybody is where the login was."""
        self.check()
        for client in self.clients:
            expect(client.acknowledged > 2, f"{client.name} counted next to nothing")
            expect(len(client.servers) == 1, f"{client.name} was moved without a reason: {client.servers}")
            expect(client.pins == 1, f"{client.name} was pinned {client.pins} times")
        say(f"{sum(client.sent for client in self.clients)} counts: each by the server that holds the user's session")

    def dying(self, server):
        """Told just before a server is killed."""
        self.killed = server
        victims = sum(client.servers[-1] == server for client in self.clients)
        expect(victims, f"nobody is on {server}: its death would show nothing")
        say(f"{victims} users are on {server}")

    def moved(self):
        """The killed server's clients were moved once, and nobody else was."""
        self.check()
        new_homes = collections.Counter()
        for client in self.clients:
            is_victim = client.servers[0] == self.killed
            expect(len(client.servers) == 1 + is_victim, f"{client.name} was moved: {client.servers}")
            expect(client.pins == 1 + is_victim, f"{client.name} was pinned {client.pins} times")
            if is_victim:
                new_homes[client.servers[-1]] += 1
        spread = ", ".join(f"{count} to {server}" for server, count in sorted(new_homes.items()))
        say(f"its {sum(new_homes.values())} users were moved once and pinned anew once: {spread}")
        say("they are logged in, with their carts and counts: Linchpin gave the copies of their sessions to these servers")
        say("the users of the other servers noticed nothing")

    # The orders of chaos.sh.

    def pause(self):
        """Everybody stops counting; nothing is under way afterwards."""
        self.stop.set()
        for thread in self.threads:
            thread.join(PATIENCE + 2)
            expect(not thread.is_alive(), "a request is still waiting for its answer")
        self.check()

    def resume(self):
        """Everybody counts, as before a pause."""
        self.stop = threading.Event()
        self.threads = [
            threading.Thread(target=self.keep_counting, args=(client,), daemon=True)
            for client in self.clients
            for _ in range(self.connections)
        ]
        for thread in self.threads:
            thread.start()

    def leave(self, server):
        """Everybody reads until they have left a server that is drained. Returns how many have."""
        left, until = 0, time.monotonic() + PATIENCE
        for client in self.clients:
            was_there = client.servers[-1] == server
            while (response := client.count(client.connection, set(), only_reads=True)).server == server:
                expect(time.monotonic() < until, f"{client.name} is still on {server}: {response}")
                time.sleep(PAUSE)
            left += was_there
        return left

    def race(self, ending):
        """Everybody logs out, or in anew, while a slow request of the same session is under way."""
        self.threads = [threading.Thread(target=self.end_session, args=(client, ending), daemon=True) for client in self.clients]
        for thread in self.threads:
            thread.start()

    def raced(self):
        """The sessions that have ended are over for every cookie and on every server. Returns how many have."""
        for thread in self.threads:
            thread.join(PATIENCE + 2)
            expect(not thread.is_alive(), "a request is still waiting for its answer")
        ended = [client for client in self.clients if client.ended]
        for client in ended:
            for jar, what in [(client.jar, "its own pin"), (Jar(), "no pin")] * 3:
                with_old = Jar()
                with_old.cookies = {**jar.cookies, SESSION_COOKIE: client.ended}
                response = Connection(self.address, with_old).send("GET", "/whoami")
                expect(response.status == 200, f"a GET failed: {response}")
                expect(response.said["user"] is None, f"with its old cookie and {what}, {client.name} is logged in: {response}")
            response = client.connection.send("GET", "/whoami")
            if client.jar.cookies[SESSION_COOKIE]:
                state = (response.said["user"], response.said["count"])
                expect(state == (client.name, 0), f"the new session of {client.name} is not as it began: {response}")
        self.done["ended"] += len(ended)
        return len(ended)

    def sum(self):
        """Says how much of everything there was."""
        done = self.done
        say(f"{done['logins']} logins, {done['sent']} POSTs ({done['acknowledged']} acknowledged, {done['unknown']} unknown)")
        say(f"{done['moves']} moves of sessions while they counted, {done['ended']} sessions ended")

    # What a client does.

    def end_session(self, client, ending):
        slow = Connection(self.address, client.jar)
        thread = threading.Thread(target=slow.send, args=("POST", "/count?ms=300"), daemon=True)
        thread.start()
        time.sleep(random.uniform(0, 0.2))
        old = client.jar.cookies[SESSION_COOKIE]
        fields = {"user": client.name, "password": "linchpin"} if ending == "login" else None
        response = client.connection.send("POST", f"/{ending}", fields)
        # An end that died with its server is none that the client was told of.
        client.ended = old if response.status == 200 else None
        thread.join()

    def keep_counting(self, client):
        connection = Connection(self.address, client.jar)
        try:
            while not self.stop.is_set():
                client.count(connection, self.may_fail)
                time.sleep(random.uniform(0, PAUSE))
        except Differs as difference:
            client.problem = difference

    def check(self):
        problems = [client.problem for client in self.clients if client.problem]
        expect(not problems, f"{len(problems)} clients were wronged, the first: {problems[:1]}")


def main():
    crowd = Crowd(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        order, *words = line.split()
        try:
            print("ok", getattr(crowd, order)(*words) or "", flush=True)
        except Differs as difference:
            say(f"NOT AS IT MUST BE: {difference}")
            print("failed", flush=True)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
