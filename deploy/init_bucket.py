"""Make the archive's bucket, with Object Lock, unless it is there: ``init_bucket.py URL BUCKET``.

The keys come from ``S3_ACCESS_KEY`` and ``S3_SECRET_KEY``.
"""

from __future__ import annotations

import os
import sys

import boto3
from botocore.exceptions import ClientError


def main(endpoint: str, bucket: str) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=os.environ["S3_ACCESS_KEY"],
        aws_secret_access_key=os.environ["S3_SECRET_KEY"],
    )
    if bucket not in {found["Name"] for found in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    try:
        client.get_object_lock_configuration(Bucket=bucket)
    except ClientError as err:
        if err.response["Error"]["Code"] != "ObjectLockConfigurationNotFoundError":
            raise
        raise SystemExit(f"the bucket {bucket} is without Object Lock: remove it first") from err


if __name__ == "__main__":
    main(*sys.argv[1:])
