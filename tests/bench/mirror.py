"""Pushing images with their attestations to an empty registry, to one that has them, and one large
image: beside regsync, oras and regctl."""

import hashlib
import io
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from resource import RUSAGE_CHILDREN
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from longseal.canonical import canonical_json, digest_of
from longseal.registry.attach import EMPTY, described
from longseal.registry.distribution import DistributionRegistry
from longseal.registry.interface import Manifest
from longseal.registry.model import EMPTY_CONFIG, OCI_MANIFEST
from tests.bench import child
from tests.bench.comparison import Comparison, Figure, Figures, Result, Series, take_turns
from tests.bench.harvest import Turn
from tests.lab import Lab
from tests.lab.registries import Registry, registry

LARGE = 2 * 1024**3
"""Bytes of the one layer of the large image."""

MAX_MIB = 256
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_BLOCK = 1024 * 1024


@contextmanager
def fresh(lab: Lab) -> Iterator[Registry]:
    """An empty registry; what it holds goes with it."""
    with (
        TemporaryDirectory(dir=lab.folder, ignore_cleanup_errors=True) as folder,
        registry("distribution", Path(folder)) as running,
    ):
        yield running


class Pushes:
    """What takes turns at pushing what a registry has, each time to an empty one."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.lab = turn.lab
        self.source = turn.images[0].reference.partition("/")[0]
        self.processor: dict[str, list[float]] = {}
        self.settings = turn.new_settings()
        turn.harvests(self.settings)
        self._numbers = count()
        self._had = {name: self.lab.registry("distribution") for name in ("ours", "regsync")}
        self._fill()

    def longseal(self) -> Mapping[str, float]:
        """Two pushes in a fresh process: the second one has its imports behind it."""
        with fresh(self.lab) as one, fresh(self.lab) as other:
            _, second = self._push(one, other)
        self._note("longseal", second["processor"])
        return {"longseal": second["seconds"]}

    def regsync(self) -> Mapping[str, float]:
        """`regsync once` over every repository, referrers included."""
        with fresh(self.lab) as target:
            config = self._regsync_config(target)
            return {"regsync": self._timed("regsync", "regsync", "once", "-c", str(config))}

    def oras(self) -> Mapping[str, float]:
        """`oras cp -r`, a call an image."""
        argv = ("oras", "cp", "--recursive", "--from-plain-http", "--to-plain-http")
        with fresh(self.lab) as target:
            started = time.perf_counter()
            for image in self.turn.images:
                there = f"{target.host}/{image.repository}:{image.tag}"
                self._timed("oras", *argv, image.reference, there)
            return {"oras": time.perf_counter() - started}

    def longseal_again(self) -> Mapping[str, float]:
        """A push of what is there, in a process that has done one."""
        _, second = self._push(self._had["ours"], self._had["ours"])
        if second["blobs_sent"]:
            raise RuntimeError(f"there was something new: {second}")
        self._note("longseal again", second["processor"])
        return {"longseal again": second["seconds"]}

    def regsync_again(self) -> Mapping[str, float]:
        """`regsync once` with nothing new, less its start-up."""
        again = self._timed(
            "regsync again", "regsync", "once", "-c", str(self._config_of_what_is_there)
        )
        return {"regsync again": max(again - self._timed("start", "regsync", "version"), 0.001)}

    def _fill(self) -> None:
        self._push(self._had["ours"])
        self._config_of_what_is_there = self._regsync_config(self._had["regsync"])
        self.lab.run("regsync", "once", "-c", str(self._config_of_what_is_there))

    def _push(self, *targets: Registry) -> list[dict[str, Any]]:
        document = json.loads(self.settings.read_text())
        document["sites"] = [
            {
                "name": f"site-{number}",
                "kind": "registry",
                "url": target.url,
                "repositories": ["corp/*"],
            }
            for number, target in enumerate(targets)
        ]
        settings = self.settings.with_name("push.yaml")
        settings.write_text(json.dumps(document))
        names = [site["name"] for site in document["sites"]]
        found: list[dict[str, Any]] = child.run(
            "tests.bench.pushing", "site", str(settings), *names
        )
        return found

    def _regsync_config(self, target: Registry) -> Path:
        source = self.source
        document = {
            "version": 1,
            "creds": [{"registry": host, "tls": "disabled"} for host in (source, target.host)],
            "defaults": {"parallel": 8},
            "sync": [
                {
                    "source": f"{source}/{name}",
                    "target": f"{target.host}/{name}",
                    "type": "repository",
                    "referrers": True,
                    "tags": {"deny": ["sha256-.*"]},
                }
                for name in sorted({image.repository for image in self.turn.images})
            ],
        }
        path = self.lab.folder / f"regsync-{next(self._numbers)}.yaml"
        path.write_text(json.dumps(document))
        return path

    def _timed(self, name: str, *argv: str) -> float:
        before, started = child.cpu(RUSAGE_CHILDREN), time.perf_counter()
        self.lab.run(*argv)
        seconds = time.perf_counter() - started
        self._note(name, child.cpu(RUSAGE_CHILDREN) - before)
        return seconds

    def _note(self, name: str, processor: float) -> None:
        self.processor.setdefault(name, []).append(processor)


class Large:
    """What takes turns at one image of one large layer."""

    def __init__(self, pushes: Pushes, size: int) -> None:
        self.lab = pushes.lab
        self.mib: list[float] = []
        self._source = self.lab.registry("distribution")
        self._digest = _put_large(DistributionRegistry("source", self._source.url), size)

    def longseal(self) -> Mapping[str, float]:
        """A copy in a fresh process, its start left out."""
        source = self._source.url
        with fresh(self.lab) as target:
            argv = ("image", source, target.url, "corp/large", self._digest)
            (done,) = child.run("tests.bench.pushing", *argv)
        self.mib.append(done["mib"])
        return {"longseal": done["seconds"]}

    def regctl(self) -> Mapping[str, float]:
        """`regctl image copy`."""
        source = f"{self._source.host}/corp/large@{self._digest}"
        with fresh(self.lab) as target:
            for host in (self._source.host, target.host):
                self.lab.run("regctl", "registry", "set", host, "--tls=disabled")
            started = time.perf_counter()
            self.lab.run("regctl", "image", "copy", source, f"{target.host}/corp/large:v1")
            return {"regctl": time.perf_counter() - started}


def measure(turn: Turn, turns: int, size: int = LARGE) -> list[Result]:
    """First push, nothing new, and one large image."""
    pushes, items = Pushes(turn), turn.attestations
    first = take_turns([pushes.longseal, pushes.regsync, pushes.oras], items, turns)
    again = take_turns([pushes.longseal_again, pushes.regsync_again], items, turns)
    large = Large(pushes, size)
    rates = take_turns([large.longseal, large.regctl], size // _BLOCK, max(1, turns // 2))
    title = f"{len(turn.images)} images with {items} attestations"
    return [
        Comparison(
            f"first push of {title}, verified on the way",
            Series("Longseal", first["longseal"]),
            (
                Series("regsync once", first["regsync"], 1.0),
                Series("oras cp -r, a call an image", first["oras"], 1.2),
            ),
        ),
        Comparison(
            f"push of {title}, nothing new",
            Series("Longseal", again["longseal again"]),
            (Series("regsync once, less its start", again["regsync again"], 1.0),),
        ),
        Figures(
            "processor seconds of a push, the registries' own left out",
            tuple(
                Figure(name, median(pushes.processor[key]) * calls, digits=2)
                for name, key, calls in (
                    ("Longseal, first", "longseal", 1),
                    ("regsync, first", "regsync", 1),
                    ("oras, first", "oras", len(turn.images)),
                    ("Longseal, nothing new", "longseal again", 1),
                    ("regsync, nothing new", "regsync again", 1),
                )
            ),
        ),
        Comparison(
            f"one image of {size // _BLOCK} MiB, in MiB",
            Series("Longseal", rates["longseal"]),
            (Series("regctl image copy", rates["regctl"], 0.85),),
        ),
        Figures(
            "memory of that copy",
            (Figure("MiB resident at most", max(large.mib), MAX_MIB),),
        ),
    ]


def _put_large(registry: DistributionRegistry, size: int) -> str:
    """Push an image of one layer that does not compress; its digest."""
    data = _Noise(size)
    hasher = hashlib.sha256()
    while block := data.read(_BLOCK):
        hasher.update(block)
    data.seek(0)
    layer = {"mediaType": _LAYER, "digest": f"sha256:{hasher.hexdigest()}", "size": size}
    registry.put_blob("corp/large", layer["digest"], size, io.BufferedReader(data, _BLOCK))  # type: ignore[arg-type]
    registry.put_blob("corp/large", digest_of(EMPTY), len(EMPTY), io.BytesIO(EMPTY))
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described(EMPTY_CONFIG, EMPTY),
        "layers": [layer],
    }
    manifest = canonical_json(document)
    registry.put_manifest("corp/large", Manifest(digest_of(manifest), OCI_MANIFEST, manifest))
    return digest_of(manifest)


class _Noise(io.RawIOBase):
    """Random blocks, told apart by their number."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._at = 0
        self._block = os.urandom(_BLOCK)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset if whence == io.SEEK_SET else self._at + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        number, start = divmod(self._at, _BLOCK)
        block = number.to_bytes(8) + self._block[8:]
        data = block[start : start + min(len(buffer), self._size - self._at)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
