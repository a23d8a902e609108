"""First harvest, from discovery to verified evidence in the archive, beside cosign."""

import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from statistics import median
from threading import local
from typing import Any

from longseal.harvest import FETCHERS
from longseal.registry.distribution import ACCEPT
from tests.bench import child
from tests.bench.comparison import Comparison, Figure, Figures, Result, Series, take_turns
from tests.lab import Lab, SignedImage
from tests.lab.registries import Registry
from tests.lab.tools import tool


class Turn:
    """What takes turns over one registry with signed images.

    :param images: what `Lab.sign_many` made
    """

    def __init__(self, lab: Lab, registry: Registry, images: Sequence[SignedImage]) -> None:
        self.lab = lab
        self.images = images
        self.attestations = sum(len(image.predicate_types) for image in images)
        self.repositories = len({image.repository for image in images})
        self.requests: list[tuple[str, str]] = []
        self.kind = registry.kind.replace("_", "-")
        self._registry = registry.url
        self._numbers = count()

    def new_settings(self) -> Path:
        """Settings of an installation that has harvested nothing yet."""
        return child.write_settings(
            self.lab.folder / f"bench-{self.kind}-{next(self._numbers)}",
            {"url": self._registry},
            self.lab.trusted_root,
            self.lab.identity,
            self.lab.issuer,
        )

    def harvests(self, *settings: Path) -> list[dict[str, Any]]:
        """What a fresh process has to say of harvests for these settings, each of which has found
        everything verified, or known."""
        results = child.harvests(*settings)
        for result in results:
            if result["verified"] + result["known"] != self.attestations:
                raise RuntimeError(f"{self.attestations} attestations to verify, found {result}")
        return results

    def longseal(self) -> Mapping[str, float]:
        """Two harvests in a fresh process."""
        first, second = self.harvests(self.new_settings(), self.new_settings())
        self.requests = second["requests"]
        return {"longseal": second["seconds"], "first": first["seconds"]}

    def by_image(self) -> Mapping[str, float]:
        """A call for each image. Whatever type it asks for, cosign verifies every attestation of
        the image before it looks at types: so it is credited with all of them."""
        return {"by image": self._verify([image.predicate_types[:1] for image in self.images], 1)}

    def two_at_a_time(self) -> Mapping[str, float]:
        """The same, with two calls at a time."""
        return {"two": self._verify([image.predicate_types[:1] for image in self.images], 2)}

    def by_type(self) -> Mapping[str, float]:
        """A call for each image and type: what it takes to be shown every verdict."""
        types = [tuple(dict.fromkeys(image.predicate_types)) for image in self.images]
        return {"by type": self._verify(types, 1)}

    def download(self) -> Mapping[str, float]:
        """`cosign download attestation`, a call for each image, which verifies nothing."""
        argv = ["download", "attestation"]
        calls = [image.reference for image in self.images]
        return {"download": self._cosign(argv, calls, self.attestations, 1)}

    def registry(self) -> Mapping[str, float]:
        """The very requests of the harvest, by a bare client that does nothing else."""
        host, own = self._registry.removeprefix("http://"), local()

        def ask(request: tuple[str, str]) -> None:
            if not hasattr(own, "connection"):
                own.connection = HTTPConnection(host)
            own.connection.request(*request, headers={"Accept": ACCEPT})
            own.connection.getresponse().read()

        started = time.perf_counter()
        with ThreadPoolExecutor(FETCHERS) as threads:
            for _ in threads.map(ask, self.requests):
                pass
        return {"registry": time.perf_counter() - started}

    def _verify(self, types: Iterable[Sequence[str]], processes: int) -> float:
        lab = self.lab
        who = ["--certificate-identity", lab.identity, "--certificate-oidc-issuer", lab.issuer]
        argv = ["verify-attestation", *who, "--trusted-root", str(lab.trusted_root)]
        asked = [
            (image, name) for image, names in zip(self.images, types, strict=True) for name in names
        ]
        calls = [f"--type={name} {image.reference}" for image, name in asked]
        expected = sum(image.predicate_types.count(name) for image, name in asked)
        return self._cosign(argv, calls, expected, processes)

    def _cosign(
        self, argv: Sequence[str], calls: Sequence[str], expected: int, processes: int
    ) -> float:
        """The seconds of these calls, which show ``expected`` attestations, one a line."""
        started = time.perf_counter()
        done = subprocess.run(
            ["xargs", "-L1", f"-P{processes}", tool("cosign"), *argv],
            input="".join(f"{call}\n" for call in calls),
            env={"HOME": str(self.lab.folder), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - started
        if done.stdout.count("\n") != expected:
            raise RuntimeError(f"cosign showed other than {expected} attestations")
        return seconds


def measure(turn: Turn, turns: int) -> list[Result]:
    """Longseal, cosign in four ways, and the registry, by turns."""
    contenders = [
        turn.longseal,
        turn.by_image,
        turn.download,
        turn.two_at_a_time,
        turn.by_type,
        turn.registry,
    ]
    rates = take_turns(contenders, turn.attestations, turns)
    each = len(turn.requests) / turn.attestations
    ours, alone = (each * median(rates[name]) for name in ("longseal", "registry"))
    return [
        Comparison(
            f"first harvest of {turn.attestations} attestations on {len(turn.images)} images, "
            f"{turn.kind}",
            Series("Longseal", rates["longseal"]),
            (
                Series("cosign verify-attestation, a call an image", rates["by image"], 4.5),
                Series("cosign download attestation, a call an image", rates["download"], 2.5),
                Series("cosign verify-attestation, two calls at a time", rates["two"]),
                Series("cosign verify-attestation, a call an image and type", rates["by type"]),
                Series("Longseal, with all its imports", rates["first"]),
                Series("the registry alone, same requests", rates["registry"]),
            ),
        ),
        Figures(
            f"how near the first harvest comes to the registry's own limit, {turn.kind}",
            (
                Figure("requests of a harvest", len(turn.requests)),
                Figure("requests a second, harvesting", ours),
                Figure("requests a second, the registry alone", alone),
                Figure("part of that limit, in per cent", 100 * ours / alone),
            ),
        ),
    ]
