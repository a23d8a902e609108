"""Plans over many rows, and a prune beside a loop of `regctl` deletions."""

import io
import os
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import update

from longseal.canonical import canonical_json, digest_of
from longseal.catalog.models import Evidence, Seal
from longseal.registry.attach import EMPTY, attachment_manifest, described, list_in_fallback
from longseal.registry.interface import Descriptor, Manifest
from longseal.registry.model import EMPTY_CONFIG, OCI_MANIFEST, fallback_tag
from longseal.settings import Duration
from longseal.workspace import Workspace
from tests.bench import child, unjudged
from tests.bench.bulk import BUNDLE
from tests.bench.comparison import Comparison, Figure, Figures, Result, Series, take_turns
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation
from tests.lab.registries import Registry
from tests.lab.tools import tool

CPU, MIB = 30, 512
"""What is demanded of a plan over a million rows."""

RATIO = 5
REFERRERS = 10
"""Of an image."""

MOST = 500
"""Referrers that `regctl` deletes one by one in a turn; it is credited with the rate of these."""

MONTHS = 25
"""Of evidence, of which the oldest is due."""

LAYER = b"{}  "


def measure_plan(folder: Path, sizes: list[int]) -> list[Result]:
    """A plan over so many rows, in a process of its own, of which a month is due."""
    results: list[Result] = []
    now = datetime.now(UTC).replace(microsecond=0)
    months = [now - timedelta(days=2 + 31 * age) for age in reversed(range(MONTHS))]
    assert Duration(24, "month").after(months[0]) < now < Duration(24, "month").after(months[1])
    (folder / "plan-tsa").mkdir()
    with TimestampAuthorityDouble(folder / "plan-tsa") as authority:
        for size in sizes:
            installation = _installation(folder / f"plan-{size}", authority, layout="registry")
            workspace = installation.workspace()
            unjudged.fill(workspace, size, *months)
            for number in range(-(-size // (unjudged.IMAGES * unjudged.AN_IMAGE))):
                (installation.folder / "registry" / f"corp/service-{number}").mkdir(parents=True)
            _seal_all(workspace, size)
            found = child.run("tests.bench.pruning", str(installation.config))
            results.append(
                Figures(
                    f"plan of a prune over {size:,} rows",
                    (
                        Figure("CPU seconds", found["plan_cpu"], CPU, digits=1),
                        Figure("peak memory, MiB", found["mib"], MIB),
                        Figure("attachments in the plan", found["items"]),
                    ),
                )
            )
    return results


def measure(folder: Path, registry: Registry, images: int, turns: int) -> list[Result]:
    """Prune so many images of ten referrers, and have `regctl` delete the likes of them."""
    (folder / "tsa").mkdir()
    with TimestampAuthorityDouble(folder / "tsa") as authority:
        turn = Turn(folder, registry, authority, images)
        rates = take_turns([turn.longseal, turn.regctl], images * REFERRERS, turns)
    return [
        Comparison(
            f"prune of {images * REFERRERS:,} referrers of {images:,} images",
            Series("Longseal, read back, deleted and buried", rates["longseal"]),
            (Series("a loop of regctl manifest delete --referrers", rates["regctl"], RATIO),),
        ),
        Figures(
            "the last of these prunes",
            (
                Figure("CPU seconds", turn.last["cpu"], digits=1),
                Figure("reads of a pack", turn.last["reads"] / turn.last["packs"], 1, digits=1),
                Figure("peak memory, MiB", turn.last["mib"], MIB),
            ),
        ),
    ]


class Turn:
    """Both contenders find the same in repositories of their own."""

    def __init__(
        self, folder: Path, registry: Registry, authority: TimestampAuthorityDouble, images: int
    ) -> None:
        self.last: dict[str, Any] = {}
        self._folder, self._registry = folder, registry
        self._authority = authority
        self._images = images
        self._numbers = count()

    def longseal(self) -> Mapping[str, float]:
        """A prune that somebody approved: all but the plan."""
        name = f"prune-{next(self._numbers)}"
        installation = _installation(
            self._folder / name,
            self._authority,
            url=self._registry.url,
            repositories=[f"{name}/*"],
        )
        workspace = installation.workspace()
        trust, policy = workspace.keep(workspace.trusted_root), workspace.keep(workspace.policy)
        signed_at = datetime.now(UTC).replace(microsecond=0) - timedelta(days=900)
        evidence = [
            unjudged.packed(
                repository, image, one.data, LAYER, "https://bench/v1", signed_at, trust, policy
            )
            for repository, image, attached in _push(workspace, name, self._images)
            for one in attached
        ]
        for at in range(0, len(evidence), unjudged.PACK):
            rows = unjudged.archived(workspace, evidence[at : at + unjudged.PACK], signed_at)
            unjudged.listed(workspace.catalog, rows)
        child.run("tests.bench.sealing", str(installation.config), "r-bench", "unjudged")
        self.last = child.run("tests.bench.pruning", str(installation.config), "execute")
        if self.last["deleted"] != len(evidence):
            raise RuntimeError(f"{len(evidence)} referrers to delete, found {self.last}")
        return {"longseal": self.last["seconds"]}

    def regctl(self) -> Mapping[str, float]:
        """A call for each referrer, which deletes it and mends the fallback index."""
        name = f"regctl-{next(self._numbers)}"
        installation = _installation(
            self._folder / name, self._authority, url=self._registry.url, repositories=[f"{name}/*"]
        )
        workspace = installation.workspace()
        images = min(self._images, MOST // REFERRERS)
        pushed = list(_push(workspace, name, images))
        host = self._registry.host
        calls = [
            f"{host}/{repository}@{one.digest}\n"
            for repository, _, attached in pushed
            for one in attached
        ]
        argv = [tool("regctl"), f"--host=reg={host},tls=disabled", "manifest", "delete"]
        started = time.perf_counter()
        subprocess.run(
            ["xargs", "-n1", *argv, "--referrers"],
            input="".join(calls),
            env={"HOME": str(self._folder), "PATH": os.environ["PATH"]},
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - started
        registry = workspace.registry(unjudged.REGISTRY)
        for repository, image, _ in pushed:
            if registry.manifest(repository, fallback_tag(image)) is not None:
                raise RuntimeError(f"regctl left the fallback index of {image}")
        return {"regctl": seconds * self._images / images}


def _installation(
    folder: Path, authority: TimestampAuthorityDouble, **place: object
) -> Installation:
    changes = {
        "registries": [{"name": unjudged.REGISTRY, **place}],
        # A repository here is of one month.
        "retention": {"max_share": 100},
    }
    return Installation(folder, authority, changes)


def _seal_all(workspace: Workspace, size: int) -> None:
    """Have the catalog say that one seal covers all: a plan believes it, and a prune does not."""
    seal = Seal(
        sequence=1,
        period="r-bench",
        digest=digest_of(b"seal"),
        root="00" * 32,
        size=size,
        sealed_at=workspace.now(),
    )
    with workspace.catalog.session() as session:
        session.add(seal)
        session.flush()
        session.execute(update(Evidence).values(seal=seal.sequence))


def _push(workspace: Workspace, name: str, images: int) -> list[tuple[str, str, list[Manifest]]]:
    """Put images of ten referrers into the registry: repository, image and referrers of each."""
    registry = workspace.registry(unjudged.REGISTRY)

    def push(number: int) -> tuple[str, str, list[Manifest]]:
        repository = f"{name}/service-{number // unjudged.IMAGES}"
        for blob in (EMPTY, LAYER):
            registry.put_blob(repository, digest_of(blob), len(blob), io.BytesIO(blob))
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": described(EMPTY_CONFIG, EMPTY),
            "layers": [],
            "annotations": {"number": f"{number}"},
        }
        data = canonical_json(document)
        image = Manifest(digest_of(data), OCI_MANIFEST, data)
        registry.put_manifest(repository, image, f"v{number}")
        subject = Descriptor(OCI_MANIFEST, image.digest, len(data))
        attached = [
            attachment_manifest(subject, BUNDLE, LAYER, {"order": f"{order}"})
            for order in range(REFERRERS)
        ]
        for one in attached:
            registry.put_manifest(repository, one)
        list_in_fallback(registry, repository, image.digest, attached)
        return repository, image.digest, attached

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(push, range(images)))
