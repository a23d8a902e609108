"""Which trusted root is in force, and how another one takes its place."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.doubles.sigstore import SigstoreDouble
from tests.installation import EXAMPLES, Installation
from tests.tuf_repository import TufRepository, served

from longseal import judgement, trust
from longseal.canonical import digest_of, sha256_hex
from longseal.cli import main
from longseal.errors import (
    MalformedError,
    RefusedError,
    RetryableError,
    SettingsError,
    VerificationError,
)
from longseal.trust import Adoption
from longseal.verify import roots
from longseal.workspace import Workspace

ROOT = (EXAMPLES / "trusted_root.json").read_bytes()


def with_end(end: str, section: str = "timestampAuthorities", root: bytes = ROOT) -> bytes:
    document: Any = json.loads(root)
    for one in document[section]:
        (one.get("validFor") or one["publicKey"]["validFor"])["end"] = end
    return json.dumps(document).encode()


def grown(root: bytes = ROOT) -> bytes:
    document, more = json.loads(root), json.loads(SigstoreDouble().trusted_root())
    for section in ("tlogs", "ctlogs", "certificateAuthorities"):
        document[section] += more[section]
    return json.dumps(document).encode()


@pytest.fixture
def put(harvested: Installation) -> Callable[[bytes], Workspace]:
    """Put a trusted root where the settings look for it."""
    harvested.write(trust={"trusted_root": "root.json"})

    def write(root: bytes) -> Workspace:
        (harvested.folder / "root.json").write_bytes(root)
        return harvested.workspace()

    return write


@pytest.fixture
def repository() -> Iterator[TufRepository]:
    with served() as found:
        found.publish(ROOT)
        yield found


@pytest.fixture
def tuf(harvested: Installation, repository: TufRepository) -> Installation:
    (harvested.folder / "tuf-root.json").write_bytes(repository.bootstrap)
    harvested.write(trust={"tuf": {"url": repository.url, "root": "tuf-root.json"}})
    return harvested


def actions(workspace: Workspace) -> list[str]:
    return [one.action for one in workspace.ledger.walk() if one.action.startswith("trust.")]


# -- a file --------------------------------------------------------------------------------------


def test_the_file_is_in_force_before_anything_was_adopted(
    put: Callable[[bytes], Workspace],
) -> None:
    assert put(ROOT).trusted_root == ROOT
    assert trust.newest(put(ROOT)) is None


def test_adopting_is_done_once_and_noted(put: Callable[[bytes], Workspace]) -> None:
    first = trust.refresh(put(ROOT))
    assert (first["adopted"], first["root"]) == (True, digest_of(ROOT))
    assert trust.refresh(put(ROOT))["adopted"] is False
    workspace = put(ROOT)
    assert actions(workspace) == ["trust.adopted"]
    assert [*workspace.archive.keys("trust/")] == ["trust/000001.json"]
    assert workspace.kept(digest_of(ROOT)) == ROOT


def test_a_root_that_grew_is_adopted_and_names_the_one_before(
    put: Callable[[bytes], Workspace],
) -> None:
    trust.refresh(put(ROOT))
    more = grown()
    assert put(more).trusted_root == ROOT
    assert trust.refresh(put(more))["adopted"] is True
    assert put(more).trusted_root == more
    assert (trust.newest(put(more)) or pytest.fail()).sequence == 2


def test_an_end_after_all_signatures_takes_nothing_away(
    put: Callable[[bytes], Workspace],
) -> None:
    trust.refresh(put(ROOT))
    ended = with_end("2027-06-01T00:00:00Z")
    document = trust.refresh(put(ended))
    assert document["adopted"] is True
    assert "shortened" in document["lost"][0]


@pytest.mark.parametrize(
    "section", ["timestampAuthorities", "certificateAuthorities", "ctlogs", "tlogs"]
)
def test_a_root_that_takes_away_what_evidence_rests_on_is_refused_and_the_old_one_stays(
    put: Callable[[bytes], Workspace], section: str
) -> None:
    trust.refresh(put(ROOT))
    short = with_end("2024-06-01T00:00:00Z", section)
    with pytest.raises(RefusedError, match=r"100 verified attestations.*stays in force"):
        trust.refresh(put(short))
    workspace = put(short)
    assert workspace.trusted_root == ROOT
    assert trust.show(workspace)["pending"] == digest_of(short)
    assert actions(workspace) == ["trust.adopted", "trust.refused"]
    assert workspace.catalog.counts() == {"verified": 100}


def test_a_refused_root_is_refused_again_without_judging_all_evidence(
    put: Callable[[bytes], Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    trust.refresh(put(ROOT))
    short = with_end("2024-06-01T00:00:00Z")
    with pytest.raises(RefusedError) as first:
        trust.refresh(put(short))
    monkeypatch.setattr(judgement, "dependents", lambda *_: pytest.fail("judged again"))
    with pytest.raises(RefusedError) as second:
        trust.refresh(put(short))
    assert str(first.value) == str(second.value)


def test_a_root_that_no_evidence_rests_on_is_let_go(
    put: Callable[[bytes], Workspace],
) -> None:
    """It only shortened what nothing used: the double's own instances."""
    trust.refresh(put(grown()))
    document = trust.refresh(put(ROOT))
    assert document["adopted"] is True
    assert len(document["lost"]) == 3


