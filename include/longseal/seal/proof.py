"""Checking a seal as a stranger would: from its files alone, under a key known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from longseal.canonical import digest_of, sha256_hex, timestamp
from longseal.errors import VerificationError
from longseal.seal.bundle import KeyBundle, parse_key_bundle, verify_key_bundle
from longseal.seal.keys import KeySet, fingerprint, keyid
from longseal.seal.published import SEAL, TRUSTED_ROOT, Published, check_tree
from longseal.seal.rekor import verify_entry
from longseal.seal.signers.interface import PublicKey
from longseal.seal.statement import Statement, required
from longseal.seal.timestamps import Authority, Token, verify_quorum
from longseal.seal.trusted_root import Log, parse_trusted_root

Read = Callable[[str], bytes]
"""The bytes of a file by its name below the seal's folder."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """What a verifier knows beforehand; no proof brings its own.

    :param key: the organisation's public key
    :param keys: a key set that is vouched for by ``key``: its other keys count within their windows
    :param timestamp_roots: fingerprints of the authorities' roots that are believed; None where the
        trusted root beside the seal is believed because something signed by ``key`` lists it
    :param quorum: how many authorities must have stamped
    :param as_made: the organisation's own view: of what was made when fewer had to stamp, only
        these. A stranger asks for the quorum, whatever the statement says of itself
    """

    key: PublicKey
    timestamp_roots: frozenset[str] | None = None
    quorum: int = 1
    keys: KeySet | None = None
    as_made: bool = False

    def named(self, named: object) -> PublicKey:
        """The key that a statement names, where it is one of those that are known.

        :raises VerificationError: it is another
        """
        for entry in self.keys.keys if self.keys else ():
            if entry.keyid == named:
                return entry.key
        if named == keyid(self.key):
            return self.key
        raise VerificationError(
            f"the statement names another key than {fingerprint(self.key)}: {str(named)[:80]}"
        )

    def require_window(self, key: PublicKey, stamped: datetime) -> None:
        """Check that ``key`` counted when a trusted clock saw its signature.

        :raises VerificationError: it did not
        """
        if self.keys is not None:
            self.keys.key_for(keyid(key), stamped)


def verify_statement(
    data: bytes, anchors: Anchors, trusted_root: bytes, kind: str
) -> tuple[Statement, datetime]:
    """Check a bundle of the organisation's: key, signature, quorum of timestamps, log entry.

    :param trusted_root: the ``seal-trusted-root.json`` beside it
    :param kind: what it must be: ``seal``, ``image``, ``inventory``, …
    :returns: the statement, and the earliest time at which an authority saw its signature
    :raises VerificationError: naming what does not hold
    """
    statement, tokens = verify_stamped(data, anchors, trusted_root, kind)
    return statement, min(token.gen_time for token in tokens)


def verify_stamped(
    data: bytes, anchors: Anchors, trusted_root: bytes, kind: str
) -> tuple[Statement, tuple[Token, ...]]:
    """:func:`verify_statement`, with a good timestamp of each authority that is believed."""
    bundle = parse_key_bundle(data)
    key = anchors.named(Statement.parse(bundle.payload).predicate.get("keyid"))
    statement = Statement.parse(verify_key_bundle(bundle, key))
    statement.require_kind(kind)
    authorities, log = parse_trusted_root(trusted_root)
    quorum = anchors.quorum
    if anchors.as_made:
        quorum = required(statement.predicate, quorum)
    known = believed(authorities, anchors)
    tokens = verify_quorum(bundle.timestamps, bundle.signature, known, quorum)
    if log is not None:
        _verify_log(bundle, key, log)
    anchors.require_window(key, min(token.gen_time for token in tokens))
    return statement, tokens


def believed(authorities: Sequence[Authority], anchors: Anchors) -> list[Authority]:
    """The authorities that count under ``anchors``."""
    return [
        one
        for one in authorities
        if anchors.timestamp_roots is None or one.root_fingerprint in anchors.timestamp_roots
    ]


def _verify_log(bundle: KeyBundle, key: PublicKey, log: Log) -> None:
    if bundle.tlog_entry is None:
        raise VerificationError(f"there is no entry of the log {log.origin}")
    digest = bytes.fromhex(sha256_hex(bundle.message))
    verify_entry(bundle.tlog_entry, digest, bundle.signature, key, log.public_key, log.origin)


def verify_seal(read: Read, anchors: Anchors) -> tuple[Published, list[bytes]]:
    """Check a seal and every file that it speaks of.

    :param read: gives ``seal.sigstore.json``, ``seal-trusted-root.json`` and each subject by name
    :returns: the seal, and the lines of its leaves
    :raises VerificationError: naming the file or the part that does not hold
    """
    data = read(SEAL)
    statement, stamped = verify_statement(data, anchors, read(TRUSTED_ROOT), "seal")
    seal = Published(int(statement.predicate["sequence"]), data, statement)
    lines: list[bytes] = []
    for name, digest in seal.files().items():
        content = read(name)
        if digest_of(content) != digest:
            raise VerificationError(f"{name} has other bytes than the seal says")
        if name.startswith("leaves/"):
            lines += content.splitlines()
    check_tree(seal, lines, read("checkpoint"))
    sealed_at = seal.sealed_at
    if stamped < sealed_at.replace(hour=0, minute=0, second=0):
        raise VerificationError(
            f"it was stamped at {timestamp(stamped)}, before it was made at {timestamp(sealed_at)}"
        )
    return seal, lines


def verify_chain(seals: Sequence[Published]) -> None:
    """Check that consecutive seals name each other: ``previous``, and all before as renewed.

    :raises VerificationError: naming the first that does not
    """
    for before, seal in pairwise(seals):
        if seal.sequence != before.sequence + 1:
            raise VerificationError(f"seal {before.sequence + 1} is missing")
        if seal.statement.predicate["previous"] != before.digest:
            raise VerificationError(f"seal {seal.sequence} does not name seal {before.sequence}")
    for seal in seals:
        renewed = {one["sequence"]: one["digest"] for one in seal.statement.predicate["renews"]}
        for before in seals:
            if before.sequence >= seal.sequence:
                break
            if renewed.get(before.sequence) != before.digest:
                raise VerificationError(
                    f"seal {seal.sequence} does not renew seal {before.sequence} as it is here"
                )
