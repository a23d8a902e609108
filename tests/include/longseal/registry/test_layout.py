import io
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from longseal.canonical import digest_of
from longseal.errors import MalformedError, RegistryError, UnsupportedError
from longseal.registry.discovery import discover
from longseal.registry.interface import Manifest
from longseal.registry.layout import REF_NAME, LayoutRegistry
from longseal.registry.model import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, fallback_tag

ABSENT = "sha256:" + "0" * 64


def manifest(**parts: Any) -> Manifest:
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [], **parts}
    data = json.dumps(document).encode()
    return Manifest(digest_of(data), document["mediaType"], data)


def descriptor(of: Manifest) -> dict[str, Any]:
    return {"mediaType": of.media_type, "digest": of.digest, "size": len(of.data)}


def blob_file(root: Path, repository: str, digest: str) -> Path:
    return root / repository / "blobs" / "sha256" / digest.removeprefix("sha256:")


@pytest.fixture
def registry(tmp_path: Path) -> LayoutRegistry:
    return LayoutRegistry("exported", tmp_path)


@pytest.fixture
def image(registry: LayoutRegistry) -> Manifest:
    """One image in ``corp/app`` under ``v1``."""
    stored = manifest()
    registry.put_manifest("corp/app", stored, "v1")
    return stored


def test_the_laboratorys_layouts_are_read(lab_layouts: Path) -> None:
    registry = LayoutRegistry("exported", lab_layouts)
    repositories = list(registry.repositories())
    assert repositories == [f"corp/a-svc{number}" for number in range(5)]
    images = {
        tag: registry.manifest(repository, tag)
        for repository in repositories
        for tag in registry.tags(repository)
        if not tag.startswith("sha256-")
    }
    assert len(images) == 20 and all(images.values())
    assert list(LayoutRegistry("x", lab_layouts, ["corp/*-svc1", "**/none"]).repositories()) == [
        "corp/a-svc1"
    ]


def test_an_image_comes_back_as_it_was_stored(registry: LayoutRegistry, image: Manifest) -> None:
    assert registry.tags("corp/app") == ("v1",)
    assert registry.resolve("corp/app", "v1") == image.digest
    assert registry.manifest("corp/app", "v1") == image
    assert registry.manifest("corp/app", image.digest) == image
    assert list(registry.repositories()) == ["corp/app"]


def test_absent_is_not_an_error(registry: LayoutRegistry, image: Manifest) -> None:
    assert registry.tags("corp/none") == ()
    assert registry.manifest("corp/none", "v1") is None
    assert registry.manifest("corp/app", "v2") is None
    assert registry.manifest("corp/app", ABSENT) is None
    assert registry.referrers("corp/none", ABSENT) == ()
    assert not registry.has_blob("corp/app", ABSENT)
    with pytest.raises(RegistryError):
        registry.blob("corp/app", ABSENT, 10)
    assert list(LayoutRegistry("x", Path("/nonexistent")).repositories()) == []


def test_a_full_reference_is_read_as_its_tag(tmp_path: Path, registry: LayoutRegistry) -> None:
    stored = manifest()
    registry.put_manifest("corp/app", stored, "v1")
    index = tmp_path / "corp/app/index.json"
    index.write_text(index.read_text().replace('"v1"', '"registry.example:5000/corp/app:v1"'))
    assert registry.tags("corp/app") == ("v1",)
    registry.put_manifest("corp/app", manifest(annotations={"a": "b"}), "v1")
    assert len(json.loads(index.read_text())["manifests"]) == 1


def test_referrers_are_the_entries_with_that_subject(
    registry: LayoutRegistry, image: Manifest
) -> None:
    referrers = [
        manifest(subject=descriptor(image), artifactType=f"application/{n}") for n in range(3)
    ]
    for referrer in referrers:
        registry.put_manifest("corp/app", referrer)
    registry.put_manifest("corp/app", manifest(artifactType="application/child"))
    found = registry.referrers("corp/app", image.digest)
    assert found is not None
    assert {item.digest for item in found} == {item.digest for item in referrers}
    assert registry.referrers("corp/app", ABSENT) == ()


def written(root: Path, *entries: tuple[Manifest, str | None]) -> LayoutRegistry:
    """A layout as other tools write it: each manifest an entry, with its tag or none."""
    registry = LayoutRegistry("exported", root)
    for one, _ in entries:
        registry.put_blob("corp/app", one.digest, len(one.data), io.BytesIO(one.data))
    listed = [
        descriptor(one) | ({} if tag is None else {"annotations": {REF_NAME: tag}})
        for one, tag in entries
    ]
    index = {"schemaVersion": 2, "manifests": listed}
    (root / "corp/app/index.json").write_text(json.dumps(index))
    (root / "corp/app/oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return LayoutRegistry("exported", root)


def fallback(subject: Manifest, *referrers: Manifest) -> tuple[Manifest, str]:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [descriptor(one) for one in referrers],
    }
    data = json.dumps(document).encode()
    return Manifest(digest_of(data), OCI_INDEX, data), fallback_tag(subject.digest)


