"""Prune where the archive's store was tampered with: nothing goes, and it is an alarm."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation
from tests.lab.fixtures import Bucket
from tests.lab.s3 import S3
from tests.retired import REPOSITORY, retire

from longseal.archive import prune
from longseal.errors import VerificationError

pytestmark = pytest.mark.lab


class Tampered:
    """A pack in a real S3 server, in the hands of somebody who may write there, and overrule
    governance."""

    def __init__(self, bucket: Bucket, pack: str) -> None:
        self.client = bucket.server.client()
        self.place: dict[str, Any] = {
            "Bucket": bucket.name,
            "Key": f"longseal/packs/sha256/{pack.removeprefix('sha256:')}.zip",
        }
        self.data = self.client.get_object(**self.place)["Body"].read()
        self.until = self.client.head_object(**self.place)["ObjectLockRetainUntilDate"]

    def versions(self) -> set[str]:
        where = {"Bucket": self.place["Bucket"], "Prefix": self.place["Key"]}
        found = self.client.list_object_versions(**where)
        return {one["VersionId"] for one in (*found["Versions"], *found.get("DeleteMarkers", ()))}

    def write_over(self, data: bytes, locked: bool = True) -> None:
        lock = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": self.until}
        self.client.put_object(
            **self.place, Body=data, ChecksumAlgorithm="SHA256", **(lock if locked else {})
        )

    def retain(self, until: datetime) -> None:
        self.client.put_object_retention(
            **self.place,
            Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until},
            BypassGovernanceRetention=True,
        )

    def drop(self, version: str | None = None) -> None:
        more = {"VersionId": version, "BypassGovernanceRetention": True} if version else {}
        self.client.delete_object(**self.place, **more)


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


HARMS: dict[str, Callable[[Tampered], None]] = {
    "one bit changed": lambda pack: pack.write_over(flipped(pack.data)),
    "truncated": lambda pack: pack.write_over(pack.data[:-1]),
    "the same bytes, not locked": lambda pack: pack.write_over(pack.data, locked=False),
    "the same bytes, locked, and another version": lambda pack: pack.write_over(pack.data),
    "hidden by a delete marker": lambda pack: pack.drop(),
    "a lock that is shorter": lambda pack: pack.retain(datetime.now(UTC) + timedelta(days=9)),
}


@pytest.fixture(scope="module")
def retired(
    tmp_path_factory: pytest.TempPathFactory, authority: TimestampAuthorityDouble, s3_server: S3
) -> Iterator[tuple[Installation, Bucket, str]]:
    """One attestation of 2023, harvested and sealed; where it is archived, and its manifest."""
    bucket = Bucket(s3_server, "tampered")
    s3_server.create_bucket(bucket.name)
    folder = tmp_path_factory.mktemp("tampered") / "installation"
    with bucket.logged_in():
        installation = Installation(folder, authority, {"archive": bucket.archive("governance")})
        yield installation, bucket, retire(installation)


@pytest.mark.parametrize("harm", list(HARMS))
def test_a_pack_that_was_tampered_with_keeps_its_evidence_in_the_registry(
    retired: tuple[Installation, Bucket, str], harm: str
) -> None:
    installation, bucket, manifest = retired
    workspace = installation.workspace()
    planned = prune.plan(workspace)
    assert planned is not None
    pack = Tampered(bucket, workspace.catalog.packs()[0])
    before = pack.versions()
    HARMS[harm](pack)
    with pytest.raises(VerificationError):
        prune.execute(installation.workspace(), planned.digest, "grace")
    assert installation.registry().manifest(REPOSITORY, manifest) is not None
    assert [entry.action for entry in workspace.ledger.walk()][-1] == "prune.alarm"
    # It is not taken for begun: what vanishes meanwhile is missed, and another plan may be made.
    assert [row.tombstone for row in workspace.catalog.evidence()] == [None]
    for version in pack.versions() - before:
        pack.drop(version)
    pack.retain(pack.until)
    assert prune.plan(installation.workspace()) is not None
