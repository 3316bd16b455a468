"""HTTP servers on this machine, which stand for the hub and for W&B."""

import threading
from contextlib import contextmanager
from http.server import ThreadingHTTPServer


class Quiet:
    """What handlers of requests have in common."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_):
        pass  # clients hang up


@contextmanager
def serving(handler, **state):
    """Answer requests by `handler`, a class that is given `state`; yields the address."""
    server = _Server(("127.0.0.1", 0), type("Handler", (handler,), state))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
