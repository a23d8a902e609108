"""Patterns over repository names and predicate types: ``*`` stops at ``/``, ``**`` crosses it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

ANYTHING: Final = ("**",)
"""The patterns that describe every name."""


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*+)", pattern)
    return re.compile(
        "".join(
            (".*" if len(part) > 1 else "[^/]*") if part.startswith("*") else re.escape(part)
            for part in parts
        ),
        re.DOTALL,
    )


def matches(pattern: str, text: str) -> bool:
    """Whether the whole of ``text`` is described by ``pattern``."""
    return _compiled(pattern).fullmatch(text) is not None


def matches_any(patterns: Iterable[str], text: str) -> bool:
    """Whether one of ``patterns`` describes ``text``."""
    return any(matches(pattern, text) for pattern in patterns)
