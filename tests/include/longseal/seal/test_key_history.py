import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.installation import Installation, seal

from longseal import cli
from longseal.audit.audit import audit
from longseal.canonical import timestamp
from longseal.errors import RefusedError, SignerError, VerificationError
from longseal.seal.ceremony import seal_trusted_root
from longseal.seal.key_history import (
    Version,
    commit,
    history,
    history_files,
    read_history,
    recover,
    revoke,
    rotate,
    successors,
    verify_history,
    verify_step,
)
from longseal.seal.key_report import (
    Standing,
    key_standings,
    reconcile_cloudtrail,
    reconcile_counter,
)
from longseal.seal.keys import KeyEntry, KeySet, fingerprint
from longseal.seal.organisation import anchors_of, key_set, organisation_key
from longseal.seal.proof_folder import prove, verify_proof
from longseal.seal.signers.file import FileSigner
from longseal.verify.report import Report
from longseal.workspace import Workspace


@pytest.fixture
def next_key(harvested: Installation) -> str:
    """Named in the settings as the one to follow; its fingerprint."""
    signer = FileSigner.create(harvested.folder / "next.pem")
    harvested.write(next_signer={"kind": "file", "path": "next.pem"})
    return fingerprint(signer.public_key)


@pytest.fixture
def recovery(harvested: Installation) -> FileSigner:
    """Committed to by the first key set."""
    signer = FileSigner.create(harvested.folder / "recovery.pem")
    harvested.write(keys={"recovery": fingerprint(signer.public_key)})
    return signer


def current(workspace: Workspace) -> str:
    return fingerprint(organisation_key(workspace).key)


def standing(workspace: Workspace) -> dict[str, Standing]:
    """What stands, by the status of the key."""
    return {one.entry.status: one for one in key_standings(workspace)[1]}


def of_status(keys: KeySet, status: str) -> KeyEntry:
    return next(entry for entry in keys.keys if entry.status == status)


def check(workspace: Workspace, versions: list[Version]) -> KeySet:
    return verify_history(versions, anchors_of(workspace), seal_trusted_root(workspace, True))


# -- rotation --------------------------------------------------------------------------------------


def test_a_rotation_is_signed_by_both_keys_and_the_new_one_seals(
    harvested: Installation, next_key: str
) -> None:
    workspace = harvested.workspace()
    old = current(workspace)
    seal(workspace, "r-one")
    before = harvested.key_operations()
    assert rotate(workspace)["key_operations"] == 2
    assert harvested.key_operations() == before + 2
    assert current(workspace) == next_key != old
    sealed = seal(workspace, "r-two").sealed
    assert sealed is not None
    assert f"sha256:{sealed.statement.predicate['keyid']}" == next_key
    assert check(workspace, history(workspace)).version == 2


def test_the_seals_of_the_key_before_stay_valid(harvested: Installation, next_key: str) -> None:
    workspace = harvested.workspace()
    seal(workspace, "r-one")
    rotate(workspace)
    seal(workspace, "r-two")
    report = audit(workspace)
    assert report.exit_code == 0, report.to_json()
    found = standing(workspace)
    assert (found["retired"].seals, found["retired"].doubtful) == ((1,), {})
    assert (found["active"].seals, found["active"].doubtful) == ((2,), {})


def test_a_proof_from_before_a_rotation_needs_the_new_fingerprint_only(
    harvested: Installation, next_key: str, tmp_path: Path
) -> None:
    workspace = harvested.workspace()
    seal(workspace, "r-one")
    rotate(workspace)
    seal(workspace, "r-two")
    (folder,) = prove(workspace, workspace.catalog.evidence()[0].bundle, tmp_path / "proof")
    report = Report("proof")
    verify_proof(report, folder, next_key, None, 1)
    assert report.exit_code == 0, report.to_json()


