import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.doubles.sigstore import SigstoreDouble

from longseal.errors import MalformedError, UnsupportedError
from longseal.verify import roots
from longseal.verify.trust import TrustMaterial

NOW = datetime(2026, 11, 24, tzinfo=UTC)
SECTIONS = {
    "certificateAuthorities": "CA",
    "ctlogs": "CT log",
    "tlogs": "Rekor log",
    "timestampAuthorities": "timestamp authority",
}


def changed(root: bytes, section: str, end: str | None = None, start: str | None = None) -> bytes:
    document: Any = json.loads(root)
    for one in document[section]:
        window = one.get("validFor") or one["publicKey"]["validFor"]
        if end is not None:
            window["end"] = end
        if start is not None:
            window["start"] = start
    return json.dumps(document).encode()


def both(one: bytes, other: bytes) -> bytes:
    document, more = json.loads(one), json.loads(other)
    for section in SECTIONS:
        document[section] += more[section]
    return json.dumps(document).encode()


def test_a_root_that_only_grew_loses_nothing(lab_root: bytes, sigstore: SigstoreDouble) -> None:
    assert roots.lost(lab_root, lab_root) == ()
    assert roots.lost(lab_root, both(lab_root, sigstore.trusted_root())) == ()
    assert roots.lost(lab_root, both(sigstore.trusted_root(), lab_root)) == ()


def test_a_root_of_somebody_else_drops_everything(
    lab_root: bytes, sigstore: SigstoreDouble
) -> None:
    gone = roots.lost(lab_root, sigstore.trusted_root())
    assert len(gone) == 4
    assert all(text.endswith("is dropped") for text in gone)


@pytest.mark.parametrize(("section", "kind"), SECTIONS.items())
def test_a_window_that_ends_earlier_or_begins_later_is_shortened(
    lab_root: bytes, section: str, kind: str
) -> None:
    ended = changed(lab_root, section, end="2027-01-01T00:00:00Z")
    assert [
        text.partition(" is shortened")[0].startswith(kind) for text in roots.lost(lab_root, ended)
    ] == [True]
    earlier = changed(lab_root, section, end="2026-12-31T00:00:00Z")
    assert len(roots.lost(ended, earlier)) == 1
    assert roots.lost(earlier, ended) == ()
    assert roots.lost(ended, lab_root) == ()
    later = changed(lab_root, section, start="2026-06-01T00:00:00Z")
    assert len(roots.lost(lab_root, later)) == 1
    assert roots.lost(later, lab_root) == ()


def test_a_log_with_another_key_under_the_same_id_is_another_log(
    lab_root: bytes, sigstore: SigstoreDouble
) -> None:
    document, other = json.loads(lab_root), json.loads(sigstore.trusted_root())
    raw = other["tlogs"][0]["publicKey"]["rawBytes"]
    document["tlogs"][0]["publicKey"]["rawBytes"] = raw
    document["tlogs"][0]["publicKey"]["keyDetails"] = "PKIX_ECDSA_P256_SHA_256"
    assert roots.lost(lab_root, json.dumps(document).encode())


@pytest.mark.parametrize(("section", "kind"), SECTIONS.items())
def test_what_ends_within_thirty_days_is_warned_of(
    lab_root: bytes, section: str, kind: str
) -> None:
    assert roots.ending(lab_root, NOW) == ()
    soon = changed(lab_root, section, end="2026-12-24T00:00:00Z")
    assert roots.ending(soon, NOW) == (f"{_name(soon, kind)} ends on 2026-12-24",)
    assert roots.ending(changed(lab_root, section, end="2026-12-24T00:00:01Z"), NOW) == ()
    assert roots.ending(changed(lab_root, section, end="2026-11-23T00:00:00Z"), NOW) == (
        f"every {kind} has ended",
    )


def test_a_certificate_that_ends_is_warned_of_too(sigstore: SigstoreDouble) -> None:
    root = sigstore.trusted_root()
    ca = next(one for one in roots.instances(root) if one.kind == "CA")
    assert ca.end is None and ca.expires is not None
    assert roots.ending(root, ca.expires - roots.AHEAD) == (f"{ca} ends on {ca.expires:%Y-%m-%d}",)
    assert roots.ending(root, ca.expires - 2 * roots.AHEAD) == ()


def test_every_root_of_public_projects_can_be_compared(sigstore_bundles: Path) -> None:
    found = sorted(sigstore_bundles.rglob("*root*.json"))
    assert found
    for path in found:
        try:
            TrustMaterial.parse(path.read_bytes())
        except (MalformedError, UnsupportedError):
            continue
        assert roots.instances(path.read_bytes())
        assert roots.lost(path.read_bytes(), path.read_bytes()) == ()
        roots.ending(path.read_bytes(), NOW)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_root_without_one_kind_of_instance_can_be_compared(lab_root: bytes, section: str) -> None:
    document = json.loads(lab_root)
    del document[section]
    assert len(roots.lost(lab_root, json.dumps(document).encode())) == 1


def test_a_certificate_that_is_none_is_malformed(lab_root: bytes) -> None:
    document = json.loads(lab_root)
    for section in ("certificateAuthorities", "timestampAuthorities"):
        document[section][0]["certChain"]["certificates"][0]["rawBytes"] = "AAAA"
        with pytest.raises(MalformedError):
            roots.instances(json.dumps(document).encode())


def test_what_is_no_trusted_root_is_malformed() -> None:
    with pytest.raises(MalformedError):
        roots.instances(b"{}")


def _name(root: bytes, kind: str) -> str:
    return str(next(one for one in roots.instances(root) if one.kind == kind))
