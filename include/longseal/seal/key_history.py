"""Changes of the key set: who signs them, and whether each version follows from the one before.

A new version is signed by a key that the version before lets sign, and by each key that it adds;
or by the offline recovery key, whose fingerprint the version before commits to. Version 1 is
signed by nobody: whoever pins its key's fingerprint knows it.

``keys/key-set-<version, 4 digits>.json`` is a published version; below ``keys/<version>/`` stand
the claimed next one and, by key id, the ceremonies of its signatures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final

from longseal.canonical import digest_of
from longseal.errors import ConflictError, RefusedError, VerificationError
from longseal.seal.ceremony import BUNDLE, Ceremony
from longseal.seal.keys import (
    KeyEntry,
    KeySet,
    fingerprint,
    keyid,
    load_public_pem,
    public_pem,
)
from longseal.seal.organisation import KEY_SET, keys_in_force, signed_as, start_of_day
from longseal.seal.proof import Anchors, verify_statement
from longseal.seal.published import predicate_type
from longseal.seal.signers.interface import PublicKey, Signer
from longseal.seal.statement import Statement, Subject
from longseal.workspace import Workspace

RECOVERY: Final = "recovery.pub"
ROOM: Final = timedelta(days=2)
"""How long a retired key's window stays open, for what it was claimed for before."""

_FILE: Final = "key-set.json"


def rotate(workspace: Workspace) -> dict[str, Any]:
    """Let the settings' ``next_signer`` sign from now on; the keys before it retire.

    :raises RefusedError: no next signer, or its key stands in the key set already
    """

    def change(before: KeySet) -> KeySet:
        if workspace.settings.next_signer is None:
            raise RefusedError("no key to rotate to: name it in the settings (next_signer)")
        *_, signer = workspace.signers()
        return with_new(before, signer.public_key, workspace.now())

    return _publish(workspace, change, "rotated", None)


def commit(workspace: Workspace) -> dict[str, Any]:
    """Commit to the recovery key whose fingerprint the settings have (``keys.recovery``).

    :raises RefusedError: they have none, or the key set has it already
    """

    def change(before: KeySet) -> KeySet:
        wanted = workspace.settings.recovery_key
        if wanted is None or wanted == before.recovery:
            raise RefusedError("no recovery key to commit to: name another one (keys.recovery)")
        return replace(before, version=before.version + 1, recovery=wanted)

    return _publish(workspace, change, "recovery key committed", None)


def revoke(workspace: Workspace, key: str, since: datetime, reason: str) -> dict[str, Any]:
    """Say that from ``since`` on a key may have been in other hands.

    :param key: its fingerprint
    :raises RefusedError: no such key, or no other one is left to sign with
    """
    if not reason.strip():
        raise RefusedError("say why the key is revoked: --reason")

    def change(before: KeySet) -> KeySet:
        after = without(before, key, since)
        if after.active(workspace.now()) is None:
            raise RefusedError("no other key could sign: rotate first, or recover")
        return after

    return _publish(workspace, change, f"revoked: {reason}", None)


def recover(workspace: Workspace, recovery: Signer) -> dict[str, Any]:
    """Go on after the loss of all keys: the recovery key alone lets the settings' key sign.

    :raises RefusedError: the key set commits to another recovery key, or to none; or the settings
        name no key that is not in it
    """

    def change(before: KeySet) -> KeySet:
        if before.recovery != fingerprint(recovery.public_key):
            raise RefusedError(
                f"the key set commits to the recovery key {before.recovery}, this one is"
                f" {fingerprint(recovery.public_key)}"
            )
        known = {entry.keyid for entry in before.keys}
        for signer in workspace.signers():
            if keyid(signer.public_key) not in known:
                # Spent: whoever had it in hand once may have it again.
                return replace(with_new(before, signer.public_key, workspace.now()), recovery=None)
        raise RefusedError("the settings name no new key: put it into signer or next_signer")

    return _publish(workspace, change, "recovered", recovery)


def with_new(before: KeySet, key: PublicKey, now: datetime) -> KeySet:
    """``before`` with ``key`` as the only one that signs.

    :raises RefusedError: it has the key already
    """
    if any(entry.keyid == keyid(key) for entry in before.keys):
        raise RefusedError(f"{fingerprint(key)} stands in the key set already: make a new key")
    since = start_of_day(now)
    retired = tuple(
        replace(entry, status="retired", until=entry.until or since + ROOM)
        if entry.status == "active"
        else entry
        for entry in before.keys
    )
    return replace(before, keys=(*retired, KeyEntry(key, since)), version=before.version + 1)