def test_a_rotation_that_was_killed_is_finished_by_the_next_try(
    harvested: Installation, next_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = harvested.workspace()
    old = current(workspace)
    store, left = workspace.store, [5]

    def dying(key: str, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        store(key, data)

    monkeypatch.setattr(workspace, "store", dying)
    with pytest.raises(KeyboardInterrupt):
        rotate(workspace)
    again = harvested.workspace()
    assert current(again) == old
    finished = rotate(again)
    assert finished["resumed"]
    assert current(harvested.workspace()) == next_key
    assert check(again, history(again)).version == 2


def test_without_a_next_signer_or_with_a_key_that_was_used_nothing_changes(
    harvested: Installation,
) -> None:
    workspace = harvested.workspace()
    with pytest.raises(RefusedError, match="next_signer"):
        rotate(workspace)
    harvested.write(next_signer={"kind": "file", "path": "org.pem"})
    with pytest.raises(RefusedError, match="already"):
        rotate(harvested.workspace())
    assert len(history(workspace)) == 1


def test_a_key_that_no_signer_holds_signs_nothing(harvested: Installation, next_key: str) -> None:
    workspace = harvested.workspace()
    rotate(workspace)
    harvested.write(next_signer=None)
    with pytest.raises(SignerError, match=next_key):
        seal(harvested.workspace(), "r-one")


# -- revocation and recovery -----------------------------------------------------------------------


def test_a_revoked_key_leaves_the_seals_before_and_names_those_after(
    harvested: Installation, next_key: str
) -> None:
    workspace = harvested.workspace()
    old = current(workspace)
    seal(workspace, "r-one")
    rotate(workspace)
    seal(workspace, "r-two")
    revoke(workspace, old, workspace.now() - timedelta(hours=30), "found in a bag")
    found = standing(workspace)
    assert (found["compromised"].seals, found["compromised"].doubtful) == ((), {1: 2})
    assert found["active"].seals == (2,)
    assert audit(workspace).exit_code == 1
    assert check(workspace, history(workspace)).version == 3


def test_a_seal_stamped_before_the_revocation_stands(
    harvested: Installation, next_key: str
) -> None:
    workspace = harvested.workspace()
    old = current(workspace)
    seal(workspace, "r-one")
    rotate(workspace)
    revoke(workspace, old, workspace.now() + timedelta(hours=1), "its token was retired")
    found = standing(workspace)
    assert (found["compromised"].seals, found["compromised"].doubtful) == ((1,), {})
    assert audit(workspace).exit_code == 0


def test_the_only_key_is_not_revoked_without_another(harvested: Installation) -> None:
    workspace = harvested.workspace()
    with pytest.raises(RefusedError, match="no other key"):
        revoke(workspace, current(workspace), workspace.now(), "stolen")
    with pytest.raises(RefusedError, match="say why"):
        revoke(workspace, current(workspace), workspace.now(), " ")
    with pytest.raises(RefusedError, match="not in the key set"):
        revoke(workspace, "sha256:" + "0" * 64, workspace.now(), "stolen")


def test_after_the_loss_of_the_key_the_recovery_key_alone_lets_a_new_one_sign(
    harvested: Installation, recovery: FileSigner
) -> None:
    workspace = harvested.workspace()
    seal(workspace, "r-one")
    (harvested.folder / "org.pem").unlink()
    signer = FileSigner.create(harvested.folder / "replacement.pem")
    harvested.write(signer={"kind": "file", "path": "replacement.pem"})
    workspace = harvested.workspace()
    with pytest.raises(SignerError):
        seal(workspace, "r-two")
    harvested.write(
        signer={"kind": "file", "path": "replacement.pem"},
        keys={"recovery": fingerprint(recovery.public_key)},
    )
    workspace = harvested.workspace()
    recover(workspace, recovery)
    assert current(workspace) == fingerprint(signer.public_key)
    versions = history(workspace)
    assert check(workspace, versions).version == 2
    assert versions[-1].recovery is not None
    found = key_set(workspace)
    assert found is not None and found[0].recovery is None


def test_another_recovery_key_recovers_nothing(
    harvested: Installation, recovery: FileSigner, tmp_path: Path
) -> None:
    workspace = harvested.workspace()
    organisation_key(workspace)
    stranger = FileSigner.create(tmp_path / "stranger.pem")
    with pytest.raises(RefusedError, match="commits to"):
        recover(workspace, stranger)


def test_a_recovery_key_is_committed_to_later(harvested: Installation, tmp_path: Path) -> None:
    workspace = harvested.workspace()
    organisation_key(workspace)
    wanted = fingerprint(FileSigner.create(tmp_path / "recovery.pem").public_key)
    harvested.write(keys={"recovery": wanted})
    assert commit(harvested.workspace())["key_operations"] == 1
    found = key_set(workspace)
    assert found is not None and found[0].recovery == wanted
    with pytest.raises(RefusedError, match="no recovery key"):
        commit(harvested.workspace())


# -- histories that do not hold --------------------------------------------------------------------


def stripped(version: Version, *names: str) -> Version:
    return replace(
        version, bundles={name: one for name, one in version.bundles.items() if name not in names}
    )


@pytest.fixture
def rotated(harvested: Installation, next_key: str) -> Workspace:
    workspace = harvested.workspace()
    rotate(workspace)
    return workspace


def test_a_version_needs_the_key_before_and_the_key_that_it_adds(rotated: Workspace) -> None:
    before, after = history(rotated)
    keys = KeySet.parse(after.data)
    old, new = of_status(keys, "retired").keyid, of_status(keys, "active").keyid
    with pytest.raises(VerificationError, match="no key of key set 1"):
        check(rotated, [before, stripped(after, old)])
    with pytest.raises(VerificationError, match="did not sign"):
        check(rotated, [before, stripped(after, new)])


def test_a_signature_is_of_one_step_only(rotated: Workspace) -> None:
    before, after = history(rotated)
    keys = KeySet.parse(after.data)
    other = replace(keys, recovery="sha256:" + "0" * 64).format()
    with pytest.raises(VerificationError, match="of another key set"):
        check(rotated, [before, replace(after, data=other)])
    moved = replace(KeySet.parse(before.data), recovery="sha256:" + "1" * 64).format()
    with pytest.raises(VerificationError, match="of another key set"):
        check(rotated, [replace(before, data=moved), after])
    with pytest.raises(VerificationError, match="does not follow"):
        check(rotated, [after, after])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda old: (), "drops or moves"),
        (lambda old: (replace(old, until=None, status="active"),), "prolongs"),
        (lambda old: (replace(old, status="active"),), "sign again"),
    ],
    ids=["drops", "prolongs", "revives"],
)
def test_no_key_is_forgotten_or_counts_for_longer_than_was_said(
    rotated: Workspace, change: Callable[[KeyEntry], tuple[KeyEntry, ...]], said: str
) -> None:
    after = history(rotated)[1]
    keys = KeySet.parse(after.data)
    entries = (*change(of_status(keys, "retired")), of_status(keys, "active"))
    later = replace(keys, keys=entries, version=3).format()
    with pytest.raises(VerificationError, match=said):
        verify_step(
            after, Version(later, {}), anchors_of(rotated), seal_trusted_root(rotated, True)
        )


