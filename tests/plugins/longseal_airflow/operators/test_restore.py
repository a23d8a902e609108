import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from tests.installation import Installation
from tests.plugins.conftest import Take
from tests.retired import REPOSITORY, retire

from longseal.archive import prune
from longseal.errors import RegistryError
from longseal_airflow.operators.restore import LongsealRestoreOperator


def prune_one(installation: Installation) -> str:
    """Harvest, seal and prune one attestation of 2023; its manifest."""
    manifest = retire(installation)
    planned = prune.plan(installation.workspace())
    assert planned is not None
    prune.execute(installation.workspace(), planned.digest, "grace")
    assert installation.registry().manifest(REPOSITORY, manifest) is None
    return manifest


def test_nothing_is_restored_where_no_digest_is_given(take: Take) -> None:
    for digest in ("", "{{ none }}"):
        with pytest.raises(AirflowSkipException):
            take(LongsealRestoreOperator, digest=digest)


def test_what_was_pruned_is_put_back_once(take: Take, installation: Installation) -> None:
    manifest = prune_one(installation)
    done = take(LongsealRestoreOperator, digest=f"host/{REPOSITORY}@{manifest}")
    assert done == {"restored": [manifest], "evidence": 1, "failed": {}}
    assert installation.registry().manifest(REPOSITORY, manifest) is not None
    with pytest.raises(AirflowFailException, match="was pruned"):
        take(LongsealRestoreOperator, digest=manifest)


def test_an_image_that_is_gone_is_tried_again(take: Take, installation: Installation) -> None:
    manifest = prune_one(installation)
    image = installation.workspace().catalog.evidence()[0].image
    installation.registry().delete_manifest(REPOSITORY, image)
    with pytest.raises(RegistryError, match=r"^1 did not come back.*push it first"):
        take(LongsealRestoreOperator, digest=manifest)


def test_a_check_says_what_would_come_back_and_writes_nothing(
    take: Take, installation: Installation
) -> None:
    manifest = prune_one(installation)
    before = installation.files()
    done = take(LongsealRestoreOperator, digest=manifest, check_only="{{ true }}")
    assert done == {"would_restore": [manifest], "evidence": 1, "failed": {}}
    assert installation.files() == before
    with pytest.raises(AirflowFailException, match="check_only: expected true or false"):
        take(LongsealRestoreOperator, digest=manifest, check_only="perhaps")


def test_a_check_finds_what_would_not_come_back(take: Take, installation: Installation) -> None:
    manifest = prune_one(installation)
    image = installation.workspace().catalog.evidence()[0].image
    installation.registry().delete_manifest(REPOSITORY, image)
    with pytest.raises(RegistryError, match="push it first"):
        take(LongsealRestoreOperator, digest=manifest, check_only=True)
