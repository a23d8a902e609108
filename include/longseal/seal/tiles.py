"""Reading a log that is published as static files: C2SP tlog-tiles (c2sp.org/tlog-tiles).

Only checkpoints and entry bundles are read. Whoever reads every entry computes the tree's root
anew, and needs no tile of hashes to trust one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from longseal.errors import LogError
from longseal.seal.checkpoint import MAX_NOTE_BYTES
from longseal.seal.http import get

TIMEOUT: Final = 30.0
WIDTH: Final = 256
"""Entries of a full bundle."""

MAX_BUNDLE_BYTES: Final = WIDTH * (2 + 65_535)


def read_checkpoint(url: str) -> bytes:
    """The newest checkpoint's note; nothing of it is verified.

    :raises LogError: the log did not answer, or has none
    """
    note = get(f"{url}/checkpoint", timeout=TIMEOUT, limit=MAX_NOTE_BYTES, error=LogError)
    if note is None:
        raise LogError(f"{url} has no checkpoint: is it where the log publishes its tiles?")
    return note


def read_entries(url: str, start: int, end: int) -> Iterator[bytes]:
    """The entries from ``start`` up to ``end``, which is the size of a tree; nothing is verified.

    :raises LogError: the log did not answer, or not with such bundles
    """
    for number in range(start // WIDTH, -(-end // WIDTH)):
        first = number * WIDTH
        width = min(WIDTH, end - first)
        entries = _split(_read_bundle(url, number, width))
        if len(entries) < width:
            raise LogError(f"{url}: bundle {number} has {len(entries)} entries of {width}")
        yield from entries[max(start - first, 0) : width]


def _read_bundle(url: str, number: int, width: int) -> bytes:
    whole = f"{url}/tile/entries/{_path(number)}"
    # A log may remove a partial bundle once the full one is there.
    for place in [whole] if width == WIDTH else [f"{whole}.p/{width}", whole]:
        data = get(place, timeout=TIMEOUT, limit=MAX_BUNDLE_BYTES, error=LogError)
        if data is not None:
            return data
    raise LogError(f"{url} has no bundle {number} of {width} entries, which its checkpoint covers")


def _path(number: int) -> str:
    """1234067 is ``x001/x234/067``."""
    digits = f"{number:03}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    parts = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    return "/".join([*(f"x{part}" for part in parts[:-1]), parts[-1]])


def _split(data: bytes) -> list[bytes]:
    """Entries, each after its length in two bytes."""
    entries = []
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 2])
        at += 2 + length
        if at > len(data):
            raise LogError("an entry bundle breaks off within an entry")
        entries.append(data[at - length : at])
    return entries
