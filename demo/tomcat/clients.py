#!/usr/bin/env python3
"""The clients of tomcat.sh: users with a login and a cart in their session.

They take one order a line on standard input, say on standard error what they find, and answer each order with one line on
standard output: `ok`, followed by what was asked for, or `failed`. No request is sent a second time, but for the clicks after
a kill: there each user asks until the answer is good, and each one that was not is counted.
"""

import collections
import http.client
import json
import os
import signal
import sys
import threading
import time
import urllib.parse

WARM_UP = 150  # users who come before anything is measured, so that code is loaded and caches are filled
USERS = 1000  # users whose sessions are measured
ITEM = 2000  # bytes of the item in a cart
SAVES = 300  # requests that change a session, for the count of messages
COUNTERS = 200  # users who count, three times each
RENEWERS = 100  # users who log in once more, and so get a new session id
LEAVERS = 30  # users who log out while a slow request of theirs is under way
CLICKERS = 10  # users of a killed server who click as soon as it is killed
PATIENCE = 15  # seconds until something that is due must have happened
THREADS = 4

Answer = collections.namedtuple("Answer", "status page new_session")


class Differs(Exception):
    """Something was not as it must be."""


class Server:
    """One Tomcat, asked directly for what it measures."""

    def __init__(self, name, address, pid):
        self.name, self.address, self.pid = name, address, int(pid)

    def measures(self, collect=False):
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
        try:
            connection.request("GET", "/measures?collect" if collect else "/measures")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def heap(self):
        """Bytes in use once nothing more can be collected."""
        return min(self.measures(collect=True)["heap"] for _ in range(3))


class User:
    """One user: a cookie jar, and what its session must say."""

    def __init__(self, name):
        self.name, self.jar, self.items, self.count, self.home = name, {}, [], 0, None

    def send(self, connection, method, path, fields=None):
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.jar.items())} if self.jar else {}
        body = None
        if fields is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urllib.parse.urlencode(fields)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return Answer(f"{type(error).__name__}: {error}", None, False)
        session = self.jar.get("JSESSIONID")
        for field in response.headers.get_all("set-cookie") or []:
            name, _, value = field.split(";")[0].partition("=")
            self.jar[name.strip()] = value.strip()
        page = json.loads(text) if response.status == 200 else None
        return Answer(response.status, page, session is not None and session != self.jar["JSESSIONID"])

    def arrive(self, connection):
        """Logs in and puts an item into the cart."""
        login = self.send(connection, "POST", "/login", {"user": self.name})
        expect(login.status == 200, f"the login of {self.name} went wrong: {login}")
        self.home = login.page["server"]
        self.put(connection, f"axle of {self.name} ".ljust(ITEM, "."))

    def put(self, connection, item):
        self.items.append(item)
        self.check(self.send(connection, "POST", "/cart", {"item": item}))
        # As in a shop: the cart stays as long as it is.
        del self.items[:-1]

    def increment(self, connection):
        for _ in range(3):
            self.count += 1
            self.check(self.send(connection, "POST", "/count", {}))

    def login_again(self, connection):
        """Returns a client that has the cookies of before."""
        before = User(self.name)
        before.jar = dict(self.jar)
        answer = self.send(connection, "POST", "/login", {"user": self.name})
        expect(answer.new_session, f"the second login of {self.name} brought no new session id: {answer}")
        self.check(answer._replace(new_session=False))
        return before

    def leave(self, connection):
        """Logs out while a slow request is under way."""
        slow = threading.Thread(target=self.send, args=(http.client.HTTPConnection(connection.host, connection.port, timeout=PATIENCE),
                                                        "POST", "/slow", {"ms": 400}))
        slow.start()
        time.sleep(0.1)
        answer = self.send(connection, "POST", "/logout", {})
        expect(answer.status == 200, f"the logout of {self.name} went wrong: {answer}")
        slow.join()

    def click_as_stranger(self, connection):
        """Asks for the page of a session that has ended."""
        answer = self.send(connection, "GET", "/")
        expect(answer.status == 200 and answer.page.get("user") is None, f"an ended session of {self.name} is alive: {answer}")

    def click(self, connection):
        """Asks for the page of the session, which must be as it was left."""
        self.check(self.send(connection, "GET", "/"))

    def check(self, answer):
        expect(answer.status == 200, f"{self.name} got {answer.status}")
        expect(not answer.new_session, f"{self.name} got another session id from {answer.page['server']}")
        page = answer.page
        expect(page.get("user") == self.name and page["cart"][-1:] == self.items[-1:] and page["count"] == self.count,
               f"{self.name} lost login, cart or counter ({self.count}) on {page['server']}: {str(page)[:200]}")
        self.home = page["server"]