def test_referrers_are_found_both_ways_that_tools_write_them(tmp_path: Path) -> None:
    image = manifest(annotations={"n": "image"})
    one, two = (manifest(subject=descriptor(image), annotations={"n": n}) for n in "12")
    registry = written(tmp_path, (image, "v1"), (one, None), fallback(image, two))
    registry.put_blob("corp/app", two.digest, len(two.data), io.BytesIO(two.data))
    found = discover(registry, "corp/app", image.digest, set(registry.tags("corp/app")))
    assert found.record.state == "whole"
    places = {item.manifest.digest: item.places for item in found.candidates}
    assert places == {one.digest: ("referrers",), two.digest: ("fallback-tag",)}


def test_what_is_deleted_while_referrers_are_read_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = manifest(annotations={"n": "image"})
    one, two = (manifest(subject=descriptor(image), annotations={"n": n}) for n in "12")
    registry = written(tmp_path, (image, "v1"), (one, None), (two, None))
    read = registry.blob

    def racing(repository: str, digest: str, limit: int) -> bytes:
        if digest == one.digest:
            LayoutRegistry("other", tmp_path).delete_manifest(repository, digest)
        return read(repository, digest, limit)

    monkeypatch.setattr(registry, "blob", racing)
    found = registry.referrers("corp/app", image.digest)
    assert found is not None
    assert [entry.digest for entry in found] == [two.digest]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("{}")])
def test_a_damaged_referrer_leaves_unknown_only_the_image_that_a_fallback_tag_says_it_is_of(
    tmp_path: Path, damage: Any
) -> None:
    images = [manifest(annotations={"n": n}) for n in "123"]
    referrers = [manifest(subject=descriptor(one)) for one in images]
    registry = written(
        tmp_path,
        *((one, f"v{n}") for n, one in enumerate(images)),
        *((one, None) for one in referrers),
        *(fallback(*pair) for pair in zip(images, referrers, strict=True)),
    )
    damage(blob_file(tmp_path, "corp/app", referrers[0].digest))
    with pytest.raises(RegistryError):
        registry.referrers("corp/app", images[0].digest)
    for one, referrer in list(zip(images, referrers, strict=True))[1:]:
        (found,) = registry.referrers("corp/app", one.digest) or ()
        assert found.digest == referrer.digest


def test_a_damaged_attachment_of_cosigns_older_kind_speaks_of_one_image_only(
    tmp_path: Path,
) -> None:
    one, other, attached = (manifest(annotations={"n": n}) for n in "123")
    tag = fallback_tag(one.digest) + ".att"
    registry = written(tmp_path, (one, "v1"), (other, "v2"), (attached, tag))
    blob_file(tmp_path, "corp/app", attached.digest).write_text("{}")
    assert registry.referrers("corp/app", other.digest) == ()
    with pytest.raises(RegistryError):
        registry.referrers("corp/app", one.digest)


def test_a_damaged_docker_image_is_no_referrer_of_another(tmp_path: Path) -> None:
    one, other = manifest(mediaType=DOCKER_MANIFEST), manifest()
    registry = written(tmp_path, (one, "v1"), (other, "v2"))
    blob_file(tmp_path, "corp/app", one.digest).write_text("{}")
    assert registry.referrers("corp/app", other.digest) == ()


def test_a_damaged_entry_that_nothing_explains_leaves_every_image_unknown(tmp_path: Path) -> None:
    image, stray = manifest(), manifest(annotations={"n": "stray"})
    registry = written(tmp_path, (image, "v1"), (stray, None))
    blob_file(tmp_path, "corp/app", stray.digest).write_text("{}")
    with pytest.raises(RegistryError, match="has bytes of"):
        registry.referrers("corp/app", image.digest)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[" * 200_000, b'{"subject":{"digest":"sha512:' + b"0" * 128 + b'","size":1}}'],
)
def test_bytes_that_are_whole_and_no_manifest_hide_nothing(tmp_path: Path, data: bytes) -> None:
    image = manifest()
    referrer = manifest(subject=descriptor(image))
    odd = Manifest(digest_of(data), OCI_MANIFEST, data)
    registry = written(tmp_path, (image, "v1"), (odd, None), (referrer, None))
    (found,) = registry.referrers("corp/app", image.digest) or ()
    assert found.digest == referrer.digest


