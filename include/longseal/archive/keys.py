"""Names in the archive: one grammar for every store, so that what fits one fits all.

Lower case only, because some file systems fold case; no part begins with a dot, so that a
directory's own helper files can.
"""

from __future__ import annotations

import re
from typing import Final

from longseal.errors import MalformedError, RefusedError

MAX_KEY: Final = 512
"""Longest key, in bytes."""

_PART = r"[a-z0-9_-][a-z0-9._-]{0,199}"
_KEY = re.compile(rf"{_PART}(/{_PART})*")
_DISPOSABLE = re.compile(r"packs/sha256/[0-9a-f]{64}\.(zip|parquet|json)")
_PREFIX = re.compile(rf"({_PART}/)*({_PART})?")


def is_key(text: str) -> bool:
    """Whether ``text`` is a well-formed name; what else a store lists is not the archive's."""
    return len(text) <= MAX_KEY and _KEY.fullmatch(text) is not None


def check_key(key: str) -> str:
    """``key``, when it is a well-formed name.

    :raises MalformedError: when it is not
    """
    if not is_key(key):
        raise MalformedError(
            f"expected an archive key of parts [a-z0-9._-] between single slashes, no part with a "
            f"dot first, {MAX_KEY} bytes at most, found {key[:120]!a}"
        )
    return key


def check_prefix(prefix: str) -> str:
    """``prefix``, when some key can begin with it.

    :raises MalformedError: when none can
    """
    if len(prefix) > MAX_KEY or _PREFIX.fullmatch(prefix) is None:
        raise MalformedError(f"no archive key begins with {prefix[:120]!a}")
    return prefix


def check_disposable(key: str) -> str:
    """``key``, when it is of a pack, its index or its label: nothing else is ever deleted.

    :raises RefusedError: when it is not
    """
    if _DISPOSABLE.fullmatch(key) is None:
        raise RefusedError(f"only packs are ever deleted from the archive, not {key[:120]!a}")
    return key
