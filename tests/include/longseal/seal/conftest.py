from datetime import timedelta
from pathlib import Path

import pytest
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation
from tests.retired import retire

from longseal.archive import prune
from longseal.archive.approval import sign_policy
from longseal.canonical import canonical_json, timestamp
from longseal.mirror.mirror import mirror
from longseal.seal.bundle import parse_key_bundle
from longseal.seal.images import sign_images
from longseal.seal.key_history import rotate
from longseal.seal.published import read_seal
from longseal.seal.signers.file import FileSigner
from longseal.seal.statement import Statement


@pytest.fixture
def signer(tmp_path: Path) -> FileSigner:
    return FileSigner.create(tmp_path / "org.pem")


@pytest.fixture(scope="session")
def every_kind(
    tmp_path_factory: pytest.TempPathFactory, authority: TimestampAuthorityDouble
) -> tuple[Installation, dict[str, bytes]]:
    """An installation that has signed everything there is to sign; a bundle of each kind."""
    installation = Installation(tmp_path_factory.mktemp("every-kind") / "installation", authority)
    retire(installation)
    workspace = installation.workspace()
    sign_images(workspace, read_seal(workspace, 1))
    mirror(workspace, workspace.settings.site("ship"))
    planned = prune.plan(workspace)
    assert planned is not None
    prune.execute(workspace, planned.digest, "grace")
    until = timestamp(workspace.now() + timedelta(days=30))
    sign_policy(workspace, canonical_json({"rules": [], "validUntil": until}))
    FileSigner.create(installation.folder / "next.pem")
    text = installation.config.read_text()
    installation.config.write_text(f"{text}next_signer: {{kind: file, path: next.pem}}\n")
    rotate(installation.workspace())
    found: dict[str, bytes] = {}
    for key in workspace.archive.keys(""):
        if key.endswith(".sigstore.json"):
            data = workspace.archive.get(key)
            kind = Statement.parse(parse_key_bundle(data).payload).predicate_type.split("/")[-2]
            found[kind] = data
    return installation, found