def without(before: KeySet, key: str, since: datetime) -> KeySet:
    """``before`` with one key revoked from ``since`` on.

    :raises RefusedError: it has no such key, or revoked it before
    """
    found = next((one for one in before.keys if fingerprint(one.key) == key), None)
    if found is None or found.status == "compromised":
        raise RefusedError(f"{key} is not in the key set, or is revoked already")
    until = min(since, found.until) if found.until else since
    if until <= found.since:
        # Nothing that it signed counts: the shortest window there is.
        until = found.since + timedelta(seconds=1)
    changed = replace(found, status="compromised", until=until)
    keys = tuple(changed if entry is found else entry for entry in before.keys)
    return replace(before, keys=keys, version=before.version + 1)


def _publish(
    workspace: Workspace,
    change: Callable[[KeySet], KeySet],
    reason: str,
    recovery: Signer | None,
) -> dict[str, Any]:
    """Claim, sign and publish the next version; one that was claimed before is finished first."""
    before, data, _ = keys_in_force(workspace)
    folder = f"keys/{before.version + 1:04}"
    claim = f"{folder}/{_FILE}"
    resumed = workspace.archive.stat(claim) is not None
    if not resumed:
        with suppress(ConflictError):
            workspace.store(claim, change(before).format())
    claimed = workspace.archive.get(claim)
    after = KeySet.parse(claimed)
    operations = 0
    for name, keys, signer in _parties(workspace, before, after, recovery):
        statement = Statement(
            (Subject.of(claimed, _FILE),),
            predicate_type(workspace, "key-set"),
            {
                **signed_as(workspace, name),
                "previous": digest_of(data),
                "reason": reason[:1_000],
                "version": after.version,
            },
        )
        ceremony = Ceremony(workspace, f"{folder}/{name}", keys, signer)
        operations += ceremony.run(statement.format()).operations
    if recovery is not None:
        workspace.store(f"{folder}/{RECOVERY}", public_pem(recovery.public_key).encode())
    workspace.store(KEY_SET.format(version=after.version), claimed)
    workspace.note(
        "key.set.published",
        {"version": after.version, "key_set": digest_of(claimed), "reason": reason},
    )
    return {
        "version": after.version,
        "key_set": digest_of(claimed),
        "key": None if (active := after.active(workspace.now())) is None else active.keyid,
        "key_operations": operations,
        "resumed": resumed,
    }


def _parties(
    workspace: Workspace, before: KeySet, after: KeySet, recovery: Signer | None
) -> Iterator[tuple[str, KeySet, Signer | None]]:
    """Who signs, each with the key set that has its key."""
    if recovery is not None:
        entry = KeyEntry(recovery.public_key, start_of_day(workspace.now()))
        yield entry.keyid, KeySet((entry,)), recovery
    else:
        remaining = [one for one in before.keys if one.status == "active"]
        trusted = {one.keyid for one in after.keys if one.status != "compromised"}
        signing = max(
            (one for one in remaining if one.keyid in trusted),
            key=lambda one: one.since,
            default=None,
        )
        if signing is None:
            raise RefusedError("no key of the key set may sign its successor: recover instead")
        yield signing.keyid, before, None
    for entry in _added(before, after):
        yield entry.keyid, after, None


def _added(before: KeySet, after: KeySet) -> list[KeyEntry]:
    known = {entry.keyid for entry in before.keys}
    return [entry for entry in after.keys if entry.keyid not in known]


# -- checking --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Version:
    """A version of the key set, with the signatures that make it follow from the one before.

    :param bundles: by key id
    :param recovery: PEM of the recovery key, where that signed
    """

    data: bytes
    bundles: dict[str, bytes]
    recovery: bytes | None = None


def verify_step(before: Version, after: Version, anchors: Anchors, trusted_root: bytes) -> KeySet:
    """Check that one version follows from another, and return its key set.

    :param anchors: with the timestamp roots and the quorum that count; its key is not used
    :raises VerificationError: naming what does not hold
    """
    old, new = KeySet.parse(before.data), KeySet.parse(after.data)
    if new.version != old.version + 1:
        raise VerificationError(f"key set {new.version} does not follow key set {old.version}")
    _require_kept(old, new)
    recovery = None if after.recovery is None else load_public_pem(after.recovery, RECOVERY)
    signed = set()
    for name, bundle in after.bundles.items():
        key: PublicKey | None = recovery
        keys: KeySet | None = None
        if recovery is None or name != keyid(recovery):
            keys = old if any(entry.keyid == name for entry in old.keys) else new
            key = next((entry.key for entry in keys.keys if entry.keyid == name), None)
        if key is None:
            continue
        statement, _ = verify_statement(
            bundle, replace(anchors, key=key, keys=keys), trusted_root, "key-set"
        )
        subject = statement.subjects[0].digest.get("sha256")
        named = (subject, statement.predicate.get("previous"), statement.predicate.get("version"))
        if named != (digest_of(after.data)[7:], digest_of(before.data), new.version):
            raise VerificationError(f"the signature by {name} is of another key set")
        signed.add(name)
    lawful = {entry.keyid for entry in old.keys if entry.status == "active"}
    lawful -= {entry.keyid for entry in new.keys if entry.status == "compromised"}
    by_recovery = recovery is not None and fingerprint(recovery) == old.recovery
    if not lawful & signed and not (by_recovery and recovery and keyid(recovery) in signed):
        raise VerificationError(f"no key of key set {old.version} signed key set {new.version}")
    if missing := {entry.keyid for entry in _added(old, new)} - signed:
        raise VerificationError(f"the new key {min(missing)} did not sign its own key set")
    return new