class Crowd:
    """All the users and all the servers, and what must be true of them."""

    def __init__(self, address, mode, proxy, servers):
        self.address, self.mode, self.proxy = address, mode, int(proxy)
        self.servers = {}
        for server in servers:
            self.started(server)
        self.users = []
        self.ended = []  # clients with the cookies of sessions that have ended

    # The orders, in the order in which tomcat.sh gives them.

    def fill(self):
        """Users log in and fill their carts; the memory that this takes is measured."""
        users = [User(f"user{number:04}") for number in range(WARM_UP + USERS)]
        self.each(users[:WARM_UP], User.arrive)
        self.each(users[:WARM_UP], User.click)
        before = {server.name: server.heap() for server in self.servers.values()}
        proxy = resident(self.proxy)
        self.each(users[WARM_UP:], User.arrive)
        self.users = users
        after = {server.name: server.heap() for server in self.servers.values()}
        shares = collections.Counter(user.home for user in users)
        spread = ", ".join(f"{count} on {server}" for server, count in sorted(shares.items()))
        say(f"{len(users)} users logged in, each with an item of {ITEM} bytes in the cart: {spread}")
        memory = {name: (after[name] - before[name]) / USERS for name in after}
        held = ", ".join(f"{name} {kibibytes(size)}" for name, size in sorted(memory.items()))
        say(f"memory held a session (heap after a collection, over {USERS} sessions): {held}; all: {kibibytes(sum(memory.values()))}")
        if self.mode == "copies":
            say(f"and in Linchpin (growth of the process): {kibibytes((resident(self.proxy) - proxy) / USERS)}")
        holders = self.holders()
        say("sessions held: " + ", ".join(f"{name} {count}" for name, count in sorted(holders.items())))
        copies = sum(holders.values()) / len(users)
        wanted = {"all-to-all": len(self.servers), "primary-secondary": 2, "copies": 1}[self.mode]
        expect(abs(copies - wanted) < 0.01, f"each session must be on {wanted} servers, not {copies}")

    def save(self):
        """Requests that change a session; the messages between the servers are counted."""
        changed = self.users[:: len(self.users) // SAVES][:SAVES]
        before, start = self.messages(), time.monotonic()
        self.each(changed, lambda user, connection: user.put(connection, f"wheel of {user.name} ".ljust(ITEM, ".")))
        # The servers also talk without any save, each second or so: that is counted over as long a time, and taken off.
        window = max(time.monotonic() - start, 3)
        time.sleep(start + window - time.monotonic())
        after = self.messages()
        time.sleep(window)
        idle = self.messages() - after
        count = (after - before - idle) / len(changed)
        say(f"messages a save: {count:.1f} ({after - before} received by the servers for {len(changed)} saves, of which {idle} come without any)")
        wanted = {"all-to-all": len(self.servers) - 1, "primary-secondary": 1, "copies": 0}[self.mode]
        expect(abs(count - wanted) < 0.2, f"a save must be {wanted} messages")

    def count(self):
        """Users count in their sessions."""
        self.each(self.users[:COUNTERS], User.increment)
        say(f"{COUNTERS} users counted to three, by POST")

    def renew(self):
        """Users log in once more: the old id must be worth nothing from now on."""
        renewers = self.users[COUNTERS:COUNTERS + RENEWERS]
        self.each(renewers, lambda user, connection: self.ended.append(user.login_again(connection)))
        say(f"{RENEWERS} users logged in again, and have new session ids")

    def leave(self):
        """Users log out, and their slow requests end later."""
        leavers = self.users[-LEAVERS:]
        del self.users[-LEAVERS:]
        self.each(leavers, User.leave)
        self.ended += leavers
        say(f"{LEAVERS} users logged out while a slow request of theirs was under way")

    def started(self, server):
        """Told when a server was started."""
        name, _, place = server.partition("=")
        self.servers[name] = Server(name, *place.split("/"))

    def serving(self):
        """Waits until newcomers are sent to every server."""
        missing, until = set(self.servers), time.monotonic() + PATIENCE
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
        while missing:
            expect(time.monotonic() < until, f"nobody is sent to {', '.join(sorted(missing))} after {PATIENCE} s")
            answer = User("newcomer").send(connection, "GET", "/")
            missing.discard(answer.page and answer.page["server"])
            time.sleep(0.02)
        say("new users are sent to every server again")

    def kill(self, count):
        """Kills the servers with the most users, whose users click at once. Returns their names."""
        shares = collections.Counter(user.home for user in self.users)
        dying = [self.servers[name] for name, _ in shares.most_common(int(count))]
        names = [server.name for server in dying]
        victims = [user for user in self.users if user.home in names]
        say(f"kill -9 for server {' and '.join(names)}: {len(victims)} of {len(self.users)} users are there")
        ready, clicks = threading.Barrier(CLICKERS + 1), []
        threads = [threading.Thread(target=self.click_until_good, args=(user, names, ready, clicks), daemon=True)
                   for user in victims[:: max(1, len(victims) // CLICKERS)][:CLICKERS]]
        for thread in threads:
            thread.start()
        ready.wait(PATIENCE)
        for server in dying:
            os.kill(server.pid, signal.SIGKILL)
        self.killed_at = time.monotonic()
        ready.wait(PATIENCE)
        for thread in threads:
            thread.join(PATIENCE)
        expect(len(clicks) == len(threads), f"only {len(clicks)} of {len(threads)} users got a good answer in {PATIENCE} s")
        first, last = min(clicks)[0] * 1000, max(clicks)[0] * 1000
        failures = sum(failed for _, failed, _ in clicks)
        unknown = sum(unknown for _, _, unknown in clicks)
        say(f"{len(clicks)} of them clicked at once: first good answer after {first:.0f} ms, the last one's after {last:.0f} ms, "
            f"{failures} failed")
        if unknown:
            say(f"{unknown} came before the other servers had made up who has the sessions of the dead one")
        expect(failures == 0, "no click may fail")
        for name in names:
            del self.servers[name]
        return " ".join(names)

    def survived(self):
        """Every login and every cart is there."""
        self.each(self.users, User.click)
        homes = collections.Counter(user.home for user in self.users)
        spread = ", ".join(f"{count} on {server}" for server, count in sorted(homes.items()))
        say(f"all {len(self.users)} users still have login, cart and session id: {spread}")
        if self.ended:
            self.each(self.ended, User.click_as_stranger)
            say(f"none of the {len(self.ended)} sessions that had ended is back, nor an old id")

    def copied(self):
        """Waits until each session is on two servers again, if there are two."""
        since = time.monotonic()
        wanted = min(2, len(self.servers)) * len(self.users)
        while (held := sum(self.holders().values())) < wanted:
            expect(time.monotonic() < since + PATIENCE, f"{held} instead of {wanted} sessions are held after {PATIENCE} s")
            time.sleep(0.05)
        say(f"each session is on {min(2, len(self.servers))} servers again, {time.monotonic() - self.killed_at:.1f} s after the kill")

    # What the orders are made of.

    def each(self, users, task):
        """Does something for every user, a few at the same time."""
        waiting, failures = collections.deque(users), []

        def work():
            connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
            while not failures:
                try:
                    user = waiting.popleft()
                except IndexError:
                    break
                try:
                    task(user, connection)
                except Differs as difference:
                    failures.append(difference)
            connection.close()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def click_until_good(self, user, dying, ready, clicks):
        connection, failed, unknown = http.client.HTTPConnection(self.address, timeout=PATIENCE), 0, 0
        ready.wait(PATIENCE)
        ready.wait(PATIENCE)
        while time.monotonic() < self.killed_at + PATIENCE:
            answer = user.send(connection, "GET", "/")
            # A killed process may answer for another moment.
            if answer.status == 200 and answer.page["server"] in dying:
                continue
            # Until BackupManager has noticed the death, it may fail to fetch a session from the server that has it, and the
            # application sees none. Nothing of it is lost, as the next clicks must show.
            if self.mode == "primary-secondary" and answer.status == 200 and not answer.new_session and "user" not in answer.page:
                unknown += 1
                time.sleep(0.01)
                continue
            try:
                user.check(answer)
                clicks.append((time.monotonic() - self.killed_at, failed, unknown))
                return
            except Differs as difference:
                say(str(difference))
                failed += 1

    def holders(self):
        """How many sessions, not only their ids, each server holds."""
        return {server.name: server.measures()["sessions"] for server in self.servers.values()}

    def messages(self):
        return sum(server.measures()["messages"] for server in self.servers.values())


def resident(pid):
    """Returns the resident memory of a process, in bytes."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def kibibytes(size):
    return f"{size / 1024:.1f} KiB"


def expect(true, otherwise):
    if not true:
        raise Differs(otherwise)


def say(text):
    print(f"   {text}", file=sys.stderr, flush=True)


def main():
    address, mode, proxy, *servers = sys.argv[1:]
    crowd = Crowd(address, mode, proxy, servers)
    orders = {name: getattr(crowd, name) for name in "fill save count renew leave kill survived copied started serving".split()}
    for line in sys.stdin:
        order, *words = line.split()
        try:
            print("ok", orders[order](*words) or "", flush=True)
        except Differs as difference:
            say(f"NOT AS IT MUST BE: {difference}")
            print("failed", flush=True)
            return 1
        except (OSError, ValueError, threading.BrokenBarrierError) as error:
            say(f"NOT AS IT MUST BE: {type(error).__name__}: {error}")
            print("failed", flush=True)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
