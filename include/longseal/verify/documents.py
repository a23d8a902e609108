"""Documents that hold evidence, taken apart into its single pieces, byte for byte.

A piece is a Sigstore bundle, a PEP 740 attestation or a bare DSSE envelope. They come alone, in an
array, and in the answers of GitHub's, npm's and PyPI's interfaces. What is kept of a document is
the exact text of each piece (``docs/formats/evidence.md``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from json import JSONDecoder
from typing import Final, Literal

from longseal.canonical import parse_json

Format = Literal["sigstore-bundle", "pep-740", "dsse-envelope", "unreadable"]

_BUNDLE: Final = '"application/vnd.dev.sigstore.bundle'
_SPACE: Final = " \t\r\n"
_WHITESPACE: Final = re.compile(f"[{_SPACE}]*+")
_DECODER: Final = JSONDecoder()


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of evidence in a document.

    :param data: its bytes, as the document has them
    :param reason: why nothing can be read from it, for the format ``unreadable``
    """

    format: Format
    data: bytes
    reason: str = ""


def pieces(data: bytes) -> tuple[Piece, ...]:
    """The evidence in one JSON document; empty where it holds none of a known shape.

    :raises MalformedError: it is no JSON document, or past the limits of :func:`parse_json`
    """
    parse_json(data, "the document")
    text = data.decode().strip(_SPACE)
    if text.startswith("["):
        found = [(one, _alone(one)) for _, one in _inside(text)]
        if not any(piece for _, piece in found):
            return ()
        return tuple(piece or _unreadable(one, "none of the known shapes") for one, piece in found)
    alone = _alone(text)
    return (alone,) if alone else tuple(_answer(_members(text)))


def _alone(text: str) -> Piece | None:
    members = _members(text)
    if "verificationMaterial" in members or members.get("mediaType", "").startswith(_BUNDLE):
        return Piece("sigstore-bundle", text.encode())
    if {"verification_material", "envelope"} <= members.keys():
        return Piece("pep-740", text.encode())
    if {"payload", "signatures"} <= members.keys():
        return Piece("dsse-envelope", text.encode())
    return None


def _answer(answer: Mapping[str, str]) -> Iterator[Piece]:
    """GitHub and npm list ``attestations`` with a ``bundle`` each; PyPI lists them by publisher."""
    for entry in _listed(answer, "attestations"):
        yield from _entry(entry)
    for publisher in _listed(answer, "attestation_bundles"):
        for entry in _listed(_members(publisher), "attestations"):
            yield from _entry(entry)


def _entry(entry: str) -> Iterator[Piece]:
    members = _members(entry)
    piece = _alone(members.get("bundle", entry))
    if piece is not None:
        yield piece
    elif "bundle" in members or "bundle_url" in members:
        yield _unreadable(entry, "its bundle is not in the document")


def _unreadable(text: str, reason: str) -> Piece:
    return Piece("unreadable", text.encode(), reason)


def _listed(members: Mapping[str, str], key: str) -> list[str]:
    text = members.get(key, "")
    return [one for _, one in _inside(text)] if text.startswith("[") else []


def _members(text: str) -> dict[str, str]:
    """By key, the exact text of each value of an object; empty for what is none."""
    return {key: one for key, one in _inside(text) if key is not None}


def _inside(text: str) -> Iterator[tuple[str | None, str]]:
    """Key, where it has one, and exact text of each value in what is known to be JSON."""
    at = _next(text, 1)
    while text[0] in "[{" and text[at] not in "]}":
        key = None
        if text[0] == "{":
            key, at = _DECODER.raw_decode(text, at)
            at = _next(text, _next(text, at) + 1)
        end = _DECODER.raw_decode(text, at)[1]
        yield key, text[at:end]
        at = _next(text, end)
        at = _next(text, at + 1) if text[at] == "," else at


def _next(text: str, at: int) -> int:
    space = _WHITESPACE.match(text, at)
    assert space is not None
    return space.end()
