from importlib import import_module

import pytest
from airflow.providers_manager import (
    _create_customized_form_field_behaviours_schema_validator,
    _create_provider_info_schema_validator,
)

from longseal_airflow.provider_info import get_provider_info

TYPES = {one["connection-type"]: one for one in get_provider_info()["connection-types"]}


def test_airflow_takes_the_provider_info() -> None:
    _create_provider_info_schema_validator().validate(get_provider_info())


def test_there_is_a_connection_type_for_registries_and_one_for_the_archive() -> None:
    assert set(TYPES) == {"longseal_registry", "longseal_s3"}


@pytest.mark.parametrize("name", TYPES)
def test_a_connection_type_and_its_hook_agree(name: str) -> None:
    module, _, hook = TYPES[name]["hook-class-name"].rpartition(".")
    found = getattr(import_module(module), hook)
    assert found.conn_type == name
    assert found.hook_name == TYPES[name]["hook-name"]
    assert found.conn_name_attr in found.__init__.__code__.co_varnames


@pytest.mark.parametrize("name", TYPES)
def test_a_form_hides_only_what_there_is(name: str) -> None:
    form = TYPES[name]["ui-field-behaviour"]
    _create_customized_form_field_behaviours_schema_validator().validate(
        {key.replace("-", "_"): value for key, value in form.items()}
    )
