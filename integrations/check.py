#!/usr/bin/env python3
"""Checks a middleware for session copies: plays Linchpin against two running servers of one application.

    integrations/check.py http://127.0.0.1:3001 http://127.0.0.1:3002

Start your application twice, with the same secrets and separate memories, and give the addresses of the two servers. Each line of
the output is a rule of docs/session-copies.md, and says whether it holds. The exit status is 0 if all of them do.

The application needs these requests; options name others:

    POST /count     adds 1 to a counter in the session, and responds with the counter as text
    GET /count      responds with the counter; without a session with 0
    POST /logout    destroys the session
    POST /renew     gives the session a new id
    POST /slow      loads the session, waits for a second, adds 1 to the counter and responds with it
"""

import argparse
import base64
import concurrent.futures
import http.client
import re
import secrets
import sys
import time
import urllib.parse

WELL_KNOWN = "/.well-known/linchpin/session"
PARAMETERS = r"((?:; *[a-z]+(?:=[0-9]{1,15})?)*)"
SAVE = re.compile(r":([A-Za-z0-9+/]*={0,2}):" + PARAMETERS)
DROP = re.compile(r"\?1" + PARAMETERS)
SESSION = re.compile(r'ref="([A-Za-z0-9_-]{1,64})"' + PARAMETERS)

CHECKS = []
OPTIONS = argparse.Namespace()


class Broken(Exception):
    """A rule does not hold."""


class Skipped(Exception):
    """The application cannot be asked."""


def expect(holds, fact):
    if not holds:
        raise Broken(fact)


def parameters(text):
    pairs = (part.strip().partition("=") for part in text.split(";")[1:])
    return {name: int(value) if value else True for name, _, value in pairs}


class Response:
    def __init__(self, response, fields, body):
        self.status, self.fields, self.body = response.status, fields, body

    def __str__(self):
        fields = [f"{name}: {value[:60]}" for name, value in self.fields if name.lower().startswith("linchpin")]
        return f"{self.status} {fields} {self.body[:60]!r}"

    def all(self, name):
        return [value for key, value in self.fields if key.lower() == name]

    def parsed(self, name, form):
        """Returns the match of a field that may be there once, or None."""
        values = self.all(name)
        expect(len(values) < 2, f"{name} is there {len(values)} times: {self}")
        if not values:
            return None
        match = form.fullmatch(values[0])
        expect(match, f"{name} is malformed: {values[0][:80]!r}")
        return match

    def save(self):
        """Returns the copy that the response saves, or None."""
        match = self.parsed("linchpin-session-save", SAVE)
        return match and Copy(base64.b64decode(match[1], validate=True), parameters(match[2]))

    def drop(self):
        """Returns the version of the drop, or None."""
        match = self.parsed("linchpin-session-drop", DROP)
        return match and version(parameters(match[1]))

    def is_want(self):
        return self.status == 409 and self.all("linchpin-session-want") == ["?1"]

    def text(self):
        expect(200 <= self.status < 300, f"the application responded {self}")
        return self.body.decode(errors="replace").strip()


def version(found):
    expect({"term", "seq"} <= found.keys(), f"term or seq is missing in {found}")
    return (found["term"], found["seq"])


class Copy:
    def __init__(self, sealed, found):
        self.sealed, self.version, self.ttl = sealed, version(found), found.get("ttl", 0)
        self.term, self.seq = self.version

    def __str__(self):
        return f"a save of state {self.version}"


def send(server, method, path, fields=(), body=None):
    url = urllib.parse.urlsplit(server)
    connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=OPTIONS.timeout)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in fields:
            connection.putheader(name, value)
        if body is not None or method in ("POST", "PUT"):
            connection.putheader("Content-Length", str(len(body or b"")))
        connection.endheaders()
        try:
            if body:
                connection.send(body)
        except OSError:
            pass  # A server may refuse a body before it has read it; its response says so.
        response = connection.getresponse()
        return Response(response, response.getheaders(), response.read())
    finally:
        connection.close()


def session_field(ref, term, seq=None, dropped=False):
    return ("Linchpin-Session", f'ref="{ref}";term={term}' + (f";seq={seq}" if seq is not None else "") + (";dropped" if dropped else ""))


