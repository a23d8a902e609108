"""Blobs on their way into a registry (distribution-spec 1.1, "Pushing blobs").

What fits into one piece goes in one PUT. Anything larger goes piece by piece, and an upload that
was cut off goes on from what the registry says that it has.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import BinaryIO, Final
from urllib.parse import urlencode

from longseal.errors import RefusedError, RegistryError
from longseal.registry.auth import Scope
from longseal.registry.connections import Answer, Readable
from longseal.registry.transport import Transport

PIECE: Final = 16 * 1024 * 1024
"""Bytes sent in the first request of an upload; while all goes well, each has twice as many."""

MAX_PIECE: Final = 1024 * 1024 * 1024
MAX_RESTARTS: Final = 8
"""How often one upload is begun anew, because the registry has forgotten it."""

REFUSALS: Final = (400, 404, 405, 409, 411, 412, 413, 415, 416, 422, 501)
_DENIALS: Final = (401, 403)
_HELD = re.compile(r"(?:bytes=)?0-(\d{1,19})")


class Upload:
    """One blob on its way.

    :param data: the blob; an upload can go on, or begin anew, where this is seekable
    :param there: whether the repository has the blob
    """

    def __init__(
        self,
        http: Transport,
        repository: str,
        digest: str,
        size: int,
        data: BinaryIO,
        there: Callable[[], bool],
    ) -> None:
        self._http = http
        self._repository = repository
        self._digest = digest
        self._size = size
        self._data = data
        self._there = there
        self._scope = Scope(repository, write=True)
        self._begin = f"/v2/{repository}/blobs/uploads/"
        self._start = data.tell() if data.seekable() else None
        self._where: str | None = None
        self._sent = 0
        self._sure = True
        self._least = self._piece = PIECE

    def run(self, elsewhere: str | None = None) -> bool:
        """Bring the blob.

        :param elsewhere: another repository of the registry that may have it
        :returns: whether its bytes were sent; False where the registry took it from ``elsewhere``
        :raises RefusedError: the registry does not want it
        :raises RegistryError: it did not arrive
        """
        if elsewhere is not None and self._mounted(elsewhere):
            return False
        again = self._start is not None
        if self._size <= self._piece:
            self._http.retrying(self._whole, again)
            return True
        for _ in range(MAX_RESTARTS):
            if self._in_pieces(again):
                return True
            if not again:
                break
        raise RegistryError(
            f"{self._http.host}/{self._repository} keeps forgetting the upload of {self._digest}"
        )

    def _mounted(self, elsewhere: str) -> bool:
        query = urlencode({"mount": self._digest, "from": elsewhere})
        allow = (201, 202, *REFUSALS, *_DENIALS)

        def ask() -> Answer:
            target = f"{self._begin}?{query}"
            return self._http.once("POST", target, self._scope, body=b"", allow=allow)

        answer = self._http.retrying(ask)
        if answer.status == 202:
            # Not mounted; but an upload is open, as after any POST.
            self._opened(answer)
        return answer.status == 201

    def _whole(self) -> None:
        where = self._where or self._open()
        self._where = None
        self._seek(0)
        self._put(where, _Part(self._data, self._size, self._http.wait_to_send), self._size)

    def _in_pieces(self, again: bool) -> bool:
        """Send all pieces, and close the upload; False where the registry forgot it on the way."""
        if self._where is None:
            self._http.retrying(self._open)
        self._sent, self._sure = 0, True
        while self._sent < self._size:
            if not self._http.retrying(self._send_piece, again):
                self._where = None
                return False
        return self._http.retrying(self._close)

    def _send_piece(self) -> bool:
        if not self._sure and not self._ask():
            return False
        if self._sent == self._size:
            return True
        assert self._where is not None
        length = min(self._piece, self._size - self._sent)
        self._seek(self._sent)
        self._sure = False
        answer = self._http.once(
            "PATCH",
            self._where,
            self._scope,
            content_type="application/octet-stream",
            content_range=f"{self._sent}-{self._sent + length - 1}",
            body=_Part(self._data, length, self._http.wait_to_send),
            size=length,
            allow=(202, 204, *REFUSALS),
        )
        if answer.status in (404, 416) and self._start is not None:
            return False
        if answer.status in REFUSALS:
            raise self._refusal("take a piece of", answer)
        self._opened(answer)
        self._sent += length
        self._sure = True
        self._piece = min(2 * self._piece, MAX_PIECE)
        return True

    def _ask(self) -> bool:
        """What of the upload has arrived; False where there is no such upload."""
        assert self._where is not None
        answer = self._http.once("GET", self._where, self._scope, allow=(200, 204, *REFUSALS))
        if answer.status in REFUSALS:
            return False
        held = _HELD.fullmatch(answer.headers.get("Range", ""))
        # Some say 0-0 both of nothing and of one byte: one byte less than there is cannot be sent.
        count = int(held[1]) + 1 if held else 0
        if count == 1 or count > self._size:
            return False
        self._sent = count
        self._piece = self._least
        if answer.headers.get("Location"):
            self._opened(answer)
        return True

    def _close(self) -> bool:
        assert self._where is not None
        if not self._sure and self._there():
            # The answer to a closing request was lost, and not the request.
            return True
        self._sure = False
        return self._put(self._where, b"", None)

    def _put(self, where: str, body: bytes | Readable, size: int | None) -> bool:
        answer = self._http.once(
            "PUT",
            f"{where}{'&' if '?' in where else '?'}{urlencode({'digest': self._digest})}",
            self._scope,
            content_type="application/octet-stream",
            body=body,
            size=size,
            allow=(200, 201, 204, *REFUSALS),
        )
        if answer.status == 404 and size is None:
            return self._there()
        if answer.code in ("DIGEST_INVALID", "SIZE_INVALID"):
            # What was read here had this digest: it was changed on the way.
            raise RegistryError(str(self._refusal("store", answer)))
        if answer.status in REFUSALS:
            raise self._refusal("store", answer)
        stored = answer.headers.get("Docker-Content-Digest", self._digest)
        if stored != self._digest:
            raise RegistryError(
                f"{self._http.host}/{self._repository} stored {stored[:80]!a} for {self._digest}"
            )
        return True

    def _open(self) -> str:
        answer = self._http.once(
            "POST", self._begin, self._scope, body=b"", allow=(201, 202, *REFUSALS)
        )
        if answer.status in REFUSALS:
            raise self._refusal("start an upload of", answer)
        return self._opened(answer)

    def _opened(self, answer: Answer) -> str:
        where = self._http.here(answer.headers.get("Location", ""), self._where or self._begin)
        if where is None:
            raise RegistryError(f"{self._http.host} sends uploads to another host: refused")
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        if least.isdecimal():
            self._least = max(PIECE, min(int(least[:19]), MAX_PIECE))
            self._piece = max(self._piece, self._least)
        self._where = where
        return where

    def _seek(self, offset: int) -> None:
        if self._start is not None:
            self._data.seek(self._start + offset)

    def _refusal(self, doing: str, answer: Answer) -> RefusedError:
        return refusal(self._http, f"{doing} {self._digest} in", self._repository, answer)


def refusal(http: Transport, doing: str, repository: str, answer: Answer) -> RefusedError:
    """What is to be raised where the registry will not have what it was sent."""
    why = f"{answer.status} {answer.code}".rstrip()
    return RefusedError(f"{http.host} would not {doing} {repository}: {why}")


class _Part:
    """The next ``length`` bytes of a stream, each read as soon as it may be sent."""

    def __init__(self, data: BinaryIO, length: int, wait: Callable[[int], None]) -> None:
        self._data = data
        self._left = length
        self._wait = wait

    def read(self, count: int = -1, /) -> bytes:
        wanted = self._left if count < 0 else min(count, self._left)
        data = self._data.read(wanted) if wanted else b""
        self._left -= len(data)
        self._wait(len(data))
        return data

    def seekable(self) -> bool:
        """Never: libcurl would send it again on its own, and not know what has arrived."""
        return False

    def tell(self) -> int:
        raise io.UnsupportedOperation

    def seek(self, _offset: int, /) -> int:
        raise io.UnsupportedOperation
