"""A tiny HTTP proxy: it forwards plain requests and tunnels the others."""

import base64
import select
import socket
from http.client import HTTPConnection
from urllib.parse import urlsplit

from tests.doubles.server import LoopbackServer, QuietHandler


class Proxy(LoopbackServer):
    """Use it as a context manager; ``seen`` is what it was asked for.

    :param names: where hosts of these names are, as ``host:port``
    :param login: the user and password that it asks for
    """

    def __init__(
        self, names: dict[str, str] | None = None, login: tuple[str, str] | None = None
    ) -> None:
        self.names = names or {}
        self.seen: list[tuple[str, str]] = []
        self.expected = None
        if login is not None:
            self.expected = "Basic " + base64.b64encode(":".join(login).encode()).decode()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        super().__init__(Handler)


class _Handler(QuietHandler):
    protocol_version = "HTTP/1.1"
    owner: Proxy

    def _refused(self) -> bool:
        self.owner.seen.append((self.command, self.path))
        expected = self.owner.expected
        if expected is None or self.headers.get("Proxy-Authorization") == expected:
            return False
        self.send_response(407)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return True

    def do_CONNECT(self) -> None:
        if self._refused():
            return
        host, _, port = self.owner.names.get(self.path, self.path).rpartition(":")
        with socket.create_connection((host, int(port))) as far:
            self.send_response(200)
            self.end_headers()
            pair = {self.connection: far, far: self.connection}
            while True:
                for source in select.select(list(pair), [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        self.close_connection = True
                        return
                    pair[source].sendall(data)

    def do_GET(self) -> None:
        if self._refused():
            return
        url = urlsplit(self.path)
        far = HTTPConnection(self.owner.names.get(url.netloc, url.netloc))
        headers = {key: value for key, value in self.headers.items() if "Proxy" not in key}
        far.request(self.command, f"{url.path}?{url.query}", headers=headers)
        answer = far.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)
        far.close()

    do_HEAD = do_GET
