"""Blobs on their way into a registry: in pieces, over links that fail, and from next door."""

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from tests.doubles.registry import Failure, RegistryDouble, Start
from tests.link import Fault, Link

from longseal.canonical import digest_of
from longseal.errors import RefusedError, RegistryError
from longseal.registry import upload
from longseal.registry.copy import copy_blob
from longseal.registry.distribution import DistributionRegistry
from longseal.registry.interface import Descriptor

NAME, OTHER = "corp/app", "corp/other"
DATA = os.urandom(1_000_000)
DIGEST = digest_of(DATA)
BLOB = Descriptor("application/octet-stream", DIGEST, len(DATA))


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "PIECE", 100_000)


def put(registry: DistributionRegistry, data: bytes = DATA, name: str = NAME) -> bool:
    return registry.put_blob(name, digest_of(data), len(data), io.BytesIO(data))


@contextmanager
def linked(server: RegistryDouble) -> Iterator[tuple[Link, DistributionRegistry]]:
    with ExitStack() as stack:
        link = stack.enter_context(Link(server.host))
        options = {"retries": 3, "timeout": 0.5, "backoff": 0.001}
        yield link, DistributionRegistry("far", link.url, **options)  # type: ignore[arg-type]


def sent(server: RegistryDouble) -> int:
    return sum(len(r.body) for r in server.requests if r.method in ("PATCH", "PUT"))


def test_a_large_blob_goes_in_pieces(start: Start) -> None:
    server, registry = start()
    assert put(registry)
    assert server.repository(NAME).blobs == {DIGEST: DATA}
    pieces = [r for r in server.requests if r.method == "PATCH"]
    assert [len(r.body) for r in pieces] == [100_000, 200_000, 400_000, 300_000]
    assert pieces[2].headers["Content-Range"] == "300000-699999"
    assert sent(server) == len(DATA)


def test_a_registry_that_wants_larger_pieces_gets_them(start: Start) -> None:
    server, registry = start()
    server.quirks.least_piece = 400_000
    put(registry)
    assert [len(r.body) for r in server.requests if r.method == "PATCH"] == [
        400_000,
        600_000,
    ]


@pytest.mark.parametrize("fault", ["drop", "stall"])
@pytest.mark.parametrize("at", [150_000, 420_000, 999_999])
def test_an_upload_that_is_cut_goes_on_where_it_was(start: Start, fault: Fault, at: int) -> None:
    server, _ = start()
    with linked(server) as (link, registry):
        link.fail_after(at, fault)
        assert put(registry)
        assert link.struck == 1
    assert server.repository(NAME).blobs == {DIGEST: DATA}
    assert server.count("POST") == 1
    # What had arrived is not sent again; of a stall the registry learns late.
    assert sent(server) <= len(DATA) + (len(DATA) // 2 if fault == "stall" else 1)


def test_what_is_changed_on_the_way_is_never_stored(start: Start) -> None:
    server, _ = start()
    with linked(server) as (link, registry):
        link.fail_after(550_000, "corrupt")
        with pytest.raises(RegistryError, match="DIGEST_INVALID"):
            put(registry)
        assert server.repository(NAME).blobs == {}
        assert put(registry)
    assert server.repository(NAME).blobs == {DIGEST: DATA}


def test_an_upload_that_the_registry_forgot_begins_anew(start: Start) -> None:
    server, registry = start()
    server.fail("PATCH", Failure(404), times=1)
    assert put(registry)
    assert server.repository(NAME).blobs == {DIGEST: DATA}
    assert server.count("POST") == 2


def test_a_registry_that_always_forgets_is_given_up(start: Start) -> None:
    server, registry = start()
    server.fail("PATCH", Failure(404))
    with pytest.raises(RegistryError, match="keeps forgetting"):
        put(registry)
    assert server.count("POST") == upload.MAX_RESTARTS


def test_a_closing_answer_that_was_lost_is_no_failure(start: Start) -> None:
    server, registry = start()
    # Stored, and the answer broken off: asked again, the registry has forgotten the upload.
    server.lose_answer = "PUT"
    assert put(registry)
    assert server.repository(NAME).blobs == {DIGEST: DATA}


def test_a_full_registry_refuses_with_its_own_word(start: Start) -> None:
    server, registry = start()
    server.fail("PATCH", Failure(413, body=b'{"errors":[{"code":"SIZE_TOO_LARGE"}]}'))
    with pytest.raises(RefusedError, match="413 SIZE_TOO_LARGE"):
        put(registry)
    assert server.repository(NAME).blobs == {}


def test_a_source_that_breaks_off_is_read_on_from_there(start: Start) -> None:
    server, source = start()
    far, target = start()
    server.add_blob(NAME, DATA)
    server.fail("GET .*/blobs/", Failure(truncate=True), times=2)
    assert copy_blob(source, target, NAME, NAME, BLOB).bytes_sent == len(DATA)
    assert far.repository(NAME).blobs == {DIGEST: DATA}
    first, *ranges = [r.headers.get("Range") for r in server.requests if "/blobs/" in r.path]
    assert first is None
    starts = [int((one or "").removeprefix("bytes=").removesuffix("-")) for one in ranges]
    assert 200_000 < starts[0] <= 500_000 < starts[1] <= 750_000


def test_a_source_without_ranges_is_read_again(start: Start) -> None:
    server, source = start(ranges=False)
    far, target = start()
    server.add_blob(NAME, DATA)
    server.fail("GET .*/blobs/", Failure(truncate=True), times=1)
    assert copy_blob(source, target, NAME, NAME, BLOB).bytes_sent == len(DATA)
    assert far.repository(NAME).blobs == {DIGEST: DATA}


def test_a_blob_that_another_repository_has_is_mounted(start: Start) -> None:
    server, registry = start()
    assert put(registry)
    before = sent(server)
    assert not put(registry, name=OTHER)
    assert server.repository(OTHER).blobs == {DIGEST: DATA}
    assert sent(server) == before


@pytest.mark.parametrize("size", [50_000, 1_000_000])
def test_a_registry_that_does_not_mount_is_sent_the_bytes(start: Start, size: int) -> None:
    server, registry = start(mounts=False)
    data = DATA[:size]
    assert put(registry, data)
    assert put(registry, data, OTHER)
    assert server.repository(OTHER).blobs == {digest_of(data): data}
    # The upload that the registry opened instead was used.
    assert server.count("POST") == 2


def test_one_that_may_not_mount_is_sent_the_bytes(start: Start) -> None:
    server, registry = start()
    put(registry)
    server.fail("POST .*mount=", Failure(403))
    assert put(registry, name=OTHER)
    assert server.repository(OTHER).blobs == {DIGEST: DATA}


def test_uploads_keep_to_their_bandwidth(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    _, registry = start(client={"bandwidth": 100_000_000})
    turns: list[None] = []
    monkeypatch.setattr(registry._http._bandwidth, "wait", lambda: turns.append(None))
    put(registry)
    # Blocks of 65,536 bytes, and what is left of each of four pieces.
    assert 16 <= len(turns) <= 16 + 4
