"""Published seals: where the archive keeps them, and whether their files are theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from longseal.canonical import digest_of, parse_timestamp
from longseal.errors import VerificationError
from longseal.seal.bundle import parse_key_bundle
from longseal.seal.checkpoint import parse_verifier_key, verify_checkpoint
from longseal.seal.statement import Statement
from longseal.seal.tree import Frontier512, Tree, leaf_hash
from longseal.workspace import Workspace

SEAL: Final = "seal.sigstore.json"
TRUSTED_ROOT: Final = "seal-trusted-root.json"


def predicate_type(workspace: Workspace, kind: str) -> str:
    """The predicate type of the organisation's own statements: ``seal``, ``image``, …"""
    return f"https://{workspace.settings.organisation}/longseal/{kind}/v1"


def seal_folder(sequence: int) -> str:
    """Where a seal and all that belongs to it is archived."""
    return f"seals/{sequence:06}"


@dataclass(frozen=True, slots=True)
class Published:
    """A published seal, as the archive has it."""

    sequence: int
    bundle: bytes
    statement: Statement

    @property
    def digest(self) -> str:
        """The digest of the bundle file."""
        return digest_of(self.bundle)

    @property
    def period(self) -> str:
        """The period's name."""
        return str(self.statement.predicate["period"])

    @property
    def sealed_at(self) -> datetime:
        """When it was frozen."""
        return parse_timestamp(self.statement.predicate["sealedAt"])

    @property
    def root(self) -> str:
        """The tree's root, hex."""
        return str(self.statement.predicate["tree"]["root"])

    @property
    def size(self) -> int:
        """How many leaves it covers."""
        return int(self.statement.predicate["tree"]["size"])

    def files(self, prefix: str = "") -> dict[str, str]:
        """Digests of the subjects whose name begins with ``prefix``, by name."""
        return {
            subject.name: subject.sha256
            for subject in self.statement.subjects
            if subject.name is not None and subject.name.startswith(prefix)
        }


def published(workspace: Workspace) -> list[Published]:
    """Every published seal, oldest first.

    :raises VerificationError: a seal between two others is missing
    """
    found: list[Published] = []
    while workspace.archive.stat(f"{seal_folder(len(found) + 1)}/{SEAL}") is not None:
        found.append(read_seal(workspace, len(found) + 1))
    return found


def read_seal(workspace: Workspace, sequence: int) -> Published:
    """The published seal with this sequence; nothing of it is verified."""
    bundle = workspace.archive.get(f"{seal_folder(sequence)}/{SEAL}")
    return Published(sequence, bundle, Statement.parse(parse_key_bundle(bundle).payload))


def check_files(workspace: Workspace, seal: Published) -> Tree:
    """Check every file that a seal speaks of, and its tree against the leaves.

    :returns: the tree
    :raises MalformedError: a file has other bytes
    :raises VerificationError: the leaves give another root
    """
    files = seal.files()
    for name in files.keys() - seal.files("leaves/").keys():
        workspace.kept(files[name])
    lines = read_lines(workspace, seal.files("leaves/").values())
    return check_tree(seal, lines, workspace.kept(files["checkpoint"]))


def check_tree(seal: Published, lines: Iterable[bytes], note: bytes) -> Tree:
    """Check that ``lines`` are the leaves of the seal's tree, and ``note`` its checkpoint.

    :raises VerificationError: when they are not
    """
    described = seal.statement.predicate["tree"]
    other = Frontier512()

    def hashed() -> Iterator[bytes]:
        for line in lines:
            other.append_line(line)
            yield leaf_hash(line)

    tree = Tree.of(hashed())
    if (tree.size, tree.root.hex()) != (described["size"], described["root"]):
        raise VerificationError(
            f"the leaves give a tree of {tree.size} with root {tree.root.hex()}, the seal says"
            f" {described['size']} with {described['root']}"
        )
    if other.root.hex() != seal.statement.predicate["tree512"]["root"]:
        raise VerificationError("the leaves give another root by SHA-512 than the seal says")
    origin, key = parse_verifier_key(described["checkpointKey"])
    head = verify_checkpoint(note, described["origin"], key)
    if origin != described["origin"] or (head.size, head.root) != (tree.size, tree.root):
        raise VerificationError("the checkpoint is not of the seal's tree")
    return tree


def read_lines(workspace: Workspace, digests: Iterable[str]) -> Iterator[bytes]:
    """The lines of archived files, in order; no more than one file at a time is held."""
    return (line for digest in digests for line in workspace.kept(digest).splitlines())