def _require_kept(old: KeySet, new: KeySet) -> None:
    """No key is forgotten, and none counts for longer than was said."""
    later = {entry.keyid: entry for entry in new.keys}
    for entry in old.keys:
        now = later.get(entry.keyid)
        if now is None or now.since != entry.since:
            raise VerificationError(f"key set {new.version} drops or moves key {entry.keyid}")
        if entry.until is not None and (now.until is None or now.until > entry.until):
            raise VerificationError(f"key set {new.version} prolongs key {entry.keyid}")
        if entry.status != "active" and now.status == "active":
            raise VerificationError(f"key set {new.version} lets key {entry.keyid} sign again")


def verify_history(versions: Sequence[Version], anchors: Anchors, trusted_root: bytes) -> KeySet:
    """Check each step of a history, and return its last key set."""
    for before, after in pairwise(versions):
        verify_step(before, after, anchors, trusted_root)
    return KeySet.parse(versions[-1].data)


def history(workspace: Workspace) -> list[Version]:
    """Every published version, oldest first."""
    found = []
    for key in sorted(workspace.archive.keys("keys/key-set-")):
        data = workspace.archive.get(key)
        folder = f"keys/{KeySet.parse(data).version:04}"
        names = [
            name.removesuffix(f"/{BUNDLE}").removeprefix(f"{folder}/")
            for name in workspace.archive.keys(f"{folder}/")
            if name.endswith(f"/{BUNDLE}")
        ]
        pem = f"{folder}/{RECOVERY}"
        found.append(
            Version(
                data,
                {name: workspace.archive.get(f"{folder}/{name}/{BUNDLE}") for name in names},
                workspace.archive.get(pem) if workspace.archive.stat(pem) is not None else None,
            )
        )
    return found


def history_files(workspace: Workspace) -> dict[str, bytes]:
    """The history as a site's kit has it."""
    files: dict[str, bytes] = {}
    for version in history(workspace):
        folder = f"keys/{KeySet.parse(version.data).version:04}"
        files[f"{folder}/{_FILE}"] = version.data
        files |= {f"{folder}/{name}.sigstore.json": one for name, one in version.bundles.items()}
        if version.recovery is not None:
            files[f"{folder}/{RECOVERY}"] = version.recovery
    return files


def read_history(read: Callable[[str], bytes]) -> list[Version]:
    """The inverse of :func:`history_files`; nothing of it is verified.

    :param read: raises ``VerificationError`` for a file that is not there
    """
    found: list[Version] = []
    before: KeySet | None = None
    while True:
        folder = f"keys/{len(found) + 1:04}"
        data = _optional(read, f"{folder}/{_FILE}")
        if data is None:
            return found
        keys = KeySet.parse(data)
        recovery = _optional(read, f"{folder}/{RECOVERY}")
        names = {entry.keyid for entry in keys.keys}
        if before is not None:
            names |= {entry.keyid for entry in before.keys}
        if recovery is not None:
            names.add(keyid(load_public_pem(recovery, RECOVERY)))
        bundles = {
            name: _optional(read, f"{folder}/{name}.sigstore.json") for name in sorted(names)
        }
        present = {name: one for name, one in bundles.items() if one is not None}
        found.append(Version(data, present, recovery))
        before = keys


def _optional(read: Callable[[str], bytes], name: str) -> bytes | None:
    try:
        return read(name)
    except VerificationError:
        return None


def successors(
    versions: Sequence[Version], known: str, anchors: Anchors, trusted_root: bytes
) -> KeySet:
    """The key set that follows, by signatures, from a key known beforehand.

    :param known: the key's fingerprint; the first step that it signed vouches for what follows
    :raises VerificationError: it signed none, or a step after it does not hold
    """
    hexes = known.removeprefix("sha256:")
    for at in range(1, len(versions)):
        before = KeySet.parse(versions[at - 1].data)
        lets = any(one.keyid == hexes and one.status == "active" for one in before.keys)
        if lets and hexes in versions[at].bundles:
            return verify_history(versions[at - 1 :], anchors, trusted_root)
    raise VerificationError(f"no change of keys follows from {known}")
