import multiprocessing
import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from tests.processes import run_together

from longseal.canonical import digest_of
from longseal.catalog.catalog import Catalog
from longseal.catalog.models import Delivery, Seal
from longseal.errors import RetryableError, VerificationError

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
APP = "corp/app"


def digest(name: str) -> str:
    return digest_of(name.encode())


def pack(name: str, **changed: Any) -> dict[str, Any]:
    return {
        "digest": digest(name),
        "state": "claimed",
        "evidence_class": "default.verified",
        "retain_until": NOW + timedelta(days=730),
        "claimed_at": NOW,
        "size": 2**40,
        "members": 1,
    } | changed


def evidence(pack_name: str, **changed: Any) -> dict[str, Any]:
    named = {"image": "image", "manifest": "manifest", "bundle": "bundle"} | changed
    leaf = changed.get("leaf", f"{pack_name} {sorted(named.items())}")
    fields = {
        "source": "main",
        "repository": APP,
        "verdict": "verified",
        "reason": None,
        "predicate_type": "https://stella-ops.example/sbom-delta/v1",
        "identity": "ci@stella.example",
        "issuer": "https://issuer.example",
        "signed_at": NOW - timedelta(days=1),
        "collected_at": NOW,
        "leaf": leaf,
        "leaf_hash": digest(leaf).removeprefix("sha256:"),
        "pack": digest(pack_name),
    }
    return (
        fields | changed | {name: digest(named[name]) for name in ("image", "manifest", "bundle")}
    )


def store(catalog: Catalog, name: str, *rows: dict[str, Any]) -> None:
    catalog.claim_packs([pack(name)], list(rows) or [evidence(name)])
    catalog.mark_stored(digest(name))


def known(catalog: Catalog, *images: str, source: str = "main", repository: str = APP) -> Any:
    return catalog.known_manifests(source, repository, [digest(image) for image in images])


# -- claims --------------------------------------------------------------------------------------


def test_evidence_is_known_once_its_pack_is_stored_and_not_before(catalog: Catalog) -> None:
    catalog.claim_packs([pack("p")], [evidence("p")])
    assert known(catalog, "image") == {}
    assert catalog.claimed_packs() == [digest("p")]
    assert catalog.packs() == []
    catalog.mark_stored(digest("p"))
    assert known(catalog, "image") == {digest("image"): {digest("manifest")}}
    assert catalog.claimed_packs() == []
    assert catalog.packs() == [digest("p")]


def test_an_attachment_is_known_only_with_all_of_its_layers(catalog: Catalog) -> None:
    catalog.claim_packs(
        [pack("a"), pack("b")], [evidence("a", bundle="one"), evidence("b", bundle="two")]
    )
    catalog.mark_stored(digest("a"))
    assert known(catalog, "image") == {}
    catalog.mark_stored(digest("b"))
    assert known(catalog, "image") == {digest("image"): {digest("manifest")}}


def test_what_is_known_belongs_to_registry_repository_and_image(catalog: Catalog) -> None:
    store(catalog, "p")
    assert known(catalog, "another") == {}
    assert known(catalog, "image", source="other") == {}
    assert known(catalog, "image", repository="corp/other") == {}
    assert known(catalog) == {}


def test_a_claim_that_never_came_to_be_is_taken_over(catalog: Catalog) -> None:
    catalog.claim_packs([pack("lost")], [evidence("lost")])
    later = NOW + timedelta(hours=1)
    taken = evidence("new", collected_at=later, verdict="rejected")
    catalog.claim_packs([pack("new")], [taken])
    catalog.mark_stored(digest("new"))
    (row,) = catalog.evidence(image=digest("image"))
    assert (row.pack, row.verdict, row.collected_at) == (digest("new"), "rejected", later)
    assert (row.leaf, row.leaf_hash) == (taken["leaf"], taken["leaf_hash"])
    assert catalog.claimed_packs() == [digest("lost")]


def test_evidence_whose_pack_is_stored_keeps_its_place(catalog: Catalog) -> None:
    store(catalog, "first")
    store(catalog, "second", evidence("second"), evidence("second", bundle="more"))
    packs = {row.bundle: row.pack for row in catalog.evidence(image=digest("image"))}
    assert packs == {digest("bundle"): digest("first"), digest("more"): digest("second")}