def test_who_knows_the_first_key_follows_the_history_to_the_newest(
    rotated: Workspace, next_key: str
) -> None:
    first = fingerprint(KeySet.parse(history(rotated)[0].data).keys[0].key)
    files = history_files(rotated)

    def read(name: str) -> bytes:
        if name not in files:
            raise VerificationError(f"{name} is missing")
        return files[name]

    versions = read_history(read)
    assert versions == history(rotated)
    root = seal_trusted_root(rotated, True)
    found = successors(versions, first, anchors_of(rotated), root)
    assert fingerprint(of_status(found, "active").key) == next_key
    with pytest.raises(VerificationError, match="no change of keys follows"):
        successors(versions, "sha256:" + "0" * 64, anchors_of(rotated), root)


# -- counts ----------------------------------------------------------------------------------------


def event(key: str, name: str = "Sign", **more: object) -> dict[str, object]:
    arn = f"arn:aws:kms:eu-central-1:111122223333:key/{key}"
    return {
        "eventName": name,
        "eventTime": "2026-11-24T12:00:00Z",
        "requestParameters": {"keyId": arn},
        "resources": [{"ARN": arn}],
        **more,
    }


@pytest.mark.parametrize("form", ["Records", "lines", "list"])
def test_one_signature_more_than_the_ledger_has_is_an_alarm(
    form: str, harvested: Installation
) -> None:
    workspace = harvested.workspace()
    seal(workspace, "r-one")
    events = [
        event("1234"),
        event("5678"),
        event("1234", "GetPublicKey"),
        event("1234", errorCode="ThrottlingException"),
    ]

    def export(found: list[dict[str, object]]) -> bytes:
        if form == "lines":
            return b"".join(json.dumps(one).encode() + b"\n" for one in found)
        return json.dumps({"Records": found} if form == "Records" else found).encode()

    same = reconcile_cloudtrail(workspace, export(events), ["1234"])
    assert (same.theirs, same.ours.made, same.alarm) == (1, 1, False)
    more = reconcile_cloudtrail(workspace, export([*events, event("1234")]), ["1234"])
    assert more.alarm
    assert reconcile_counter(workspace, 2).alarm
    assert not reconcile_counter(workspace, 1).alarm


def test_operations_that_a_crash_lost_may_have_been_made(
    harvested: Installation,
) -> None:
    workspace = harvested.workspace()
    key = current(workspace)
    workspace.note("key.operation.begun", {"key": key, "operation": "lost"})
    assert not reconcile_counter(workspace, 1).alarm
    assert reconcile_counter(workspace, 2).alarm


def test_the_command_lists_rotates_and_reconciles(
    harvested: Installation, next_key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        verb, *rest = arguments
        code = cli.main(["keys", verb, "--config", str(harvested.config), *rest])
        return code, capsys.readouterr().out

    assert run("list")[0] == 0
    assert run("rotate")[0] == 0
    code, said = run("list", "--json")
    assert (code, len(json.loads(said)["keys"])) == (0, 2)
    assert run("reconcile", "--count", "9")[0] == 1
    assert run("reconcile", "--count", "1")[0] == 0
    assert run("reconcile")[0] == 2
    old = next(one["key"] for one in json.loads(said)["keys"] if one["status"] == "retired")
    moment = timestamp(harvested.workspace().now())
    assert run("revoke", old, "--from", moment, "--reason", "lost")[0] == 0
    assert "compromised" in run("list")[1]
