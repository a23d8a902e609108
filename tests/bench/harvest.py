"""Harvest, from discovery to verified evidence in the archive, beside `cosign verify-attestation`.

`python -m tests.bench.harvest SETTINGS...` is one turn: a harvest for each of the settings, whose
catalogs and archives are empty, and the seconds of each as JSON. The first one pays for every
import; the others show what a worker does once it runs. Each makes its own processes and
connections. Left out are the interpreter's start and the reading of the settings.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from threading import local
from typing import Any

from longseal import harvest
from longseal.registry.distribution import ACCEPT
from longseal.settings import load
from longseal.workspace import Workspace
from tests.bench.comparison import Comparison, Series, take_turns
from tests.lab import Lab, SignedImage
from tests.lab.tools import tool

ROOT = Path(__file__).parents[2]

SETTINGS = """\
organisation: stella.example
catalog: sqlite:///catalog.db
archive: {{kind: directory, path: archive}}
trust: {{trusted_root: {lab.trusted_root}}}
registries:
  - {{name: main, url: "{registry}", repositories: ["corp/*"]}}
policy:
  - repositories: ["corp/*"]
    predicates: ["https://stella-ops.example/**"]
    identities: [{{issuer: "{lab.issuer}", identity: {lab.identity}}}]
signer: {{kind: file, path: unused.pem}}
timestamps: [{{url: "{lab.tsa_url}", certificates: {lab.tsa_chain}}}]
"""


class Turn:
    """What takes turns over one registry with signed images.

    :param images: what `Lab.sign_many` made
    """

    def __init__(self, lab: Lab, registry: str, images: Sequence[SignedImage]) -> None:
        self._lab = lab
        self._registry = registry
        self._images = images
        self.attestations = sum(len(image.predicate_types) for image in images)
        self.requests: list[tuple[str, str]] = []
        self.settings = Path()
        self._numbers = count()

    def longseal(self) -> Mapping[str, float]:
        """Two harvests in a fresh process."""
        settings = [self._workspace(), self._workspace()]
        found = child("tests.bench.harvest", *map(str, settings))
        for result in found["harvests"]:
            if result["verified"] != self.attestations:
                raise RuntimeError(f"{self.attestations} attestations to verify, found {result}")
        self.requests, self.settings = found["requests"], settings[-1]
        first, second = (result["seconds"] for result in found["harvests"])
        return {"longseal": second, "first": first}

    def by_image(self) -> Mapping[str, float]:
        """A call for each image. Whatever type it asks for, cosign verifies every attestation of
        the image before it looks at types: so it is credited with all of them."""
        return {"by image": self._cosign([image.predicate_types[:1] for image in self._images], 1)}

    def two_at_a_time(self) -> Mapping[str, float]:
        """The same, with two calls at a time."""
        return {"two": self._cosign([image.predicate_types[:1] for image in self._images], 2)}

    def by_type(self) -> Mapping[str, float]:
        """A call for each image and type: what it takes to be shown every verdict."""
        types = [tuple(dict.fromkeys(image.predicate_types)) for image in self._images]
        return {"by type": self._cosign(types, 1)}

    def registry(self) -> Mapping[str, float]:
        """The very requests of the harvest, by a bare client that does nothing else."""
        host, own = self._registry.removeprefix("http://"), local()

        def ask(request: tuple[str, str]) -> None:
            if not hasattr(own, "connection"):
                own.connection = HTTPConnection(host)
            own.connection.request(*request, headers={"Accept": ACCEPT})
            own.connection.getresponse().read()

        started = time.perf_counter()
        with ThreadPoolExecutor(harvest.FETCHERS) as threads:
            for _ in threads.map(ask, self.requests):
                pass
        return {"registry": time.perf_counter() - started}

    def _workspace(self) -> Path:
        folder = self._lab.folder / f"bench-{next(self._numbers)}"
        (folder / "archive").mkdir(parents=True)
        settings = folder / "longseal.yaml"
        settings.write_text(SETTINGS.format(lab=self._lab, registry=self._registry))
        return settings

    def _cosign(self, types: Iterable[Sequence[str]], processes: int) -> float:
        lab = self._lab
        who = ["--certificate-identity", lab.identity, "--certificate-oidc-issuer", lab.issuer]
        verify = [tool("cosign"), "verify-attestation", *who, "--trusted-root"]
        calls = [
            f"--type={name} {image.reference}\n"
            for image, names in zip(self._images, types, strict=True)
            for name in names
        ]
        expected = sum(
            image.predicate_types.count(name)
            for image, names in zip(self._images, types, strict=True)
            for name in names
        )
        started = time.perf_counter()
        done = subprocess.run(
            ["xargs", "-L1", f"-P{processes}", *verify, str(lab.trusted_root)],
            input="".join(calls),
            env={"HOME": str(lab.folder), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - started
        if done.stdout.count("\n") != expected:
            raise RuntimeError(f"cosign showed other than {expected} attestations")
        return seconds


def compare(turn: Turn, turns: int) -> Comparison:
    """Longseal, cosign in three ways, and the registry, by turns."""
    contenders = [turn.longseal, turn.by_image, turn.two_at_a_time, turn.by_type, turn.registry]
    rates = take_turns(contenders, turn.attestations, turns)
    return Comparison(
        f"harvest of {turn.attestations} attestations",
        Series("Longseal", rates["longseal"]),
        (
            Series("cosign, a call an image", rates["by image"], demanded=3.5),
            Series("cosign, two such calls at a time", rates["two"]),
            Series("cosign, a call an image and type", rates["by type"]),
            Series("Longseal, with all its imports", rates["first"]),
            Series("the registry alone, same requests", rates["registry"]),
        ),
    )


def child(module: str, *arguments: str) -> Any:
    """Run a module in a fresh process, and parse what it prints."""
    argv = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


class _Requests(logging.Handler):
    """Methods and paths, as urllib3 logs them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and len(record.args) == 8:
            self.seen.append((str(record.args[3]), str(record.args[4])))


def _harvest(path: str) -> dict[str, Any]:
    settings = load(Path(path), os.environ)
    started = time.perf_counter()
    workspace = Workspace(settings)
    result = harvest.Harvested()
    for batch in harvest.plan(workspace)[0]:
        result.add(harvest.harvest(workspace, batch))
    return {"seconds": time.perf_counter() - started, **result.total.to_json()}


def _main() -> None:
    requests, log = _Requests(), logging.getLogger("urllib3.connectionpool")
    log.addHandler(requests)
    log.setLevel(logging.DEBUG)
    harvests = [_harvest(sys.argv[1])]
    log.setLevel(logging.WARNING)
    harvests += map(_harvest, sys.argv[2:])
    print(json.dumps({"requests": requests.seen, "harvests": harvests}))


if __name__ == "__main__":
    _main()
