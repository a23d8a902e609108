"""At an offline site: what a volume brings is verified, and only then seen."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from tests.doubles.registry import RegistryDouble
from tests.include.longseal.mirror.conftest import SMALL, blobs, failed, flip, tree
from tests.installation import Installation, seal
from tests.lab.processes import OFFLINE
from tests.lab.tools import tool

from longseal.canonical import parse_object
from longseal.cli import main
from longseal.errors import (
    ArchiveError,
    LongsealError,
    RefusedError,
    SettingsError,
    VerificationError,
)
from longseal.mirror.mirror import mirror
from longseal.mirror.site import Imported, Site
from longseal.mirror.volume import Volume
from longseal.registry.distribution import DistributionRegistry
from longseal.seal import key_history
from longseal.seal.organisation import organisation_key
from longseal.seal.proof import Anchors
from longseal.seal.signers.file import FileSigner
from longseal.verify.report import Report, State
from longseal.workspace import Workspace, utc_now


def take(
    site: Site, volume: Path, later: timedelta = timedelta(0)
) -> tuple[Imported | None, Report]:
    report = Report("volume")
    return site.take(volume, report, utc_now() + later), report


def deliver(installation: Installation, period: str | None = None) -> Path:
    """A volume with a new inventory, beside those before."""
    workspace = installation.workspace()
    if period:
        seal(workspace, period)
    done = mirror(workspace, workspace.settings.site("ship"))
    kept = installation.folder / f"volume-{done['sequence']}"
    shutil.copytree(installation.folder / "ship", kept)
    return kept


def lose(installation: Installation) -> str:
    """Take an image away from what the site is to have; returns its name."""
    workspace = installation.workspace()
    image = next(one for one in workspace.catalog.images() if one.repository == "corp/a-svc0")
    columns = ("source", "repository", "digest", "record", "checked_at")
    row = {name: getattr(image, name) for name in columns}
    workspace.catalog.record_images([{**row, "state": "vanished"}])
    return f"{image.repository}@{image.digest}"


def seen(site: Site) -> set[str]:
    """Images that have a tag at the site."""
    found = set()
    for repository in site.registry.repositories():
        for tag in site.registry.tags(repository):
            if not tag.startswith("sha256-"):
                found.add(f"{repository}@{site.registry.resolve(repository, tag)}")
    return found


# -- the fine ------------------------------------------------------------------------------------


def test_an_import_brings_all_and_everything_verifies(small: Installation, site: Site) -> None:
    imported, report = take(site, small.folder / "ship")
    assert imported is not None
    assert (imported.sequence, imported.lacking, imported.skipped) == (1, {}, ())
    assert report.state is State.PASSED, failed(report)
    assert len(seen(site)) == 4
    again = Report("site")
    site.verify(again, utc_now())
    assert again.state is State.PASSED, failed(again)
    assert site.status(utc_now())["images"] == 4


def test_a_second_import_of_the_same_volume_changes_nothing(
    small: Installation, site: Site
) -> None:
    take(site, small.folder / "ship")
    before = {path: path.stat().st_mtime_ns for path in site.root.rglob("*") if path.is_file()}
    imported, report = take(site, small.folder / "ship")
    assert imported is not None
    assert report.state is State.PASSED
    after = {path: path.stat().st_mtime_ns for path in site.root.rglob("*") if path.is_file()}
    assert after == before


def test_the_command_works_with_no_settings_and_no_network(
    small: Installation, site: Site, tmp_path: Path
) -> None:
    home, volume = str(tmp_path / "deck"), str(small.folder / "ship")
    code = (
        "import sys; from longseal.cli import main\n"
        f"key, home, volume = {site.organisation_key!r}, {home!r}, {volume!r}\n"
        "steps = [['init', home, '--name', 'ship', '--org-key', key], ['import', home, volume],"
        " ['verify', home], ['status', home]]\n"
        "sys.exit(max(main(['site', *step]) for step in steps))\n"
    )
    argv = [*OFFLINE, sys.executable, "-c", code]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_was_imported_goes_into_a_registry_of_the_site(
    small: Installation, site: Site
) -> None:
    take(site, small.folder / "ship")
    with RegistryDouble() as double:
        target = DistributionRegistry("cabin", double.url)
        done = site.push(target)
        assert (done["images"], done["failed"]) == (4, {})
        again = site.push(target)
        assert (again["blobs_sent"], again["kit_files"]) == (0, 0)
        image = next(iter(seen(site))).split("@")
        assert target.manifest(*image) is not None


def test_a_site_is_made_once(site: Site) -> None:
    with pytest.raises(RefusedError, match="never overwritten"):
        Site.create(site.root, "ship", site.organisation_key)
    with pytest.raises(SettingsError, match="is no site"):
        Site(site.root.parent)
    with pytest.raises(RefusedError, match="fingerprint"):
        Site.create(site.root.parent / "other", "ship", "sha256:12")


# -- sequence ------------------------------------------------------------------------------------


def test_an_older_volume_cannot_roll_the_site_back(small: Installation, site: Site) -> None:
    old = deliver(small)
    new = deliver(small, "r-two")
    assert take(site, new)[0] is not None
    before = tree(site.root)
    imported, report = take(site, old)
    assert imported is None
    assert "older than 2" in failed(report)["sequence"]
    assert tree(site.root) == before


def test_a_volume_that_never_came_is_named(small: Installation, site: Site) -> None:
    first = deliver(small)
    deliver(small, "r-two")
    third = deliver(small, "r-three")
    take(site, first)
    imported, report = take(site, third)
    assert imported is not None
    assert imported.skipped == (2,)
    assert any("never came: 2" in one.detail for one in report.checks)
    assert site.status(utc_now())["skipped"] == [2]
    # Once more: what never came has not come since.
    again, _ = take(site, third)
    assert again == imported


def test_an_inventory_of_another_history_is_refused(
    small_once: Installation, small: Installation, site: Site, tmp_path: Path
) -> None:
    twin = small_once.copy(tmp_path / "twin")
    first = deliver(small, "r-two")
    other_second, other_third = deliver(twin, "r-other"), deliver(twin, "r-third")
    assert take(site, first)[0] is not None
    for volume in (other_second, other_third):
        imported, report = take(site, volume)
        assert imported is None
        assert "two histories" in failed(report)["sequence"]


def test_another_sites_volume_is_refused(small: Installation, site: Site, tmp_path: Path) -> None:
    other = Site.create(tmp_path / "other", "raft", site.organisation_key)
    imported, report = take(other, small.folder / "ship")
    assert imported is None
    assert "is for 'ship'" in failed(report)["sequence"]
    assert not (other.root / "images").exists()


def test_what_was_withdrawn_goes_out_of_sight(small: Installation, site: Site) -> None:
    first = deliver(small)
    name = lose(small)
    second = deliver(small)
    take(site, first)
    with RegistryDouble() as double:
        target = DistributionRegistry("cabin", double.url)
        site.push(target)
        assert name in seen(site)
        imported, report = take(site, second)
        assert imported is not None
        assert report.state is State.PASSED, failed(report)
        assert name not in seen(site)
        assert "vanished" in site.status(utc_now())["withdrawn"][name]
        site.push(target)
        assert target.manifest(*name.split("@")) is None
    again = Report("site")
    site.verify(again, utc_now())
    assert again.state is State.PASSED, failed(again)


def test_a_withdrawn_image_stays_in_every_later_inventory(small: Installation, site: Site) -> None:
    name = lose(small)
    deliver(small)
    third = deliver(small, "r-two")
    take(site, third)
    assert name in site.status(utc_now())["withdrawn"]


# -- keys and clocks -----------------------------------------------------------------------------


def rotate(installation: Installation) -> Workspace:
    """Have a second key sign; the first one stays in the settings for what was claimed."""
    FileSigner.create(installation.folder / "next.pem")
    installation.write(sites=SMALL, next_signer={"kind": "file", "path": "next.pem"})
    workspace = installation.workspace()
    key_history.rotate(workspace)
    return workspace


def test_a_volume_signed_by_a_key_that_was_revoked_is_refused(
    small: Installation, site: Site, small_once: Installation, tmp_path: Path
) -> None:
    """Whoever has the stolen key also has the key set of before its revocation."""
    first = deliver(small)
    thief = small_once.copy(tmp_path / "thief")
    workspace = rotate(small)
    key_history.revoke(workspace, site.organisation_key, utc_now(), "stolen")
    second = deliver(small, "r-two")
    take(site, first)
    imported, report = take(site, second)
    assert imported is not None, failed(report)
    # It follows what the site has, by the thief's own word.
    deliver(thief, "r-two")
    stolen = deliver(thief, "r-three")
    before = tree(site.root)
    document = parse_object((stolen / "site/inventory.json").read_bytes(), "inventory")
    assert document["sequence"] == 3
    imported, report = take(site, stolen)
    assert imported is None
    assert {"sequence", "keys"} & failed(report).keys()
    assert tree(site.root) == before


def test_a_revoked_key_is_refused_even_where_the_history_fits(
    small: Installation, site: Site, small_once: Installation, tmp_path: Path
) -> None:
    first = deliver(small)
    thief = small_once.copy(tmp_path / "thief")
    rotate(small)
    second = deliver(small)
    take(site, first)
    assert take(site, second)[0] is not None
    imported = site.imported
    assert imported is not None
    # As if the thief's inventory were the one that this site has: only the keys are left to tell.
    stolen = deliver(thief, "r-two")
    (site.root / "state.json").unlink()
    taken, report = take(site, stolen)
    assert taken is None
    assert "key set 2" in failed(report)["keys"]


def test_a_key_set_that_calls_the_inventorys_key_stolen_lets_it_sign_nothing(
    small: Installation, site: Site
) -> None:
    """The thief may bring the key set of after the revocation, which anybody can copy."""
    stolen = organisation_key(small.workspace()).key
    workspace = rotate(small)
    key_history.revoke(workspace, site.organisation_key, utc_now(), "stolen")
    kit = Volume(deliver(small), site.organisation_key).kit
    signed = kit.inventory(kit.anchors())
    assert kit.keys(kit.anchors(), signed).version == 3
    with pytest.raises(VerificationError, match="compromised"):
        kit.keys(Anchors(stolen), signed)


@pytest.mark.parametrize(("days", "name"), [(-366, "clock"), (500, "refresh")])
def test_a_wrong_clock_is_said_and_lets_nothing_through(
    small: Installation, site: Site, days: int, name: str
) -> None:
    _, report = take(site, small.folder / "ship", timedelta(days=days))
    assert name in failed(report)
    assert report.exit_code == 1
    # Behind: the authority's time is gone by. Ahead: what the organisation said has expired.
    assert len(seen(site)) == (4 if days < 0 else 0)


# -- hostile -------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [b'"diff_ids"', b'"certificate":{"rawBytes"'])
def test_of_a_volume_with_a_changed_blob_only_that_image_is_not_seen(
    small: Installation, site: Site, wanted: bytes
) -> None:
    volume = small.folder / "ship"
    blob = next(blobs(small, wanted))
    whole = blob.read_bytes()
    flip(blob)
    imported, report = take(site, volume)
    assert imported is not None
    assert report.exit_code == 1
    assert len(imported.lacking) == 1
    assert len(seen(site)) == 3
    assert seen(site).isdisjoint(imported.lacking)
    # The good copy comes after: then all is there.
    blob.write_bytes(whole)
    imported, report = take(site, volume)
    assert imported is not None
    assert (report.exit_code, imported.lacking) == (0, {})


def test_a_changed_file_of_the_kit_changes_nothing_at_the_site(
    small: Installation, site: Site
) -> None:
    flip(small.folder / "ship/site/policy.json")
    before = tree(site.root)
    assert take(site, small.folder / "ship")[0] is None
    assert tree(site.root) == before


def test_links_and_pipes_on_a_volume_are_not_followed(small: Installation, site: Site) -> None:
    volume = small.folder / "ship"
    one, other = list(blobs(small, b""))[:2]
    secret = small.folder / "secret"
    secret.write_bytes(b"not on the volume")
    one.unlink()
    one.symlink_to(secret)
    other.unlink()
    os.mkfifo(other)
    imported, report = take(site, volume)
    assert imported is not None
    assert report.exit_code == 1
    assert imported.lacking
    assert b"not on the volume" not in tree(site.root).values()


def test_a_folder_of_the_kit_that_is_a_link_is_refused(small: Installation, site: Site) -> None:
    seals = small.folder / "ship/site/seals"
    seals.rename(small.folder / "elsewhere")
    seals.symlink_to(small.folder / "elsewhere")
    imported, report = take(site, small.folder / "ship")
    assert imported is None
    assert "a link: refused" in failed(report)["files"]


def test_a_full_disk_at_the_site_leaves_no_image_half_there(
    small: Installation, site: Site
) -> None:
    """A limit of the size of a file stands in for it: blobs do not fit, small files do."""
    largest = max(path.stat().st_size for path in (small.folder / "ship/images").rglob("*"))
    code = (
        "import resource, sys; from longseal.cli import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest - 1}, {largest - 1}))\n"
        f"sys.exit(main(['site', 'import', {str(site.root)!r}, "
        f"{str(small.folder / 'ship')!r}, '--json']))\n"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode in (1, 2), done.stderr
    assert "File too large" in done.stdout + done.stderr
    assert not list(site.root.rglob(".longseal-*"))
    imported, report = take(site, small.folder / "ship")
    assert imported is not None
    assert (imported.lacking, report.exit_code) == ({}, 0)


# -- killed --------------------------------------------------------------------------------------


def test_imports_killed_anywhere_end_in_the_same_bytes(
    small: Installation, site: Site, tmp_path: Path
) -> None:
    """Fifty kills at as many writes, spread over the import and told by a seed."""
    volume = small.folder / "ship"
    whole = tmp_path / "whole"
    shutil.copytree(site.root, whole)
    take(Site(whole), volume)
    expected = tree(whole)
    fresh = tmp_path / "fresh"
    shutil.copytree(site.root, fresh)
    writes = _counted(fresh, volume, None)
    chosen = random.Random(7)
    for number in range(50):
        target = site.root
        if number % 10 == 0:
            shutil.rmtree(target)
            shutil.copytree(fresh, target)
        _counted(target, volume, chosen.randint(1, max(writes // 4, 2)))
        assert not (target / "state.json").exists() or tree(target) == expected
        _nothing_half_seen(target)
        if number % 10 == 9:
            imported, report = take(Site(target), volume)
            assert imported is not None
            assert report.state is State.PASSED, failed(report)
            assert tree(target) == expected


def _counted(root: Path, volume: Path, kill_at: int | None) -> int:
    """Import in a process that is killed at a certain change of the folder; how many it made."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def counting(real: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object, **named: object) -> object:
                nonlocal count
                count += 1
                if count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **named)

            return call

        for name in ("replace", "unlink"):
            setattr(Path, name, counting(getattr(Path, name)))
        os.fsync = counting(os.fsync)  # type: ignore[assignment]
        try:
            if kill_at is None:
                target = root.with_name("counted")
                shutil.copytree(root, target)
                root = target
            take(Site(root), volume)
        except LongsealError:
            pass
        os.write(writing, str(count).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        return int(pipe.read() or b"0")


def _nothing_half_seen(root: Path) -> None:
    """Every image with a tag has all its blobs and its attachments."""
    site = Site(root)
    for name in seen(site):
        repository, digest = name.split("@")
        manifest = site.registry.manifest(repository, digest)
        assert manifest is not None
        document = parse_object(manifest.data, "manifest")
        for blob in (document["config"], *document["layers"]):
            assert site.registry.has_blob(repository, blob["digest"])
        assert len(site.registry.referrers(repository, digest) or ()) == 6


def test_two_imports_at_once_are_one_too_many(small: Installation, site: Site) -> None:
    with site._alone(), pytest.raises(ArchiveError, match="under way"):
        take(site, small.folder / "ship")


def test_status_is_a_finding_until_something_came(
    small: Installation, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["site", "status", str(site.root)]) == 1
    assert main(["site", "import", str(site.root), str(small.folder / "ship")]) == 0
    assert main(["site", "status", str(site.root), "--json"]) == 0
    assert '"sequence": 1' in capsys.readouterr().out


# -- other verifiers -----------------------------------------------------------------------------


def test_the_commands_for_cosign_name_all_that_they_rest_on(
    small: Installation, site: Site
) -> None:
    take(site, small.folder / "ship")
    lines = (site.root / "policies/cosign.sh").read_text().splitlines()
    commands = [line for line in lines if line.startswith("verify corp/")]
    keyless = [line for line in commands if "--certificate-identity ci@stella.example" in line]
    # Five attestations of three kinds on each.
    assert len(keyless) == 4 * 3
    assert all(
        "trusted_root.json" in line and "--certificate-oidc-issuer" in line for line in keyless
    )
    by_key = [line for line in commands if "--key" in line]
    assert len(by_key) == 4
    assert all("--type https://stella.example/longseal/image/v1" in line for line in by_key)


def test_the_commands_for_cosign_end_with_the_date_of_refresh(
    small: Installation, site: Site
) -> None:
    take(site, small.folder / "ship")
    script = site.root / "policies/cosign.sh"
    assert _script(site, "true", "localhost:1").returncode == 0
    assert _script(site, "false", "localhost:1").returncode == 1
    year = f"{site.inventory.refresh_by:%Y-}"
    script.write_text(script.read_text().replace(f"> {year}", "> 2020-"))
    done = _script(site, "true", "localhost:1")
    assert done.returncode == 1
    assert "had to be refreshed" in done.stderr


@pytest.mark.lab
def test_cosign_verifies_every_image_by_the_commands(small: Installation, site: Site) -> None:
    take(site, small.folder / "ship")
    with RegistryDouble() as double:
        site.push(DistributionRegistry("cabin", double.url))
        host = double.url.removeprefix("http://")
        done = _script(site, tool("cosign"), host)
        assert done.returncode == 0, done.stderr


def _script(site: Site, cosign: str | Path, host: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.environ["PATH"], "COSIGN": str(cosign), "HOME": str(site.root)}
    argv = ["sh", str(site.root / "policies/cosign.sh"), host]
    return subprocess.run(argv, env=environment, capture_output=True, text=True)
