"""GitHub's own Sigstore instance, which has no log: from a file of the real thing to a proof."""

from pathlib import Path

import pytest
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, seal
from tests.proven import Proven

from longseal.cli import main
from longseal.seal.proof_folder import BUNDLE, prove

ROOT = "trusted_roots/github.json"
PROVENANCE = (
    "github-attestations/automata/samples/"
    "actions-attest-build-provenance-attestation-13581567.sigstore.json"
)
RELEASE = "misc/carabiner-dev_signer/bundle/testdata/github-release.sigstore.json"
ACTIONS = {
    "issuer": "https://token.actions.githubusercontent.com",
    "pattern": "https://github\\.com/actions/attest-build-provenance/.*",
}
# Its certificates name no issuer, and so their authority stands for it.
RELEASES = {
    "issuer": "CN=Fulcio Intermediate l1,O=GitHub\\, Inc.",
    "identity": "https://dotcom.releases.github.com",
}


@pytest.fixture
def taken_in(
    request: pytest.FixtureRequest,
    sigstore_bundles: Path,
    authority: TimestampAuthorityDouble,
    tmp_path: Path,
) -> Installation:
    bundle, signer = request.param
    rule = {
        "repositories": ["corp/*"],
        "predicates": ["https://**"],
        "identities": [signer],
        "max_certificate_minutes": 365 * 24 * 60,
    }
    changes = {"trust": {"trusted_root": str(sigstore_bundles / ROOT)}, "policy": [rule]}
    installation = Installation(tmp_path / "installation", authority, changes)
    argv = ["harvest", "--config", str(installation.config), "--from"]
    assert main([*argv, str(sigstore_bundles / bundle), "--repository", "corp/app"]) == 0
    return installation


def proven(installation: Installation, folder: Path) -> Proven:
    workspace = installation.workspace()
    seal(workspace, "r-one")
    row = workspace.catalog.evidence()[0]
    assert row.verdict == "verified"
    return Proven.of(prove(workspace, row.bundle, folder)[0], workspace)


BOTH = pytest.mark.parametrize(
    "taken_in",
    [(PROVENANCE, ACTIONS), (RELEASE, RELEASES)],
    indirect=True,
    ids=["provenance", "release"],
)


@BOTH
def test_it_is_sealed_and_its_proof_holds(taken_in: Installation, tmp_path: Path) -> None:
    found = proven(taken_in, tmp_path / "proof")
    assert found.check(), found.said


@pytest.mark.lab
@BOTH
def test_the_script_agrees(taken_in: Installation, tmp_path: Path) -> None:
    found = proven(taken_in, tmp_path / "proof")
    assert found.script() == 0, found.said
    has = (found.folder / BUNDLE).exists()
    assert has is ("cosign has no way" not in found.said)
