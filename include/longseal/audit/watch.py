"""The log watch: does a log of one's own hold signatures of the policy's identities that nobody
here has seen?

The log (Rekor v2) is read from where the last watch ended up to its newest checkpoint. Every entry
goes into the tree's root, which must be the checkpoint's: so the log still has all that it had
before, and left nothing out now. An entry whose certificate names one of the policy's identities
must be the log entry of some bundle in a pack. One that is not stays open, and is looked for again
by every watch.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import load_der_public_key

from longseal.archive.pack import load_pack
from longseal.canonical import (
    canonical_json,
    parse_object,
    parse_timestamp,
    sha256_hex,
    timestamp,
)
from longseal.errors import MalformedError, SettingsError, UnsupportedError, VerificationError
from longseal.seal.checkpoint import key_id, verify_checkpoint
from longseal.seal.signers.interface import PublicKey
from longseal.seal.tiles import read_checkpoint, read_entries
from longseal.seal.tree import Frontier, leaf_hash
from longseal.verify.certificate import identity_of, issuer_of
from longseal.verify.policy import Claim, Policy
from longseal.verify.trust import TrustMaterial
from longseal.workspace import Workspace

GRACE: Final = timedelta(hours=2)
"""How long after the signer's certificate began an entry may wait for its attestation: until then
it may be on its way through registry and harvest."""

MAX_ENTRIES: Final = 10_000_000
"""Most new entries of one watch."""

MAX_OPEN: Final = 100_000
"""Most entries without evidence that are kept in mind."""

MAX_STATE_BYTES: Final = 128 * 1024 * 1024

_SLICE: Final = 16_384
"""Entries that are looked for among the packs together."""

_LATE: Final = timedelta(days=1)
"""Longest that a pack may come after the start of the harvest that made it."""

_STATE = re.compile(r"log-watch/[0-9a-f]{64}/\d{14}-[0-9a-f]{64}\.json")


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """A log entry by one of the policy's identities.

    :param leaf: RFC 6962 hash of the entry, hex
    :param artifact: what was signed, ``algorithm:hex``; of an attestation, its DSSE encoding
    :param begins: first moment of the signer's certificate, and ``ends`` the last
    """

    index: int
    leaf: str
    artifact: str
    identity: str
    issuer: str
    begins: datetime
    ends: datetime

    def to_json(self) -> dict[str, Any]:
        """For the kept state, and for reports."""
        return {
            "index": self.index,
            "leaf": self.leaf,
            "artifact": self.artifact,
            "identity": self.identity,
            "issuer": self.issuer,
            "begins": timestamp(self.begins),
            "ends": timestamp(self.ends),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Entry:
        """The inverse of :meth:`to_json`."""
        return cls(
            value["index"],
            value["leaf"],
            value["artifact"],
            value["identity"],
            value["issuer"],
            parse_timestamp(value["begins"]),
            parse_timestamp(value["ends"]),
        )


@dataclass(frozen=True, slots=True)
class Watched:
    """How a watch went.

    :param size: entries of the log, by its verified checkpoint
    :param new: entries that no watch had read before
    :param missing: entries of the policy's identities for which there is no evidence
    :param waiting: the same, but younger than :data:`GRACE`
    :param unreadable: new entries that could not be read: not known to be fine
    """

    log: str
    size: int
    new: int
    missing: tuple[Entry, ...]
    waiting: int
    unreadable: int

    def to_json(self) -> dict[str, Any]:
        """One JSON document."""
        return {
            "log": self.log,
            "size": self.size,
            "new": self.new,
            "missing": [entry.to_json() for entry in self.missing],
            "waiting": self.waiting,
            "unreadable": self.unreadable,
        }


def watch(workspace: Workspace) -> Watched | None:
    """Read what is new in the log, and look for the evidence of every entry; None without a log.

    :raises LogError: the log did not answer well; nothing is kept, and the next watch reads again
    :raises VerificationError: the log's checkpoint does not hold, or contradicts an earlier one
    """
    chosen = workspace.settings.log_watch
    if chosen is None:
        return None
    now = workspace.now().replace(microsecond=0)
    key = _log_key(workspace, chosen.origin)
    kept = _newest(workspace, chosen.origin)
    note = read_checkpoint(chosen.url)
    head = verify_checkpoint(note, chosen.origin, key)
    start, tree = kept.tree.size, kept.tree
    if head.size < start:
        raise VerificationError(
            f"{chosen.origin} has {head.size} entries, and had {start} at {timestamp(kept.at)}:"
            " it was rolled back, or shows two histories"
        )
    if head.size - start > MAX_ENTRIES:
        raise UnsupportedError(f"{chosen.origin} has over {MAX_ENTRIES} new entries")

    seen = _Reader(workspace)
    open_ = _without_evidence(workspace, kept.entries, kept.at - _LATE)
    entries = enumerate(read_entries(chosen.url, start, head.size), start)
    while part := list(islice(entries, _SLICE)):
        for _, body in part:
            tree.append(leaf_hash(body))
        found = [entry for index, body in part if (entry := seen.read(index, body)) is not None]
        open_ += _without_evidence(workspace, found, None)
        if len(open_) > MAX_OPEN:
            raise UnsupportedError(
                f"over {MAX_OPEN} entries of {chosen.origin} have no evidence here: the policy"
                " takes identities that sign elsewhere too; narrow it"
            )
    if tree.root != head.root:
        raise VerificationError(
            f"the entries of {chosen.origin} do not lead to its checkpoint of {head.size}: it"
            f" changed what it had at {timestamp(kept.at)}, or shows entries that it does not have"
        )
    if head.size != start or open_ != kept.entries:
        _keep(workspace, _State(chosen.origin, now, tree, open_), note)
    missing = tuple(entry for entry in open_ if entry.begins + GRACE <= now)
    return Watched(
        chosen.origin,
        head.size,
        head.size - start,
        missing,
        len(open_) - len(missing),
        seen.unreadable,
    )


@dataclass(frozen=True, slots=True)
class _State:
    """Where a watch ended."""

    origin: str
    at: datetime
    tree: Frontier
    entries: list[Entry]


def _folder(origin: str) -> str:
    return f"log-watch/{sha256_hex(origin.encode())}/"


def _newest(workspace: Workspace, origin: str) -> _State:
    folder = _folder(origin)
    keys = [key for key in workspace.archive.keys(folder) if _STATE.fullmatch(key)]
    if not keys:
        return _State(origin, workspace.now(), Frontier(), [])
    data = workspace.archive.get(max(keys), MAX_STATE_BYTES)
    if sha256_hex(data) != max(keys)[-69:-5]:
        raise VerificationError(f"{max(keys)} has other bytes than its name says")
    found = parse_object(data, "the log watch's state", MAX_STATE_BYTES)
    return _State(
        origin,
        parse_timestamp(found["checkedAt"]),
        Frontier(found["size"], map(bytes.fromhex, found["frontier"])),
        [Entry.from_json(each) for each in found["open"]],
    )


def _keep(workspace: Workspace, state: _State, note: bytes) -> None:
    data = canonical_json(
        {
            "checkedAt": timestamp(state.at),
            "checkpoint": note.decode(),
            "frontier": [each.hex() for each in state.tree.hashes],
            "open": [entry.to_json() for entry in state.entries],
            "size": state.tree.size,
        }
    )
    name = f"{state.at:%Y%m%d%H%M%S}-{sha256_hex(data)}.json"
    workspace.store(_folder(state.origin) + name, data)


def _log_key(workspace: Workspace, origin: str) -> PublicKey:
    """The key of the log with this origin, by the trusted root."""
    root = parse_object(workspace.trusted_root, "the trusted root")
    for log in root["tlogs"]:
        named = {(log.get(name) or {}).get("keyId") for name in ("logId", "checkpointKeyId")}
        try:
            key: Any = load_der_public_key(base64.b64decode(log["publicKey"]["rawBytes"]))
            known = base64.b64encode(key_id(origin, key)).decode() in named
        except (ValueError, UnsupportedAlgorithm, UnsupportedError):
            continue
        # The id of an Ed25519 key is made with the origin; that of another says nothing of it.
        bound = isinstance(key, ed25519.Ed25519PublicKey)
        if known and (bound or urlsplit(log.get("baseUrl", "")).hostname == origin):
            return key  # type: ignore[no-any-return]
    raise SettingsError(
        "log_watch.origin", f"the trusted root has no log whose checkpoints are of {origin}"
    )


class _Reader:
    """Tells which entries are by the policy's identities.

    Anybody can log a certificate of their own making, so only those count that an authority of the
    trusted root issued while it might.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.unreadable = 0
        policy = Policy.parse(workspace.policy)
        self._identities = {known for rule in policy.rules for known in rule.identities}
        self._authorities = [
            (authority, [x509.load_der_x509_certificate(one) for one in authority.certificates])
            for authority in TrustMaterial.parse(workspace.trusted_root).authorities
        ]

    def read(self, index: int, body: bytes) -> Entry | None:
        """The entry, where it is by one of them."""
        try:
            return self._read(index, body)
        except (UnsupportedError, x509.ExtensionNotFound):
            # A certificate that names nobody, or several, is none of ours.
            return None
        except Exception:
            # Anybody may log anything; what cannot be read is counted, and stops nobody.
            self.unreadable += 1
            return None

    def _read(self, index: int, body: bytes) -> Entry | None:
        document = parse_object(body, "a log entry")
        artifact, verifiers = _KINDS[document["kind"], document["apiVersion"]](document["spec"])
        for verifier in verifiers:
            if "x509Certificate" not in verifier:
                continue
            raw = base64.b64decode(verifier["x509Certificate"]["rawBytes"], validate=True)
            certificate = x509.load_der_x509_certificate(raw)
            identity, issuer = identity_of(certificate), issuer_of(certificate)
            if self._is_known(identity, issuer) and self._is_issued(certificate):
                return Entry(
                    index,
                    leaf_hash(body).hex(),
                    artifact,
                    identity,
                    issuer,
                    certificate.not_valid_before_utc,
                    certificate.not_valid_after_utc,
                )
        return None

    def _is_known(self, identity: str, issuer: str) -> bool:
        claim = Claim("", "", identity, issuer, timedelta())
        return any(known.accepts(claim) for known in self._identities)

    def _is_issued(self, certificate: x509.Certificate) -> bool:
        begins = certificate.not_valid_before_utc
        return any(
            authority.window.covers(begins) and any(_issued(certificate, one) for one in issuers)
            for authority, issuers in self._authorities
        )


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True


