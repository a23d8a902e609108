"""The connection that holds the archive's keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from longseal.errors import LongsealError
from longseal_airflow.hooks.longseal import LongsealHook

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class LongsealS3Hook(BaseHook):
    """An object store by its connection alone; the DAGs take bucket and endpoint from the settings.

    :param longseal_s3_conn_id: a connection whose host is the endpoint; none for AWS's own
    """

    conn_name_attr = "longseal_s3_conn_id"
    default_conn_name = "longseal_s3_default"
    conn_type = "longseal_s3"
    hook_name = "Longseal archive (S3)"

    def __init__(
        self, longseal_s3_conn_id: str = default_conn_name, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.longseal_s3_conn_id = longseal_s3_conn_id

    def get_conn(self) -> S3Client:
        """A client of the object store."""
        from longseal.archive.s3 import s3_client

        connection = self.get_connection(self.longseal_s3_conn_id)
        login = LongsealHook().login(self.longseal_s3_conn_id, "conn_id")
        return s3_client(
            connection.host or None,
            connection.extra_dejson.get("region") or None,
            login.username,
            login.password,
        )

    def test_connection(self) -> tuple[bool, str]:
        """List the buckets, for the button in the form."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            buckets = self.get_conn().list_buckets()["Buckets"]
        except (BotoCoreError, ClientError, LongsealError) as err:
            return False, str(err)
        return True, f"{len(buckets)} buckets"
