"""Classes of retention: by repository, predicate and outcome; and until when the archive locks."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from longseal.archive.leaf import Leaf
from longseal.archive.retention import class_of, cold_days, cold_tiers, retain_until
from longseal.settings import Duration, RetentionClass, RetentionSettings

TEN_YEARS = Duration(10, "year")
SETTINGS = RetentionSettings(
    archive=Duration(5, "year"),
    classes=(
        RetentionClass(name="junk", keep=Duration(6, "month"), outcomes=("rejected", "ignored")),
        RetentionClass(name="product", keep=TEN_YEARS, repositories=("corp/product/**",)),
        RetentionClass(
            name="sbom",
            keep=Duration(36, "month"),
            archive=TEN_YEARS,
            predicates=("https://stella-ops.example/sbom-*",),
        ),
    ),
)


@pytest.mark.parametrize(
    ("fields", "name", "until"),
    [
        ({}, "sbom.verified", (2036, 11)),
        ({"predicate_type": "https://else.example/v1"}, "default.verified", (2031, 11)),
        ({"repository": "corp/product/a"}, "product.verified", (2036, 11)),
        ({"verdict": "rejected", "reason": "no-rule"}, "junk.rejected", (2031, 11)),
        ({"verdict": "unknown", "reason": "unsupported"}, "sbom.unknown", (2036, 11)),
    ],
)
def test_the_first_class_that_takes_it_has_it(
    make_leaf: Callable[..., Leaf], fields: dict[str, Any], name: str, until: tuple[int, int]
) -> None:
    leaf = make_leaf(**{"predicate_type": "https://stella-ops.example/sbom-delta", **fields})
    kept = class_of(SETTINGS, leaf)
    assert kept.name == name
    assert retain_until(kept, leaf) == datetime(*until, 1, tzinfo=UTC)


def test_the_archive_never_lets_go_before_the_registry(make_leaf: Callable[..., Leaf]) -> None:
    kept = RetentionClass(name="x", keep=Duration(24, "month"), archive=Duration(1, "month"))
    assert retain_until(kept, make_leaf()) == datetime(2028, 11, 1, tzinfo=UTC)


def test_a_class_has_dates_of_its_own_for_each_tier(make_leaf: Callable[..., Leaf]) -> None:
    settings = RetentionSettings(
        cold=Duration(6, "month"),
        dispose=Duration(12, "year"),
        classes=(
            RetentionClass(
                name="sbom",
                keep=Duration(1, "year"),
                cold=Duration(10, "day"),
                dispose=None,
                predicates=("sbom",),
            ),
        ),
    )
    other, sbom = (class_of(settings, make_leaf(predicate_type=one)) for one in ("x", "sbom"))
    assert (other.cold, other.dispose) == (Duration(6, "month"), Duration(12, "year"))
    assert (sbom.cold, sbom.dispose) == (Duration(10, "day"), None)
    assert (cold_days(settings, other.name), cold_days(settings, sbom.name)) == (186, 10)
    assert cold_tiers(settings) == [10, 186]
    assert cold_tiers(RetentionSettings()) == []
