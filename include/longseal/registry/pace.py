"""How often a registry is asked: one budget for all threads and processes of this host."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from longseal.errors import SettingsError

_MARGIN: Final = 1.1
"""Requests are paced a tenth below the rate: one that is late must not crowd the second after it
beyond the budget, as the registry counts it."""

_STALE: Final = 3600.0
"""Seconds ahead that no honest turn is: the host was started anew, and so was its clock."""


class Pace:
    """At most ``rate`` requests a second, and none while the registry asked for a pause.

    With a rate, the next turn stands in a file that every process of this user and host shares, so
    that mapped tasks do not multiply it. Without one, only pauses are kept, for these threads.

    :param origin: whose budget it is
    :raises SettingsError: the file cannot be had
    """

    def __init__(self, rate: float | None, origin: str) -> None:
        self._gap = _MARGIN / rate if rate else 0.0
        self._next = 0.0
        self._lock = threading.Lock()
        self._file = _shared(origin) if rate else None

    def wait(self) -> None:
        """Return when it is this request's turn."""
        if not self._gap and not self._next:
            return
        with self._turn() as now:
            turn = max(self._next, now)
            self._next = turn + self._gap
        if turn > now:
            time.sleep(turn - now)

    def hold(self, seconds: float) -> None:
        """Let nobody have a turn for so long."""
        with self._turn() as now:
            self._next = max(self._next, now + seconds)

    @contextmanager
    def _turn(self) -> Iterator[float]:
        """The time, while ``_next`` is this thread's alone."""
        with self._lock:
            if self._file is None:
                yield time.monotonic()
                return
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                now = time.monotonic()  # one clock for all processes of a host
                data = os.pread(self._file, 8, 0)
                shared = struct.unpack("d", data)[0] if len(data) == 8 else 0.0
                self._next = shared if now < shared < now + _STALE else 0.0
                yield now
                os.pwrite(self._file, struct.pack("d", self._next), 0)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)


def _shared(origin: str) -> int:
    """The open file of this origin, in a folder that is this user's own."""
    folder = Path(tempfile.gettempdir(), f"longseal-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to somebody else")
        path = folder / f"pace-{hashlib.sha256(origin.encode()).hexdigest()[:32]}"
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as err:
        raise SettingsError(
            "requests_per_second",
            f"the processes of this host share the budget through a file in {folder}, which "
            f"cannot be used ({err.strerror or err}): set TMPDIR to a folder that can",
        ) from err
