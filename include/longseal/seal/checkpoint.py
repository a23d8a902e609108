"""Tree heads and proofs as text: C2SP tlog-checkpoint, signed-note and tlog-proof.

Notes are signed by Ed25519 keys (signature type 0x01) and, in logs of others, by ECDSA keys
(type 0x02). Specifications: c2sp.org/signed-note, c2sp.org/tlog-checkpoint, c2sp.org/tlog-proof.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from longseal.errors import MalformedError, UnsupportedError, VerificationError
from longseal.seal import tree
from longseal.seal.keys import spki, verify_signature
from longseal.seal.signers.interface import PublicKey

MAX_NOTE_BYTES: Final = 64 * 1024
MAX_PROOF_BYTES: Final = 1024 * 1024
MAX_PROOF_HASHES: Final = 64

_PROOF_HEADER: Final = b"c2sp.org/tlog-proof@v1"
_ED25519: Final = b"\x01"
_DECIMAL = re.compile(rb"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree's head.

    :param origin: the log's name, one for each tree that may grow
    :param root: 32 bytes
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        if not self.origin or re.search(r"[\x00-\x1f]", self.origin):
            raise MalformedError("a checkpoint's origin is one line that is not empty")
        if self.size < 0 or len(self.root) != tree.HASH_SIZE:
            raise MalformedError(
                f"a checkpoint has a size from 0 and {tree.HASH_SIZE} bytes of root"
            )

    def format(self) -> bytes:
        """Three lines: origin, size, root in base64."""
        return f"{self.origin}\n{self.size}\n{_encode(self.root)}\n".encode()

    @classmethod
    def parse(cls, text: bytes) -> Checkpoint:
        """The inverse of :meth:`format`; extension lines, which no verifier can check, are refused.

        :raises MalformedError: not exactly such three lines
        """
        lines = text.split(b"\n")
        if len(text) > MAX_NOTE_BYTES or len(lines) != 4 or lines[3]:
            raise MalformedError("a checkpoint is three lines: origin, size and root")
        return cls(_utf8(lines[0]), _decimal(lines[1], "size"), _decode(lines[2], "root"))


def key_id(name: str, key: PublicKey) -> bytes:
    """The whole hash whose first four bytes name ``key`` in a note's signature line.

    :raises UnsupportedError: no kind of note is signed by such a key
    """
    match key:
        case ed25519.Ed25519PublicKey():
            return hashlib.sha256(name.encode() + b"\n" + _ED25519 + _raw(key)).digest()
        case ec.EllipticCurvePublicKey():
            return hashlib.sha256(spki(key)).digest()
    raise UnsupportedError("notes are signed by Ed25519 or ECDSA keys, not by RSA keys")


def verifier_key(name: str, key: ed25519.Ed25519PublicKey) -> str:
    """``key`` as a vkey, the form in which tools for notes and logs take it."""
    _check_name(name)
    return f"{name}+{key_id(name, key)[:4].hex()}+{_encode(_ED25519 + _raw(key))}"


def parse_verifier_key(text: str) -> tuple[str, ed25519.Ed25519PublicKey]:
    """The inverse of :func:`verifier_key`: the name and the key.

    :raises MalformedError: not the vkey of an Ed25519 key
    """
    parts = text.split("+", 2)
    if len(text) > 1024 or len(parts) != 3:
        raise MalformedError("a verifier key is <name>+<key id>+<base64 key>")
    name, short, encoded = parts
    raw = _decode(encoded.encode(), "verifier key")
    if raw[:1] != _ED25519 or len(raw) != 33:
        raise MalformedError("the verifier key is not an Ed25519 key (type 0x01, 32 bytes)")
    key = ed25519.Ed25519PublicKey.from_public_bytes(raw[1:])
    if short != key_id(name, key)[:4].hex():
        raise MalformedError("the verifier key's id does not belong to its name and key")
    return name, key


def sign_note(text: bytes, name: str, key: ed25519.Ed25519PrivateKey) -> bytes:
    """``text`` as a note with one signature.

    :param text: ends in a newline
    :param name: the key's name; of a checkpoint, its origin
    :raises MalformedError: text or name cannot stand in a note
    """
    _check_name(name)
    _check_text(text)
    signature = key_id(name, key.public_key())[:4] + key.sign(text)
    return text + f"\n\N{EM DASH} {name} {_encode(signature)}\n".encode()


def verify_note(note: bytes, name: str, key: PublicKey) -> bytes:
    """The text of ``note``, which ``key`` signed under ``name``.

    Signatures by keys that are not this one are ignored.

    :raises MalformedError: not a note
    :raises VerificationError: no signature of this key, or one that does not hold
    """
    if len(note) > MAX_NOTE_BYTES:
        raise MalformedError(f"a note has {MAX_NOTE_BYTES} bytes at most, this one {len(note)}")
    cut = note.rfind(b"\n\n") + 1
    text, lines = note[:cut], note[cut + 1 :].split(b"\n")
    if not text or len(lines) < 2 or lines[-1]:
        raise MalformedError("a note is text, an empty line and signature lines")
    _check_text(text)
    short, found = key_id(name, key)[:4], False
    for line in lines[:-1]:
        parts = _utf8(line).split(" ")
        if len(parts) != 3 or parts[0] != "\N{EM DASH}" or not parts[1]:
            raise MalformedError("a note's signature line is: em dash, key name, base64")
        signature = _decode(parts[2].encode(), "note signature")
        if len(signature) < 5:
            raise MalformedError("a note's signature has four bytes of key id and more")
        if parts[1] == name and signature[:4] == short:
            verify_signature(key, signature[4:], text)
            found = True
    if not found:
        raise VerificationError(f"the note is not signed by {name[:200]}+{short.hex()}")
    return text


@dataclass(frozen=True, slots=True)
class Proof:
    """That a leaf is in a signed tree: a ``.tlog-proof`` file.

    :param index: the leaf's place, from 0
    :param hashes: from the leaf's sibling upwards
    :param note: the signed checkpoint
    :param extra: the leaf's own line, or what else helps; nothing vouches for it
    """

    index: int
    hashes: tuple[bytes, ...]
    note: bytes
    extra: bytes | None = None

    def format(self) -> bytes:
        """The file's bytes."""
        lines = [_PROOF_HEADER]
        if self.extra is not None:
            lines.append(b"extra " + _encode(self.extra).encode())
        lines.append(b"index %d" % self.index)
        lines += [_encode(each).encode() for each in self.hashes]
        return b"\n".join([*lines, b"", self.note])

    @classmethod
    def parse(cls, data: bytes) -> Proof:
        """Take a proof apart, without judging it.

        :raises MalformedError: not a proof
        """
        if len(data) > MAX_PROOF_BYTES:
            raise MalformedError(f"a proof has {MAX_PROOF_BYTES} bytes at most, not {len(data)}")
        head, empty, note = data.partition(b"\n\n")
        lines = head.split(b"\n")
        if lines.pop(0) != _PROOF_HEADER or not empty:
            raise MalformedError(f"a proof begins with {_PROOF_HEADER.decode()}, a note ends it")
        extra = None
        if lines and lines[0].startswith(b"extra "):
            extra = _decode(lines.pop(0).removeprefix(b"extra "), "extra")
        if not lines or not lines[0].startswith(b"index "):
            raise MalformedError("a proof says its leaf's index")
        index = _decimal(lines.pop(0).removeprefix(b"index "), "index")
        if len(lines) > MAX_PROOF_HASHES:
            raise MalformedError(f"a proof has {MAX_PROOF_HASHES} hashes at most, not {len(lines)}")
        return cls(index, tuple(_decode(each, "proof hash") for each in lines), note, extra)

    def verify(self, leaf: bytes, origin: str, key: PublicKey) -> Checkpoint:
        """Check that ``leaf`` is in the tree ``origin``, whose head ``key`` signed.

        :param leaf: the leaf's hash
        :returns: the checkpoint; whether its root is the sealed one is the caller's to compare
        :raises MalformedError: no note with a checkpoint in it
        :raises VerificationError: other origin, other key, or not included
        """
        checkpoint = verify_checkpoint(self.note, origin, key)
        tree.verify_inclusion(leaf, self.index, checkpoint.size, self.hashes, checkpoint.root)
        return checkpoint


