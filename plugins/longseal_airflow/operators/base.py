"""What every operator shares: the way to the library, and what its errors mean to Airflow."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from longseal.errors import PermanentError, RefusedError, RestoreInProgress
from longseal.workspace import Workspace
from longseal_airflow.hooks.longseal import LongsealHook

if TYPE_CHECKING:
    from airflow.sdk import Context

T = TypeVar("T")


class LongsealOperator(BaseOperator):
    """One step of Longseal. It can be killed at any point and run again.

    A :class:`~longseal.errors.PermanentError` fails the task at once, and its one line ends the
    log; whatever else goes wrong is tried again, as often as the task's ``retries`` allow. What
    lies in a cold storage class is waited for, an hour at a time, and uses none of them up.

    :param config: path of ``longseal.yaml`` (templated); None for what ``LONGSEAL_CONFIG`` names
    """

    template_fields: Sequence[str] = ("config",)
    ui_color = "#dfe8dc"

    def __init__(self, *, config: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config

    def execute(self, context: Context) -> Any:
        """Take the step."""
        try:
            return self.act(LongsealHook(self.config).workspace(actor_of(context)), context)
        except PermanentError as err:
            raise AirflowFailException(str(err)) from err
        except RestoreInProgress as err:
            self.log.info("%s", err)
            self.defer(
                trigger=TimeDeltaTrigger(timedelta(seconds=err.retry_after or 3600)),
                method_name="take_up",
            )

    def take_up(self, context: Context, event: Any = None) -> Any:
        """Take the step again, after a wait."""
        return self.execute(context)

    @abstractmethod
    def act(self, workspace: Workspace, context: Context) -> Any:
        """Call the library, and return what it did in a small JSON document."""

    def log_table(self, title: str, rows: Sequence[str]) -> None:
        """Log rows as one group, which the log's page folds."""
        if rows:
            self.log.info("::group::%s", title)
            for row in rows:
                self.log.info("%s", row)
            self.log.info("::endgroup::")


def actor_of(context: Context) -> str:
    """Who acts, for the ledger: the run, the task, the try, and who started it where known."""
    task = context["ti"]
    index = "" if task.map_index in (None, -1) else f"[{task.map_index}]"
    user = context["dag_run"].triggering_user_name
    started = f", started by {user}" if user else ""
    place = f"{task.dag_id}/{task.run_id}/{task.task_id}{index}"
    return f"airflow {place} try {task.try_number}{started}"


def given(name: str, value: object, kind: type[T]) -> T:
    """A templated argument as it came out.

    :raises RefusedError: it is empty, or not of this kind
    """
    if not isinstance(value, kind) or value in ("", "None"):
        raise RefusedError(f"{name}: expected a {kind.__name__}, found {str(value)[:80]!r}")
    return value


def truth(name: str, value: object) -> bool:
    """A templated yes or no as it came out.

    :raises RefusedError: it is neither
    """
    if str(value) not in ("True", "False"):
        raise RefusedError(f"{name}: expected true or false, found {str(value)[:20]!r}")
    return str(value) == "True"
