"""What Airflow learns by the entry point ``apache_airflow_provider``: forms of connections."""

from __future__ import annotations

from typing import Any

from longseal import __version__

_HOOKS = "longseal_airflow.hooks"


def get_provider_info() -> dict[str, Any]:
    """The provider's metadata. Addresses are in ``longseal.yaml``; a connection holds the login."""
    return {
        "package-name": "longseal",
        "name": "Longseal",
        "description": "Keeps software attestations provable for years.",
        "versions": [__version__],
        "hook-class-names": [
            f"{_HOOKS}.registry.LongsealRegistryHook",
            f"{_HOOKS}.s3.LongsealS3Hook",
        ],
        "connection-types": [
            {
                "connection-type": "longseal_registry",
                "hook-class-name": f"{_HOOKS}.registry.LongsealRegistryHook",
                "hook-name": "Longseal registry",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "port", "extra"],
                    "relabeling": {"host": "Registry URL (for the test only)", "login": "User"},
                    "placeholders": {"host": "https://registry.example"},
                },
            },
            {
                "connection-type": "longseal_s3",
                "hook-class-name": f"{_HOOKS}.s3.LongsealS3Hook",
                "hook-name": "Longseal archive (S3)",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "port", "extra"],
                    "relabeling": {
                        "host": "Endpoint (for the test only)",
                        "login": "Access key ID",
                        "password": "Secret access key",
                    },
                    "placeholders": {"host": "empty for AWS"},
                },
                "conn-fields": {
                    "region": {
                        "label": "Region (for the test only)",
                        "schema": {"type": ["string", "null"]},
                    }
                },
            },
        ],
    }
