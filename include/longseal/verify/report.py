"""What a verification found out, check by check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from longseal.errors import MalformedError, RetryableError, UnsupportedError, VerificationError


class State(StrEnum):
    """How a check ended. "Could not check" is neither of the other two."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: of what, how it ended, and what was found."""

    name: str
    state: State
    detail: str


@dataclass(slots=True)
class Report:
    """The checks of one target, in the order in which they were made."""

    target: str
    checks: list[Check] = field(default_factory=list)

    def add(self, name: str, state: State, detail: str) -> None:
        """Note one check."""
        self.checks.append(Check(name, state, detail))

    def passed(self, name: str, detail: str) -> None:
        """Note a check that passed."""
        self.add(name, State.PASSED, detail)

    def attempt(self, name: str, check: Callable[[], str]) -> bool:
        """Make a check that returns what it found, or raises why not.

        :returns: whether it passed
        """
        try:
            self.passed(name, check())
        except (VerificationError, MalformedError) as err:
            self.add(name, State.FAILED, str(err))
        except (UnsupportedError, RetryableError) as err:
            self.add(name, State.UNKNOWN, str(err))
        else:
            return True
        return False

    @property
    def state(self) -> State:
        """Failed when any check failed, else unknown when any could not be made."""
        states = {check.state for check in self.checks}
        if State.FAILED in states:
            return State.FAILED
        return State.UNKNOWN if State.UNKNOWN in states or not states else State.PASSED

    @property
    def exit_code(self) -> int:
        """0 verified, 1 not, 2 could not check."""
        return {State.PASSED: 0, State.FAILED: 1, State.UNKNOWN: 2}[self.state]

    def to_json(self) -> dict[str, Any]:
        """One JSON document."""
        return {
            "target": self.target,
            "result": self.state.value,
            "checks": [
                {"check": one.name, "result": one.state.value, "detail": one.detail}
                for one in self.checks
            ],
        }
