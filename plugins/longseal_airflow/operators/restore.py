"""Restore: what was pruned comes back to its image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from longseal.archive.restore import restore
from longseal.errors import RegistryError
from longseal.workspace import Workspace
from longseal_airflow.operators.base import LongsealOperator, truth

if TYPE_CHECKING:
    from airflow.sdk import Context


class LongsealRestoreOperator(LongsealOperator):
    """Put pruned attestations back on their image, byte for byte, from the archive.

    Skipped where no digest is given, so that it can hang on a param. Refused at once: a digest of
    which nothing was pruned. Retried: what one of several registries did not take; what came back
    stays.

    Returns the manifests ``restored`` (``would_restore``), how many pieces of ``evidence`` they
    are, and no ``failed``.

    :param digest: of an image, an attestation, or its manifest; or ``IMAGE@DIGEST`` (templated)
    :param registry: its name in the settings; none for all that had it (templated)
    :param check_only: ``True`` says what would come back, and writes nothing (templated)
    """

    template_fields: Sequence[str] = (
        *LongsealOperator.template_fields,
        "digest",
        "registry",
        "check_only",
    )

    def __init__(
        self,
        *,
        digest: str,
        registry: str | None = None,
        check_only: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.digest = digest
        self.registry = registry
        self.check_only = check_only

    def act(self, workspace: Workspace, context: Context) -> dict[str, Any]:
        """Restore."""
        if self.digest in ("", "None", None):
            raise AirflowSkipException("No digest was given: nothing is put back.")
        digest, registry = self.digest.rpartition("@")[2], self.registry or None
        done = restore(workspace, digest, registry, truth("check_only", self.check_only))
        for name in ("restored", "would_restore"):
            self.log_table(name, done.get(name, ()))
        if done["failed"]:
            where, said = next(iter(done["failed"].items()))
            count = len(done["failed"])
            raise RegistryError(f"{count} did not come back, the first {where}: {said}")
        return done