def test_what_a_new_policy_refuses_is_not_laid_to_the_new_root(
    harvested: Installation, put: Callable[[bytes], Workspace]
) -> None:
    trust.refresh(put(ROOT))
    who = {"issuer": "https://issuer.example", "identity": "me@stella.example"}
    rule = {"repositories": ["**"], "predicates": ["**"], "identities": [who]}
    harvested.write(trust={"trusted_root": "root.json"}, policy=[rule])
    assert trust.refresh(put(with_end("2027-06-01T00:00:00Z")))["adopted"] is True


def test_a_revocation_needs_a_reason_and_the_root_that_is_meant(
    put: Callable[[bytes], Workspace],
) -> None:
    trust.refresh(put(ROOT))
    short = with_end("2024-06-01T00:00:00Z")
    for reason, root in (("", None), (" ", None), ("x" * 1001, None), ("a", digest_of(ROOT))):
        with pytest.raises(RefusedError):
            trust.accept(put(short), reason, root)
    assert put(short).trusted_root == ROOT


def test_a_revocation_comes_into_force_with_its_reason_and_evidence_falls(
    put: Callable[[bytes], Workspace],
) -> None:
    trust.refresh(put(ROOT))
    short = with_end("2024-06-01T00:00:00Z")
    document = trust.accept(put(short), "the authority's key leaked", digest_of(short))
    assert (document["revocation"], document["root"]) == (
        "the authority's key leaked",
        digest_of(short),
    )
    workspace = put(short)
    assert workspace.trusted_root == short
    assert actions(workspace) == ["trust.adopted", "trust.revoked"]
    outcomes = judgement.apply(workspace)
    assert outcomes.counts == {"verified to rejected": 100}
    assert workspace.catalog.counts() == {"rejected": 100}


def test_an_adoption_that_does_not_follow_is_not_believed(
    put: Callable[[bytes], Workspace],
) -> None:
    trust.refresh(put(ROOT))
    workspace = put(ROOT)
    forged = Adoption(2, "0" * 64, workspace.now(), "me", digest_of(ROOT), "file")
    workspace.store("trust/000002.json", forged.data)
    with pytest.raises(VerificationError, match="does not name"):
        trust.newest(put(ROOT))
    workspace.store("trust/000004.json", b"{}")
    with pytest.raises(VerificationError, match="missing"):
        trust.newest(put(ROOT))


def test_what_is_about_to_be_signed_rests_on_the_settings_and_not_on_the_archive(
    put: Callable[[bytes], Workspace],
) -> None:
    trust.refresh(put(ROOT))
    workspace = put(ROOT)
    before = trust.newest(workspace)
    assert before is not None
    forged = Adoption(
        2,
        sha256_hex(before.data),
        workspace.now(),
        "me",
        workspace.keep(grown_root := grown()),
        "file",
    )
    workspace.store("trust/000002.json", forged.data)
    assert put(ROOT).trusted_root == grown_root
    with pytest.raises(RefusedError, match="longseal trust refresh"):
        trust.vouched(put(ROOT))


# -- a TUF repository ----------------------------------------------------------------------------


def test_nothing_verifies_before_the_repository_was_asked(tuf: Installation) -> None:
    with pytest.raises(SettingsError, match="longseal trust refresh"):
        _ = tuf.workspace().trusted_root


def test_the_settings_hold_before_the_repository_was_asked(
    tuf: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "--config", str(tuf.config), "--json"]) == 0
    assert "longseal trust refresh" in json.loads(capsys.readouterr().out)["trusted_root"]


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"trusted_root": "root.json", "tuf": {"url": "http://127.0.0.1:9", "root": "root.json"}},
        {"tuf": {"url": "http://127.0.0.1:9"}},
        {"tuf": {"url": "http://127.0.0.1:9", "root": "absent.json"}},
    ],
)
def test_trust_is_a_file_or_a_repository(harvested: Installation, found: dict[str, Any]) -> None:
    harvested.write(trust=found)
    with pytest.raises(SettingsError, match="trust"):
        harvested.workspace()


def test_what_was_brought_needs_no_network_any_more(
    tuf: Installation, repository: TufRepository
) -> None:
    assert trust.refresh(tuf.workspace())["adopted"] is True
    asked = len(repository.asked)
    repository.files.clear()
    workspace = tuf.workspace()
    assert workspace.trusted_root == ROOT
    assert trust.vouched(workspace) == ROOT
    assert trust.show(workspace)["source"] == repository.url
    assert len(repository.asked) == asked


