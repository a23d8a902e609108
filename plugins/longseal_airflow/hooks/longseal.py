"""Settings and secrets for one task."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from longseal.errors import SettingsError
from longseal.settings import load
from longseal.workspace import Login, Workspace


class LongsealHook(BaseHook):
    """Opens the settings, and resolves each ``conn_id`` in them by Airflow's connections.

    :param config: path of ``longseal.yaml``; None for the one that ``LONGSEAL_CONFIG`` names
    """

    def __init__(self, config: str | None = None) -> None:
        super().__init__()
        self.config = config

    def workspace(self, actor: str) -> Workspace:
        """The library's view of the settings.

        :param actor: who is acting, for the ledger
        :raises SettingsError: the settings cannot be read, or something in them is wrong
        """
        settings = load(Path(self.config) if self.config else None, os.environ)
        return Workspace(settings, secrets=self, actor=actor)

    def login(self, conn_id: str, setting: str) -> Login:
        """Login and password of a connection; Airflow masks the password in its logs.

        :raises SettingsError: naming ``setting``: no such connection, or it holds no login
        """
        try:
            connection = self.get_connection(conn_id)
        except AirflowNotFoundException as err:
            raise SettingsError(
                setting, f"there is no Airflow connection {conn_id!r}: add it, with a login"
            ) from err
        if not connection.login or not connection.password:
            raise SettingsError(
                setting, f"the Airflow connection {conn_id!r} needs a login and a password"
            )
        token = connection.extra_dejson.get("aws_session_token")
        return Login(connection.login, connection.password, token)
