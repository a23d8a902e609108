import json

import pytest
from airflow.sdk.log import redact
from tests.doubles.registry import RegistryDouble

from longseal.errors import SettingsError
from longseal_airflow.hooks.longseal import LongsealHook
from longseal_airflow.hooks.registry import LongsealRegistryHook
from longseal_airflow.hooks.s3 import LongsealS3Hook


def connect(monkeypatch: pytest.MonkeyPatch, **fields: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HERE", json.dumps({"conn_type": "longseal_registry"} | fields))


def test_a_login_comes_from_the_connection_and_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, login="robot", password="a-staple-of-horses")
    login = LongsealHook().login("here", "registries[0].conn_id")
    assert (login.username, login.password) == ("robot", "a-staple-of-horses")
    assert redact("with a-staple-of-horses inside") == "with *** inside"
    assert "staple" not in repr(login)


def test_temporary_aws_keys_come_with_their_token(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = json.dumps({"aws_session_token": "a-token-of-bees"})
    connect(monkeypatch, conn_type="aws", login="ASIATEST", password="battery", extra=extra)
    login = LongsealHook().login("here", "signer.conn_id")
    assert (login.username, login.session_token) == ("ASIATEST", "a-token-of-bees")
    assert "bees" not in repr(login)
    assert redact("with a-token-of-bees inside") == "with *** inside"


def test_a_connection_that_is_not_there_is_named_with_its_setting() -> None:
    with pytest.raises(SettingsError, match=r"^registries\[0\]\.conn_id: there is no Airflow conn"):
        LongsealHook().login("nowhere", "registries[0].conn_id")


@pytest.mark.parametrize("fields", [{}, {"login": "robot"}, {"password": "battery"}])
def test_half_a_login_is_refused(monkeypatch: pytest.MonkeyPatch, fields: dict[str, str]) -> None:
    connect(monkeypatch, **fields)
    with pytest.raises(SettingsError, match="needs a login and a password") as caught:
        LongsealHook().login("here", "archive.conn_id")
    assert "battery" not in str(caught.value)


def test_settings_are_named_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGSEAL_CONFIG", raising=False)
    with pytest.raises(SettingsError, match="LONGSEAL_CONFIG"):
        LongsealHook().workspace("nobody")


@pytest.mark.parametrize(("password", "works"), [("battery", True), ("wrong", False)])
def test_the_button_of_the_registry_form_logs_in(
    monkeypatch: pytest.MonkeyPatch, password: str, works: bool
) -> None:
    with RegistryDouble(basic=("robot", "battery")) as registry:
        registry.repository("corp/app")
        connect(monkeypatch, host=registry.url, login="robot", password=password)
        answered, message = LongsealRegistryHook("here").test_connection()
    assert answered is works
    assert (message == "1 repositories") is works
    assert password not in message


def test_the_button_of_the_archive_form_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, host="no URL", login="key", password="battery-staple")
    answered, message = LongsealS3Hook("here").test_connection()
    assert not answered
    assert message
    assert "battery" not in message