def _take_turns(url: str, folder: Path, name: str, start: Any) -> None:
    catalog = Catalog.open(url)
    start.wait()
    for _ in range(30):
        with catalog.turn("main", [APP, f"corp/{name}"]):
            # Of two at once, the second would find the file.
            (folder / "mine").touch(exist_ok=False)
            (folder / "mine").unlink()


def test_one_process_has_its_turn_at_a_time(url: str, tmp_path: Path) -> None:
    Catalog.open(url)
    run_together(_take_turns, *((url, tmp_path, name) for name in ("a", "b", "c")))


def _die_in_turn(url: str) -> None:
    with Catalog.open(url).turn("main", [APP]):
        os._exit(9)


def test_a_process_that_dies_gives_its_turn_away(url: str) -> None:
    process = multiprocessing.get_context("fork").Process(target=_die_in_turn, args=(url,))
    process.start()
    process.join()
    assert process.exitcode == 9
    with Catalog.open(url).turn("main", [APP]):
        pass


def test_a_turn_that_does_not_end_is_waited_for_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longseal.catalog.catalog.TURN_SECONDS", 0.1)
    catalog = Catalog.open(f"sqlite:///{tmp_path}/catalog.db")
    with (
        catalog.turn("main", [APP]),
        pytest.raises(RetryableError, match="too long"),
        catalog.turn("main", [APP]),
    ):
        pytest.fail("two at once")


