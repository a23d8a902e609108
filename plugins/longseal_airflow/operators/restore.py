"""Restore: what was pruned comes back to its image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from longseal.archive.restore import restore
from longseal.errors import RegistryError
from longseal.workspace import Workspace
from longseal_airflow.operators.base import LongsealOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class LongsealRestoreOperator(LongsealOperator):
    """Put pruned attestations back on their image, byte for byte, from the archive.

    Skipped where no digest is given, so that it can hang on a param. Refused at once: a digest of
    which nothing was pruned. Retried: what one of several registries did not take; what came back
    stays.

    Returns the manifests ``restored``, how many pieces of ``evidence`` they are, and no ``failed``.

    :param digest: of an image, an attestation, or its manifest; or ``IMAGE@DIGEST`` (templated)
    :param registry: its name in the settings; none for all that had it (templated)
    """

    template_fields: Sequence[str] = (*LongsealOperator.template_fields, "digest", "registry")

    def __init__(self, *, digest: str, registry: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.digest = digest
        self.registry = registry

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Restore."""
        if self.digest in ("", "None", None):
            raise AirflowSkipException("No digest was given: nothing is put back.")
        done = restore(workspace, self.digest.rpartition("@")[2], self.registry or None)
        self.log_table("Put back", done["restored"])
        if done["failed"]:
            where, said = next(iter(done["failed"].items()))
            count = len(done["failed"])
            raise RegistryError(f"{count} did not come back, the first {where}: {said}")
        return done
