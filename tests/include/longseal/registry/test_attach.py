import io
import json
from pathlib import Path
from typing import Any

import pytest
from tests.doubles.registry import RegistryDouble, Start, image

from longseal.canonical import digest_of
from longseal.errors import RefusedError, RegistryError
from longseal.registry import attach as attaching
from longseal.registry.attach import attach, detach
from longseal.registry.discovery import discover
from longseal.registry.distribution import DistributionRegistry
from longseal.registry.interface import Descriptor, Registry
from longseal.registry.layout import LayoutRegistry
from longseal.registry.model import OCI_INDEX, OCI_MANIFEST, fallback_tag

NAME = "corp/app"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
NOTES = {
    "dev.sigstore.bundle.content": "dsse-envelope",
    "dev.sigstore.bundle.predicateType": "https://example/x/v1",
}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attaching, "_PAUSE", 0.0)


def subject_in(server: RegistryDouble) -> Descriptor:
    digest = server.add_image(NAME, "v1")
    return Descriptor(OCI_MANIFEST, digest, len(server.repository(NAME).manifests[digest][1]))


def put(registry: Registry, subject: Descriptor, data: bytes = b'{"seal":1}') -> str:
    return attach(registry, NAME, subject, BUNDLE, data, NOTES)


def found(registry: DistributionRegistry, subject: Descriptor) -> tuple[str, ...]:
    return discover(registry, NAME, subject.digest, set(registry.tags(NAME))).record.found


def test_the_referrer_has_the_shape_that_stock_tools_read(start: Start) -> None:
    server, registry = start()
    subject = subject_in(server)
    digest = put(registry, subject)
    document = json.loads(server.repository(NAME).manifests[digest][1])
    empty = digest_of(b"{}")
    assert document == {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": BUNDLE,
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": empty,
            "size": 2,
        },
        "layers": [{"mediaType": BUNDLE, "digest": digest_of(b'{"seal":1}'), "size": 10}],
        "subject": {"mediaType": OCI_MANIFEST, "digest": subject.digest, "size": subject.size},
        "annotations": NOTES,
    }
    assert found(registry, subject) == (digest,)
    assert registry.tags(NAME) == ("v1",)


@pytest.mark.parametrize("api", [True, False])
def test_attaching_again_writes_nothing(start: Start, api: bool) -> None:
    server, registry = start(referrers_api=api)
    subject = subject_in(server)
    digest = put(registry, subject)
    writes = server.count("PUT") + server.count("POST")
    assert put(registry, subject) == digest
    assert server.count("PUT") + server.count("POST") == writes
    assert found(registry, subject) == (digest,)


def test_the_fallback_tag_is_written_where_there_is_no_api(start: Start) -> None:
    server, registry = start(referrers_api=False)
    subject = subject_in(server)
    first, second = put(registry, subject), put(registry, subject, b'{"seal":2}')
    assert found(registry, subject) == tuple(sorted([first, second]))
    index = registry.manifest(NAME, fallback_tag(subject.digest))
    assert index is not None and index.media_type == OCI_INDEX
    entry = json.loads(index.data)["manifests"][0]
    assert entry["artifactType"] == BUNDLE and entry["annotations"] == NOTES


def test_the_fallback_tag_is_written_where_the_api_does_not_list(start: Start) -> None:
    server, registry = start()
    subject = subject_in(server)
    server.referrers = lambda name, digest: []  # type: ignore[method-assign]
    digest = put(registry, subject)
    assert found(registry, subject) == (digest,)


def test_what_others_wrote_into_the_fallback_index_stays(start: Start) -> None:
    server, registry = start(referrers_api=False)
    subject = subject_in(server)
    other = {
        **server.descriptor(NAME, server.add_manifest(NAME, image(server, NAME, [b"other"]))),
        "artifactType": "application/other",
        "platform": {"os": "linux"},
        "urls": ["https://example"],
    }
    server.add_manifest(
        NAME,
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [other],
            "annotations": {"a": "b"},
        },
        fallback_tag(subject.digest),
    )
    digest = put(registry, subject)
    index = registry.manifest(NAME, fallback_tag(subject.digest))
    assert index is not None
    document = json.loads(index.data)
    assert document["manifests"][0] == other and document["annotations"] == {"a": "b"}
    detach(registry, NAME, subject.digest, digest)
    index = registry.manifest(NAME, fallback_tag(subject.digest))
    assert index is not None and json.loads(index.data)["manifests"] == [other]


