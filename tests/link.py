"""The way to a server, as a TCP proxy that can fail: it drops, stalls, and changes what passes."""

import socket
import threading
from contextlib import suppress
from typing import Literal, Self

Fault = Literal["drop", "stall", "corrupt"]


class Link:
    """Use it as a context manager; ``host`` is where it listens.

    :param host: of the server, with its port
    """

    def __init__(self, host: str) -> None:
        name, _, port = host.rpartition(":")
        self._server = (name, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._stalled = threading.Event()
        self._left: int | None = None
        self._fault: Fault = "drop"
        self._stays_down = False
        self._down = False
        self.passed = 0
        self.struck = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.mend()
        self._drop()

    def fail_after(self, count: int, fault: Fault = "drop", stays_down: bool = False) -> None:
        """Once so many bytes more have passed, either way, strike.

        :param stays_down: every connection is refused from then on, until :meth:`mend`
        """
        with self._lock:
            self._left, self._fault, self._stays_down = count, fault, stays_down

    def mend(self) -> None:
        """No more faults."""
        with self._lock:
            self._left, self._down, self._stays_down = None, False, False
        self._stalled.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._down:
                near.close()
                continue
            try:
                far = socket.create_connection(self._server)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                kept, rest, fault = self._divide(data)
                if fault == "corrupt":
                    rest = bytes([rest[0] ^ 1]) + rest[1:]
                    target.sendall(kept + rest)
                    continue
                target.sendall(kept)
                if fault == "stall":
                    self._stalled.wait(30)
                if fault:
                    self._drop()
                    return
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            with self._lock:
                self._open.discard(end)
            end.close()

    def _divide(self, data: bytes) -> tuple[bytes, bytes, Fault | None]:
        with self._lock:
            self.passed += len(data)
            if self._left is None:
                return data, b"", None
            if len(data) <= self._left:
                self._left -= len(data)
                return data, b"", None
            at, self._left = self._left, None
            self._down = self._stays_down
            self.struck += 1
            self._stalled.clear()
            return data[:at], data[at:], self._fault

    def _drop(self) -> None:
        with self._lock:
            ends, self._open = self._open, set()
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
