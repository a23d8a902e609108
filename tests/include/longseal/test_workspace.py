from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation

from longseal.registry.interface import Registry


def test_threads_share_one_registry_so_that_each_blob_is_brought_once(
    tmp_path: Path, honest_authority: TimestampAuthorityDouble
) -> None:
    main = {"name": "main", "url": "http://127.0.0.1:1"}
    made = Installation(tmp_path, honest_authority, {"registries": [main]})
    workspace, threads = made.workspace(), 16
    start = Barrier(threads)

    def ask(_: int) -> Registry:
        start.wait()
        return workspace.registry("main")

    with ThreadPoolExecutor(threads) as pool:
        assert len(set(pool.map(ask, range(threads)))) == 1