def test_storing_what_is_there_touches_nothing(
    tmp_path: Path, registry: LayoutRegistry, image: Manifest
) -> None:
    referrer = manifest(subject=descriptor(image))
    registry.put_manifest("corp/app", referrer)
    registry.put_blob("corp/app", digest_of(b"data"), 4, io.BytesIO(b"data"))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    registry.put_manifest("corp/app", image, "v1")
    registry.put_manifest("corp/app", referrer)
    registry.put_blob("corp/app", digest_of(b"data"), 4, io.BytesIO(b"data"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files


def test_a_child_manifest_is_not_in_the_index(tmp_path: Path, registry: LayoutRegistry) -> None:
    child = manifest()
    registry.put_manifest("corp/app", child)
    assert json.loads((tmp_path / "corp/app/index.json").read_text())["manifests"] == []
    assert registry.manifest("corp/app", child.digest) == child


def test_a_tag_moves(registry: LayoutRegistry, image: Manifest) -> None:
    other = manifest(annotations={"a": "b"})
    registry.put_manifest("corp/app", other, "v1")
    assert registry.resolve("corp/app", "v1") == other.digest
    registry.put_manifest("corp/app", other, "v2")
    assert registry.tags("corp/app") == ("v1", "v2")


def test_an_image_with_two_tags_goes_with_both(registry: LayoutRegistry, image: Manifest) -> None:
    registry.put_manifest("corp/app", image, "v2")
    registry.delete_manifest("corp/app", image.digest)
    assert registry.tags("corp/app") == ()
    assert registry.manifest("corp/app", image.digest) is None
    registry.delete_manifest("corp/app", image.digest)
    registry.delete_manifest("corp/none", image.digest)


def test_a_change_by_another_program_is_seen(tmp_path: Path, image: Manifest) -> None:
    reader = LayoutRegistry("x", tmp_path)
    assert reader.tags("corp/app") == ("v1",)
    LayoutRegistry("y", tmp_path).put_manifest("corp/app", image, "v2")
    assert reader.tags("corp/app") == ("v1", "v2")


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    def write(number: int) -> None:
        stored = manifest(annotations={"number": str(number)})
        LayoutRegistry("x", tmp_path).put_manifest("corp/app", stored, f"v{number}")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(64)))
    assert len(LayoutRegistry("x", tmp_path).tags("corp/app")) == 64


def test_a_blob_is_stored_whole_or_not_at_all(tmp_path: Path, registry: LayoutRegistry) -> None:
    digest = digest_of(b"data")
    for size, data in ((4, b"dat"), (4, b"datadata"), (4, b"tada"), (3, b"data")):
        with pytest.raises(RegistryError):
            registry.put_blob("corp/app", digest, size, io.BytesIO(data))
    assert not registry.has_blob("corp/app", digest)
    assert list((tmp_path / "corp/app/blobs/sha256").iterdir()) == []
    registry.put_blob("corp/app", digest, 4, io.BytesIO(b"data"))
    with registry.open_blob("corp/app", digest) as stream:
        assert stream.read() == b"data"


def test_a_manifest_with_other_bytes_is_refused(registry: LayoutRegistry) -> None:
    with pytest.raises(MalformedError):
        registry.put_manifest("corp/app", Manifest(ABSENT, OCI_MANIFEST, b"{}"), "v1")
    with pytest.raises(MalformedError):
        registry.put_manifest("corp/app", manifest(), "a/b")


def test_changed_bytes_are_noticed(
    tmp_path: Path, registry: LayoutRegistry, image: Manifest
) -> None:
    blob_file(tmp_path, "corp/app", image.digest).write_bytes(b"{}")
    for reference in ("v1", image.digest):
        with pytest.raises(RegistryError, match="has bytes of"):
            registry.manifest("corp/app", reference)
    with pytest.raises(MalformedError):
        registry.blob("corp/app", image.digest, 1)


def test_an_entry_whose_file_is_missing_is_unknown(
    tmp_path: Path, registry: LayoutRegistry, image: Manifest
) -> None:
    blob_file(tmp_path, "corp/app", image.digest).unlink()
    with pytest.raises(RegistryError):
        registry.manifest("corp/app", "v1")
    with pytest.raises(RegistryError, match="no such file"):
        registry.referrers("corp/app", ABSENT)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"manifests": {"a": 1}}',
        '{"manifests": ["x"]}',
        '{"manifests": [{"mediaType": "a/b", "digest": "sha256:../../x", "size": 1}]}',
        "[" * 1000,
    ],
)
def test_a_broken_index_is_malformed_and_never_empty(
    tmp_path: Path,
    registry: LayoutRegistry,
    image: Manifest,
    content: str,
) -> None:
    (tmp_path / "corp/app/index.json").write_text(content)
    for ask in (
        lambda: registry.tags("corp/app"),
        lambda: registry.referrers("corp/app", ABSENT),
        lambda: registry.manifest("corp/app", "v1"),
    ):
        with pytest.raises(MalformedError):
            ask()


