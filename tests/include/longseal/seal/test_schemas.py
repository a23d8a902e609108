"""The published JSON Schemas, held against what is signed."""

import json
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from tests.include.longseal.conftest import schema_of
from tests.installation import Installation

from longseal.seal.bundle import parse_key_bundle
from longseal.seal.statement import Statement

KINDS = sorted(
    entry.name.removesuffix(".schema.json") for entry in (files("longseal") / "schemas").iterdir()
)


@pytest.fixture
def predicates(every_kind: tuple[Installation, dict[str, bytes]]) -> dict[str, dict[str, Any]]:
    _, bundles = every_kind
    return {
        kind: dict(Statement.parse(parse_key_bundle(data).payload).predicate)
        for kind, data in bundles.items()
    }


def test_there_is_a_schema_for_everything_that_is_signed(
    predicates: dict[str, dict[str, Any]],
) -> None:
    assert sorted(predicates) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_predicate_keeps_to_its_schema_and_to_no_less(
    kind: str, predicates: dict[str, dict[str, Any]]
) -> None:
    schema, predicate = schema_of(kind), predicates[kind]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(predicate, schema, jsonschema.Draft202012Validator)
    for key in predicate:
        without = {name: value for name, value in predicate.items() if name != key}
        for broken in (without, {**predicate, key: {}}, {**predicate, "extra": 1}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(broken, schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_names_every_key_of_the_schema(kind: str) -> None:
    from tests.include.longseal.seal.test_formats import FORMATS

    page = (FORMATS / "statements.md").read_text()
    _, _, section = page.partition(f"\n## {kind}\n")
    section = section.partition("\n## ")[0]
    for key in schema_of(kind)["properties"]:
        assert key in {"keyid", "quorum"} or f"`{key}`" in section, key
    assert f"schemas/{kind}.schema.json" in page


def test_a_schema_says_what_it_is_of() -> None:
    for kind in KINDS:
        schema = schema_of(kind)
        assert f"/longseal/{kind}/v1" in schema["description"]
        assert schema["$id"] == f"urn:longseal:predicate:{kind}:1"
        assert json.dumps(schema)
