from pathlib import Path

import pytest
from tests.doubles.registry import Failure, RegistryDouble, Start, image

from longseal.errors import MalformedError, RegistryError
from longseal.registry.copy import Copied, copy_blob, copy_manifest_tree
from longseal.registry.discovery import MAX_DEPTH
from longseal.registry.interface import Descriptor
from longseal.registry.layout import LayoutRegistry

NAME, THERE = "corp/app", "mirror/app"
BLOB = "application/octet-stream"


def two_platforms(server: RegistryDouble) -> str:
    digests = [server.add_image(NAME, layer=b"platform %d" % number) for number in range(2)]
    return server.add_index(NAME, digests, "v1")


def test_a_tree_arrives_whole_and_in_an_order_that_shows_nothing_half_done(start: Start) -> None:
    server, source = start()
    far, target = start()
    digest = two_platforms(server)
    copied = copy_manifest_tree(source, target, NAME, THERE, digest, "v1")
    mine, theirs = server.repository(NAME), far.repository(THERE)
    assert theirs.manifests == mine.manifests and theirs.blobs == mine.blobs
    assert theirs.tags == {"v1": digest}
    sizes = [len(blob) for blob in mine.blobs.values()]
    sizes += [len(data) for _, data in mine.manifests.values()]
    assert copied == Copied(len(sizes), sum(sizes), 0)
    puts = [request.path for request in far.requests if request.method == "PUT"]
    kinds = ["blob" if "/blobs/" in path else path.rpartition("/")[2] for path in puts]
    assert kinds[:3] == ["blob"] * 3
    assert set(kinds[3:5]) == set(mine.manifests) - {digest}
    assert kinds[5] == "v1"


def test_copying_again_sends_nothing(start: Start) -> None:
    server, source = start()
    far, target = start()
    digest = two_platforms(server)
    copy_manifest_tree(source, target, NAME, THERE, digest, "v1")
    server.requests.clear()
    far.requests.clear()
    assert copy_manifest_tree(source, target, NAME, THERE, digest, "v1") == Copied(0, 0, 6)
    assert set(far.methods()) == {"GET", "HEAD"}
    assert server.count("GET", "/blobs/") == 0


def test_a_tag_that_is_missing_is_all_that_is_sent(start: Start) -> None:
    server, source = start()
    far, target = start()
    digest = two_platforms(server)
    copy_manifest_tree(source, target, NAME, THERE, digest)
    assert far.repository(THERE).tags == {}
    assert copy_manifest_tree(source, target, NAME, THERE, digest, "v2") == Copied(0, 0, 6)
    assert far.repository(THERE).tags == {"v2": digest}


def test_a_copy_that_was_cut_off_shows_nothing_and_goes_on(start: Start) -> None:
    server, source = start()
    far, target = start()
    digest = two_platforms(server)
    far.fail("PUT .*/blobs/", Failure(500), times=3)
    with pytest.raises(RegistryError):
        copy_manifest_tree(source, target, NAME, THERE, digest, "v1", workers=1)
    assert far.repository(THERE).manifests == {}
    far.heal()
    copy_manifest_tree(source, target, NAME, THERE, digest, "v1")
    assert far.repository(THERE).tags == {"v1": digest}


@pytest.mark.parametrize("how", ["changed", "longer", "shorter", "broken off"])
def test_a_blob_that_is_not_what_was_promised_is_never_stored(
    start: Start, tmp_path: Path, how: str
) -> None:
    server, source = start()
    far, registry = start()
    layout = LayoutRegistry("volume", tmp_path)
    data = bytes(3_000_000)
    blob = Descriptor(BLOB, server.add_blob(NAME, data), len(data))
    failure = {
        "changed": Failure(replace=lambda body: body[:-1] + b"x"),
        "longer": Failure(replace=lambda body: b"x" + body),
        "shorter": Failure(replace=lambda body: body[:-1]),
        "broken off": Failure(truncate=True),
    }[how]
    server.fail("GET .*/blobs/", failure)
    for target in (registry, layout):
        with pytest.raises(RegistryError):
            copy_blob(source, target, NAME, THERE, blob)
        assert not target.has_blob(THERE, blob.digest)
    assert far.repository(THERE).blobs == {}
    server.heal()
    for target in (registry, layout):
        assert copy_blob(source, target, NAME, THERE, blob) == Copied(1, len(data), 0)
        assert copy_blob(source, target, NAME, THERE, blob) == Copied(0, 0, 1)


def test_an_empty_blob_is_copied(start: Start, tmp_path: Path) -> None:
    server, source = start()
    _, registry = start()
    blob = Descriptor(BLOB, server.add_blob(NAME, b""), 0)
    for target in (registry, LayoutRegistry("volume", tmp_path)):
        copy_blob(source, target, NAME, THERE, blob)
        assert target.has_blob(THERE, blob.digest)


def test_a_registry_goes_into_a_volume_and_out_again(
    lab_layouts: Path, tmp_path: Path, start: Start
) -> None:
    source = LayoutRegistry("exported", lab_layouts)
    _, registry = start()
    volume = LayoutRegistry("volume", tmp_path)
    repository = "corp/a-svc0"
    for tag in source.tags(repository):
        digest = source.resolve(repository, tag)
        assert digest is not None
        copy_manifest_tree(source, registry, repository, THERE, digest, tag)
        copy_manifest_tree(registry, volume, THERE, repository, digest, tag)
    assert volume.tags(repository) == registry.tags(THERE) == source.tags(repository)
    names = {path.name for path in (lab_layouts / repository / "blobs/sha256").iterdir()}
    assert {path.name for path in (tmp_path / repository / "blobs/sha256").iterdir()} == names


def test_foreign_layers_are_left_where_they_are(start: Start, tmp_path: Path) -> None:
    server, source = start()
    target = LayoutRegistry("volume", tmp_path)
    document = image(
        server, NAME, [b"x"], "application/vnd.oci.image.layer.nondistributable.v1.tar"
    )
    del server.repository(NAME).blobs[document["layers"][0]["digest"]]
    digest = server.add_manifest(NAME, document)
    copy_manifest_tree(source, target, NAME, THERE, digest, "v1")
    assert target.resolve(THERE, "v1") == digest


def test_a_tree_with_a_hole_is_an_error(start: Start) -> None:
    server, source = start()
    far, target = start()
    digest = two_platforms(server)
    child = next(d for d in server.repository(NAME).manifests if d != digest)
    del server.repository(NAME).manifests[child]
    with pytest.raises(RegistryError, match="is not there"):
        copy_manifest_tree(source, target, NAME, THERE, digest, "v1")
    assert not far.requests


def test_a_tree_too_deep_is_refused(start: Start) -> None:
    server, source = start()
    far, target = start()
    digest = server.add_image(NAME)
    for _ in range(MAX_DEPTH + 1):
        digest = server.add_index(NAME, [digest])
    with pytest.raises(MalformedError, match="deeper"):
        copy_manifest_tree(source, target, NAME, THERE, digest)
    assert not far.requests


def test_a_child_listed_at_two_depths_comes_before_both_parents(start: Start) -> None:
    server, source = start()
    far, target = start()
    leaf = server.add_image(NAME)
    middle = server.add_index(NAME, [leaf])
    top = server.add_index(NAME, [leaf, middle], "v1")
    copy_manifest_tree(source, target, NAME, THERE, top)
    puts = [r.path.rpartition("/")[2] for r in far.requests if "manifests" in r.path]
    order = [p for p in puts if p in (leaf, middle, top)]
    assert list(dict.fromkeys(order)) == [leaf, middle, top]
