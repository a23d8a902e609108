"""The organisation's keys as the archive has them: which one signs now, and which ones count."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple

from longseal.canonical import timestamp
from longseal.errors import SettingsError, SignerError
from longseal.seal.keys import KeyEntry, KeySet, fingerprint
from longseal.seal.proof import Anchors
from longseal.seal.signers.interface import Signer
from longseal.workspace import Workspace

KEY_SET: Final = "keys/key-set-{version:04}.json"


def key_set(workspace: Workspace) -> tuple[KeySet, bytes] | None:
    """The newest key set in the archive, with its bytes; None before the first."""
    keys = [key for key in workspace.archive.keys("keys/key-set-") if key.endswith(".json")]
    if not keys:
        return None
    data = workspace.archive.get(keys[-1])
    return KeySet.parse(data), data


class InForce(NamedTuple):
    """The newest key set, with its bytes, and the key in it that signs now."""

    keys: KeySet
    data: bytes
    entry: KeyEntry


def keys_in_force(workspace: Workspace) -> InForce:
    """What the organisation signs with.

    The first time, the signer's own key becomes the first key set; from then on the key set is what
    pins it. Where the settings pin a fingerprint, the key must have that one.

    :raises SettingsError: the key set and ``keys.pinned`` disagree, or no key is active
    """
    keys, data = key_set(workspace) or _first_keys(workspace)
    entry = keys.active(workspace.now())
    if entry is None:
        raise SettingsError("signer", "no key of the key set is active: longseal keys rotate")
    pinned = workspace.settings.pinned_key
    if pinned is not None and fingerprint(entry.key) != pinned:
        raise SettingsError(
            "keys.pinned", f"expected key {pinned}, the key set has {fingerprint(entry.key)}"
        )
    return InForce(keys, data, entry)


def organisation_key(workspace: Workspace) -> KeyEntry:
    """The key that signs now; see :func:`keys_in_force`."""
    return keys_in_force(workspace).entry


def signed_as(workspace: Workspace, keyid: str | None = None) -> dict[str, Any]:
    """What the predicate of each of the organisation's statements says of its signing.

    :param keyid: of the key that signs; None for the one that signs now
    """
    return {
        "keyid": keyid or organisation_key(workspace).keyid,
        "quorum": workspace.settings.timestamp_quorum,
    }


def _first_keys(workspace: Workspace) -> tuple[KeySet, bytes]:
    since = start_of_day(workspace.now())
    entry = KeyEntry(workspace.signer().public_key, since)
    first = KeySet((entry,), recovery=workspace.settings.recovery_key)
    workspace.store(KEY_SET.format(version=1), first.format())
    workspace.note("key.established", {"key": fingerprint(entry.key), "since": timestamp(since)})
    return first, first.format()


def start_of_day(moment: datetime) -> datetime:
    """When the window of a key that is taken up at ``moment`` begins."""
    # Some hours of room: the clocks of timestamp authorities differ from ours.
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def anchors_of(workspace: Workspace, keys: KeySet | None = None) -> Anchors:
    """What the organisation itself checks its statements against.

    :param keys: the key set that counts; None for the newest
    """
    if keys is None:
        keys = keys_in_force(workspace).keys
    newest = max(keys.keys, key=lambda each: each.since)
    quorum = workspace.settings.timestamp_quorum
    return Anchors(newest.key, quorum=quorum, keys=keys, as_made=True)


def signer_of(workspace: Workspace, wanted: str) -> Signer:
    """The signer of the settings that holds the key with this fingerprint.

    :raises SignerError: none of them does; nothing is signed
    """
    held = []
    for signer in workspace.signers():
        held.append(fingerprint(signer.public_key))
        if held[-1] == wanted:
            return signer
    raise SignerError(f"expected key {wanted}, the signer holds {' and '.join(held)}")
