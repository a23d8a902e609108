"""Documents that hold evidence, taken apart into its single pieces, byte for byte.

A piece is a Sigstore bundle, a PEP 740 attestation or a bare DSSE envelope. They come alone, in an
array, one in each line, and in the answers of GitHub's, npm's and PyPI's interfaces. What is kept
of a document is the exact text of each piece (``docs/formats/evidence.md``).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from json import JSONDecoder
from typing import BinaryIO, Final, Literal

from longseal.canonical import MAX_JSON_BYTES, parse_json
from longseal.errors import MalformedError

Format = Literal["sigstore-bundle", "pep-740", "dsse-envelope", "unreadable"]

MAX_BROKEN: Final = 100
"""Lines of one file that may be unreadable; what comes after them is not read."""

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


def evidence_in(file: BinaryIO) -> Iterator[Piece]:
    """The evidence in a file of one JSON document, or of one in each line.

    Nothing, where it holds JSON of another kind, or no JSON. Of a document that breaks off or is
    not what it seems, the bytes are one unreadable piece; so is such a line among others.

    :raises MalformedError: it goes on past the limits; what was found before them was given
    """
    head = file.read(MAX_JSON_BYTES + 1)
    if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        return
    failed = MalformedError(f"more than {MAX_JSON_BYTES} bytes, and not one document in each line")
    if len(head) <= MAX_JSON_BYTES:
        try:
            yield from pieces(head)
            return
        except MalformedError as err:
            failed = err
    broken: list[Piece] = []
    seen = count = 0
    for number, line in enumerate(_lines(head, file)):
        try:
            found = pieces(line) or (Piece("unreadable", line, "none of the known shapes"),)
            if number == 0 and found[0].format == "unreadable":
                return
        except MalformedError as err:
            found = (Piece("unreadable", line, str(err)),)
        unreadable = [piece for piece in found if piece.format == "unreadable"]
        seen += len(found) - len(unreadable)
        count += len(unreadable)
        if count > MAX_BROKEN:
            failed = MalformedError(
                f"more than {MAX_BROKEN} lines are no evidence: the rest is left"
            )
            break
        if not seen:
            broken += unreadable
            continue
        yield from broken
        broken.clear()
        yield from found
    if not seen and len(head) <= MAX_JSON_BYTES:
        yield Piece("unreadable", head, str(failed))
    elif not seen or count > MAX_BROKEN:
        raise failed


def _lines(head: bytes, file: BinaryIO) -> Iterator[bytes]:
    """Lines that are not blank: those of ``head``, then of what follows in ``file``."""
    last = b""
    for source in (io.BytesIO(head), file):
        while part := source.readline(MAX_JSON_BYTES + 1 - len(last)):
            last += part
            if len(last) > MAX_JSON_BYTES:
                raise MalformedError(f"a line of more than {MAX_JSON_BYTES} bytes")
            if last.endswith(b"\n"):
                if line := last.strip(b" \t\r\n"):
                    yield line
                last = b""
    if line := last.strip(b" \t\r\n"):
        yield line


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
