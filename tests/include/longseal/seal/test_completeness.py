"""What a seal says of what it does not cover, and when that stops it."""

import json
from datetime import timedelta

import pytest
from tests.installation import Installation, seal

from longseal.archive.records import record_files, record_line
from longseal.canonical import sha256_hex
from longseal.errors import RefusedError
from longseal.seal.reseal import Reseal

IDENTITIES = [{"issuer": "http://localhost:18100", "identity": "ci@stella.example"}]
SILENT = {"place": "referrers", "outcome": "unknown", "count": 0, "detail": "503"}


def record_silence(installation: Installation, image: str) -> bytes:
    """What a harvest does when a registry did not say what hangs on ``image``."""
    workspace = installation.workspace()
    known = workspace.catalog.images()[0]
    at = known.checked_at + timedelta(hours=1)
    content = {"subject": image, "state": "unknown", "answers": [SILENT], "found": []}
    line = record_line(json.loads(known.record) | content, at)
    for key, data in record_files([line], at):
        workspace.store(key, data)
    row = {"source": known.source, "repository": known.repository, "digest": image}
    workspace.catalog.record_images(
        [{**row, "state": "unknown", "record": line.decode(), "checked_at": at}]
    )
    return line


def test_an_image_that_could_not_be_looked_at_is_in_the_seal_though_no_leaf_speaks_of_it(
    harvested: Installation,
) -> None:
    line = record_silence(harvested, "sha256:" + "5" * 64)
    sealed = seal(harvested.workspace(), "r-one").sealed
    assert sealed is not None
    counts = sealed.statement.predicate["counts"]
    assert counts["records"] == {"unknown": 1, "whole": 20}
    assert counts["images"] == 20
    assert line in harvested.workspace().kept(sealed.files()["records.jsonl"]).splitlines()


def test_a_month_with_something_unknown_is_refused_where_the_settings_want_it_so(
    harvested: Installation,
) -> None:
    image = harvested.workspace().catalog.images()[0].digest
    record_silence(harvested, image)
    harvested.write(seal={"unknown": "refuse"})
    with pytest.raises(RefusedError, match=rf"of 1 images .* the first {image}: harvest again"):
        Reseal(harvested.workspace(), "r-one").freeze()
    assert not (harvested.folder / "archive/seals").exists()
    harvested.write(seal={"unknown": "seal"})
    assert seal(harvested.workspace(), "r-one").sealed is not None


def test_a_whole_month_is_sealed_where_one_with_something_unknown_would_be_refused(
    harvested: Installation,
) -> None:
    harvested.write(seal={"unknown": "refuse"})
    assert seal(harvested.workspace(), "r-one").sealed is not None


def test_rejects_are_counted_by_their_reason(harvested: Installation) -> None:
    workspace = harvested.workspace()
    types = sorted({str(row.predicate_type) for row in workspace.catalog.evidence()})
    rule = {"repositories": ["corp/*"], "identities": IDENTITIES}
    other = {**IDENTITIES[0], "identity": "me@stella.example"}
    policy = [{**rule, "predicates": [types[0]], "identities": [other]}]
    harvested.write(policy=[*policy, {**rule, "predicates": types[1:2]}])
    sealed = seal(harvested.workspace(), "r-one").sealed
    assert sealed is not None
    counts = sealed.statement.predicate["counts"]
    rejected = [json.loads(line) for line in lines_of(harvested, sealed.files()["rejected.jsonl"])]
    assert counts["rejects"] == {
        "identity": sum(one["predicateType"] == types[0] for one in rejected),
        "no-rule": sum(one["predicateType"] not in types[:2] for one in rejected),
    }
    assert sum(counts["rejects"].values()) == counts["rejected"] > 0
    assert counts["registries"] == {"exported": 100}


def lines_of(installation: Installation, digest: str) -> list[bytes]:
    data = installation.workspace().kept(digest)
    assert sha256_hex(data) == digest[7:]
    return data.splitlines()
