"""The busiest second is found wherever it begins."""

import pytest

from tests.bench.budget import busiest_second


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0.0], 1),
        ([0.0, 0.4, 0.9, 1.0], 3),
        ([0.0, 0.7, 1.2, 1.3, 1.6, 5.0], 4),
        ([float(second) for second in range(10)], 1),
    ],
)
def test_the_busiest_second_need_not_begin_with_the_clock(
    times: list[float], expected: int
) -> None:
    assert busiest_second(times) == expected
