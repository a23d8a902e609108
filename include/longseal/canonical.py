"""Digests, canonical JSON and times: the spellings that everything stored agrees on.

Canonical JSON is RFC 8785 narrowed as the design asks: ASCII keys, no floats, only valid Unicode.
JSON from outside goes through :func:`parse_json`, which bounds size and depth and refuses duplicate
keys, so that two readers of the same bytes cannot see two documents.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Final

from longseal.errors import MalformedError

MAX_JSON_BYTES: Final = 16 * 1024 * 1024
"""Largest JSON document read from outside, in bytes; an attestation above it is quarantined."""

MAX_JSON_DEPTH: Final = 64

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})"
)


def sha256_hex(data: bytes) -> str:
    """SHA-256 of ``data`` in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def digest_of(data: bytes) -> str:
    """The OCI digest of ``data``: ``sha256:`` and lower-case hex."""
    return f"sha256:{sha256_hex(data)}"


def digest_set(data: bytes) -> dict[str, str]:
    """The in-toto digest set that every subject of a Longseal statement carries."""
    return {"sha256": sha256_hex(data), "sha512": hashlib.sha512(data).hexdigest()}


def is_digest(text: str) -> bool:
    """Whether ``text`` is a well-formed ``sha256:`` digest, the one algorithm stored here."""
    return _DIGEST.fullmatch(text) is not None


def hex_of(digest: str) -> str:
    """The hex part of a ``sha256:`` digest.

    :raises MalformedError: when ``digest`` is of another form
    """
    if not is_digest(digest):
        raise MalformedError(f"expected a digest sha256:<64 hex digits>, found {digest[:80]!r}")
    return digest.removeprefix("sha256:")


def canonical_json(value: object) -> bytes:
    """``value`` as RFC 8785 JSON without a newline.

    Of what is let through, the standard library writes the very bytes that RFC 8785 asks for, an
    order of magnitude faster than a serialiser in Python; a test compares the two.

    :raises MalformedError: for floats, integers past 2^53, keys that are not ASCII, text that is
        not valid Unicode, or what is no JSON at all
    """
    _refuse_unrepeatable(value)
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError as err:
        text = str(err.object)[err.start : err.start + 40]
        raise MalformedError(f"text is not valid Unicode: {text!a}") from err


_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _refuse_unrepeatable(value: object) -> None:
    """Of text only the keys are looked at: encoding the whole refuses what is not valid Unicode."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise MalformedError(f"keys of canonical JSON are ASCII, found {str(key)[:40]!a}")
            if not isinstance(item, str):
                _refuse_unrepeatable(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_unrepeatable(item)
    elif isinstance(value, float):
        raise MalformedError("floats have no place in canonical JSON: write an integer or a string")
    elif isinstance(value, int):
        if abs(value) >= 2**53:
            raise MalformedError("readers of JSON disagree on integers past 2^53: write a string")
    elif value is not None and not isinstance(value, str):
        raise MalformedError(f"JSON has no {type(value).__name__}")


def parse_json(
    data: bytes, what: str, limit: int = MAX_JSON_BYTES, values: int | None = None
) -> Any:
    """Parse JSON from outside, bounded before it is parsed.

    :param what: what the bytes are meant to be, for the message
    :param limit: most bytes accepted
    :param values: most values accepted; None for one in 16 of ``limit``, more than documents have
        and less than fills the memory: each takes at least 64 bytes, and may be spelled in two
    :raises MalformedError: too large, too deep, not UTF-8, not JSON, or a key given twice
    """
    if len(data) > limit:
        raise MalformedError(f"{what} has {len(data)} bytes, more than the {limit} allowed")
    most = limit // 16 if values is None else values
    openings = data.count(b"[") + data.count(b"{")
    # Text is taken out only where what stands in it could matter: that takes longer than parsing.
    if openings > MAX_JSON_DEPTH or openings + data.count(b",") > most:
        _require_bounded(_STRING.sub(b"", data), what, most)
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as err:
        raise MalformedError(f"{what} is not JSON: {err}") from err


def _require_bounded(bare: bytes, what: str, most: int) -> None:
    if bare.count(b",") + bare.count(b"[") + bare.count(b"{") > most:
        raise MalformedError(f"{what} holds more than the {most} values allowed")
    if _nesting(bare) > MAX_JSON_DEPTH:
        raise MalformedError(f"{what} nests deeper than {MAX_JSON_DEPTH} levels")


def parse_object(
    data: bytes, what: str, limit: int = MAX_JSON_BYTES, values: int | None = None
) -> dict[str, Any]:
    """:func:`parse_json` for a document that must be an object."""
    value = parse_json(data, what, limit, values)
    if not isinstance(value, dict):
        raise MalformedError(f"{what} is not a JSON object but {type(value).__name__}")
    return value


# Possessive, and content with an end that is optional: linear whatever the input.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_OTHER = bytes(set(range(256)) - _STEPS.keys())


def _nesting(bare: bytes) -> int:
    brackets = bare.translate(None, _OTHER)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def timestamp(moment: datetime) -> str:
    """``moment`` as RFC 3339 in UTC with whole seconds, ``2026-10-31T23:59:59Z``."""
    if moment.tzinfo is None:
        raise MalformedError("a time without a zone cannot be stored: give one in UTC")
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def parse_timestamp(text: str) -> datetime:
    """The inverse of :func:`timestamp`; takes any RFC 3339 offset.

    :raises MalformedError: when ``text`` is no such time
    """
    try:
        if _RFC_3339.fullmatch(text) is None:
            raise ValueError
        return datetime.fromisoformat(text).astimezone(UTC)
    except (TypeError, ValueError, OverflowError) as err:
        raise MalformedError(f"expected an RFC 3339 time, found {str(text)[:40]!a}") from err
