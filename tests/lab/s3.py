"""versitygw: a real S3 server, with versions and Object Lock."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.processes import HOST, free_port, start
from tests.lab.tools import tool


@dataclass(frozen=True)
class S3:
    endpoint: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def client(self) -> Any:
        """A boto3 client of this server."""
        import boto3

        return boto3.client("s3", endpoint_url=self.endpoint, **self.credentials)

    @property
    def credentials(self) -> dict[str, str]:
        """As keyword arguments for boto3."""
        return {
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "region_name": self.region,
        }

    def create_bucket(self, name: str) -> None:
        """Create a bucket with versions and Object Lock, without a default retention."""
        self.client().create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)


@contextmanager
def s3(folder: Path) -> Iterator[S3]:
    """Run versitygw on a free port, with its content in `folder`."""
    for name in ("buckets", "versions"):
        (folder / name).mkdir(parents=True)
    port = free_port()
    server = S3(f"http://{HOST}:{port}", secrets.token_hex(10), secrets.token_urlsafe(30))
    keys = {"ROOT_ACCESS_KEY": server.access_key, "ROOT_SECRET_KEY": server.secret_key}
    argv = [tool("versitygw"), "--quiet", f"--port={HOST}:{port}", f"--region={server.region}"]
    argv += ["posix", f"--versioning-dir={folder}/versions", f"{folder}/buckets"]
    with start("versitygw", argv, folder, server.endpoint, env=keys):
        yield server
