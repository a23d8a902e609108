"""What every archive does, whatever it is made of."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from longseal.archive.interface import Archive
from longseal.canonical import sha256_hex
from longseal.errors import ArchiveError, ConflictError, MalformedError

LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
MUCH_LATER = LATER + timedelta(days=30)

BAD_KEYS = [
    "",
    "/seals",
    "seals/",
    "seals//1",
    ".",
    "..",
    "../seals",
    "seals/../../etc/passwd",
    "seals/./1",
    ".hidden",
    "seals/.1.retain",
    "Seals/1",
    "seals/ä",
    "seals/1\n",
    "seals/1\0",
    "seals\\1",
    "seals/a b",
    "s" * 201,
    "s/" * 256 + "s",
]


def test_what_was_put_is_read_back_with_its_digest(archive: Archive) -> None:
    stored = archive.put("seals/2026-10/seal.json", b"seal")
    assert (stored.key, stored.size, stored.fresh) == ("seals/2026-10/seal.json", 4, True)
    assert stored.sha256 == sha256_hex(b"seal")
    assert archive.get("seals/2026-10/seal.json") == b"seal"
    found = archive.stat("seals/2026-10/seal.json")
    assert found is not None
    assert (found.sha256, found.size, found.fresh) == (stored.sha256, 4, False)
    assert found.version == stored.version


def test_an_empty_object_is_an_object(archive: Archive) -> None:
    archive.put("empty", b"")
    assert archive.get("empty", limit=0) == b""
    assert archive.stat("empty") is not None


def test_the_same_bytes_again_are_no_news_and_no_error(archive: Archive) -> None:
    first = archive.put("a", b"bytes")
    again = archive.put("a", b"bytes")
    assert first.fresh
    assert not again.fresh
    assert again.sha256 == first.sha256


def test_other_bytes_under_a_name_that_is_taken_change_nothing(archive: Archive) -> None:
    archive.put("a", b"first")
    with pytest.raises(ConflictError, match=sha256_hex(b"other")):
        archive.put("a", b"other", MUCH_LATER)
    assert archive.get("a") == b"first"
    found = archive.stat("a")
    assert found is not None
    assert found.retain_until is None


def test_what_is_not_there_has_no_stat_and_cannot_be_read(archive: Archive) -> None:
    archive.put("seals/1", b"x")
    for key in ("seals/2", "seals", "other/1"):
        assert archive.stat(key) is None
        with pytest.raises(ArchiveError):
            archive.get(key)


def test_a_limit_is_the_most_that_is_read(archive: Archive) -> None:
    archive.put("a", b"12345")
    assert archive.get("a", limit=5) == b"12345"
    with pytest.raises(MalformedError, match="more than the 4 bytes"):
        archive.get("a", limit=4)


def test_keys_are_sorted_and_those_of_the_prefix(archive: Archive) -> None:
    names = ["a/b/1", "a-b/1", "a/b", "ab", "b/a", "a/c.json", "a/10", "a/9", "a0"]
    for name in set(names) - {"a/b"}:
        archive.put(name, name.encode())
    assert list(archive.keys("")) == sorted(set(names) - {"a/b"})
    assert list(archive.keys("a/")) == ["a/10", "a/9", "a/b/1", "a/c.json"]
    assert list(archive.keys("a/b/")) == ["a/b/1"]
    assert list(archive.keys("a")) == sorted(n for n in names if n[0] == "a" and n != "a/b")
    assert list(archive.keys("zz/")) == []
    assert list(archive.keys("ab/")) == []


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_name_outside_the_grammar_is_refused_on_every_call(archive: Archive, key: str) -> None:
    for call in (lambda: archive.put(key, b"x"), lambda: archive.get(key)):
        with pytest.raises(MalformedError, match="archive key"):
            call()
    with pytest.raises(MalformedError, match="archive key"):
        archive.stat(key)


@pytest.mark.parametrize("prefix", ["/", "../", "a/../", "a//", ".", "a/.", "A"])
def test_a_prefix_that_no_key_has_is_refused(archive: Archive, prefix: str) -> None:
    with pytest.raises(MalformedError, match="no archive key begins"):
        list(archive.keys(prefix))


def test_the_longest_names_fit(archive: Archive) -> None:
    key = "/".join(["p" * 200, "q" * 200, "r" * 110])
    archive.put(key, b"x", LATER)
    assert list(archive.keys("")) == [key]
    assert archive.get(key) == b"x"


def test_retention_is_kept_extended_and_never_shortened(archive: Archive) -> None:
    def retained() -> datetime | None:
        found = archive.stat("a")
        assert found is not None
        return found.retain_until

    assert archive.put("a", b"x", LATER).retain_until == LATER
    assert retained() == LATER
    assert archive.put("a", b"x", MUCH_LATER).retain_until == MUCH_LATER
    assert retained() == MUCH_LATER
    assert archive.put("a", b"x", LATER).retain_until == MUCH_LATER
    assert archive.put("a", b"x").retain_until == MUCH_LATER
    assert retained() == MUCH_LATER
    assert list(archive.keys("")) == ["a"]


def test_what_is_there_can_be_retained_for_longer_without_its_bytes(archive: Archive) -> None:
    archive.put("packs/one", b"pack", LATER)
    assert archive.retain("packs/one", MUCH_LATER).retain_until == MUCH_LATER
    assert archive.retain("packs/one", LATER).retain_until == MUCH_LATER
    stored = archive.stat("packs/one")
    assert stored is not None and stored.retain_until == MUCH_LATER
    with pytest.raises(ArchiveError, match="is not in the archive"):
        archive.retain("packs/two", LATER)


def test_what_was_put_without_a_date_can_get_one(archive: Archive) -> None:
    assert archive.put("a", b"x").retain_until is None
    assert archive.put("a", b"x", LATER).retain_until == LATER


def test_of_many_writers_with_the_same_bytes_one_is_first(archive: Archive) -> None:
    with ThreadPoolExecutor(8) as pool:
        stored = list(pool.map(lambda _: archive.put("claims/1", b"same", LATER), range(8)))
    assert sum(each.fresh for each in stored) == 1
    assert {each.retain_until for each in stored} == {LATER}
    assert archive.get("claims/1") == b"same"


def test_of_many_writers_with_other_bytes_one_wins_and_the_rest_are_told(archive: Archive) -> None:
    def claim(number: int) -> bytes | None:
        try:
            archive.put("claims/1", b"%d" % number)
        except ConflictError:
            return None
        return b"%d" % number

    with ThreadPoolExecutor(8) as pool:
        winners = [each for each in pool.map(claim, range(8)) if each is not None]
    assert winners == [archive.get("claims/1")]
