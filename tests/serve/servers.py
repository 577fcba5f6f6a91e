"""Real servers on free ports, in a thread of the test."""

import threading
from contextlib import contextmanager

from rl_transformer.serve.app import ServerApp
from rl_transformer.serve.client import ServerClient
from rl_transformer.serve.connections import HttpServer
from rl_transformer.serve.limits import ServeLimits
from rl_transformer.serve.server import Address, bind
from rl_transformer.serve.service import Service


class Running:
    """A server, and what it is made of."""

    def __init__(self, service, app, url, port):
        self.service = service
        self.app = app
        self.url = url
        self.port = port
        self.clients = []

    def client(self, token=None):
        """Return a client that is closed with the server."""
        self.clients.append(ServerClient(self.url, token))
        return self.clients[-1]


@contextmanager
def running(policy, *, token=None, store=None, names=(), newer=None, **limits):
    """Serve a policy inside the block."""
    chosen = ServeLimits(**limits)
    service = Service(policy, chosen, store)
    app = ServerApp(service, chosen, token=token, names=names, newer=newer)
    stop = threading.Event()
    with bind(Address(port=0)) as listening:
        port = listening.getsockname()[1]
        server = HttpServer(app, chosen, stop.is_set)
        thread = threading.Thread(target=server.run_on, args=(listening,))
        thread.start()
        here = Running(service, app, f"http://127.0.0.1:{port}", port)
        try:
            yield here
        finally:
            for client in here.clients:
                client.close()
            stop.set()
            thread.join(timeout=30)
            assert not thread.is_alive()
