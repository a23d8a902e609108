"""Work divided into batches, each of which becomes a mapped task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

MAX_TASKS: Final = 1_024
"""Most tasks that Airflow maps over one list."""

MAX_BATCHES: Final = MAX_TASKS // 4
"""Most batches of one thing, such as a registry: several may go into one list."""

Item = TypeVar("Item")


def batch_size(count: int, usual: int, most: int = MAX_BATCHES) -> int:
    """How many of ``count`` go into a batch: ``usual``, or more where that makes over ``most``."""
    return max(usual, -(-count // most))


def divided(items: Sequence[Item], usual: int) -> list[Sequence[Item]]:
    """``items`` in their order, in batches of that size."""
    size = batch_size(len(items), usual)
    return [items[start : start + size] for start in range(0, len(items), size)]
