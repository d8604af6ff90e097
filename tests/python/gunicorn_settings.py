"""Settings of the gunicorn that tests start: it prints its address once it listens."""

bind = "127.0.0.1:0"
workers = 3
threads = 4


def when_ready(server):
    print("http://%s:%d" % server.LISTENERS[0].getsockname(), flush=True)
