"""What the key set and the ledger say of each key: its seals, and whether anybody else used it.

A key that was revoked leaves behind seals that were stamped before its window ended, which stand,
and seals that were stamped after: those are named, with the seal that renews them. The counts of a
KMS, of an HSM or of a log are held against the ledger, which has every key operation of Longseal's.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final

from longseal.canonical import (
    parse_json,
    parse_object,
    parse_timestamp,
    sha256_hex,
    timestamp,
)
from longseal.errors import MalformedError, RefusedError, VerificationError
from longseal.seal.bundle import parse_key_bundle
from longseal.seal.ceremony import BUNDLE, SIGNED, log_key
from longseal.seal.checkpoint import verify_checkpoint
from longseal.seal.keys import KeyEntry, KeySet, fingerprint, spki
from longseal.seal.organisation import keys_in_force, organisation_key
from longseal.seal.published import SEAL
from longseal.seal.renewal import Renewable, renewables
from longseal.seal.tiles import read_checkpoint, read_entries
from longseal.seal.tree import Frontier, leaf_hash
from longseal.workspace import Workspace

MAX_EXPORT_BYTES: Final = 256 * 1024 * 1024
MAX_LOG_ENTRIES: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class Standing:
    """One key, and what of its work stands.

    :param seals: sequences stamped within its window
    :param doubtful: sequences stamped outside of it, or by nobody who is believed, each with the
        first seal after it whose own signature stands: from that one's time on, its list proves
        that the doubtful one was there; None where there is none
    """

    entry: KeyEntry
    seals: tuple[int, ...]
    doubtful: Mapping[int, int | None]

    def to_json(self) -> dict[str, Any]:
        """For the command and the audit."""
        return {
            "key": fingerprint(self.entry.key),
            "status": self.entry.status,
            "from": timestamp(self.entry.since),
            "until": None if self.entry.until is None else timestamp(self.entry.until),
            "seals": list(self.seals),
            "doubtful": {str(sequence): by for sequence, by in self.doubtful.items()},
        }


def standings(keys: KeySet, seals: Sequence[Renewable]) -> list[Standing]:
    """What stands of each key's seals, oldest key first."""
    found = []
    for entry in sorted(keys.keys, key=lambda each: each.since):
        mine = [one for one in seals if one.key == entry]
        doubtful = {
            one.sequence: next(
                (
                    later.sequence
                    for later in seals
                    if later.sound and later.sequence > one.sequence
                ),
                None,
            )
            for one in mine
            if not one.sound
        }
        sound = tuple(one.sequence for one in mine if one.sound)
        found.append(Standing(entry, sound, doubtful))
    return found


def key_standings(workspace: Workspace) -> tuple[KeySet, list[Standing]]:
    """The newest key set, and what stands of each key's seals."""
    keys = keys_in_force(workspace).keys
    return keys, standings(keys, renewables(workspace))


# -- reconciliation --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operations:
    """Key operations of one key in the ledger.

    :param made: those that ended, also those that failed
    :param lost: those that a crash left without an end: they may have been made or not
    """

    made: int
    lost: int


@dataclass(frozen=True, slots=True)
class Reconciled:
    """A count of somebody else's, held against the ledger's.

    :param source: who counted: ``cloudtrail``, ``counter`` or the log's origin
    :param foreign: log entries by the key that are of nothing in the archive, by index
    """

    source: str
    theirs: int
    ours: Operations
    foreign: tuple[int, ...] = ()

    @property
    def alarm(self) -> bool:
        """Whether the key was used more often than Longseal used it."""
        return bool(self.foreign) or self.theirs > self.ours.made + self.ours.lost

    def to_json(self) -> dict[str, Any]:
        """For the command."""
        return {
            "source": self.source,
            "theirs": self.theirs,
            "ledger": self.ours.made,
            "lost_in_crashes": self.ours.lost,
            "foreign": list(self.foreign),
            "alarm": self.alarm,
        }


def operations(workspace: Workspace, key: str, since: datetime | None = None) -> Operations:
    """What the ledger has of a key's operations.

    :param key: its fingerprint
    :param since: count from here on; None for all
    """
    begun: set[str] = set()
    ended: dict[str, int] = {}
    for entry in workspace.ledger.walk():
        if entry.details.get("key") != key or (since is not None and entry.at < since):
            continue
        if entry.action == "key.operation.begun":
            begun.add(str(entry.details["operation"]))
        elif entry.action == "key.operation.ended":
            ended[str(entry.details["operation"])] = int(entry.details["operations"])
    return Operations(sum(ended.values()), len(begun - ended.keys()))


def reconcile_counter(
    workspace: Workspace, count: int, since: datetime | None = None
) -> Reconciled:
    """Hold the count of an HSM, read off by its operator, against the ledger."""
    key = fingerprint(organisation_key(workspace).key)
    return Reconciled("counter", count, operations(workspace, key, since))


