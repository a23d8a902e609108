"""Longseal installed in a folder: settings, and everything that they name."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from longseal.harvest import Harvested, harvest, plan
from longseal.registry.layout import LayoutRegistry
from longseal.seal.images import attach_images, sign_images
from longseal.seal.published import Published
from longseal.seal.reseal import Reseal
from longseal.seal.signers.file import FileSigner
from longseal.settings import load, parse
from longseal.workspace import Workspace, utc_now
from tests.doubles.timestamp_authority import TimestampAuthorityDouble

EXAMPLES = Path(__file__).parents[1] / "examples"
ISSUER, IDENTITY = "http://localhost:18100", "ci@stella.example"
SIGNER = {"issuer": ISSUER, "identity": IDENTITY}
FILES_OF_RUNS = ("archive", "registry", "ship")


def rule(
    signer: Mapping[str, str],
    predicates: str = "https://stella-ops.example/**",
    repositories: str = "corp/*",
) -> dict[str, Any]:
    """A rule of the settings' policy."""
    return {
        "repositories": [repositories],
        "predicates": [predicates],
        "identities": [dict(signer)],
    }


def settings(signer: Mapping[str, str], /, **changes: Any) -> dict[str, Any]:
    """What is in most settings files of tests: layouts under ``registry``, one worker.

    :param signer: identity and issuer that may attest anything of ours in ``corp/*``
    :param changes: top-level settings in place of these; None leaves one out
    """
    usual = {
        "organisation": "stella.example",
        "catalog": "sqlite:///catalog.db",
        "archive": {"kind": "directory", "path": "archive"},
        "trust": {"trusted_root": "trusted_root.json"},
        "registries": [{"name": "exported", "layout": "registry"}],
        "policy": [rule(signer)],
        "signer": {"kind": "file", "path": "key.pem"},
        "timestamps": [{"url": "http://127.0.0.1:1/", "certificates": "tsa.pem"}],
        "harvest": {"workers": 1},
    }
    return {name: one for name, one in {**usual, **changes}.items() if one is not None}


def opened(folder: Path, content: Any, clock: Callable[[], datetime] = utc_now) -> Workspace:
    """The workspace of settings that would stand in ``folder``."""
    for name in ("archive", "registry"):
        (folder / name).mkdir(exist_ok=True)
    return Workspace(parse(_written(content), folder / "longseal.yaml"), environ={}, clock=clock)


def _written(content: Any) -> bytes:
    # By way of JSON, since YAML would name what stands in it twice, and that is refused.
    return yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False).encode()


def harvest_all(workspace: Workspace) -> Harvested:
    """Harvest whatever the registries have."""
    batches, silent = plan(workspace)
    total = Harvested(unreachable=dict(silent))
    for batch in batches:
        total.add(harvest(workspace, batch))
    return total


STEPS = ("freeze", "recheck", "sign", "timestamp", "log", "check", "publish")


def seal(workspace: Workspace, period: str) -> Reseal:
    """All steps of sealing ``period``."""
    reseal = Reseal(workspace, period)
    for step in STEPS:
        getattr(reseal, step)()
    return reseal


def seal_with_images(workspace: Workspace, period: str) -> Published:
    """:func:`seal`, and the statements on its images attached to them."""
    sealed = seal(workspace, period).sealed
    assert sealed is not None
    sign_images(workspace, sealed)
    attach_images(workspace, sealed)
    return sealed


@dataclass
class Installation:
    """Made in ``folder``: a key file, an empty archive, a folder for a volume.

    :param changes: top-level settings in place of the usual ones; None leaves one out
    """

    folder: Path
    authority: TimestampAuthorityDouble
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in FILES_OF_RUNS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        FileSigner.create(self.folder / "org.pem")
        self.write()

    @property
    def config(self) -> Path:
        return self.folder / "longseal.yaml"

    def write(self, **changes: Any) -> None:
        """Write the settings, with ``changes`` above those that it was made with."""
        ours = {
            "trust": {"trusted_root": str(EXAMPLES / "trusted_root.json")},
            "harvest": None,
            "signer": {"kind": "file", "path": "org.pem"},
            "timestamps": [self.authority.listed()],
            "sites": [
                {"name": "ship", "kind": "volume", "path": "ship", "repositories": ["corp/*"]}
            ],
        }
        self.config.write_bytes(_written(settings(SIGNER, **{**ours, **self.changes, **changes})))

    def copy(self, folder: Path) -> "Installation":
        """The same, as it is now, in another folder."""
        shutil.copytree(self.folder, folder)
        copy = object.__new__(Installation)
        copy.folder, copy.authority, copy.changes = folder, self.authority, self.changes
        return copy

    def workspace(self, clock: Callable[[], datetime] = utc_now) -> Workspace:
        return Workspace(load(self.config, {}), clock=clock)

    def registry(self) -> LayoutRegistry:
        """What harvest finds under ``registry``."""
        return LayoutRegistry("exported", self.folder / "registry")

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file that a run may write but the catalog, with its inode and time of change."""
        return {
            str(path.relative_to(self.folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
            for name in FILES_OF_RUNS
            for path in (self.folder / name).rglob("*")
            if path.is_file()
        }

    def key_operations(self) -> int:
        """What the ledger has of the key's operations."""
        return sum(
            int(entry.details["operations"])
            for entry in self.workspace().ledger.walk()
            if entry.action == "key.operation.ended"
        )