def put(server, ref, at, sealed, role="primary"):
    """Gives a copy to a server: `at` is (term, seq)."""
    fields = [session_field(ref, *at), ("Linchpin-Session-Role", role), ("Content-Type", "application/octet-stream")]
    return send(server, "PUT", WELL_KNOWN, fields, sealed)


def given(server, ref, at, sealed, role="primary"):
    response = put(server, ref, at, sealed, role)
    expect(response.status == 204, f"a PUT of state {at} got {response}, not 204")


class Client:
    """A browser with its cookies and its ref."""

    def __init__(self, ref=None, cookies=None):
        self.ref, self.cookies = ref or secrets.token_hex(16), dict(cookies or {})

    def ask(self, server, what, *at, **more):
        """Asks for 'count', 'read', …: `at` is the term and the seq of Linchpin-Session, or nothing for none."""
        request = getattr(OPTIONS, what)
        if not request:
            raise Skipped(f"the application has no request for {what!r}")
        method, path = request.split()
        fields = [session_field(more.get("ref", self.ref), *at, dropped=more.get("dropped", False))] if at else []
        if self.cookies:
            fields.append(("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items())))
        response = send(server, method, path, fields)
        if not response.is_want():
            for cookie in response.all("set-cookie"):
                name, _, value = cookie.split(";")[0].partition("=")
                self.cookies[name.strip()] = value.strip()
        return response

    def change(self, server, *at, **more):
        """Counts, and returns the count and its copy."""
        response = self.ask(server, "count", *at, **more)
        text, save = response.text(), response.save()
        expect(save, f"a changed session was not saved: {response}")
        return text, save

    def state(self, server, *at, **more):
        return self.ask(server, "read", *at, **more).text()


def check(rule):
    def add(function):
        CHECKS.append((rule, function))
        return function
    return add


@check("Without Linchpin-Session the application works, and sends no field of Linchpin's")
def _(a, b):
    client = Client()
    response = client.ask(a, "count")
    told = response.text()
    expect(not [name for name, _ in response.fields if name.lower().startswith("linchpin")], f"there is one: {response}")
    expect(client.state(a) == told, "the session is not kept")


@check("A changed session is saved: the request's term, one more than its seq, a ttl")
def _(a, b):
    client = Client()
    _, save = client.change(a, 1)
    expect(save.version == (1, 1), f"the first state is {save.version}, not (1, 1)")
    expect(save.ttl > 0, "the save has no ttl")
    _, save = client.change(a, 1, 1)
    expect(save.version == (1, 2), f"the second state is {save.version}, not (1, 2)")


@check("An unchanged session is not saved")
def _(a, b):
    client = Client()
    told, save = client.change(a, 1)
    response = client.ask(a, "read", *save.version)
    expect(response.text() == told, f"the state was {told}, and is {response}")
    expect(not response.save() and not response.drop(), f"there is a save or a drop: {response}")


@check("A state whose save was lost on its way is saved with the next response")
def _(a, b):
    client = Client()
    _, first = client.change(a, 1)
    told, lost = client.change(a, 1, first.seq)
    response = client.ask(a, "read", 1, first.seq)
    again = response.save()
    expect(response.text() == told and again, f"a client was told a state that has no copy: {response}")
    expect(again.version == (1, lost.seq + 1), f"after state {lost.version} the next is {again.version}")


@check("A request without seq gets a save, though nothing changed")
def _(a, b):
    client = Client()
    told, save = client.change(a, 1)
    response = client.ask(a, "read", 1)
    again = response.save()
    expect(response.text() == told and again, f"there is no save: {response}")
    expect(again.version == (1, save.seq + 1), f"after state {save.version} the next is {again.version}")


@check("A session that was never saved and has nothing in it is not saved")
def _(a, b):
    response = Client().ask(a, "read", 1)
    expect(not response.save() and not response.drop(), f"there is a save or a drop: {response}")


@check("A copy hides the session's id, and no two are alike")
def _(a, b):
    client = Client()
    _, first = client.change(a, 1)
    again = client.ask(a, "read", 1).save()
    expect(again and first.sealed != again.sealed, "the same state was sealed to the same bytes")
    for value in client.cookies.values():
        for part in re.findall(r"[A-Za-z0-9_-]{16,}", urllib.parse.unquote(value)):
            expect(part.encode() not in first.sealed, "the copy contains a part of the cookie in plain text")


@check("A server without the session wants it: 409 before anything runs")
def _(a, b):
    client = Client()
    told, save = client.change(a, 1)
    for what in ("count", "read"):
        response = client.ask(b, what, *save.version)
        expect(response.is_want(), f"no 409 with Linchpin-Session-Want: {response}")
        expect(not response.body, "the 409 has a body")
        expect(not response.save() and not response.drop(), f"the 409 has a save or a drop: {response}")
        expect(not response.all("set-cookie"), "the 409 sets a cookie")
    given(b, client.ref, (2, save.seq), save.sealed)
    expect(client.state(b, 2, save.seq) == told, "the request that was wanted again was run")


@check("A server that was given the copy goes on from it, in the new term")
def _(a, b):
    client = Client()
    told, save = client.change(a, 1)
    given(b, client.ref, (2, save.seq), save.sealed)
    response = client.ask(b, "read", 2, save.seq)
    expect(response.text() == told, f"the state was {told}, and is {response}")
    expect(not response.save(), "a copy that was given is saved again, unchanged")
    later, next_save = client.change(b, 2, save.seq)
    expect(later != told, "the change is lost")
    expect(next_save.version == (2, save.seq + 1), f"after (2, {save.seq}) the next state is {next_save.version}")


@check("A server that is behind wants the newer state, and goes on from it")
def _(a, b):
    client = Client()
    _, save = client.change(a, 1)
    given(b, client.ref, (2, save.seq), save.sealed)
    told, save = client.change(b, 2, save.seq)
    response = client.ask(a, "count", *save.version)
    expect(response.is_want(), f"the first server still has the old state, and did not want the new one: {response}")
    given(a, client.ref, (3, save.seq), save.sealed)
    expect(client.state(a, 3, save.seq) == told, "the first server went on with its old state")
    _, save = client.change(a, 3, save.seq)
    expect(client.ask(b, "read", *save.version).is_want(), "the second server did not want the newest state")


@check("The term decides before the seq")
def _(a, b):
    client = Client()
    _, save = client.change(a, 1)
    given(b, client.ref, (2, save.seq), save.sealed)
    for _ in range(2):
        client.change(a, 1)
    told = client.state(b, 2, save.seq)
    copy = client.ask(b, "read", 2).save()
    expect(copy, "there is no save without seq")
    expect(client.ask(a, "read", *copy.version).is_want(), "the server with the lower term and the higher seq did not want")
    given(a, client.ref, (3, copy.seq), copy.sealed)
    expect(client.state(a, 3, copy.seq) == told, "the lower term won")


@check("An older PUT is refused with the version that the server has; an equal one is taken")
def _(a, b):
    client = Client()
    _, old = client.change(a, 1)
    told, new = client.change(a, 1, old.seq)
    given(b, client.ref, (2, new.seq), new.sealed)
    given(b, client.ref, (2, new.seq), new.sealed)
    for at in ((1, old.seq), (1, new.seq + 100), (2, new.seq - 1)):
        response = put(b, client.ref, at, old.sealed)
        expect(response.status == 409, f"state {at} after (2, {new.seq}) got {response}, not 409")
        own = response.parsed("linchpin-session", SESSION)
        expect(own and own[1] == client.ref, f"the 409 has no Linchpin-Session: {response}")
        expect(version(parameters(own[2])) == (2, new.seq), f"it says {own[0]}, not (2, {new.seq})")
    expect(client.state(b, 2, new.seq) == told, "the older copy replaced the newer one")


@check("A forged or damaged copy gets 422, and changes nothing")
def _(a, b):
    client = Client()
    told, save = client.change(a, 1)
    given(b, client.ref, (2, save.seq), save.sealed)
    sealed = save.sealed
    middle = len(sealed) // 2
    flipped = [bytes([byte ^ 1 if at == n else byte for n, byte in enumerate(sealed)]) for at in (0, 1, middle, len(sealed) - 1)]
    for forged in [*flipped, sealed[:-1], sealed[:middle], sealed + b"x", b"x", b"", secrets.token_bytes(100), b'{"count":1000}']:
        response = put(b, client.ref, (3, save.seq + 1), forged)
        expect(response.status == 422, f"{len(forged)} forged bytes got {response}, not 422")
    expect(client.state(b, 2, save.seq) == told, "the session is not what it was")


@check("A copy can be given under another ref than it was saved under")
def _(a, b):
    client = Client()
    told, save = client.change(a, 1)
    client.ref = secrets.token_hex(16)
    given(b, client.ref, (2, save.seq), save.sealed)
    expect(client.state(b, 2, save.seq) == told, "the copy was not used")


@check("A copy is worth nothing with another session's cookie, or with none")
def _(a, b):
    victim, thief = Client(), Client()
    victim.change(a, 1)
    told, save = victim.change(a, 1, 1)
    thief.change(a, 1)
    given(b, victim.ref, (2, save.seq), save.sealed)
    empty = Client().state(b)
    for cookies in (thief.cookies, {}):
        got = Client(victim.ref, cookies).state(b, 2, save.seq)
        expect(got == empty, f"a client without the session's cookie was told {got}, where one without session is told {empty}")
    expect(victim.state(b, 2, save.seq) == told, "the session's own client does not get it any more")


@check("A request without the session's cookie leaves the session as it is")
def _(a, b):
    client = Client()
    told, save = client.change(a, 1)
    given(b, client.ref, (2, save.seq), save.sealed)
    for server, at in ((a, (1, save.seq)), (a, (1,)), (b, (2, save.seq)), (b, (2,))):
        response = Client(client.ref).ask(server, "read", *at)
        expect(not response.drop(), f"with {at} it drops the copy: {response}")
        again = client.ask(server, "read", at[0])
        expect(again.text() == told, f"after it with {at} the state is {again}, not {told}")


@check("A ten-megabyte or unaddressed PUT is refused, and the server goes on")
def _(a, b):
    client = Client()
    try:
        response = put(a, client.ref, (1, 1), bytes(10_000_000))
        expect(400 <= response.status < 500, f"ten megabytes got {response}")
    except (ConnectionError, http.client.HTTPException):
        pass  # Closing the connection is a refusal, too.
    for fields in ([], [("Linchpin-Session", "nonsense")], [("Linchpin-Session", f'ref="{client.ref}"')]):
        response = send(a, "PUT", WELL_KNOWN, fields, b"x")
        expect(400 <= response.status < 500 and response.status != 409, f"a PUT with {fields} got {response}")
    client.change(a, 1)


@check("A malformed Linchpin-Session is as good as none")
def _(a, b):
    for text in ("", "x", "ref=1", 'ref="";term=1', 'ref="a b";term=1', 'ref="abc"', 'ref="abc";term=x', 'ref="abc";term=1;seq=-1',
                 'ref="abc";term=1;seq=99999999999999999999', f'ref="{"a" * 65}";term=1;seq=1', 'ref="abc;term=1;seq=1'):
        method, path = OPTIONS.count.split()
        response = send(a, method, path, [("Linchpin-Session", text)])
        expect(200 <= response.status < 300, f"{text!r} got {response}")
        expect(not response.save() and not response.drop(), f"{text!r} got {response}")


@check("A logout drops the copy: one state more; an old cookie is worth nothing on any server")
def _(a, b):
    client = Client()
    _, save = client.change(a, 1)
    given(b, client.ref, (2, save.seq), save.sealed)
    _, save = client.change(b, 2, save.seq)
    old = dict(client.cookies)
    response = client.ask(b, "logout", *save.version)
    dropped = response.drop()
    expect(dropped, f"there is no Linchpin-Session-Drop: {response}")
    expect(dropped[0] == 2 and dropped[1] > save.seq, f"after state {save.version} the drop is {dropped}")
    expect(not response.save(), "the response that drops also saves")
    empty = Client().state(a)
    for server in (b, a, b):
        again = Client(client.ref, old).ask(server, "read", *dropped, dropped=True)
        expect(not again.is_want(), "a server wants a dropped session")
        expect(again.text() == empty, f"the old cookie is worth {again.text()} at {server}")
    for at in (save.version, dropped):
        expect(put(b, client.ref, at, save.sealed).status == 409, f"a copy of state {at} was taken after the drop {dropped}")
    _, fresh = client.change(b, *dropped, dropped=True)
    expect(fresh.version == (2, dropped[1] + 1), f"after the drop {dropped} the next state is {fresh.version}")


@check("A DELETE drops the session, also when it comes twice; an older one doesn't")
def _(a, b):
    client = Client()
    told, save = client.change(a, 2)
    response = send(a, "DELETE", WELL_KNOWN, [session_field(client.ref, 1, save.seq + 5)])
    expect(response.status == 409, f"an older DELETE got {response}, not 409")
    expect(client.state(a, *save.version) == told, "an older DELETE dropped the session")
    at = (3, save.seq + 1)
    for which in ("first", "second"):
        response = send(a, "DELETE", WELL_KNOWN, [session_field(client.ref, *at)])
        expect(response.status == 204, f"the {which} DELETE got {response}, not 204")
    response = put(a, client.ref, at, save.sealed)
    expect(response.status == 409, f"a copy of the state that was deleted got {response}, not 409")
    cookies = dict(client.cookies)
    expect(client.state(a, 3) == Client().state(a), "the session is still there")
    given(a, client.ref, (4, save.seq), save.sealed)
    expect(Client(client.ref, cookies).state(a, 4, save.seq) == told, "a newer copy was not used after the DELETE")


@check("A new id replaces the old one, on any server")
def _(a, b):
    client = Client()
    told, save = client.change(a, 1)
    given(b, client.ref, (2, save.seq), save.sealed)
    expect(client.state(b, 2, save.seq) == told, "the copy was not used")
    old = dict(client.cookies)
    response = client.ask(b, "renew", 2, save.seq)
    response.text()
    renewed = response.save()
    expect(renewed and renewed.term == 2 and renewed.seq > save.seq, f"the new id was not saved: {response}")
    expect(not response.drop(), "the response that saves also drops")
    expect(client.cookies != old, "the cookie is the old one")
    empty = Client().state(a)
    got = Client(client.ref, old).state(b, *renewed.version)
    expect(got == empty, f"the old id is worth {got} where it was renewed")
    given(a, client.ref, (3, renewed.seq), renewed.sealed)
    got = Client(client.ref, old).state(a, 3, renewed.seq)
    expect(got == empty, f"the old id is worth {got} where the new one was given")
    expect(client.state(a, 3, renewed.seq) == told, "the new id was not taken")


@check("A session that comes under another ref is saved under that one")
def _(a, b):
    client = Client()
    told, save = client.change(a, 1)
    client.ref = secrets.token_hex(16)
    response = client.ask(a, "read", 7)
    again = response.save()
    expect(response.text() == told and again and again.version == (7, 1), f"it was not: {response}")
    given(b, client.ref, (8, 1), again.sealed)
    expect(client.state(b, 8, 1) == told, "it is another state")


@check("A secondary goes on from its copy, when no seq is given, and saves it")
def _(a, b):
    client = Client()
    told, save = client.change(a, 1)
    given(b, client.ref, save.version, save.sealed, "secondary")
    response = client.ask(b, "read", 2)
    again = response.save()
    expect(response.text() == told, f"the state was {told}, and is {response}")
    expect(again and again.version == (2, save.seq + 1), f"it was not saved: {response}")


@check("A memory that is more than one term old is not used when no seq is given")
def _(a, b):
    client = Client()
    client.change(a, 1)
    expect(client.state(a, 3) == Client().state(a), "it was")


@check("Concurrent changes get different states, and the highest is the newest")
def _(a, b):
    client = Client()
    _, save = client.change(a, 1)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        cookies = dict(client.cookies)
        changes = list(pool.map(lambda _: Client(client.ref, cookies).change(a, 1, save.seq)[1], range(8)))
    seqs = [change.seq for change in changes]
    expect(len(set(seqs)) == len(seqs) and min(seqs) > save.seq, f"they got {sorted(seqs)}")
    newest = max(changes, key=lambda change: change.version)
    told = client.state(a, *newest.version)
    given(b, client.ref, (2, newest.seq), newest.sealed)
    expect(client.state(b, 2, newest.seq) == told, "another state was the newest")


@check("A logout beats a slow request of the same session")
def _(a, b):
    client = Client()
    _, save = client.change(a, 1)
    old = dict(client.cookies)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        slow = pool.submit(Client(client.ref, old).ask, a, "slow", *save.version)
        time.sleep(0.3)
        dropped = client.ask(a, "logout", *save.version).drop()
        late = slow.result()
    expect(dropped, "the logout dropped nothing")
    save = late.save()
    # If the server runs one after the other, the slow request came first.
    expect(save is None or save.version < dropped, f"after the drop {dropped} there is {save}")
    got = Client(client.ref, old).state(a, *dropped, dropped=True)
    expect(got == Client().state(a), f"after the logout the old cookie is worth {got}")


@check("A slow request doesn't bring back what was deleted meanwhile")
def _(a, b):
    client = Client()
    _, save = client.change(a, 1)
    cookies = dict(client.cookies)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        slow = pool.submit(Client(client.ref, cookies).ask, a, "slow", *save.version)
        time.sleep(0.3)
        response = send(a, "DELETE", WELL_KNOWN, [session_field(client.ref, 2, save.seq + 1)])
        expect(response.status == 204, f"the DELETE got {response}")
        late = slow.result().save()
    expect(late and late.term == 1, f"its change was saved as {late and late.version}: term 1 would be refused, and should be")
    got = Client(client.ref, cookies).state(a, 2, save.seq + 1, dropped=True)
    expect(got == Client().state(a), f"the old cookie is worth {got}")


@check("A slow request of an old term neither undoes nor outbids what was given meanwhile")
def _(a, b):
    client = Client()
    _, save = client.change(a, 1)
    cookies = dict(client.cookies)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        slow = pool.submit(Client(client.ref, cookies).ask, a, "slow", *save.version)
        time.sleep(0.3)
        given(b, client.ref, (2, save.seq), save.sealed)
        for _ in range(2):
            told, save = client.change(b, 2, save.seq)
        given(a, client.ref, (3, save.seq), save.sealed)
        late = slow.result().save()
    expect(late and late.term == 1, f"its change was saved as {late and late.version}: term 1 would be refused, and should be")
    expect(client.state(a, 3, save.seq) == told, f"the state was {told}, and is what the slow request made of it")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs=2, metavar="URL", help="a server of the application; both have the same secrets")
    for name, request in (("count", "POST /count"), ("read", "GET /count"), ("logout", "POST /logout"), ("renew", "POST /renew"),
                          ("slow", "POST /slow")):
        parser.add_argument(f"--{name}", default=request, metavar="'METHOD PATH'", help=f"default: {request}; '' if it has none")
    parser.add_argument("--only", default="", metavar="WORDS", help="check only the rules with these words")
    parser.add_argument("--timeout", type=float, default=10, metavar="SECONDS", help="of each request; default: 10")
    parser.parse_args(namespace=OPTIONS)
    counts = {"ok": 0, "BROKEN": 0, "skipped": 0}
    for rule, function in CHECKS:
        if OPTIONS.only.lower() not in rule.lower():
            continue
        try:
            function(*(server.rstrip("/") for server in OPTIONS.servers))
            result, detail = "ok", ""
        except Skipped as reason:
            result, detail = "skipped", f": {reason}"
        except Broken as fact:
            result, detail = "BROKEN", f"\n        {fact}"
        except (OSError, http.client.HTTPException) as error:
            result, detail = "BROKEN", f"\n        the server did not respond: {error!r}"
        counts[result] += 1
        print(f"{result:7} {rule}{detail}", flush=True)
    print(f"\n{counts['ok']} rules hold, {counts['BROKEN']} are broken, {counts['skipped']} were skipped")
    return 1 if counts["BROKEN"] or not counts["ok"] else 0


if __name__ == "__main__":
    sys.exit(main())
