"""What was pruned from a registry without a referrers API comes back, and stock cosign finds it."""

import subprocess
from pathlib import Path

import pytest

from longseal.archive import prune
from longseal.archive.restore import restore
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, harvest_all, rule, seal
from tests.lab import PREDICATE_TYPES, Lab
from tests.lab.registries import Registry

REPOSITORY = "corp/restored"


@pytest.mark.lab
def test_cosign_verifies_what_was_pruned_and_put_back(
    lab_of_last_month: Lab, docker_registry: Registry, tmp_path: Path
) -> None:
    lab = lab_of_last_month
    digest = lab.push_image(docker_registry.url, REPOSITORY, "v1")
    reference = f"{docker_registry.host}/{REPOSITORY}@{digest}"
    lab.attest(reference, PREDICATE_TYPES[0], {"passed": True})
    lab.verify_attestation(reference, PREDICATE_TYPES[0])
    with TimestampAuthorityDouble(tmp_path / "tsa") as authority:
        signer = {"issuer": lab.issuer, "identity": lab.identity}
        installation = Installation(
            tmp_path / "installation",
            authority,
            {
                "trust": {"trusted_root": str(lab.trusted_root)},
                "registries": [
                    {"name": "main", "url": docker_registry.url, "repositories": [REPOSITORY]}
                ],
                "policy": [rule(signer, "**", REPOSITORY)],
                "retention": {"default": "1 days", "max_share": 100},
            },
        )
        harvest_all(installation.workspace())
        seal(installation.workspace(), "r-one")
        workspace = installation.workspace()
        registry = workspace.registry("main")
        (row,) = workspace.catalog.evidence()
        before = registry.manifest(REPOSITORY, row.manifest)
        planned = prune.plan(workspace)
        assert planned is not None
        prune.execute(workspace, planned.digest, "grace")
        assert registry.manifest(REPOSITORY, row.manifest) is None
        with pytest.raises(subprocess.CalledProcessError):
            lab.verify_attestation(reference, PREDICATE_TYPES[0])

        assert restore(installation.workspace(), digest)["restored"] == [row.manifest]
        assert registry.manifest(REPOSITORY, row.manifest) == before
        lab.verify_attestation(reference, PREDICATE_TYPES[0])