def test_newer_metadata_for_the_same_root_is_kept_and_makes_no_fuss(
    tuf: Installation, repository: TufRepository
) -> None:
    trust.refresh(tuf.workspace())
    assert trust.refresh(tuf.workspace())["adopted"] is False
    workspace = tuf.workspace()
    assert len([*workspace.archive.keys("trust/")]) == 1
    repository.publish(ROOT)
    assert trust.refresh(tuf.workspace())["adopted"] is False
    workspace = tuf.workspace()
    assert len([*workspace.archive.keys("trust/")]) == 2
    assert actions(workspace) == ["trust.adopted"]


def test_a_repository_that_goes_back_or_is_gone_changes_nothing(
    tuf: Installation, repository: TufRepository
) -> None:
    before = dict(repository.files)
    repository.publish(grown())
    trust.refresh(tuf.workspace())
    in_force = tuf.workspace().trusted_root
    repository.files = before
    with pytest.raises(VerificationError, match="BadVersionNumberError"):
        trust.refresh(tuf.workspace())
    repository.files = {}
    with pytest.raises(RetryableError):
        trust.refresh(tuf.workspace())
    assert tuf.workspace().trusted_root == in_force


def test_a_repository_that_drops_what_evidence_rests_on_is_refused_until_accepted(
    tuf: Installation, repository: TufRepository
) -> None:
    trust.refresh(tuf.workspace())
    repository.publish(with_end("2024-06-01T00:00:00Z"))
    with pytest.raises(RefusedError, match="stays in force"):
        trust.refresh(tuf.workspace())
    assert tuf.workspace().trusted_root == ROOT
    trust.accept(tuf.workspace(), "by order")
    assert tuf.workspace().trusted_root == with_end("2024-06-01T00:00:00Z")


def test_a_root_that_only_the_archive_names_is_not_believed(
    tuf: Installation, repository: TufRepository
) -> None:
    trust.refresh(tuf.workspace())
    workspace = tuf.workspace()
    before = trust.newest(workspace)
    assert before is not None
    forged = Adoption(
        2,
        sha256_hex(before.data),
        workspace.now(),
        "me",
        workspace.keep(grown()),
        repository.url,
        before.metadata,
    )
    workspace.store("trust/000002.json", forged.data)
    with pytest.raises(VerificationError, match="other bytes"):
        _ = tuf.workspace().trusted_root


def test_older_metadata_is_not_put_in_force_by_way_of_the_archive(
    tuf: Installation, repository: TufRepository
) -> None:
    trust.refresh(tuf.workspace())
    old = trust.newest(tuf.workspace())
    repository.publish(grown())
    trust.refresh(tuf.workspace())
    workspace = tuf.workspace()
    before = trust.newest(workspace)
    assert before is not None and old is not None
    forged = Adoption(
        3,
        sha256_hex(before.data),
        workspace.now(),
        "me",
        old.root,
        repository.url,
        old.metadata,
    )
    workspace.store("trust/000003.json", forged.data)
    with pytest.raises(VerificationError, match="older TUF metadata"):
        _ = tuf.workspace().trusted_root


def test_what_the_repository_calls_a_trusted_root_and_is_none_is_refused(
    tuf: Installation, repository: TufRepository
) -> None:
    repository.publish(b"{}")
    with pytest.raises(VerificationError, match="and it is: "):
        trust.refresh(tuf.workspace())
    assert trust.newest(tuf.workspace()) is None


# -- what ends soon ------------------------------------------------------------------------------


def test_an_instance_that_ends_soon_is_shown(
    put: Callable[[bytes], Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = put(with_end("2026-12-10T00:00:00Z"))
    monkeypatch.setattr(workspace, "now", lambda: datetime(2026, 11, 24, tzinfo=UTC))
    assert trust.refresh(workspace)["ending"] == [
        f"{_instance(workspace)} ends on 2026-12-10",
    ]
    assert trust.show(put(ROOT))["root"] == digest_of(with_end("2026-12-10T00:00:00Z"))


def test_metadata_that_ends_soon_is_shown(
    tuf: Installation, repository: TufRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = tuf.workspace()
    assert trust.refresh(workspace)["ending"] == []
    end = repository.targets.expires.replace(tzinfo=UTC)
    monkeypatch.setattr(workspace, "now", lambda: end - roots.AHEAD)
    assert trust.show(workspace)["ending"] == [
        f"the TUF repository's {role} ends on {end:%Y-%m-%d}" for role in ("root", "targets")
    ]


def _instance(workspace: Workspace) -> str:
    found = roots.instances(with_end("2026-12-10T00:00:00Z"))
    return str(next(one for one in found if one.kind == "timestamp authority"))


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"../../etc": "sha256:" + "0" * 64}},
        {"metadata": {"timestamp.json": "sha256:0"}},
        {"root": "x"},
        {"surplus": 1},
        {"at": 1},
        {"metadata": []},
    ],
)
def test_what_is_no_adoption_is_malformed(change: dict[str, Any]) -> None:
    good = Adoption(1, None, datetime(2026, 1, 1, tzinfo=UTC), "me", digest_of(b""), "file")
    assert Adoption.parse(good.data) == good
    data = json.dumps(json.loads(good.data) | change, sort_keys=True, separators=(",", ":"))
    with pytest.raises(MalformedError):
        Adoption.parse(data.encode())