def verify_checkpoint(note: bytes, origin: str, key: PublicKey) -> Checkpoint:
    """The checkpoint of ``origin`` in a note that ``key`` signed under the origin's name.

    :raises MalformedError: no note with a checkpoint in it
    :raises VerificationError: other origin, or not this key's signature
    """
    checkpoint = Checkpoint.parse(verify_note(note, origin, key))
    if checkpoint.origin != origin:
        raise VerificationError(
            f"expected a checkpoint of {origin[:200]}, found one of {checkpoint.origin[:200]}"
        )
    return checkpoint


def _raw(key: ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _check_name(name: str) -> None:
    if not name or "+" in name or any(each.isspace() for each in name):
        raise MalformedError("a note key's name is not empty and has no spaces and no plus sign")


def _check_text(text: bytes) -> None:
    if not text.endswith(b"\n") or re.search(rb"[\x00-\x09\x0b-\x1f]", text):
        raise MalformedError("a note's text ends in a newline and has no other control characters")
    _utf8(text)


def _utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as err:
        raise MalformedError("expected UTF-8 text") from err


def _decimal(data: bytes, what: str) -> int:
    if not _DECIMAL.fullmatch(data):
        raise MalformedError(f"{what} is a decimal number without leading zeroes")
    return int(data)


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: bytes, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise MalformedError(f"{what} is not base64") from err
    if base64.b64encode(data) != text:
        raise MalformedError(f"{what} is base64 in a second spelling")
    return data
