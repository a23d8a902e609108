"""A volume in parts: each is checked on its own, and what they hold is no more than a volume."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from tests.include.longseal.mirror.conftest import failed, tree
from tests.installation import Installation

from longseal.canonical import canonical_json, digest_of
from longseal.cli import main
from longseal.errors import LongsealError, MalformedError, RefusedError
from longseal.mirror.parts import PARTS, check, cut, unpack
from longseal.mirror.site import Site
from longseal.verify.report import Report, State
from longseal.workspace import utc_now

SIZE = 64 * 1024


@pytest.fixture
def parts(small: Installation, tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    found, written = cut(small.folder / "ship", folder, SIZE)
    assert written == len(found.parts) > 5
    return folder


def named(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tar.*"))


def bad(folder: Path) -> dict[str, str]:
    report = Report("parts")
    check(report, folder)
    return failed(report)


def test_no_part_is_larger_than_was_asked_for(parts: Path) -> None:
    sizes = [path.stat().st_size for path in named(parts)]
    assert set(sizes[:-1]) == {SIZE}
    assert 0 < sizes[-1] <= SIZE


def test_the_parts_are_the_volume_also_without_longseal(
    small: Installation, parts: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    subprocess.run(
        f"cat {parts}/*.tar.* | tar -x -C {whole}", shell=True, check=True, capture_output=True
    )
    assert tree(whole) == tree(small.folder / "ship")


def test_an_import_of_the_parts_gives_what_the_folder_gives(
    small: Installation, parts: Path, site: Site, tmp_path: Path
) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(site.root, twin)
    report = Report("parts")
    assert site.take(parts, report, utc_now()) is not None
    assert report.state is State.PASSED
    Site(twin).take(small.folder / "ship", Report("folder"), utc_now())
    assert tree(site.root) == tree(twin)


def test_cut_again_only_what_is_bad_is_written(small: Installation, parts: Path) -> None:
    whole = tree(parts)
    assert cut(small.folder / "ship", parts, SIZE)[1] == 0
    named(parts)[2].write_bytes(b"broken")
    named(parts)[3].unlink()
    assert cut(small.folder / "ship", parts, SIZE)[1] == 2
    assert tree(parts) == whole


def test_a_bad_part_is_named_and_nothing_is_imported(parts: Path, site: Site) -> None:
    paths = named(parts)
    whole = paths[3].read_bytes()
    paths[1].unlink()
    paths[2].write_bytes(paths[4].read_bytes())
    data = bytearray(whole)
    data[100] ^= 1
    paths[3].write_bytes(data)
    found = bad(parts)
    assert found.keys() == {path.name for path in paths[1:4]}
    assert "not here" in found[paths[1].name]
    assert f"the bytes of {paths[4].name}" in found[paths[2].name]
    assert "other bytes" in found[paths[3].name]
    before = tree(site.root)
    assert site.take(parts, Report("parts"), utc_now()) is None
    assert tree(site.root) == before
    assert main(["volume", "check", str(parts)]) == 1


def test_two_parts_that_were_swapped_are_both_named(parts: Path) -> None:
    one, two = named(parts)[1:3]
    one.rename(parts / "between")
    two.rename(one)
    (parts / "between").rename(two)
    assert bad(parts).keys() == {one.name, two.name}


def test_a_part_that_is_a_link_is_not_read(parts: Path, tmp_path: Path) -> None:
    path = named(parts)[1]
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert bad(parts).keys() == {path.name}


def test_the_list_of_another_sites_parts_lets_nothing_in(
    parts: Path, site: Site, tmp_path: Path
) -> None:
    other = Site.create(tmp_path / "raft", "raft", site.organisation_key)
    report = Report("parts")
    assert other.take(parts, report, utc_now()) is None
    assert not (other.root / "site").exists()
    assert not (other.root / "incoming").exists()


def archive(folder: Path, *members: tarfile.TarInfo, data: bytes = b"") -> Path:
    """Parts with what somebody else put into them, and a list that fits."""
    folder.mkdir()
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return listed(folder, written.getvalue())


def listed(folder: Path, content: bytes) -> Path:
    name = "ship-000001.tar.0000"
    (folder / name).write_bytes(content)
    part = {"name": name, "size": len(content), "digest": digest_of(content)}
    document = {"site": "ship", "sequence": 1, "inventory": digest_of(b""), "parts": [part]}
    (folder / PARTS).write_bytes(canonical_json(document))
    return folder


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0):  # type: ignore[no-untyped-def]
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


@pytest.mark.parametrize(
    "hostile",
    [
        member("../outside"),
        member("/etc/outside"),
        member("images/../../outside"),
        member("outside"),
        member("images"),
        member("images/.hidden"),
        member("images/a\nb"),
        member("images/" + "a/" * 40 + "b"),
        member("images/link", tarfile.SYMTYPE, "/etc/passwd"),
        member("images/link", tarfile.LNKTYPE, "site/inventory.json"),
        member("images/pipe", tarfile.FIFOTYPE),
        member("images/device", tarfile.CHRTYPE),
        member("images/folder", tarfile.DIRTYPE),
    ],
    ids=lambda one: f"{one.name[:24]!a}-{one.type.decode()}",
)
def test_what_is_no_file_of_a_volume_is_refused_and_not_written(
    hostile: tarfile.TarInfo, site: Site, tmp_path: Path
) -> None:
    folder = archive(tmp_path / "hostile", hostile)
    with pytest.raises(MalformedError):
        unpack(folder, tmp_path / "deep" / "down")
    report = Report("parts")
    before = tree(site.root)
    assert site.take(folder, report, utc_now()) is None
    assert report.exit_code == 1
    assert tree(site.root) == before
    assert not list(tmp_path.rglob("*outside*"))


def test_compressed_parts_are_no_archive_of_a_volume(tmp_path: Path) -> None:
    """So a tar bomb never gets larger than its parts are."""
    import gzip

    (tmp_path / "bomb").mkdir()
    folder = listed(tmp_path / "bomb", gzip.compress(bytes(50_000_000)))
    with pytest.raises(MalformedError):
        unpack(folder, tmp_path / "out")


def test_a_member_larger_than_the_parts_ends_with_them(tmp_path: Path) -> None:
    info = member("images/a", size=2**40)
    (tmp_path / "cut").mkdir()
    folder = listed(tmp_path / "cut", info.tobuf(tarfile.GNU_FORMAT) + bytes(1000))
    with pytest.raises(MalformedError, match="in the middle"):
        unpack(folder, tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_a_header_that_asks_for_memory_gets_none(tmp_path: Path) -> None:
    info = member("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=2**33)
    (tmp_path / "long").mkdir()
    folder = listed(tmp_path / "long", info.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(MalformedError, match="a name of"):
        unpack(folder, tmp_path / "out")


@pytest.mark.parametrize("change", [b"{}", b"[]", b'{"parts":[]}', b"\xff", b'{"parts":[{}]}'])
def test_a_list_that_is_none_is_refused(parts: Path, site: Site, change: bytes) -> None:
    (parts / PARTS).write_bytes(change)
    assert site.take(parts, Report("parts"), utc_now()) is None


def test_a_part_of_no_size_is_refused(small: Installation, tmp_path: Path) -> None:
    with pytest.raises(RefusedError):
        cut(small.folder / "ship", tmp_path / "parts", 0)
    with pytest.raises(LongsealError):
        cut(tmp_path, tmp_path / "parts")


def test_the_command_cuts_and_checks(small: Installation, tmp_path: Path) -> None:
    to = str(tmp_path / "stick")
    assert main(["volume", "cut", str(small.folder / "ship"), "--to", to, "--size", "64 KiB"]) == 0
    assert main(["volume", "check", to]) == 0


# -- encrypted -----------------------------------------------------------------------------------


@pytest.fixture
def recipient(site: Site) -> str:
    pytest.importorskip("pyrage")
    return site.make_identity()


def test_encrypted_parts_are_imported_by_the_site_alone(
    small: Installation, site: Site, recipient: str, tmp_path: Path
) -> None:
    folder = tmp_path / "encrypted"
    found, _ = cut(small.folder / "ship", folder, SIZE, [recipient])
    assert b"inventory" not in named(folder)[0].read_bytes()
    assert named(folder)[0].read_bytes().startswith(b"age-encryption.org/v1")
    other = Site.create(tmp_path / "other", "ship", site.organisation_key)
    report = Report("parts")
    assert other.take(folder, report, utc_now()) is None
    assert "no age identity" in str(report.to_json())
    other.make_identity()
    assert other.take(folder, Report("parts"), utc_now()) is None
    assert site.take(folder, Report("parts"), utc_now()) is not None
    assert not list(site.root.rglob(".longseal-*"))
    assert (site.root / "age.key").stat().st_mode & 0o777 == 0o600
    assert len(found.parts) == len(named(folder))


def test_of_encrypted_parts_only_a_bad_one_is_made_again(
    small: Installation, recipient: str, tmp_path: Path
) -> None:
    folder = tmp_path / "encrypted"
    cut(small.folder / "ship", folder, SIZE, [recipient])
    whole = tree(folder)
    assert cut(small.folder / "ship", folder, SIZE, [recipient])[1] == 0
    assert tree(folder) == whole
    named(folder)[1].write_bytes(b"broken")
    assert len(bad(folder)) == 1
    assert cut(small.folder / "ship", folder, SIZE, [recipient])[1] == 1
    assert bad(folder) == {}


def test_what_is_no_recipient_is_refused(
    small: Installation, recipient: str, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match="recipient"):
        cut(small.folder / "ship", tmp_path / "encrypted", SIZE, ["age1nobody"])
