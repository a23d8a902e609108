"""A proof folder in the hands of its reader."""

import os
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from longseal.canonical import sha256_hex
from longseal.seal.ceremony import authorities
from longseal.seal.keys import fingerprint
from longseal.seal.organisation import organisation_key
from longseal.seal.proof_folder import SUMS, VERIFY, verify_proof
from longseal.verify.report import Report
from longseal.workspace import Workspace
from tests.lab.processes import OFFLINE
from tests.lab.tools import tool


@dataclass
class Proven:
    """A proof folder, and what its reader was told.

    :param said: by the script, when it ran last
    """

    folder: Path
    key: str
    roots: frozenset[str]
    quorum: int = 1
    said: str = field(default="", init=False)

    @classmethod
    def of(cls, folder: Path, workspace: Workspace) -> Self:
        """A folder that this workspace wrote, under its own key, authorities and quorum."""
        return cls(
            folder,
            fingerprint(organisation_key(workspace).key),
            frozenset(one.root_fingerprint for one in authorities(workspace, retired=True)),
            workspace.settings.timestamp_quorum,
        )

    def copy(self, to: Path) -> Self:
        return replace(self, folder=Path(shutil.copytree(self.folder, to)))

    @property
    def files(self) -> list[str]:
        """Names of all files but the script."""
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted({path.relative_to(self.folder).as_posix() for path in paths} - {VERIFY})

    def change(self, name: str) -> None:
        """Flip a bit in the middle of a file; an empty one gets a byte."""
        path = self.folder / name
        data = bytearray(path.read_bytes()) or bytearray(b"!")
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def list_again(self) -> None:
        """What somebody does who changes files and their list together."""
        named = [name for name in self.files if name != SUMS]
        lines = [f"{sha256_hex((self.folder / name).read_bytes())}  {name}\n" for name in named]
        (self.folder / SUMS).write_text("".join(lines))

    def check(
        self, key: str | None = None, root: str | None = None, quorum: int | None = None
    ) -> bool:
        """What `longseal verify` says, without settings, catalog or archive."""
        report = Report(str(self.folder))
        roots = self.roots if root is None else frozenset({root})
        verify_proof(report, self.folder, key or self.key, roots, quorum or self.quorum)
        self.said = str(report.to_json())
        return report.exit_code == 0

    def script(
        self,
        *more: str,
        key: str | None = None,
        roots: Collection[str] | None = None,
        wrapper: Collection[str | Path] = (),
    ) -> int:
        """What `verify.sh` says where there is no network.

        :param wrapper: what runs it, as a command line
        """
        argv = [*OFFLINE, *wrapper]
        argv += ["sh", self.folder / VERIFY, f"key={key or self.key}"]
        argv += [f"tsa={root}" for root in sorted(self.roots if roots is None else roots)]
        argv += [f"quorum={self.quorum}", *more]
        environment = {"PATH": os.environ["PATH"], "COSIGN": tool("cosign"), "HOME": "/nowhere"}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True)
        self.said = done.stdout + done.stderr
        return done.returncode
