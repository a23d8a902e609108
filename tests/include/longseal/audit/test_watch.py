"""The log watch: what is signed by the policy's identities, logged, and nowhere to be found."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.doubles.sigstore import IDENTITY, ISSUER, SIGNER, SigstoreDouble
from tests.doubles.tile_log import FileServer, TileLogDouble
from tests.installation import harvest_all, opened, settings
from tests.lab import PREDICATE_TYPES, Lab
from tests.lab.registries import Registry

from longseal.audit.watch import GRACE, Watched, watch
from longseal.errors import LogError, SettingsError, UnsupportedError, VerificationError
from longseal.registry.attach import detach
from longseal.seal.tiles import _path, read_entries
from longseal.workspace import Workspace

SIGNED = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATER = SIGNED + timedelta(days=1)


@dataclass(frozen=True)
class Site:
    """A log, and an installation that watches it."""

    folder: Path
    log: TileLogDouble
    url: str
    signer: SigstoreDouble
    changes: dict[str, Any]

    def watch(self, at: datetime = LATER) -> Watched:
        found = watch(self.workspace(at))
        assert found is not None
        return found

    def workspace(self, at: datetime = LATER) -> Workspace:
        log = {"url": self.url, "origin": self.log.origin}
        return opened(self.folder, settings(SIGNER, log_watch=log) | self.changes, lambda: at)

    def states(self) -> list[Path]:
        return sorted((self.folder / "archive/log-watch").rglob("*.json"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    for name in ("archive", "registry", "log"):
        (tmp_path / name).mkdir()
    signer, log = SigstoreDouble(), TileLogDouble(tmp_path / "log")
    root = json.loads(signer.trusted_root())
    root["tlogs"].append(log.instance())
    (tmp_path / "trusted_root.json").write_text(json.dumps(root))
    with FileServer(tmp_path / "log") as server:
        yield Site(tmp_path, log, server.url, signer, {})


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def entry(signer: SigstoreDouble, number: int = 0, kind: str = "hashedrekord", **how: Any) -> bytes:
    """As Rekor v2 logs what a certificate signs."""
    bundle = json.loads(signer.sign(b"{}", at=SIGNED, **how))
    certificate = bundle["verificationMaterial"]["certificate"]
    digest = {"algorithm": "SHA2_256", "digest": b64(number.to_bytes(32))}
    signature = {"content": b64(b"signature"), "verifier": {"x509Certificate": certificate}}
    spec = {
        "hashedrekord": {"hashedRekordV002": {"data": digest, "signature": signature}},
        "dsse": {"dsseV002": {"payloadHash": digest, "signatures": [signature]}},
    }[kind]
    return json.dumps({"apiVersion": "0.0.2", "kind": kind, "spec": spec}).encode()


def filler(count: int) -> list[bytes]:
    """Entries by keys, which name nobody."""
    verifier = {"publicKey": {"rawBytes": "AA=="}, "keyDetails": "PKIX_ED25519"}
    return [
        json.dumps(
            {
                "apiVersion": "0.0.2",
                "kind": "hashedrekord",
                "spec": {
                    "hashedRekordV002": {
                        "data": {"algorithm": "SHA2_256", "digest": b64(n.to_bytes(32))},
                        "signature": {"content": "AA==", "verifier": verifier},
                    }
                },
            }
        ).encode()
        for n in range(count)
    ]


@pytest.mark.parametrize("kind", ["hashedrekord", "dsse"])
def test_an_entry_of_the_policys_identity_without_evidence_is_reported(
    site: Site, kind: str
) -> None:
    site.log.append(*filler(3), entry(site.signer, 7, kind))
    found = site.watch()
    assert (found.size, found.new, found.waiting, found.unreadable) == (4, 4, 0, 0)
    (missing,) = found.missing
    assert (missing.index, missing.identity, missing.issuer) == (3, IDENTITY, ISSUER)
    assert missing.artifact == f"sha256:{7:064x}"


def test_it_is_reported_again_until_its_evidence_comes_and_nothing_is_read_twice(
    site: Site,
) -> None:
    site.log.append(*filler(300), entry(site.signer), *filler(300))
    first = site.watch()
    site.log.folder.joinpath("tile/entries/000").unlink()
    again = site.watch(LATER + timedelta(hours=1))
    assert (first.new, again.new) == (601, 0)
    assert again.missing == first.missing
    assert len(site.states()) == 1
    site.log.append(entry(site.signer, 1))
    third = site.watch(LATER + timedelta(hours=2))
    assert (third.new, len(third.missing)) == (1, 2)
    assert len(site.states()) == 2


def test_a_young_entry_waits_for_its_attestation(site: Site) -> None:
    site.log.append(entry(site.signer))
    soon = site.watch(SIGNED + GRACE / 2)
    assert (soon.missing, soon.waiting) == ((), 1)
    late = site.watch(SIGNED + GRACE)
    assert (len(late.missing), late.waiting) == (1, 0)


def stranger(site: Site) -> bytes:
    return entry(SigstoreDouble())


def another_identity(site: Site) -> bytes:
    return entry(site.signer, identity="somebody@stella.example")


def another_issuer(site: Site) -> bytes:
    return entry(site.signer, issuer="https://another.example")


def no_issuer(site: Site) -> bytes:
    return entry(site.signer, issuer=None)


@pytest.mark.parametrize("made", [stranger, another_identity, another_issuer, no_issuer])
def test_who_is_not_in_the_policy_or_not_certified_by_a_trusted_authority_is_left_alone(
    site: Site, made: Callable[[Site], bytes]
) -> None:
    site.log.append(made(site))
    found = site.watch()
    assert (found.missing, found.waiting, found.unreadable) == ((), 0, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 60_000,
        b"{}",
        b'{"kind":"intoto","apiVersion":"0.0.2","spec":{}}',
        b'{"kind":["dsse"],"apiVersion":"0.0.2","spec":{}}',
        b'{"kind":"dsse","apiVersion":"0.0.2","spec":7}',
        b'{"kind":"dsse","apiVersion":"0.0.2","spec":{"dsseV002":{"payloadHash":{},"signatures":3}}}',
        entry(SigstoreDouble()).replace(b"MII", b"AAA"),
    ],
)
def test_what_cannot_be_read_is_counted_and_hides_nothing(site: Site, body: bytes) -> None:
    site.log.append(body, entry(site.signer))
    found = site.watch()
    assert found.unreadable == 1
    assert [one.index for one in found.missing] == [1]


# -- a log that is not honest --------------------------------------------------------------------


def test_a_log_that_changed_what_it_had_is_caught(site: Site) -> None:
    site.log.append(*filler(5))
    site.watch()
    changed = filler(8)
    changed[2] = entry(site.signer)
    site.log.publish(changed)
    with pytest.raises(VerificationError, match="changed what it had"):
        site.watch()
    assert len(site.states()) == 1


def test_a_log_that_was_rolled_back_is_caught(site: Site) -> None:
    site.log.append(*filler(5))
    site.watch()
    site.log.publish(filler(4))
    with pytest.raises(VerificationError, match="rolled back"):
        site.watch()


def test_another_tree_of_the_same_size_is_caught(site: Site) -> None:
    site.log.append(*filler(5))
    site.watch()
    site.log.publish([entry(site.signer, n) for n in range(5)])
    with pytest.raises(VerificationError, match="changed what it had"):
        site.watch()


def test_a_log_that_shows_other_entries_than_it_signed_is_caught(site: Site) -> None:
    hidden = [*filler(5), entry(site.signer)]
    site.log.publish(filler(6), signed=hidden)
    with pytest.raises(VerificationError, match="do not lead to its checkpoint"):
        site.watch()
    assert site.states() == []


def test_a_checkpoint_by_another_key_is_refused(site: Site) -> None:
    other = TileLogDouble(site.log.folder)
    other.append(*filler(2))
    with pytest.raises(VerificationError, match="not signed by"):
        site.watch()


def test_a_log_that_the_trusted_root_does_not_know_is_an_error_of_the_setting(site: Site) -> None:
    site.log.append(*filler(1))
    site.changes["log_watch"] = {"url": site.url, "origin": "another.example"}
    with pytest.raises(SettingsError, match=r"log_watch\.origin.*another\.example"):
        site.watch()


def test_a_log_that_does_not_answer_is_asked_again(site: Site) -> None:
    with pytest.raises(LogError, match="no checkpoint"):
        site.watch()
    site.log.append(*filler(300))
    bundle = site.log.folder / "tile/entries/000"
    whole = bundle.read_bytes()
    for broken in (whole[:-1], whole[:2], b""):
        bundle.write_bytes(broken)
        with pytest.raises(LogError):
            site.watch()
    bundle.unlink()
    with pytest.raises(LogError, match="no bundle 0"):
        site.watch()
    bundle.write_bytes(whole)
    assert site.watch().size == 300


def test_a_log_of_absurd_size_is_not_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longseal.audit.watch.MAX_ENTRIES", 4)
    site.log.append(*filler(5))
    with pytest.raises(UnsupportedError, match="over 4 new entries"):
        site.watch()


def test_a_state_that_was_changed_in_the_archive_is_refused(site: Site) -> None:
    site.log.append(entry(site.signer))
    site.watch()
    (path,) = site.states()
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(IDENTITY.encode(), b"no@stella.example"))
    with pytest.raises(VerificationError, match="other bytes"):
        site.watch()


def test_nothing_is_watched_where_no_log_is_named(site: Site) -> None:
    assert watch(opened(site.folder, settings(SIGNER), lambda: LATER)) is None


# -- tiles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "end"), [(0, 1), (255, 257), (256, 512), (300, 600), (600, 600)])
def test_entries_are_read_from_and_to_where_they_are_wanted(
    site: Site, start: int, end: int
) -> None:
    site.log.append(*filler(600))
    site.log.publish(site.log.entries[:end])
    assert list(read_entries(site.url, start, end)) == filler(600)[start:end]


def test_a_partial_bundle_that_is_gone_is_read_from_the_full_one(site: Site) -> None:
    site.log.append(*filler(256))
    assert list(read_entries(site.url, 0, 100)) == filler(100)


@pytest.mark.parametrize(
    ("number", "path"),
    [(0, "000"), (7, "007"), (999, "999"), (1000, "x001/000"), (1234067, "x001/x234/067")],
)
def test_bundles_are_named_as_the_specification_says(number: int, path: str) -> None:
    assert _path(number) == path


# -- the real log --------------------------------------------------------------------------------


@contextmanager
def harvested(lab: Lab, registry: Registry, folder: Path) -> Iterator[Workspace]:
    """An installation for the laboratory's registry, its log published beside it."""
    (folder / "archive").mkdir()
    (folder / "trusted_root.json").write_bytes(lab.trusted_root.read_bytes())
    with FileServer(lab.folder / "rekor") as server:
        content = settings(
            {"issuer": lab.issuer, "identity": "watched@stella.example"},
            registries=[
                {"name": "lab", "url": registry.url, "repositories": ["corp/watched"]},
            ],
            log_watch={"url": server.url, "origin": lab.rekor_origin},
        )
        now = datetime.now(UTC) + GRACE
        workspace = opened(folder, content, lambda: now)
        assert harvest_all(workspace).total.rejected == {}
        yield workspace


@pytest.mark.lab
def test_of_three_attestations_the_one_that_was_taken_away_is_reported(
    lab: Lab, referrers_registry: Registry, tmp_path: Path
) -> None:
    digest = lab.push_image(referrers_registry.url, "corp/watched", "v1")
    reference = f"{referrers_registry.host}/corp/watched@{digest}"
    for predicate_type in PREDICATE_TYPES:
        lab.attest(reference, predicate_type, {}, identity="watched@stella.example")
    with harvested(lab, referrers_registry, tmp_path) as workspace:
        found = watch(workspace)
        assert found is not None
        assert (found.missing, found.waiting, found.unreadable) == ((), 0, 0)
        assert found.size == found.new > 3
    again = tmp_path / "again"
    again.mkdir()
    registry = workspace.registry("lab")
    (taken, *_) = registry.referrers("corp/watched", digest) or ()
    detach(registry, "corp/watched", digest, taken.digest)
    with harvested(lab, referrers_registry, again) as workspace:
        found = watch(workspace)
        assert found is not None
        (missing,) = found.missing
        assert missing.identity == "watched@stella.example"
        assert len(workspace.catalog.evidence()) == 2
        assert missing.artifact not in {row.bundle for row in workspace.catalog.evidence()}
