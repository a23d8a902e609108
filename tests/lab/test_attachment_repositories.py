"""Where stock cosign puts attestations with ``COSIGN_REPOSITORY``; they are found there."""

from pathlib import Path

import pytest

from longseal.registry.model import fallback_tag
from tests.installation import harvest_all, opened, settings
from tests.lab import PREDICATE_TYPES
from tests.lab.lab import Lab

IMAGES, APART = "corp/apart-images", "corp/apart-attestations"


@pytest.mark.lab
@pytest.mark.parametrize(
    ("kind", "tagged"), [("referrers_registry", False), ("docker_registry", True)]
)
def test_attestations_in_a_repository_of_their_own_are_found(
    kind: str, tagged: bool, lab: Lab, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    registry = request.getfixturevalue(kind)
    digest = lab.push_image(registry.url, IMAGES, "v1")
    reference = f"{registry.host}/{IMAGES}@{digest}"
    lab.attest(reference, PREDICATE_TYPES[0], {}, repository=f"{registry.host}/{APART}")
    (tmp_path / "trusted_root.json").write_bytes(lab.trusted_root.read_bytes())
    chosen = {"name": "lab", "url": registry.url, "repositories": [IMAGES]}
    content = settings(
        {"identity": lab.identity, "issuer": lab.issuer},
        registries=[{**chosen, "attachment_repositories": [APART]}],
    )
    workspace = opened(tmp_path, content)
    assert harvest_all(workspace).total.verified == 1
    (found,) = workspace.catalog.evidence()
    assert (found.repository, found.image) == (APART, digest)
    # Without a tag, nothing in that repository itself says for which image it is.
    tags = workspace.registry("lab").tags(APART)
    assert (fallback_tag(digest) in tags) == tagged
