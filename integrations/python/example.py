"""An application with a login, a cart and a counter in its session, to try linchpin_sessions with.

    SESSION_SECRET=… python3 example.py [PORT]                                  one process, many threads
    SESSION_SECRET=… SESSION_FOLDER=/tmp/a gunicorn --workers 4 example:app     processes that share a folder
"""

import os
import sys
import time

from flask import Flask, session
from linchpin_sessions import LinchpinSessions

app = Flask(__name__)
LinchpinSessions(app, secret=os.environ["SESSION_SECRET"], folder=os.environ.get("SESSION_FOLDER"))
NAME = os.environ.get("NAME", "a")


@app.get("/count")
def read():
    return str(session.get("count", 0))


@app.post("/count")
def count():
    session["count"] = session.get("count", 0) + 1
    return str(session["count"])


@app.post("/slow")
def slow():
    session.get("count")
    time.sleep(1)
    return count()


@app.post("/login/<user>")
def log_in(user):
    app.session_interface.regenerate(session)
    session["user"] = user
    return ""


@app.post("/cart/<item>")
def put(item):
    session["cart"] = [*session.get("cart", []), item]
    return ""


@app.get("/whoami")
def whoami():
    return f"{NAME} {session.get('user', 'nobody')} {','.join(session.get('cart', []))}"


@app.post("/renew")
def renew():
    app.session_interface.regenerate(session)
    return ""


@app.post("/logout")
def log_out():
    session.clear()
    return ""


if __name__ == "__main__":
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0, app, threaded=True)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
