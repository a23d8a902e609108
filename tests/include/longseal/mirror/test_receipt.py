"""A site's signed answer: it closes the delivery, and nobody else's does."""

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.include.longseal.mirror.conftest import SMALL, blobs
from tests.installation import Installation, seal

from longseal.audit.audit import audit
from longseal.cli import main
from longseal.errors import RefusedError, VerificationError
from longseal.mirror.mirror import mirror
from longseal.mirror.receipt import RECEIPT, receive, standing, verify_receipt
from longseal.mirror.site import Site
from longseal.seal.keys import fingerprint
from longseal.seal.published import published
from longseal.seal.signers.file import FileSigner
from longseal.verify.report import Report
from longseal.workspace import Workspace, utc_now


@pytest.fixture
def answering(small: Installation, site: Site) -> Installation:
    """The settings know the site's key, and the site imported its first volume."""
    small.write(sites=[{**SMALL[0], "receipt_key": fingerprint(site.signer.public_key)}])
    assert site.take(small.folder / "ship", Report("volume"), utc_now()) is not None
    return small


def given(workspace: Workspace, data: bytes) -> None:
    receive(workspace, workspace.settings.site("ship"), data)


def test_a_receipt_closes_the_delivery(answering: Installation, site: Site) -> None:
    workspace = answering.workspace()
    ship = workspace.settings.site("ship")
    before = standing(workspace, ship)
    assert before.confirmed is None
    assert before.waiting is not None
    data = site.receipt(utc_now())
    assert site.receipt(utc_now() + timedelta(hours=1)) == data
    receipt = receive(workspace, ship, data)
    assert receipt.seal == (1, published(workspace)[0].digest)
    after = standing(workspace, ship)
    assert (after.waiting, after.due) == (None, None)
    assert after.confirmed == receipt
    told = [one for one in workspace.ledger.walk() if one.action == "mirror.received"]
    given(workspace, data)
    assert [one for one in workspace.ledger.walk() if one.action == "mirror.received"] == told


def test_a_receipt_that_came_back_on_the_volume_is_taken_in_by_the_mirror(
    answering: Installation, site: Site
) -> None:
    back = answering.folder / "ship" / RECEIPT
    assert main(["site", "receipt", str(site.root), "--to", str(back)]) == 0
    workspace = answering.workspace()
    done = mirror(workspace, workspace.settings.site("ship"))
    assert done["receipt_refused"] is None
    confirmed = standing(workspace, workspace.settings.site("ship")).confirmed
    assert confirmed is not None
    assert confirmed.sequence == 1
    back.write_bytes(b"{}")
    refused = mirror(workspace, workspace.settings.site("ship"))["receipt_refused"]
    assert refused is not None


def test_receipts_are_sealed(answering: Installation, site: Site) -> None:
    workspace = answering.workspace()
    data = site.receipt(utc_now())
    given(workspace, data)
    sealed = seal(workspace, "r-two").sealed
    assert sealed is not None
    lines = workspace.kept(sealed.files()["statements.sha256"]).decode()
    assert "receipts/ship/000001/" in lines


def test_a_receipt_by_another_key_is_refused(
    answering: Installation, site: Site, tmp_path: Path
) -> None:
    workspace = answering.workspace()
    (site.root / "key.pem").unlink()
    FileSigner.create(site.root / "key.pem")
    with pytest.raises(VerificationError, match="is signed by"):
        given(workspace, site.receipt(utc_now()))
    assert standing(workspace, workspace.settings.site("ship")).confirmed is None


def test_a_changed_receipt_is_refused(answering: Installation, site: Site) -> None:
    data = site.receipt(utc_now())
    key = fingerprint(site.signer.public_key)
    receipt, _ = verify_receipt(data, key)
    forged = replace(receipt, sequence=2).sign("stella.example", b"{}", site.signer)
    for changed in (forged, replace(receipt, site="raft").sign("x", b"{}", site.signer)):
        with pytest.raises(VerificationError):
            given(answering.workspace(), changed)
    broken = bytearray(data)
    at = data.index(b'"sig":"') + 30
    broken[at] = ord("A") if broken[at] != ord("A") else ord("B")
    with pytest.raises(VerificationError):
        given(answering.workspace(), bytes(broken))


@pytest.mark.parametrize("what", ["seal", "inventory"])
def test_a_site_that_was_shown_another_history_raises_the_alarm(
    answering: Installation, site: Site, small_once: Installation, tmp_path: Path, what: str
) -> None:
    receipt, _ = verify_receipt(site.receipt(utc_now()), fingerprint(site.signer.public_key))
    inventory = (site.root / "site/inventory.json").read_bytes()
    lies = {"seal": replace(receipt, seal=(1, "sha256:" + "0" * 64))}
    lies["inventory"] = replace(receipt, inventory="sha256:" + "0" * 64)
    data = lies[what].sign("stella.example", inventory, site.signer)
    with pytest.raises(VerificationError, match="sound the alarm"):
        given(answering.workspace(), data)


def test_a_site_without_a_key_in_the_settings_gives_no_receipts(
    small: Installation, site: Site
) -> None:
    site.take(small.folder / "ship", Report("volume"), utc_now())
    with pytest.raises(VerificationError, match="receipt_key"):
        given(small.workspace(), site.receipt(utc_now()))


def test_there_is_no_receipt_before_an_import(site: Site) -> None:
    with pytest.raises(RefusedError, match="nothing was imported"):
        site.receipt(utc_now())


def test_a_site_that_owes_a_receipt_for_too_long_fails_the_audit(
    answering: Installation, site: Site
) -> None:
    def later() -> Workspace:
        return answering.workspace(lambda: utc_now() + timedelta(days=31))

    def found(workspace: Workspace) -> str:
        checks = {one.name: one for one in audit(workspace, 0.0).checks}
        return checks["site ship"].state.value

    assert found(answering.workspace()) == "passed"
    assert found(later()) == "failed"
    given(answering.workspace(), site.receipt(utc_now()))
    assert found(later()) == "passed"


def test_what_a_site_lacks_and_what_never_came_is_told(
    answering: Installation, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = answering.folder / "ship"
    config = str(answering.config)
    workspace = answering.workspace()
    for period in ("r-two", "r-three"):
        seal(workspace, period)
        mirror(workspace, workspace.settings.site("ship"))
    blob = next(blobs(answering, b'"diff_ids"'))
    shutil.rmtree(site.root / "images")
    blob.write_bytes(b"{}")
    site.take(volume, Report("volume"), utc_now())
    back = answering.folder / "back.json"
    assert main(["site", "receipt", str(site.root), "--to", str(back)]) == 1
    assert main(["receive", "--site", "ship", str(back), "--config", config]) == 1
    capsys.readouterr()
    assert main(["sites", "--json", "--config", config]) == 1
    printed = capsys.readouterr().out
    assert '"never_came": [\n      2\n    ]' in printed
    assert '"confirmed": 3' in printed
    assert "corp/a-svc0@sha256:" in printed