def _hashed(spec: Mapping[str, Any]) -> tuple[str, list[Any]]:
    content = spec["hashedRekordV002"]
    return _digest(content["data"]), [content["signature"]["verifier"]]


def _dsse(spec: Mapping[str, Any]) -> tuple[str, list[Any]]:
    content = spec["dsseV002"]
    return _digest(content["payloadHash"]), [one["verifier"] for one in content["signatures"]]


def _digest(hashed: Mapping[str, str]) -> str:
    name = hashed["algorithm"].replace("SHA2_", "sha").lower()
    return f"{name}:{base64.b64decode(hashed['digest'], validate=True).hex()}"


_KINDS: Final[dict[tuple[Any, Any], Callable[[Mapping[str, Any]], tuple[str, list[Any]]]]] = {
    ("hashedrekord", "0.0.2"): _hashed,
    ("dsse", "0.0.2"): _dsse,
}


def _without_evidence(
    workspace: Workspace, entries: Iterable[Entry], since: datetime | None
) -> list[Entry]:
    """Those of ``entries`` that are the log entry of no bundle in a pack.

    The catalog says in which packs to look; what they hold decides.

    :param since: only packs of harvests that began then or later; None for all
    """
    missing = {entry.leaf: entry for entry in entries}
    signers: dict[tuple[str, str], list[Entry]] = {}
    for entry in missing.values():
        signers.setdefault((entry.identity, entry.issuer), []).append(entry)
    packs: set[str] = set()
    for (identity, issuer), group in signers.items():
        packs |= workspace.catalog.packs_signed_by(
            identity,
            issuer,
            min(entry.begins for entry in group),
            max(entry.ends for entry in group),
            since,
        )
    for digest in sorted(packs):
        if not missing:
            break
        for item in load_pack(workspace.archive, digest):
            for leaf in _logged(item.payload):
                missing.pop(leaf, None)
    return sorted(missing.values())


def _logged(payload: bytes) -> list[str]:
    """The hashes of the log entries that a bundle holds."""
    try:
        material = parse_object(payload, "a bundle").get("verificationMaterial", {})
        return [
            leaf_hash(base64.b64decode(entry["canonicalizedBody"])).hex()
            for entry in material.get("tlogEntries", ())
        ]
    except (AttributeError, KeyError, MalformedError, TypeError, ValueError):
        return []
