from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation
from tests.lab.fixtures import Bucket

from longseal.archive.directory import DirectoryArchive
from longseal.archive.interface import Archive
from longseal.archive.leaf import Leaf, Signer
from longseal.archive.pack import Evidence
from longseal.archive.s3 import S3Archive, s3_client
from longseal.canonical import digest_of, digest_set


@pytest.fixture
def s3_archive(request: pytest.FixtureRequest) -> S3Archive:
    """An archive in a fresh bucket of a real S3 server, compliance lock."""
    bucket = request.getfixturevalue("s3_bucket")
    server = bucket.server
    client = s3_client(server.endpoint, server.region, server.access_key, server.secret_key)
    return S3Archive(client, bucket.name, "longseal/", "compliance")


@pytest.fixture
def on_s3(
    tmp_path: Path, authority: TimestampAuthorityDouble, s3_bucket: Bucket
) -> Iterator[Installation]:
    """An installation whose archive is a fresh bucket of a real S3 server, compliance lock."""
    archive = s3_bucket.archive("compliance")
    with s3_bucket.logged_in():
        yield Installation(tmp_path / "installation", authority, {"archive": archive})


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.lab)])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    """Each kind of archive in turn."""
    if request.param == "s3":
        return request.getfixturevalue("s3_archive")
    return DirectoryArchive(tmp_path)


@pytest.fixture
def make_leaf() -> Callable[..., Leaf]:
    """A valid leaf, with fields replaced by name."""

    def make(payload: bytes = b"bundle", manifest: bytes = b"manifest", **fields: Any) -> Leaf:
        digests = digest_set(payload)
        values: dict[str, Any] = {
            "sha256": digests["sha256"],
            "sha512": digests["sha512"],
            "size": len(payload),
            "collected_at": datetime(2026, 10, 31, 12, tzinfo=UTC),
            "engine": "longseal 0.1.0",
            "image": digest_of(b"image"),
            "manifest": digest_of(manifest),
            "policy": digest_of(b"policy"),
            "predicate_type": "https://stella-ops.example/sbom-delta/v1",
            "registry": "main",
            "repository": "corp/app",
            "signed_at": datetime(2026, 10, 31, 11, 59, tzinfo=UTC),
            "signer": Signer("ci@stella.example", "https://issuer.stella.example"),
            "subject": (digest_of(b"image"),),
            "time_source": "rfc3161",
            "trust": digest_of(b"trusted root"),
            "verdict": "verified",
        }
        return Leaf(**(values | fields))

    return make


@pytest.fixture
def make_evidence(make_leaf: Callable[..., Leaf]) -> Callable[..., Evidence]:
    """Evidence whose leaf fits its bytes."""

    def make(
        payload: bytes = b"bundle",
        manifest: bytes = b"manifest",
        material: tuple[bytes, ...] = (),
        **fields: Any,
    ) -> Evidence:
        ordered = tuple(sorted(material, key=digest_of))
        leaf = make_leaf(payload, manifest, material=tuple(map(digest_of, ordered)), **fields)
        return Evidence(leaf, manifest, payload, ordered)

    return make
