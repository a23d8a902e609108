import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text
from tests.processes import run_together

from longseal.catalog.catalog import HEAD, Catalog
from longseal.catalog.models import Base
from longseal.errors import SettingsError


def test_migrations_from_nothing_lead_to_the_models(url: str) -> None:
    Catalog.open(url)
    with create_engine(url).connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "version_table": "longseal_version"}
        )
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() == HEAD
        found = inspect(connection)
        for name, table in Base.metadata.tables.items():
            constraints = found.get_unique_constraints(name)
            unique = {tuple(each["column_names"]) for each in constraints}
            wanted = {
                tuple(column.name for column in each.columns)
                for each in table.constraints
                if type(each).__name__ == "UniqueConstraint"
            }
            assert unique == wanted, name
            nullable = {column["name"] for column in found.get_columns(name) if column["nullable"]}
            assert nullable == {column.name for column in table.columns if column.nullable}, name


def test_an_open_catalog_is_opened_again_with_what_is_in_it(url: str) -> None:
    first = Catalog.open(url)
    first.record_images(
        [
            {
                "source": "main",
                "repository": "corp/app",
                "digest": "sha256:" + "a" * 64,
                "state": "whole",
                "record": "{}",
                "checked_at": datetime(2026, 1, 1, tzinfo=UTC),
            }
        ]
    )
    assert len(Catalog.open(url).images()) == 1


def _open(url: str, start: Any) -> None:
    start.wait()
    assert Catalog.open(url).seals() == []


def test_processes_that_open_an_empty_database_at_once_all_succeed(url: str) -> None:
    run_together(_open, *[(url,)] * 6)


def test_tables_of_a_newer_longseal_are_refused(url: str) -> None:
    Catalog.open(url)
    with create_engine(url).begin() as connection:
        connection.execute(text("UPDATE longseal_version SET version_num = '9999'"))
    with pytest.raises(SettingsError, match="catalog: its tables are of another Longseal"):
        Catalog.open(url)
    with create_engine(url).connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM longseal_version")) == "9999"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "catalog.db",
        "oracle9://u:hunter2@host/db",
        "mysql://u:hunter2@host/db",
        "postgresql://u:hunter2@host/db",
        "postgresql+psycopg://u:hunter2@127.0.0.1:1/db",
        "postgresql+psycopg://u:hunter2@host:port/db",
    ],
)
def test_what_is_no_database_is_an_error_of_the_setting_without_the_password(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Catalog.open(url)
    assert caught.value.setting == "catalog"
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database_is_an_error_of_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"this is no database, and long enough to be sure" * 100)
    for place in ("file", "file/catalog.db"):
        with pytest.raises(SettingsError) as caught:
            Catalog.open(f"sqlite:///{tmp_path}/{place}")
        assert caught.value.setting == "catalog"


def test_a_folder_that_is_not_there_is_made_for_sqlite(tmp_path: Path) -> None:
    Catalog.open(f"sqlite:///{tmp_path}/a/b/catalog.db")
    with sqlite3.connect(tmp_path / "a/b/catalog.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
