"""The same promises against servers that others wrote."""

import io
import json
import subprocess
from pathlib import Path
from typing import get_args

import pytest
from tests.lab import registries, tools
from tests.lab.registries import Kind

from longseal.canonical import digest_of
from longseal.errors import RefusedError
from longseal.registry.attach import attach, detach
from longseal.registry.attachment import fetch
from longseal.registry.copy import copy_manifest_tree
from longseal.registry.discovery import children, discover
from longseal.registry.distribution import DistributionRegistry
from longseal.registry.interface import Descriptor
from longseal.registry.layout import LayoutRegistry
from longseal.registry.removal import Removal

pytestmark = pytest.mark.lab

NAME = "corp/app"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


@pytest.fixture(params=get_args(Kind))
def served(request: pytest.FixtureRequest) -> tuple[registries.Registry, DistributionRegistry]:
    fixture = {
        "docker_registry": "docker_registry",
        "distribution": "distribution_registry",
        "referrers": "referrers_registry",
    }[request.param]
    running: registries.Registry = request.getfixturevalue(fixture)
    return running, DistributionRegistry("lab", running.url, ["corp/*"])


Served = tuple[registries.Registry, DistributionRegistry]


def test_an_attachment_is_found_read_and_taken_away(served: Served) -> None:
    running, registry = served
    digest = registries.push_image(running.url, NAME, "v1")
    manifest = registry.manifest(NAME, "v1")
    assert manifest is not None and manifest.digest == digest == registry.resolve(NAME, "v1")
    assert NAME in list(registry.repositories())
    subject = Descriptor(manifest.media_type, digest, len(manifest.data))
    seals = [
        attach(registry, NAME, subject, BUNDLE, b'{"seal":%d}' % n, {"n": str(n)}) for n in (1, 2)
    ]
    assert attach(registry, NAME, subject, BUNDLE, b'{"seal":1}', {"n": "1"}) == seals[0]
    found = discover(registry, NAME, digest, set(registry.tags(NAME)))
    assert found.record.state == "whole"
    assert found.record.found == tuple(sorted(seals))
    read = {fetch(registry, candidate).layers[0].data for candidate in found.candidates}
    assert read == {b'{"seal":1}', b'{"seal":2}'}
    for seal in seals:
        detach(registry, NAME, digest, seal)
    found = discover(registry, NAME, digest, set(registry.tags(NAME)))
    assert found.record.state == "empty"


def test_stock_oras_sees_what_is_attached(served: Served) -> None:
    running, registry = served
    digest = registries.push_image(running.url, NAME, "oras")
    manifest = registry.manifest(NAME, digest)
    assert manifest is not None
    subject = Descriptor(manifest.media_type, digest, len(manifest.data))
    attached = attach(registry, NAME, subject, BUNDLE, b'{"seal":1}', {})
    image = f"{running.host}/{NAME}@{digest}"
    answer = subprocess.run(
        [tools.tool("oras"), "discover", "--plain-http", "--format", "json", image],
        capture_output=True,
        check=True,
        timeout=60,
    )
    referrers = json.loads(answer.stdout)["referrers"]
    # The artifact type is left out: go-containerregistry's registry answers the config's.
    assert [item["digest"] for item in referrers] == [attached]


def test_an_index_goes_into_a_volume_and_into_another_repository(
    served: Served, tmp_path: Path
) -> None:
    running, registry = served
    digest, platforms = registries.push_index(running.url, NAME, "multi")
    volume = LayoutRegistry("volume", tmp_path)
    copied = copy_manifest_tree(registry, volume, NAME, NAME, digest, "multi")
    assert copied.blobs_sent == 7
    again = copy_manifest_tree(volume, registry, NAME, "corp/site", digest, "multi")
    # go-containerregistry's registry keeps its blobs in one place for all repositories.
    assert again.blobs_sent + again.already_there == 7
    third = copy_manifest_tree(volume, registry, NAME, "corp/site", digest, "multi")
    assert (third.blobs_sent, third.bytes_sent) == (0, 0)
    arrived = registry.manifest("corp/site", "multi")
    assert arrived is not None
    assert [child.digest for child in children(arrived)] == platforms


def test_a_blob_is_stored_and_streamed(served: Served) -> None:
    _, registry = served
    data = bytes(range(256)) * 20_000
    digest = digest_of(data)
    registry.put_blob(NAME, digest, len(data), io.BytesIO(data))
    assert registry.has_blob(NAME, digest)
    with registry.open_blob(NAME, digest) as stream:
        assert stream.read() == data
    assert registry.tags("corp/none") == ()
    assert registry.manifest("corp/none", "v1") is None


@pytest.mark.parametrize("kind", ["docker_registry", "distribution"])
def test_one_that_does_not_delete_is_found_out_on_a_digest_that_nothing_has(
    kind: Kind, tmp_path: Path
) -> None:
    with registries.registry(kind, tmp_path, deletes=False) as running:
        registries.push_image(running.url, NAME, "v1")
        with pytest.raises(RefusedError, match="405"):
            Removal(DistributionRegistry("lab", running.url)).check(NAME)
