"""Legal holds: who, why, until when, on what; and nothing of the register is lost or changed."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, seal
from tests.lab.fixtures import Bucket
from tests.retired import REPOSITORY, SIGNED_AT, retire

from longseal.archive import prune
from longseal.archive.holds import Holds, Scope
from longseal.archive.pack import pack_key
from longseal.audit.audit import audit
from longseal.cli import main
from longseal.errors import MalformedError, RefusedError, VerificationError
from longseal.settings import load
from longseal.workspace import Workspace, utc_now

HOUR = timedelta(hours=1)
IMAGE, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
EVIDENCE: dict[str, Any] = {
    "image": IMAGE,
    "repository": "corp/app",
    "bundle": "sha256:" + "c" * 64,
    "manifest": "sha256:" + "d" * 64,
    "signed_at": datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC),
}


@pytest.fixture
def installation(tmp_path: Path, authority: TimestampAuthorityDouble) -> Installation:
    return Installation(tmp_path / "installation", authority)


def covers(scope: Scope, **changes: Any) -> bool:
    return scope.covers(SimpleNamespace(**{**EVIDENCE, **changes}))


@pytest.mark.parametrize(
    "given",
    [
        {"image": IMAGE},
        {"repository": "corp/*"},
        {"digest": EVIDENCE["bundle"]},
        {"digest": EVIDENCE["manifest"]},
        {"period": "2026-10"},
        {"period": "2026-01..2026-10"},
        {"image": IMAGE, "repository": "corp/app", "period": "2026-10"},
    ],
)
def test_a_hold_is_on_what_all_of_its_names_speak_of(given: dict[str, str]) -> None:
    scope = Scope.of(**given)
    assert covers(scope)
    assert not covers(
        scope,
        image=OTHER,
        repository="other/app",
        bundle=OTHER,
        manifest=OTHER,
        signed_at=datetime(2026, 11, 1, tzinfo=UTC),
    )
    assert Scope.from_json(scope.to_json()) == scope
    assert not covers(Scope.of(**{**given, "repository": "else/*"}))


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({}, RefusedError),
        ({"image": "", "repository": ""}, RefusedError),
        ({"image": "v1"}, MalformedError),
        ({"digest": "sha256:12"}, MalformedError),
        ({"period": "2026"}, MalformedError),
        ({"period": "2026-13"}, MalformedError),
        ({"period": "2026-10..2026-09"}, MalformedError),
    ],
)
def test_a_hold_on_nothing_in_particular_is_refused(
    given: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Scope.of(**given)


@pytest.mark.parametrize(
    "scope", [{}, {"everything": "yes"}, {"image": "v1"}, {"since": "yesterday"}]
)
def test_a_scope_that_cannot_be_read_is_never_taken_for_an_empty_one(
    installation: Installation, scope: dict[str, str]
) -> None:
    register = Holds(installation.workspace())
    register._append("hold.set", {"case": "x", "scope": scope, "reason": "r", "until": None})
    with pytest.raises(VerificationError, match="entry 1 of the hold register"):
        Holds(installation.workspace()).in_force()


def test_who_why_and_until_when_are_on_record_and_in_the_ledger(installation: Installation) -> None:
    until = utc_now().replace(microsecond=0) + timedelta(days=30)
    workspace = Workspace(load(installation.config, {}), actor="grace")
    done = Holds(workspace).set(Scope.of(image=IMAGE), "case 7", "subpoena", until)
    assert done == {"hold": 1, "held_packs": 0}
    (hold,) = Holds(installation.workspace()).in_force()
    assert (hold.case, hold.who, hold.reason, hold.until) == ("case 7", "grace", "subpoena", until)
    Holds(workspace).lift("settled", case="case 7")
    assert Holds(installation.workspace()).in_force() == ()
    (hold,) = Holds(installation.workspace()).all()
    assert hold.lifted is not None and hold.lifted[1:] == ("grace", "settled")
    noted = [entry for entry in workspace.ledger.walk() if entry.action.startswith("hold.")]
    assert [entry.action for entry in noted] == ["hold.set", "hold.lifted"]
    assert noted[0].details["scope"] == {"image": IMAGE}


def test_a_hold_ends_at_its_date(installation: Installation) -> None:
    Holds(installation.workspace()).set(
        Scope.of(image=IMAGE), "c", "r", utc_now() + timedelta(days=30)
    )
    later = installation.workspace(lambda: utc_now() + timedelta(days=31))
    assert Holds(later).in_force() == ()
    assert len(Holds(installation.workspace()).in_force()) == 1


def test_the_same_hold_is_set_once_and_noted_once(installation: Installation) -> None:
    for _ in range(2):
        done = Holds(installation.workspace()).set(Scope.of(image=IMAGE), "c", "r")
        assert done["hold"] == 1
    # A crash came between the register and the ledger: the rerun mends it.
    register = Holds(installation.workspace())
    details = {"case": "d", "scope": {"image": IMAGE}, "reason": "r", "until": None}
    register._append("hold.set", details)
    Holds(installation.workspace()).set(Scope.of(image=IMAGE), "d", "r")
    noted = [e.details["hold"] for e in installation.workspace().ledger.walk()]
    assert noted == [1, 2]


@pytest.mark.parametrize(
    ("case", "reason", "days"), [("", "r", 1), ("c", " ", 1), ("c" * 201, "r", 1), ("c", "r", -1)]
)
def test_a_hold_without_a_reason_or_with_a_past_end_is_refused(
    installation: Installation, case: str, reason: str, days: int
) -> None:
    register = Holds(installation.workspace())
    with pytest.raises(RefusedError):
        register.set(Scope.of(image=IMAGE), case, reason, utc_now() + timedelta(days=days))
    assert register.all() == ()


def test_lifting_names_what_is_in_force(installation: Installation) -> None:
    register = Holds(installation.workspace())
    register.set(Scope.of(image=IMAGE), "a", "r")
    register.set(Scope.of(image=OTHER), "a", "r")
    register.set(Scope.of(image=OTHER), "b", "r")
    for wrong in ({"case": "z"}, {"number": 9}, {}, {"case": "a", "number": 1}):
        with pytest.raises(RefusedError):
            register.lift("why", **wrong)  # type: ignore[arg-type]
    assert register.lift("why", number=2) == [2]
    assert register.lift("why", case="a") == [1]
    assert [hold.number for hold in register.in_force()] == [3]


@pytest.mark.parametrize(
    "given", ["image", "repository", "period", "attestation", "manifest", "everything"]
)
def test_what_is_held_is_not_planned_until_the_hold_is_lifted(
    installation: Installation, given: str
) -> None:
    manifest = retire(installation)
    workspace = installation.workspace()
    (row,) = workspace.catalog.evidence()
    scope = {
        "image": Scope.of(image=row.image),
        "repository": Scope.of(repository=REPOSITORY),
        "period": Scope.of(period=f"{SIGNED_AT:%Y-%m}"),
        "attestation": Scope.of(digest=row.bundle),
        "manifest": Scope.of(digest=manifest),
        "everything": Scope.of(repository="**"),
    }[given]
    assert Holds(workspace).set(scope, "case", "why")["held_packs"] == 1
    assert prune.plan(installation.workspace()) is None
    Holds(workspace).lift("over", case="case")
    assert prune.plan(installation.workspace()) is not None


def test_a_hold_on_something_else_stops_nothing(installation: Installation) -> None:
    retire(installation)
    Holds(installation.workspace()).set(Scope.of(repository="else/*"), "case", "why")
    assert prune.plan(installation.workspace()) is not None


def test_a_hold_that_is_set_after_the_approval_stops_the_deletion(
    installation: Installation,
) -> None:
    manifest = retire(installation)
    planned = prune.plan(installation.workspace())
    assert planned is not None
    Holds(installation.workspace()).set(Scope.of(repository=REPOSITORY), "case", "why")
    with pytest.raises(RefusedError):
        prune.execute(installation.workspace(), planned.digest, "grace")
    assert installation.registry().manifest(REPOSITORY, manifest) is not None
    assert installation.workspace().catalog.evidence()[0].tombstone is None


def test_a_seal_takes_the_register_along_and_misses_what_is_cut_off(
    installation: Installation,
) -> None:
    retire(installation)
    Holds(installation.workspace()).set(Scope.of(repository=REPOSITORY), "case", "why")
    workspace = installation.workspace()
    sealed = seal(workspace, "r-next").sealed
    assert sealed is not None
    kept = workspace.kept(sealed.files()["holds.jsonl"])
    assert [json.loads(line)["details"]["case"] for line in kept.splitlines()] == ["case"]
    assert audit(workspace).exit_code == 0
    entry = installation.folder / "archive/holds/00000001.json"
    entry.unlink()
    with pytest.raises(VerificationError, match="lacks entries that seal 2 has"):
        prune.plan(installation.workspace())
    assert audit(installation.workspace()).exit_code == 1


def test_a_changed_entry_breaks_the_chain(installation: Installation) -> None:
    register = Holds(installation.workspace())
    register.set(Scope.of(image=IMAGE), "a", "r")
    register.set(Scope.of(image=IMAGE), "b", "r")
    entry = installation.folder / "archive/holds/00000001.json"
    entry.chmod(0o644)
    entry.write_bytes(entry.read_bytes().replace(b'"a"', b'"z"'))
    with pytest.raises(VerificationError, match="hold register's entry 2 is not chained"):
        Holds(installation.workspace()).in_force()


def test_holds_by_command(installation: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--config", str(installation.config), "--json")

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = main([*arguments, *given])
        return code, json.loads(capsys.readouterr().out)

    what = ("--case", "c", "--reason", "why", "--repository", "corp/*")
    assert run("hold", "set", *what)[1]["hold"] == 1
    code, found = run("hold", "list")
    assert (code, [one["on"] for one in found["holds"]]) == (0, [{"repository": "corp/*"}])
    assert run("hold", "lift", "--case", "c", "--reason", "over") == (0, {"lifted": [1]})
    assert run("hold", "list")[1] == {"holds": []}
    assert [one["in_force"] for one in run("hold", "list", "--all")[1]["holds"]] == [False]
    assert main(["hold", "set", "--case", "c", "--reason", "why", *given]) == 2


@pytest.mark.lab
def test_the_store_holds_the_packs_of_what_is_held_until_no_hold_is_left(
    on_s3: Installation, s3_bucket: Bucket
) -> None:
    retire(on_s3)
    (row,) = on_s3.workspace().catalog.evidence()
    client, key = s3_bucket.server.client(), f"longseal/{pack_key(row.pack)}"

    def status() -> str:
        found = client.head_object(Bucket=s3_bucket.name, Key=key)
        return str(found.get("ObjectLockLegalHoldStatus", "OFF"))

    assert status() == "OFF"
    register = Holds(on_s3.workspace())
    register.set(Scope.of(image=row.image), "2026-17", "claim")
    register.set(Scope.of(repository=REPOSITORY), "2026-18", "another", utc_now() + HOUR)
    assert status() == "ON"
    register.lift("settled", "2026-17")
    assert status() == "ON"
    # The other one ends by itself: the next plan has the store let go.
    later = on_s3.workspace(clock=lambda: utc_now() + 2 * HOUR)
    assert Holds(later).secure() == 0
    assert status() == "OFF"
    assert [entry.action for entry in later.ledger.walk() if entry.action.startswith("hold.")] == [
        "hold.set",
        "hold.set",
        "hold.lifted",
    ]