def test_a_layout_without_its_index_is_malformed(
    tmp_path: Path, registry: LayoutRegistry, image: Manifest
) -> None:
    (tmp_path / "corp/app/index.json").unlink()
    with pytest.raises(MalformedError):
        registry.tags("corp/app")


def test_another_layout_version_is_unsupported(
    tmp_path: Path, registry: LayoutRegistry, image: Manifest
) -> None:
    (tmp_path / "corp/app/oci-layout").write_text('{"imageLayoutVersion":"2.0.0"}')
    with pytest.raises(UnsupportedError):
        LayoutRegistry("x", tmp_path).tags("corp/app")


@pytest.mark.parametrize("part", ["index.json", "oci-layout", "blobs", "blobs/sha256", "."])
def test_a_link_is_refused_wherever_it_is(
    tmp_path: Path, registry: LayoutRegistry, image: Manifest, part: str
) -> None:
    place = tmp_path / "corp/app" / part
    outside = tmp_path / "outside"
    shutil.move(place, outside)
    place.symlink_to(outside)
    fresh = LayoutRegistry("x", tmp_path)
    with pytest.raises(MalformedError, match="link"):
        fresh.manifest("corp/app", "v1")


def test_a_blob_that_is_a_link_to_a_secret_is_refused(
    tmp_path: Path, registry: LayoutRegistry, image: Manifest
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"data")
    blob_file(tmp_path, "corp/app", digest_of(b"data")).symlink_to(secret)
    for ask in (
        lambda: registry.blob("corp/app", digest_of(b"data"), 10),
        lambda: registry.open_blob("corp/app", digest_of(b"data")),
        lambda: registry.has_blob("corp/app", digest_of(b"data")),
        lambda: registry.put_blob("corp/app", digest_of(b"data"), 4, io.BytesIO(b"data")),
    ):
        with pytest.raises(MalformedError, match="link"):
            ask()


def test_a_pipe_or_folder_in_place_of_a_blob_is_refused(
    tmp_path: Path, registry: LayoutRegistry, image: Manifest
) -> None:
    path = blob_file(tmp_path, "corp/app", ABSENT)
    os.mkfifo(path)
    with pytest.raises(MalformedError, match="plain file"):
        registry.blob("corp/app", ABSENT, 10)
    path.unlink()
    path.mkdir()
    with pytest.raises(MalformedError, match="plain file"):
        registry.blob("corp/app", ABSENT, 10)


@pytest.mark.parametrize("name", ["../corp/app", "corp/../corp/app", "/corp/app", "corp//app", "."])
def test_no_name_leaves_the_root(registry: LayoutRegistry, image: Manifest, name: str) -> None:
    for ask in (
        lambda: registry.tags(name),
        lambda: registry.manifest(name, "v1"),
        lambda: registry.put_manifest(name, image, "v1"),
    ):
        with pytest.raises(MalformedError):
            ask()


def test_a_folder_whose_name_is_no_repository_is_malformed(
    tmp_path: Path, registry: LayoutRegistry, image: Manifest
) -> None:
    shutil.copytree(tmp_path / "corp/app", tmp_path / "corp/APP")
    with pytest.raises(MalformedError):
        list(registry.repositories())


def test_a_document_without_a_type_is_what_the_index_calls_it(
    tmp_path: Path, registry: LayoutRegistry
) -> None:
    data = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    registry.put_manifest("corp/app", Manifest(digest_of(data), OCI_INDEX, data), "v1")
    found = registry.manifest("corp/app", "v1")
    assert found is not None and found.media_type == OCI_INDEX
    entry = json.loads((tmp_path / "corp/app/index.json").read_text())["manifests"][0]
    assert entry["annotations"] == {REF_NAME: "v1"}


def test_a_layout_that_cosign_saved_has_its_older_tags(tmp_path: Path) -> None:
    registry = LayoutRegistry("exported", tmp_path)
    image, signature, attestation = (manifest(annotations={"n": n}) for n in "123")
    for one in (image, signature, attestation):
        registry.put_manifest("corp/app", one, "v1")
    named = (("image", image), ("sigs", signature), ("atts", attestation))
    entries = [
        {**descriptor(one), "annotations": {"kind": f"dev.cosignproject.cosign/{kind}"}}
        for kind, one in named
    ]
    index = tmp_path / "corp/app/index.json"

    def tags(*entries: dict[str, Any]) -> dict[str, str | None]:
        index.write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
        found = LayoutRegistry("exported", tmp_path)
        return {tag: found.resolve("corp/app", tag) for tag in found.tags("corp/app")}

    base = image.digest.replace(":", "-")
    expected = {f"{base}.sig": signature.digest, f"{base}.att": attestation.digest}
    assert tags(*entries) == expected
    assert tags(*entries[1:]) == {}
    assert tags(*entries, {**entries[0], **descriptor(attestation)}) == {}
