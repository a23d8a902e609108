"""Prune of sixty months, on registries of all three kinds, with the archive in a real S3 server."""

from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from longseal.archive import prune
from longseal.archive.restore import restore
from longseal.archive.tombstones import tombstones
from longseal.audit.audit import audit
from longseal.canonical import digest_of
from longseal.cli import main
from longseal.rebuild import rebuild
from longseal.registry.model import parse_manifest
from longseal.seal.keys import public_pem
from longseal.seal.organisation import organisation_key
from longseal.seal.published import TRUSTED_ROOT, predicate_type, published, seal_folder
from tests.lab.answers import answers
from tests.lab.fixtures import Bucket
from tests.lab.past import LONG, MONTHS, REPOSITORY, SHORT, Dated, Found, Past, past
from tests.lab.registries import KINDS, Registry
from tests.lab.s3 import S3
from tests.lab.tools import run
from tests.proven import Proven
from tests.retired import harvest_all

pytestmark = pytest.mark.lab

UNLOGGED = ("--use-signed-timestamps", "--insecure-ignore-tlog=true")


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory,
    docker_registry: Registry,
    distribution_registry: Registry,
    referrers_registry: Registry,
    s3_server: S3,
) -> Iterator[Past]:
    """What is due is still there."""
    bucket = Bucket(s3_server, "past")
    s3_server.create_bucket(bucket.name)
    registries = dict(
        zip(KINDS, (docker_registry, distribution_registry, referrers_registry), strict=True)
    )
    with past(tmp_path_factory.mktemp("past"), bucket, registries) as found:
        yield found


@pytest.fixture(scope="module")
def before(made: Past) -> dict[str, Found]:
    """By image, all that hangs on it."""
    return made.attached()


@pytest.fixture(scope="module")
def pruned(made: Past, before: dict[str, Found]) -> Past:
    """What is due is gone."""
    take(made, due(made))
    return made


def due(made: Past) -> list[Dated]:
    return [dated for dated in made.images if dated.due]


def take(made: Past, going: list[Dated]) -> str:
    """Plan and prune all that is due, which is ``going``; the digest of the deletion."""
    planned = prune.plan(made.workspace())
    assert planned is not None
    assert {item.manifest for item in planned.items} == {
        dated.attachments[SHORT].digest for dated in going
    }
    done = prune.execute(made.workspace(), planned.digest, "grace")
    assert (done["deleted"], done["kept"]) == (len(planned.items), 0)
    return str(done["deletion"])


def verifies(made: Past, dated: Dated, predicate: str, folder: Path) -> bool:
    try:
        run(folder, "cosign", *made.verification(dated, predicate))
    except CalledProcessError as error:
        assert "none of the attestations matched the predicate type" in error.stderr
        return False
    return True


def test_sixty_months_are_on_all_three_and_what_is_due_is_of_the_first_three_years(
    made: Past,
) -> None:
    assert len(made.images) == MONTHS
    assert {dated.registry for dated in due(made)} == set(KINDS)
    assert len(due(made)) in (36, 37)


def test_every_image_verifies_with_cosign_for_what_remains(pruned: Past, tmp_path: Path) -> None:
    workspace = pruned.workspace()
    (tmp_path / "org.pub").write_text(public_pem(organisation_key(workspace).key))
    root = workspace.archive.get(f"{seal_folder(len(published(workspace)))}/{TRUSTED_ROOT}")
    (tmp_path / "seal-trusted-root.json").write_bytes(root)
    ours = [f"--key={tmp_path}/org.pub", f"--trusted-root={tmp_path}/seal-trusted-root.json"]
    ours += [f"--type={predicate_type(workspace, 'image')}", *UNLOGGED]
    for number, dated in enumerate(pruned.images):
        assert verifies(pruned, dated, LONG, tmp_path), dated
        assert dated.due or verifies(pruned, dated, SHORT, tmp_path), dated
        if number % 4 == 0:
            assert dated.due is not verifies(pruned, dated, SHORT, tmp_path), dated
            run(tmp_path, "cosign", "verify-attestation", *ours, pruned.reference(dated))


def test_what_is_pruned_is_gone_and_all_else_is_as_it_was(
    pruned: Past, before: dict[str, Found]
) -> None:
    going = {dated.attachments[SHORT].digest for dated in due(pruned)}
    expected = {
        image: {digest: one for digest, one in found.items() if digest not in going}
        for image, found in before.items()
    }
    assert pruned.attached() == expected
    workspace = pruned.workspace()
    for dated in due(pruned):
        registry = workspace.registry(dated.registry)
        assert registry.manifest(REPOSITORY, dated.attachments[SHORT].digest) is None
    harvest_all(workspace)
    assert workspace.catalog.alarming_images() == set()
    assert audit(workspace).exit_code == 0


def test_every_pruned_digest_verifies_from_the_archive(pruned: Past, tmp_path: Path) -> None:
    scripts = set(KINDS)
    workspace = pruned.workspace()
    for number, dated in enumerate(due(pruned)):
        folder = tmp_path / str(number)
        digest = dated.attachments[SHORT].digest
        config = ["--config", str(pruned.installation.config)]
        assert main(["prove", digest, "--to", str(folder), *config]) == 0
        proven = Proven.of(folder, workspace)
        assert proven.check(), proven.said
        layer = parse_manifest(dated.attachments[SHORT].data).layers[0].digest
        assert digest_of((folder / "attestation").read_bytes()) == layer
        if dated.registry in scripts:
            scripts.remove(dated.registry)
            assert proven.script() == 0, proven.said
    assert not scripts


def test_a_catalog_made_again_gives_the_same_answers_to_every_query(pruned: Past) -> None:
    harvest_all(pruned.workspace())
    told = answers(pruned.workspace().catalog)
    (pruned.installation.folder / "catalog.db").unlink()
    rebuilt = rebuild(pruned.workspace())
    assert not rebuilt.failed
    again = answers(pruned.workspace().catalog)
    for name in told:
        assert again[name] == told[name], name


def test_what_is_restored_has_the_same_bytes_and_referrers_and_is_pruned_again(
    pruned: Past, before: dict[str, Found], tmp_path: Path
) -> None:
    back = due(pruned)[::4]
    assert {dated.registry for dated in back} == set(KINDS)
    for dated in back:
        done = restore(pruned.workspace(), dated.image)
        assert done["restored"] == [dated.attachments[SHORT].digest]
        assert verifies(pruned, dated, SHORT, tmp_path), dated
    there = pruned.attached()
    assert all(there[dated.image] == before[dated.image] for dated in back)
    first = {one.deletion for one in tombstones(pruned.workspace())}
    harvest_all(pruned.workspace())
    assert take(pruned, back) not in first
    again = pruned.attached()
    assert all(again[dated.image].keys() < before[dated.image].keys() for dated in back)
