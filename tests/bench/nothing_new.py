"""A harvest that finds everything known, beside the first one: its time, and what it asks for."""

from collections.abc import Mapping

from tests.bench.comparison import Comparison, Figure, Figures, Result, Series, take_turns
from tests.bench.harvest import Turn


def measure(turn: Turn, turns: int) -> list[Result]:
    """Harvests of the same registry in the same process: the first, and the one after it."""
    requests: list[tuple[str, str]] = []
    verified = 0

    def run() -> Mapping[str, float]:
        nonlocal requests, verified
        other, chosen = turn.new_settings(), turn.new_settings()
        # The first of a process pays for the imports, and is not counted.
        _, first, again = turn.harvests(other, chosen, chosen)
        requests, verified = again["requests"], again["verified"]
        return {"first": first["seconds"], "again": again["seconds"]}

    rates = take_turns([run], turn.attestations, turns)
    paths = [path for _, path in requests]
    listings = sum("/tags/list" in path for path in paths)
    catalogs = sum("/v2/_catalog" in path for path in paths)
    # This registry has no referrers API: who asks for it finds out what it cannot do.
    probes = sum("/referrers/" in path for path in paths)
    rest = len(paths) - listings - catalogs - probes
    return [
        Comparison(
            f"harvest with nothing new of {turn.attestations} attestations",
            Series("Longseal, nothing new", rates["again"]),
            (Series("Longseal, the first", rates["first"], 6.0),),
        ),
        Figures(
            "what a harvest with nothing new asks for",
            (
                Figure("tag listings a repository", listings / turn.repositories, 1, digits=2),
                Figure("other requests an image", rest / len(turn.images), 2, digits=2),
                Figure("questions for the referrers API, asked earlier that day", probes, 0),
                Figure("blobs", sum("/blobs/" in path for path in paths), 0),
                Figure("verifications", verified, 0),
            ),
        ),
    ]
