"""A prune that is killed at random points, in a process of its own, beside real services.

After each death and after each rerun, what its registry lists and has, and what the archive gives
back whole and has locked, are together all that there ever was. The registry alone has what was
attached since the harvest: its place in the fallback index is at stake each time the index is
written.
"""

import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from threading import Lock, Timer
from typing import Any, Final

import pytest

from longseal.archive import prune
from longseal.archive.pack import read_pack
from longseal.archive.tombstones import tombstones
from longseal.canonical import digest_of, sha256_hex
from longseal.registry.attach import attach
from longseal.registry.connections import Connections
from longseal.registry.interface import Descriptor
from longseal.seal.bundle import MEDIA_TYPE
from longseal.settings import load
from longseal.workspace import Workspace
from tests.lab import registries
from tests.lab.fixtures import Bucket, go_without
from tests.lab.past import REPOSITORY, Past, past
from tests.lab.processes import LabError
from tests.lab.s3 import s3

pytestmark = pytest.mark.lab

POINTS: Final = 50
PARTS: Final = 5
"""Tests among which the points are divided."""

IMAGES: Final = 4
_PACK = re.compile(r".*/packs/sha256/([0-9a-f]{64})\.zip")
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__, "boto3", "sigstore.models"])


def prune_in(config: Path, environ: dict[str, str], plan: str, die: float | None) -> None:
    """Carry out the plan in a process of its own.

    :param die: after so many requests; the fraction says when, within 10 ms of the next
    """
    os.environ.update(environ)
    sent, lock = count(1), Lock()

    def counted(send: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            with lock:
                number = next(sent)
            if die is not None and number == int(die) + 1:
                Timer(die % 1 / 100, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return send(*args, **kwargs)

        return counting

    # To the registry, and to the S3 server and the timestamp authority.
    for owner, name in ((Connections, "ask"), (HTTPConnection, "putrequest")):
        setattr(owner, name, counted(getattr(owner, name)))
    prune.execute(Workspace(load(config, {})), plan, "grace")
    config.with_name("requests").write_text(str(next(sent) - 1))


@dataclass(frozen=True)
class World:
    """All that there is, and a way back to how it was before the first run.

    :param plan: takes one attestation of each image; not begun
    :param members: each attestation, by image and digest
    :param going: image and manifest of each that the plan takes
    :param points: requests of an undisturbed run after which it is killed, and a fraction of 10 ms
    :param storage: folders that hold everything, services' and own
    """

    past: Past
    bucket: Bucket
    client: Any
    plan: str
    members: frozenset[tuple[str, str]]
    going: frozenset[tuple[str, str]]
    points: tuple[float, ...]
    storage: tuple[Path, ...]

    def remember(self) -> None:
        for folder in self.storage:
            _copy(folder, folder.with_name(f"{folder.name}.before"))

    def begin_again(self) -> None:
        for folder in self.storage:
            _copy(folder.with_name(f"{folder.name}.before"), folder)

    def in_registry(self) -> set[tuple[str, str]]:
        return {
            (image, digest_of(blob))
            for image, found in self.past.attached().items()
            for _, blob in found.values()
        }

    def in_archive(self) -> set[tuple[str, str]]:
        """Readable whole, and locked: by the store's own word, not by Longseal's."""
        client = self.client
        found: set[tuple[str, str]] = set()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket.name):
            for key in (item["Key"] for item in page.get("Contents", ())):
                if (named := _PACK.fullmatch(key)) is None:
                    continue
                place = {"Bucket": self.bucket.name, "Key": key}
                data = client.get_object(**place)["Body"].read()
                until = client.head_object(**place).get("ObjectLockRetainUntilDate")
                locked = until is not None and until > datetime.now(UTC)
                if sha256_hex(data) == named[1] and locked:
                    leaves = (one.leaf for one in read_pack(data))
                    found |= {(leaf.image, f"sha256:{leaf.sha256}") for leaf in leaves}
        return found

    def run(self, die: float | None = None) -> int | None:
        """Prune; how the process ended, as :class:`subprocess.Popen` says it."""
        given = (self.past.installation.config, self.bucket.login, self.plan, die)
        process = _FORKS.Process(target=prune_in, args=given)
        process.start()
        process.join(120)
        process.kill()
        process.join()
        return process.exitcode


def _copy(source: Path, target: Path) -> None:
    """All of it, with the attributes in which the S3 server keeps versions and locks.

    The folder itself stays: the server works in it.
    """
    target.mkdir(exist_ok=True)
    for path in target.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    subprocess.run(["cp", "-a", f"{source}/.", target], check=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("killed")
    with ExitStack() as stack:
        try:
            registry = stack.enter_context(
                registries.registry("docker_registry", folder / "registry")
            )
            server = stack.enter_context(s3(folder / "s3"))
        except LabError as error:
            go_without(str(error))
        server.create_bucket("killed")
        bucket = Bucket(server, "killed")
        made = stack.enter_context(past(folder, bucket, {"main": registry}, IMAGES))
        of_workspace = made.workspace().registry("main")
        for number, dated in enumerate(made.images):
            image = of_workspace.manifest(REPOSITORY, dated.image)
            assert image is not None
            subject = Descriptor(image.media_type, image.digest, len(image.data))
            late = b'{"late": %d}' % number
            attach(of_workspace, REPOSITORY, subject, MEDIA_TYPE, late, {})
        planned = prune.plan(made.workspace())
        assert planned is not None
        # Of the registry the links alone: it remembers which blobs it has, and would write none
        # that it has had before.
        links = folder / "registry/storage/docker/registry/v2/repositories"
        found = World(
            past=made,
            bucket=bucket,
            client=server.client(),
            plan=planned.digest,
            members=frozenset(),
            going=frozenset((item.image, item.manifest) for item in planned.items),
            points=(),
            storage=(
                links,
                folder / "s3/buckets",
                folder / "s3/versions",
                made.installation.folder,
            ),
        )
        found = replace(found, members=frozenset(found.in_registry()))
        assert (len(found.members), len(found.going)) == (IMAGES * 4, IMAGES)
        found.remember()
        assert found.run() == 0
        require_done(found)
        requests = int((made.installation.folder / "requests").read_text())
        chance = random.Random(20261124)
        points = (point + chance.random() for point in chance.sample(range(requests), POINTS))
        yield replace(found, points=tuple(sorted(points)))


@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_random_points_and_run_again_nothing_is_ever_lost(
    world: World, part: int
) -> None:
    left = []
    for point in world.points[part::PARTS]:
        world.begin_again()
        assert world.run(point) == -signal.SIGKILL, point
        there = world.in_registry()
        assert not world.members - there - world.in_archive(), point
        left.append(len(there))
        assert world.run() == 0, point
        assert not world.members - world.in_registry() - world.in_archive(), point
        require_done(world)
    # The first was killed before any deletion, the last after all of them.
    assert left[0] == IMAGES * 4
    assert left[-1] == IMAGES * 3


def require_done(world: World) -> None:
    """What an undisturbed run leaves."""
    going = world.going
    workspace = world.past.workspace()
    found = {(image, digest) for image, found in world.past.attached().items() for digest in found}
    assert not found & going
    buried = tombstones(workspace)
    assert {(one.place[2], one.place[3]) for one in buried} == going
    (deletion,) = {one.deletion for one in buried}
    rows = workspace.catalog.evidence()
    assert {(row.image, row.manifest) for row in rows if row.tombstone == deletion} == going
    assert {row.tombstone for row in rows} == {deletion, None}
    actions = Counter(entry.action for entry in workspace.ledger.walk())
    assert (actions["prune.begun"], actions["prune.deleted"]) == (1, 1)
