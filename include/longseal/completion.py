"""Completing proofs: the inclusion proof of a signature for which a log only gave its promise.

Cosign's older attachments and the first bundles carry Rekor v1's signed entry timestamp alone.
While the log lives, it gives the proof and a checkpoint as well. They are verified under the
trusted root, and stored beside the bytes found, as material of a new leaf that ``supersedes`` the
one before. What the log does not give stays as it is.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Final

from longseal.archive.pack import Evidence, load_by_leaf
from longseal.canonical import canonical_json, digest_of, parse_object, sha256_hex
from longseal.catalog.models import Evidence as Row
from longseal.errors import LogError, LongsealError, MalformedError, VerificationError, brief
from longseal.judgement import Change, supersede
from longseal.seal.http import get
from longseal.verify.formats import readings
from longseal.verify.trust import TrustMaterial
from longseal.workspace import Workspace

MAX_TRIES: Final = 10
"""How often a log is asked for one proof that it does not give, or gives wrongly."""

MAX_ASKED: Final = 1_000
"""Most pieces of evidence of one run."""

MAX_ANSWER_BYTES: Final = 1024 * 1024
TIMEOUT: Final = 30.0


@dataclass(slots=True)
class Completed:
    """How a run went.

    :param completed: pieces of evidence that have their proofs now
    :param failed: by digest of the evidence, why it has none yet
    :param silent: what the log said when it stopped answering; the rest waits for the next run
    """

    completed: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    packs: list[str] = field(default_factory=list)
    silent: str | None = None

    def to_json(self) -> dict[str, Any]:
        """One JSON document."""
        return {
            "completed": self.completed,
            "failed": self.failed,
            "packs": self.packs,
            "silent": self.silent,
        }


def complete(workspace: Workspace) -> Completed | None:
    """Ask the log for proofs that verified evidence lacks; None where the settings name none.

    A log that does not answer is no error. A run that is killed is taken up by the next.

    :raises ArchiveError: the archive did not take what was completed
    """
    url = workspace.settings.complete_proofs
    if url is None:
        return None
    found = Completed()
    trust = TrustMaterial.parse(workspace.trusted_root)
    rows = workspace.catalog.unproven(MAX_TRIES, MAX_ASKED)
    for pack, members in groupby(rows, key=lambda row: row.pack):
        if found.silent is None:
            _complete_pack(workspace, url, trust, pack, list(members), found)
    if found.completed:
        workspace.note(
            "proofs.completed", {"completed": found.completed, "packs": found.packs, "log": url}
        )
    return found


def _complete_pack(
    workspace: Workspace,
    url: str,
    trust: TrustMaterial,
    pack: str,
    rows: list[Row],
    found: Completed,
) -> None:
    items = load_by_leaf(workspace.archive, pack)
    changes: list[Change] = []
    evidence: dict[int, Evidence] = {}
    tries: dict[int, int | None] = {}
    for row in rows:
        item = items.get(row.leaf_hash)
        if item is None:
            continue
        try:
            proofs = [_ask(url, trust, entry) for entry in _unproven(item)]
        except LogError as err:
            found.silent = str(err)
            break
        except LongsealError as err:
            found.failed[row.bundle] = str(err)
            tries[row.id] = (row.proof_tries or 0) + 1
            continue
        tries[row.id] = None
        if proofs:
            by_digest = dict(zip(item.leaf.material, item.material, strict=True))
            by_digest.update((digest_of(proof), proof) for proof in proofs)
            material = tuple(sorted(by_digest))
            after = replace(item.leaf, material=material, supersedes=sha256_hex(item.leaf.line()))
            changes.append(Change(row.id, row.verdict, item.leaf, after))
            evidence[row.id] = replace(item, material=tuple(map(by_digest.get, material)))  # type: ignore[arg-type]
    found.packs += supersede(workspace, changes, evidence)
    found.completed += len(changes)
    workspace.catalog.note_proofs(tries)


def _unproven(item: Evidence) -> list[dict[str, Any]]:
    """The log entries in a piece of evidence that have a promise and no proof."""
    entries: list[Any] = []
    for reading in readings(item.payload, item.manifest):
        material = parse_object(reading.bundle, "the bundle").get("verificationMaterial")
        entries += (material or {}).get("tlogEntries") or []
    return [
        entry
        for entry in entries
        if entry.get("inclusionPromise") and not entry.get("inclusionProof")
    ]


def _ask(url: str, trust: TrustMaterial, entry: Mapping[str, Any]) -> bytes:
    """The entry with its proof, as canonical JSON of Sigstore's ``TransparencyLogEntry``.

    :raises LogError: the log did not answer
    :raises MalformedError: it answered with something else than an entry
    :raises VerificationError: it has no such entry, or the proof does not hold
    """
    index = entry.get("logIndex", "0")
    if not isinstance(index, str) or not index.isascii() or not index.isdigit():
        raise MalformedError(f"a log's index is a decimal number in text, found {index!r:.40}")
    answer = get(
        f"{url}/api/v1/log/entries?logIndex={index}",
        timeout=TIMEOUT,
        limit=MAX_ANSWER_BYTES,
        error=LogError,
    )
    if answer is None:
        raise VerificationError(f"the log has no entry {index}")
    proven = _proven(entry, answer)
    _verify(trust, proven)
    return canonical_json(proven)


def _proven(entry: Mapping[str, Any], answer: bytes) -> dict[str, Any]:
    """The entry of a bundle, with the proof from Rekor v1's answer."""
    document = parse_object(answer, "the log's answer", MAX_ANSWER_BYTES)
    try:
        (said,) = document.values()
        proof = said["verification"]["inclusionProof"]
        same = {
            "canonicalizedBody": said["body"],
            "integratedTime": str(said["integratedTime"]),
            "logId": {"keyId": _base64(bytes.fromhex(said["logID"]))},
            "logIndex": str(said["logIndex"]),
        }
        completed = {
            "checkpoint": {"envelope": proof["checkpoint"]},
            "hashes": [_base64(bytes.fromhex(each)) for each in proof["hashes"]],
            "logIndex": str(proof["logIndex"]),
            "rootHash": _base64(bytes.fromhex(proof["rootHash"])),
            "treeSize": str(proof["treeSize"]),
        }
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise MalformedError(f"the log's answer is no entry with its proof: {err!r}") from err
    # Protobuf's JSON leaves zero out, and so the index of a log's first entry.
    promised = {"logIndex": "0", **entry}
    for name, value in same.items():
        if promised.get(name) != value:
            raise VerificationError(f"the log has another {name} at this index than was promised")
    return {**promised, "inclusionProof": completed}


def _verify(trust: TrustMaterial, entry: Mapping[str, Any]) -> None:
    """The inclusion proof, its checkpoint under the log's key, and the promise once more."""
    from sigstore.errors import Error
    from sigstore.models import TransparencyLogEntry
    from sigstore_models.rekor.v1 import TransparencyLogEntry as Inner

    proof = entry["inclusionProof"]
    try:
        TransparencyLogEntry(Inner.from_json(canonical_json(entry)))._verify(
            trust.root.rekor_keyring(None)
        )
        size = proof["checkpoint"]["envelope"].split("\n")[1]
    except LongsealError:
        raise
    except (Error, AttributeError, IndexError, TypeError, ValueError) as err:
        raise VerificationError(f"the log's proof does not hold: {brief(err)}") from err
    if size != proof["treeSize"]:
        raise VerificationError(
            f"the proof is of a tree of {proof['treeSize']}, its checkpoint of one of {size}"
        )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