def rival(server: RegistryDouble, subject: Descriptor, times: int) -> Any:
    """Another client that overwrites the fallback index right after each of our writes."""
    tag = fallback_tag(subject.digest)
    left = [times]

    def before_put(name: str, reference: str) -> None:
        if reference != tag or left[0] == 0:
            return
        left[0] -= 1
        mine = server.add_manifest(NAME, image(server, NAME, [b"rival%d" % left[0]]))
        theirs = server.add_index(NAME, [mine])
        original = server.repository(NAME).tags

        class Overwritten(dict[str, str]):
            def __setitem__(self, key: str, value: str) -> None:
                super().__setitem__(key, theirs if key == tag else value)
                if key == tag:
                    server.repository(NAME).tags = dict(self)

        server.repository(NAME).tags = Overwritten(original)

    return before_put


def test_a_lost_race_for_the_fallback_tag_is_run_again(start: Start) -> None:
    server, registry = start(referrers_api=False)
    subject = subject_in(server)
    server.before_put = rival(server, subject, 2)
    digest = put(registry, subject)
    present = found(registry, subject)
    assert digest in present and len(present) == 2


def test_a_race_that_is_always_lost_is_an_error(start: Start) -> None:
    server, registry = start(referrers_api=False)
    subject = subject_in(server)
    server.before_put = rival(server, subject, -1)
    with pytest.raises(RegistryError, match="others keep changing"):
        put(registry, subject)


def test_an_image_under_the_fallback_tag_is_not_overwritten(start: Start) -> None:
    server, registry = start(referrers_api=False)
    subject = subject_in(server)
    taken = server.add_image(NAME, fallback_tag(subject.digest), b"another")
    with pytest.raises(RefusedError, match="no list of referrers"):
        put(registry, subject)
    assert registry.resolve(NAME, fallback_tag(subject.digest)) == taken


@pytest.mark.parametrize("api", [True, False])
def test_detaching_leaves_no_trace(start: Start, api: bool) -> None:
    server, registry = start(referrers_api=api)
    subject = subject_in(server)
    digest = put(registry, subject)
    for _ in range(2):
        detach(registry, NAME, subject.digest, digest)
        assert registry.manifest(NAME, digest) is None
        assert found(registry, subject) == ()
        assert registry.tags(NAME) == ("v1",)


def test_detaching_one_keeps_the_others(start: Start) -> None:
    server, registry = start(referrers_api=False)
    subject = subject_in(server)
    first, second = put(registry, subject), put(registry, subject, b"2")
    detach(registry, NAME, subject.digest, first)
    assert found(registry, subject) == (second,)


def test_detaching_never_deletes_the_subject(start: Start) -> None:
    server, registry = start(referrers_api=False)
    digest = server.add_index(NAME, [server.add_image(NAME)], "v1")
    server.repository(NAME).tags[fallback_tag(digest)] = digest
    detach(registry, NAME, digest, "sha256:" + "0" * 64)
    assert registry.manifest(NAME, digest) is not None


def test_a_refused_deletion_changes_nothing(start: Start) -> None:
    server, registry = start(referrers_api=False)
    subject = subject_in(server)
    digest = put(registry, subject)
    server.quirks.deletes = False
    with pytest.raises(RefusedError):
        detach(registry, NAME, subject.digest, digest)
    assert found(registry, subject) == (digest,)


def test_attaching_in_a_layout_lists_the_referrer(tmp_path: Path) -> None:
    registry = LayoutRegistry("exported", tmp_path)
    data = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": []}).encode()
    subject = Descriptor(OCI_MANIFEST, digest_of(data), len(data))
    registry.put_blob(NAME, subject.digest, subject.size, io.BytesIO(data))
    digest = put(registry, subject)
    assert registry.tags(NAME) == ()
    listed = registry.referrers(NAME, subject.digest)
    assert listed is not None and [item.digest for item in listed] == [digest]
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert put(registry, subject) == digest
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files
    detach(registry, NAME, subject.digest, digest)
    assert registry.referrers(NAME, subject.digest) == ()
