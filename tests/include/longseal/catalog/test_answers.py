"""Whoever compares two catalogs asks both of them everything."""

from pathlib import Path

from tests.lab.answers import NOT_IN_THE_ARCHIVE, WRITES, answers

from longseal.catalog.catalog import Catalog


def test_each_function_of_the_catalog_is_asked_or_known_to_write(tmp_path: Path) -> None:
    known = {name for name in vars(Catalog) if not name.startswith("_")}
    asked = answers(Catalog.open(f"sqlite:///{tmp_path}/catalog.db")).keys()
    assert known - asked == WRITES | NOT_IN_THE_ARCHIVE
    assert asked <= known
