"""The connection that holds a registry's login."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseHook

from longseal.errors import LongsealError
from longseal.registry.interface import Registry
from longseal_airflow.hooks.longseal import LongsealHook


class LongsealRegistryHook(BaseHook):
    """A registry by its connection alone; the DAGs take its address from the settings.

    :param longseal_registry_conn_id: a connection whose host is the registry's URL
    """

    conn_name_attr = "longseal_registry_conn_id"
    default_conn_name = "longseal_registry_default"
    conn_type = "longseal_registry"
    hook_name = "Longseal registry"

    def __init__(
        self, longseal_registry_conn_id: str = default_conn_name, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.longseal_registry_conn_id = longseal_registry_conn_id

    def get_conn(self) -> Registry:
        """A client of the registry."""
        from longseal.registry.auth import Credentials
        from longseal.registry.distribution import DistributionRegistry

        conn_id = self.longseal_registry_conn_id
        host = self.get_connection(conn_id).host or ""
        login = LongsealHook().login(conn_id, "conn_id")
        return DistributionRegistry(
            conn_id, host, credentials=Credentials(login.username, login.password)
        )

    def test_connection(self) -> tuple[bool, str]:
        """Log in and list repositories, for the button in the form."""
        try:
            names = list(self.get_conn().repositories())
        except LongsealError as err:
            return False, str(err)
        return True, f"{len(names)} repositories"