def test_the_turn_of_a_host_that_is_gone_is_ended_by_the_server(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog.open(postgresql_url)
    monkeypatch.setattr("longseal.catalog.catalog.TURN_SECONDS", 1)
    with pytest.raises(RetryableError), catalog.turn("main", [APP]):
        monkeypatch.setattr("longseal.catalog.catalog.TURN_SECONDS", 60)
        with catalog.turn("main", [APP]):
            pass


def test_the_same_claim_again_changes_nothing(catalog: Catalog) -> None:
    for _ in range(2):
        catalog.claim_packs([pack("p")], [evidence("p")])
    catalog.mark_stored(digest("p"))
    catalog.claim_packs([pack("p")], [evidence("p")])
    assert catalog.packs() == [digest("p")]
    assert len(catalog.evidence()) == 1


def test_one_layer_named_twice_in_one_claim_is_one_piece_of_evidence(catalog: Catalog) -> None:
    catalog.claim_packs([pack("p")], [evidence("p"), evidence("p")])
    assert len(catalog.evidence()) == 1


def test_a_claim_is_made_whole_or_not_at_all(catalog: Catalog) -> None:
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        catalog.claim_packs([pack("p")], [evidence("p"), evidence("q", bundle="b")])
    assert catalog.claimed_packs() == []
    assert catalog.evidence() == []


def test_a_pack_that_the_catalog_does_not_know_is_an_error(catalog: Catalog) -> None:
    store(catalog, "p")
    assert catalog.pack(digest("p")).size == 2**40
    with pytest.raises(VerificationError, match="rebuild"):
        catalog.pack(digest("q"))


def _claimer(url: str, name: str, backwards: bool, start: Any) -> None:
    catalog = Catalog.open(url)
    start.wait()
    for turn in range(15):
        rows = [evidence(f"{name}{turn}", bundle=f"{bundle}") for bundle in range(20)]
        catalog.claim_packs([pack(f"{name}{turn}")], rows[::-1] if backwards else rows)
        catalog.mark_stored(digest(f"{name}{turn}"))


def test_claims_by_two_processes_in_opposite_order_do_no_harm(url: str) -> None:
    catalog = Catalog.open(url)
    run_together(_claimer, (url, "a", False), (url, "b", True))
    rows = catalog.evidence()
    assert len(rows) == 20
    assert {row.pack for row in rows} <= set(catalog.packs())


# -- what should be there ------------------------------------------------------------------------


def test_evidence_is_held_until_a_tombstone_says_that_it_went(catalog: Catalog) -> None:
    store(catalog, "p", evidence("p"), evidence("p", manifest="other", bundle="b"))
    catalog.claim_packs([pack("q")], [evidence("q", image="second", repository="corp/two")])
    both = {digest("manifest"), digest("other")}
    images = [digest("image"), digest("second")]
    assert catalog.held_manifests("main", APP, images) == {digest("image"): both}
    assert catalog.held_images("main") == {APP: {digest("image")}, "corp/two": {digest("second")}}
    assert catalog.held_images("other") == {}
    catalog.bury([row.id for row in catalog.evidence(manifest=digest("other"))], digest("deletion"))
    assert catalog.held_manifests("main", APP, images) == {digest("image"): {digest("manifest")}}
    catalog.bury([row.id for row in catalog.evidence(image=digest("image"))], digest("deletion"))
    assert catalog.held_images("main") == {"corp/two": {digest("second")}}


def image(name: str, **changed: Any) -> dict[str, Any]:
    return {
        "source": "main",
        "repository": APP,
        "digest": digest(name),
        "state": "whole",
        "record": "{}",
        "checked_at": NOW,
    } | changed


def test_the_newest_record_of_an_image_is_the_one_kept(catalog: Catalog) -> None:
    catalog.record_images([image("a"), image("b"), image("a", repository="corp/two")])
    catalog.record_images([image("a", state="vanished", record='{"n":2}')])
    catalog.record_images([])
    assert catalog.records("main", APP, [digest("a"), digest("b"), digest("c")]) == {
        digest("a"): '{"n":2}',
        digest("b"): "{}",
    }
    assert len(catalog.images()) == 3
    assert [row.state for row in catalog.images("main") if row.record == '{"n":2}'] == ["vanished"]
    assert catalog.images("other") == []


def test_questions_about_many_images_are_answered_whole(catalog: Catalog) -> None:
    names = [f"image {n}" for n in range(1_300)]
    catalog.record_images([image(name) for name in names])
    store(catalog, "p", *(evidence("p", image=name) for name in names))
    digests = [digest(name) for name in names]
    assert len(catalog.records("main", APP, digests)) == 1_300
    assert len(catalog.known_manifests("main", APP, digests)) == 1_300
    assert len(catalog.held_manifests("main", APP, digests)) == 1_300
    places = [("main", APP, digest) for digest in digests]
    assert dict(catalog.records_of(places)) == dict.fromkeys(places, "{}")
    assert list(catalog.records_of([("other", APP, digest) for digest in digests])) == []
    leaves = [row.leaf_hash for row in catalog.evidence()]
    assert catalog.packs_of(leaves) == [digest("p")]


# -- seals and what follows ----------------------------------------------------------------------


def seal(sequence: int, **changed: Any) -> Seal:
    fields = {
        "sequence": sequence,
        "period": f"2026-{sequence:02}",
        "digest": digest(f"seal {sequence}"),
        "root": digest("root"),
        "size": 1,
        "sealed_at": NOW,
    }
    return Seal(**(fields | changed))


def hashes(catalog: Catalog, **equal: str) -> list[str]:
    return [row.leaf_hash for row in catalog.evidence(**equal)]


def test_unsealed_is_what_is_stored_undoubted_and_signed_before(catalog: Catalog) -> None:
    store(
        catalog,
        "p",
        evidence("p", bundle="old", signed_at=NOW - timedelta(days=40), leaf="2"),
        evidence("p", bundle="edge", signed_at=NOW, leaf="3"),
        evidence("p", bundle="rejected", verdict="rejected", leaf="1"),
        evidence("p", bundle="doubtful", leaf="4"),
    )
    catalog.claim_packs([pack("q")], [evidence("q", bundle="only claimed")])
    catalog.set_aside(hashes(catalog, bundle=digest("doubtful")))
    assert [row.leaf for row in catalog.unsealed(NOW)] == ["1", "2"]
    assert [row.leaf for row in catalog.unsealed(None)] == ["1", "2", "3"]
    assert catalog.counts() == {"verified": 3, "rejected": 1, "suspect": 1}
    catalog.add_seal(seal(1), hashes(catalog, bundle=digest("old")))
    assert [row.leaf for row in catalog.unsealed(None)] == ["1", "3"]


def test_a_seal_noted_twice_is_one_seal(catalog: Catalog) -> None:
    store(catalog, "p")
    for _ in range(2):
        catalog.add_seal(seal(1), hashes(catalog))
    catalog.add_seal(seal(2), [])
    assert [(one.sequence, one.period) for one in catalog.seals()] == [
        (1, "2026-01"),
        (2, "2026-02"),
    ]
    assert [row.seal for row in catalog.evidence()] == [1]


def test_what_is_placed_comes_by_place_and_says_what_retention_asks(catalog: Catalog) -> None:
    store(
        catalog,
        "p",
        evidence("p", bundle="buried"),
        evidence("p", bundle="there", repository="corp/b"),
        evidence("p", bundle="unsealed", repository="corp/a"),
    )
    for name in ("buried", "there"):
        catalog.add_seal(seal(1), hashes(catalog, bundle=digest(name)))
    buried = catalog.evidence(bundle=digest("buried"))
    catalog.bury([row.id for row in buried], digest("deletion"))
    found = list(catalog.placed())
    assert [row.repository for row in found] == sorted(row.repository for row in found)
    assert {row.bundle: (row.seal, row.tombstone) for row in found} == {
        digest("unsealed"): (None, None),
        digest("there"): (1, None),
        digest("buried"): (1, digest("deletion")),
    }
    assert [row.bundle for row in catalog.placed({"corp/b"})] == [digest("there")]
    catalog.bury([row.id for row in buried], None)
    assert all(row.tombstone is None for row in catalog.placed())


def test_image_statements_come_oldest_seal_first_and_can_go(catalog: Catalog) -> None:
    for sequence in (1, 2):
        catalog.add_seal(seal(sequence), [])
    rows = [
        {
            "seal": sequence,
            "source": source,
            "repository": APP,
            "image": digest("image"),
            "bundle": digest(f"bundle {sequence}"),
            "manifest": digest(f"manifest {sequence} {source}"),
        }
        for sequence, source in ((2, "main"), (1, "main"), (1, "other"))
    ]
    catalog.add_image_statements(rows)
    catalog.add_image_statements(rows)
    found = catalog.image_statements([digest("image")])
    assert [(row.seal, row.source) for row in found] == [(1, "main"), (1, "other"), (2, "main")]
    assert catalog.image_statements([digest("another")]) == []
    assert catalog.own_manifests("main", [digest("image")]) == {
        digest("manifest 1 main"),
        digest("manifest 2 main"),
    }
    catalog.drop_image_statement(found[0].id)
    assert [row.seal for row in catalog.image_statements()] == [1, 2]


def test_deliveries_of_a_site_come_in_their_order(catalog: Catalog) -> None:
    for site, sequence in (("ship", 2), ("ship", 1), ("plant", 1)):
        catalog.add_delivery(
            Delivery(
                site=site,
                sequence=sequence,
                inventory=digest("inventory"),
                images=3,
                delivered_at=NOW,
            )
        )
    assert [row.sequence for row in catalog.deliveries("ship")] == [1, 2]


def test_times_keep_their_zone(catalog: Catalog) -> None:
    east = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    store(catalog, "p", evidence("p", signed_at=east))
    (row,) = catalog.evidence()
    assert row.signed_at == NOW
    assert row.signed_at.utcoffset() == timedelta(0)


def test_text_is_kept_as_it_is(catalog: Catalog) -> None:
    said = "é 漢字 🜁 ' \" \\ %s :name \n"
    store(catalog, "p", evidence("p", reason=said))
    assert [row.reason for row in catalog.evidence()] == [said]


def test_a_transaction_that_fails_leaves_nothing(catalog: Catalog) -> None:
    with pytest.raises(ZeroDivisionError), catalog.session() as session:
        session.add(seal(1))
        session.flush()
        raise ZeroDivisionError
    assert catalog.seals() == []


def test_a_database_that_fails_is_tried_again_and_its_statement_is_not_told(
    catalog: Catalog,
) -> None:
    with pytest.raises(RetryableError) as caught, catalog.session() as session:
        if catalog._engine.dialect.name == "sqlite":
            session.execute(text("SELECT 'secret' FROM no_such_table"))
        else:
            session.execute(text("SET LOCAL statement_timeout = 1"))
            session.execute(text("SELECT 'secret', pg_sleep(5)"))
    assert "secret" not in str(caught.value)
