"""What a worker that may write the catalog, or the archive, could do."""

from longseal import harvest
from longseal.archive.leaf import Leaf
from longseal.archive.pack import Evidence, load_pack, store_pack, write_pack
from longseal.workspace import Workspace


def a_leaf(workspace: Workspace) -> tuple[bytes, str]:
    """A leaf of the catalog, and its pack."""
    row = workspace.catalog.evidence()[0]
    return row.leaf.encode(), row.pack


def forged_leaf(workspace: Workspace) -> Leaf:
    """A leaf that says of somebody's attestation that somebody else signed it."""
    return Leaf.parse(a_leaf(workspace)[0].replace(b"ci@stella.example", b"me@stella.example"))


def forge_pack(workspace: Workspace) -> str:
    """Archive such a leaf with the attestation's evidence, and list it in the catalog."""
    leaf, honest = forged_leaf(workspace), a_leaf(workspace)
    item = next(
        one for one in load_pack(workspace.archive, honest[1]) if one.leaf.line() == honest[0]
    )
    pack = write_pack([Evidence(leaf, item.manifest, item.payload)])
    store_pack(workspace.archive, pack)
    write_row(workspace, leaf, pack.digest)
    return pack.digest


def write_row(workspace: Workspace, leaf: Leaf, pack: str) -> None:
    """What a worker that may write the catalog could do."""
    row = harvest.catalog_row(leaf, pack)
    row["bundle"] = "sha256:" + "f" * 64
    known = workspace.catalog.pack(a_leaf(workspace)[1])
    workspace.catalog.claim_packs(
        [
            {
                "digest": pack,
                "state": "stored",
                "evidence_class": "default.verified",
                "retain_until": known.retain_until,
                "claimed_at": known.claimed_at,
                "size": 1,
                "members": 1,
            }
        ],
        [row],
    )