def reconcile_cloudtrail(
    workspace: Workspace, export: bytes, key_ids: Sequence[str], since: datetime | None = None
) -> Reconciled:
    """Hold a CloudTrail export's ``Sign`` events against the ledger.

    :param export: the JSON of a trail file (``Records``), or events one a line
    :param key_ids: ids, ARNs or aliases by which events may name the key
    :raises MalformedError: it is no such export
    """
    key, named = fingerprint(organisation_key(workspace).key), set(map(_last_part, key_ids))
    count = sum(
        _signed_with(event, named) and (since is None or _time(event) >= since)
        for event in _events(export)
    )
    return Reconciled("cloudtrail", count, operations(workspace, key, since))


def _events(export: bytes) -> Iterator[dict[str, Any]]:
    if len(export) > MAX_EXPORT_BYTES:
        raise MalformedError(f"the export has over {MAX_EXPORT_BYTES} bytes: divide it by time")
    stripped = export.lstrip()
    lines = [line for line in stripped.splitlines() if line.strip()]
    if len(lines) > 1 and stripped.startswith(b"{") and lines[0].rstrip().endswith(b"}"):
        yield from (parse_object(line, "a CloudTrail event") for line in lines)
        return
    document = parse_json(stripped, "the CloudTrail export", MAX_EXPORT_BYTES)
    records = document.get("Records", [document]) if isinstance(document, dict) else document
    if not isinstance(records, list) or not all(isinstance(one, dict) for one in records):
        raise MalformedError("expected CloudTrail's Records, or an event on each line")
    yield from records


def _signed_with(event: Mapping[str, Any], key_ids: set[str]) -> bool:
    if event.get("eventName") != "Sign" or event.get("errorCode"):
        return False
    parameters, resources = event.get("requestParameters"), event.get("resources")
    names = {parameters.get("keyId")} if isinstance(parameters, dict) else set()
    for resource in resources if isinstance(resources, list) else ():
        if isinstance(resource, dict):
            names.add(resource.get("ARN"))
    return not key_ids.isdisjoint(_last_part(str(name)) for name in names if name)


def _last_part(name: str) -> str:
    """The id of a key in its ARN."""
    return name.rpartition("/")[2]


def _time(event: Mapping[str, Any]) -> datetime:
    found = event.get("eventTime")
    if not isinstance(found, str):
        raise MalformedError("a CloudTrail event has no eventTime")
    return parse_timestamp(found)


def reconcile_log(workspace: Workspace) -> Reconciled:
    """Hold the transparency log's entries by the organisation's keys against the archive.

    Every entry goes into the tree's root, which must be the checkpoint's, so that none is hidden.

    :raises RefusedError: the settings name no log
    :raises VerificationError: what the log shows does not lead to its checkpoint
    """
    rekor, tiles = workspace.settings.rekor, workspace.settings.log_watch
    if rekor is None or tiles is None:
        raise RefusedError(
            "no log to reconcile with: name it in the settings (rekor), and where its tiles are"
            " (log_watch)"
        )
    head = verify_checkpoint(read_checkpoint(tiles.url), rekor.origin, log_key(workspace))
    if head.size > MAX_LOG_ENTRIES:
        raise RefusedError(f"{rekor.origin} has over {MAX_LOG_ENTRIES} entries")
    keys = keys_in_force(workspace).keys
    ours = {spki(entry.key) for entry in keys.keys}
    known = set(_messages(workspace))
    tree, count, foreign = Frontier(), 0, []
    entries = enumerate(read_entries(tiles.url, 0, head.size))
    while part := list(islice(entries, 4_096)):
        for index, body in part:
            tree.append(leaf_hash(body))
            named, digest = _entry(body)
            if named in ours:
                count += 1
                if digest not in known:
                    foreign.append(index)
    if tree.root != head.root:
        raise VerificationError(
            f"the entries of {rekor.origin} do not lead to its checkpoint of {head.size}"
        )
    made = [operations(workspace, fingerprint(entry.key)) for entry in keys.keys]
    total = Operations(sum(one.made for one in made), sum(one.lost for one in made))
    return Reconciled(rekor.origin, count, total, tuple(foreign))


def _messages(workspace: Workspace) -> Iterator[str]:
    """Digest of each message that the organisation's keys signed, by the bundles archived."""
    for prefix in SIGNED:
        for key in workspace.archive.keys(prefix):
            if key.endswith((f"/{BUNDLE}", f"/{SEAL}")):
                yield sha256_hex(parse_key_bundle(workspace.archive.get(key)).message)


def _entry(body: bytes) -> tuple[bytes | None, str]:
    """The SPKI that verifies a log entry (Rekor v2, hashedrekord 0.0.2), and the digest signed."""
    try:
        spec = parse_object(body, "a log entry")["spec"]["hashedRekordV002"]
        key = spec["signature"]["verifier"]["publicKey"]["rawBytes"]
        return base64.b64decode(key), base64.b64decode(spec["data"]["digest"]).hex()
    except (KeyError, TypeError, ValueError, MalformedError):
        return None, ""
