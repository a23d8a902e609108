"""What is told of an authority's certificates, kept beside the seal for who asks years later."""

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from tests.doubles.timestamp_authority import Mode, TimestampAuthorityDouble
from tests.installation import Installation, seal

from longseal.audit.audit import audit
from longseal.seal import revocation
from longseal.seal.reseal import Reseal
from longseal.seal.revocation import Revocation, places
from longseal.seal.timestamps import Authority
from longseal.verify.report import State


@pytest.fixture
def telling(tmp_path: Path) -> Iterator[TimestampAuthorityDouble]:
    """An authority whose certificate says where its revocation is told."""
    with TimestampAuthorityDouble(tmp_path / "telling", revocation=True) as double:
        yield double


def told(double: TimestampAuthorityDouble) -> Revocation:
    found = Revocation()
    found.ask(Authority.load(double.url, double.pem, "chain.pem"))
    return found


def test_the_issuer_s_list_and_answer_are_kept_as_stock_tools_read_them(
    telling: TimestampAuthorityDouble, tmp_path: Path
) -> None:
    found = told(telling)
    name = telling.chain[0].fingerprint(SHA256()).hex()
    assert set(found.files) == {f"{name}.crl", f"{name}.ocsp"}
    assert not found.failed
    assert not found.revoked
    for file, data in found.files.items():
        (tmp_path / file).write_bytes(data)
    root = tmp_path / "root.pem"
    root.write_bytes(telling.chain[1].public_bytes(Encoding.PEM))
    crl = ["openssl", "crl", "-inform", "DER", "-in", tmp_path / f"{name}.crl", "-CAfile", root]
    subprocess.run([*crl, "-noout"], check=True, capture_output=True)
    ocsp = ["openssl", "ocsp", "-respin", tmp_path / f"{name}.ocsp", "-VAfile", root]
    done = subprocess.run([*ocsp, "-resp_text"], check=True, capture_output=True, text=True)
    assert "Cert Status: good" in done.stdout
    assert "Response verify OK" in done.stderr


def test_a_revoked_certificate_is_named_by_both(telling: TimestampAuthorityDouble) -> None:
    telling.revoked = datetime.now(UTC) - timedelta(hours=1)
    assert len(told(telling).revoked) == 2


@pytest.mark.parametrize("mode", ["down", "garbage"])
def test_what_cannot_be_had_is_noted(telling: TimestampAuthorityDouble, mode: Mode) -> None:
    telling.mode = mode
    found = told(telling)
    assert f"{telling.url}/crl" in found.failed
    assert not any(name.endswith(".crl") for name in found.files)


def test_a_list_by_somebody_else_is_not_kept(
    telling: TimestampAuthorityDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = telling._stampers["stranger"].crl(datetime.now(UTC))
    monkeypatch.setattr(revocation, "get", lambda *_, **__: stranger)
    found = told(telling)
    assert "not signed by the certificate's issuer" in found.failed[f"{telling.url}/crl"]


def test_one_that_does_not_answer_is_given_up(
    telling: TimestampAuthorityDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "TIMEOUT", 0.2)
    telling.mode = "slow"
    assert f"{telling.url}/crl" in told(telling).failed


def test_certificates_that_name_no_place_are_not_asked_about(tmp_path: Path) -> None:
    with TimestampAuthorityDouble(tmp_path / "tsa") as double:
        assert list(places(double.chain[0])) == []


def test_it_lies_beside_the_seal_and_in_the_key_free_list(
    harvested: Installation, telling: TimestampAuthorityDouble
) -> None:
    harvested.write(timestamps=[telling.listed()])
    seal(harvested.workspace(), "r-one")
    archive = harvested.folder / "archive"
    kept = (archive / "seals" / "000001" / "revocation").iterdir()
    files = sorted(path for path in kept if not path.name.startswith("."))
    assert [one.suffix for one in files] == [".crl", ".ocsp"]
    listing = archive / "seals" / "000001" / "renewal.sha512"
    check = ["sha512sum", "--check", "--strict", "--quiet", listing]
    subprocess.run(check, cwd=archive, check=True)
    names = [line.split()[1] for line in listing.read_text().splitlines()]
    assert len(names) == 4
    assert audit(harvested.workspace(), 0).state is State.PASSED
    files[0].chmod(0o644)
    files[0].write_bytes(b"")
    assert audit(harvested.workspace(), 0).state is State.FAILED


def test_nothing_of_it_stops_a_seal(
    harvested: Installation, telling: TimestampAuthorityDouble
) -> None:
    harvested.write(timestamps=[telling.listed()])
    reseal = Reseal(harvested.workspace(), "r-one")
    for step in (reseal.freeze, reseal.recheck, reseal.sign):
        step()
    reseal.ceremony.timestamp()
    telling.mode = "down"
    assert list(reseal.timestamp()["revocation"]["failed"]) == [f"{telling.url}/crl"]
    telling.mode = "honest"
    for step in (reseal.log, reseal.check, reseal.publish):
        step()
    assert reseal.sealed is not None


def test_the_settings_can_leave_it_out(
    harvested: Installation, telling: TimestampAuthorityDouble
) -> None:
    harvested.write(timestamps=[telling.listed(revocation=False)])
    seal(harvested.workspace(), "r-one")
    assert not (harvested.folder / "archive" / "seals" / "000001" / "revocation").exists()
