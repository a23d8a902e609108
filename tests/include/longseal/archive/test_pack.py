import io
import re
import struct
import subprocess
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from longseal.archive import pack as packs
from longseal.archive.directory import DirectoryArchive
from longseal.archive.interface import Archive
from longseal.archive.leaf import Leaf
from longseal.archive.pack import (
    Evidence,
    Label,
    index_key,
    label_key,
    load_pack,
    pack_key,
    pack_label,
    packs_in,
    read_pack,
    store_index,
    store_pack,
    write_pack,
)
from longseal.canonical import digest_of, sha256_hex
from longseal.errors import LongsealError, MalformedError, RefusedError, VerificationError

PAGE = Path(__file__).parents[4] / "docs/formats/pack.md"

MakeEvidence = Callable[..., Evidence]


@pytest.fixture
def evidence(make_evidence: MakeEvidence) -> tuple[Evidence, ...]:
    """Three payloads, one of them on two images; one manifest and one proof in common."""
    items = [
        make_evidence(b"first", b"m1", (b"proof", b"chain")),
        make_evidence(b"second", b"m2", (b"proof",), verdict="rejected", reason="no-rule: x"),
        make_evidence(b"second", b"m2", (b"proof",), image=digest_of(b"other image")),
        make_evidence(b"", b"m2"),
    ]
    return tuple(sorted(items, key=lambda item: item.leaf.line()))


def rezip(data: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    """The same pack with other members, in the pack's own form."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    change(members)
    return packs._zip(members)


def foreign_zip(data: bytes, compression: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    """The same members, written by another ZIP library."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as file,
        zipfile.ZipFile(out, "w", compression) as other,
    ):
        other.comment = comment
        for info in file.infolist():
            other.writestr(zipfile.ZipInfo(info.filename), file.read(info), compression)
    return out.getvalue()


def test_what_was_packed_is_read_back(evidence: tuple[Evidence, ...]) -> None:
    pack = write_pack(evidence)
    assert read_pack(pack.data) == evidence
    assert pack.digest == digest_of(pack.data)
    assert pack.leaves == tuple(item.leaf.line() for item in evidence)


def test_order_and_repetition_make_no_difference(evidence: tuple[Evidence, ...]) -> None:
    assert write_pack((*reversed(evidence), *evidence)) == write_pack(evidence)


def test_what_is_in_common_is_stored_once(evidence: tuple[Evidence, ...]) -> None:
    with zipfile.ZipFile(io.BytesIO(write_pack(evidence).data)) as file:
        assert file.namelist() == sorted(
            [
                f"blobs/sha256/{sha256_hex(b)}"
                for b in (b"first", b"second", b"", b"proof", b"chain")
            ]
            + ["leaves.jsonl"]
            + [f"manifests/sha256/{sha256_hex(b)}" for b in (b"m1", b"m2")]
        )
        assert file.read("leaves.jsonl") == b"".join(item.leaf.line() + b"\n" for item in evidence)


def test_stock_unzip_reads_a_pack(evidence: tuple[Evidence, ...], tmp_path: Path) -> None:
    (tmp_path / "pack.zip").write_bytes(write_pack(evidence).data)
    subprocess.run(["unzip", "-q", "pack.zip"], cwd=tmp_path, check=True)
    first = tmp_path / "blobs/sha256" / sha256_hex(b"first")
    assert first.read_bytes() == b"first"
    assert datetime.fromtimestamp(first.stat().st_mtime).year == 1980


def test_the_page_has_the_vector_that_the_code_makes() -> None:
    text = PAGE.read_text()
    block = re.search(r"```json\n(.*?)\n```", text, re.DOTALL)
    digest = re.search(r"`(sha256:[0-9a-f]{64})`", text)
    assert block is not None
    assert digest is not None
    item = Evidence(Leaf.parse(block[1].encode()), b"{}", b"bundle", (b"proof",))
    pack = write_pack([item])
    assert pack.digest == digest[1]
    assert read_pack(pack.data) == (item,)


def test_no_evidence_makes_no_pack() -> None:
    with pytest.raises(RefusedError):
        write_pack([])


@pytest.mark.parametrize("limit", ["MAX_MEMBERS", "MAX_PACK_BYTES"])
def test_more_than_a_pack_holds_is_refused_on_both_sides(
    evidence: tuple[Evidence, ...], monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    pack = write_pack(evidence)
    full = 8 if limit == "MAX_MEMBERS" else len(pack.data)
    monkeypatch.setattr(packs, limit, full)
    assert read_pack(write_pack(evidence).data) == evidence
    monkeypatch.setattr(packs, limit, full - 1)
    with pytest.raises(RefusedError, match="divide the evidence"):
        write_pack(evidence)
    with pytest.raises(MalformedError):
        read_pack(pack.data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda item: Evidence(item.leaf, item.manifest, b"other", item.material),
        lambda item: Evidence(item.leaf, b"other", item.payload, item.material),
        lambda item: Evidence(item.leaf, item.manifest, item.payload, (b"other",)),
        lambda item: Evidence(item.leaf, item.manifest, item.payload, ()),
        lambda item: Evidence(item.leaf, item.manifest, item.payload, (b"proof", b"proof")),
    ],
)
def test_bytes_that_do_not_fit_their_leaf_are_not_packed(
    make_evidence: MakeEvidence, spoil: Callable[[Evidence], Evidence]
) -> None:
    with pytest.raises((VerificationError, MalformedError)):
        write_pack([spoil(make_evidence(material=(b"proof",)))])


def test_a_sha512_or_size_that_does_not_hold_is_found(make_evidence: MakeEvidence) -> None:
    for fields in ({"sha512": "0" * 128}, {"size": 7}):
        with pytest.raises(VerificationError, match="SHA-512"):
            write_pack([make_evidence(**fields)])


def _swap(members: dict[str, bytes]) -> None:
    members[f"blobs/sha256/{sha256_hex(b'first')}"] = b"swapped"


def _lose(members: dict[str, bytes]) -> None:
    del members[f"blobs/sha256/{sha256_hex(b'proof')}"]


def _lose_manifest(members: dict[str, bytes]) -> None:
    del members[f"manifests/sha256/{sha256_hex(b'm1')}"]


def _add(members: dict[str, bytes]) -> None:
    members[f"blobs/sha256/{sha256_hex(b'unnamed')}"] = b"unnamed"


def _misplace(members: dict[str, bytes]) -> None:
    members[f"manifests/sha256/{sha256_hex(b'first')}"] = b"first"


def _escape(members: dict[str, bytes]) -> None:
    members["../../etc/passwd"] = b""


def _absolute(members: dict[str, bytes]) -> None:
    members["/blobs/sha256/" + "0" * 64] = b""


def _upper(members: dict[str, bytes]) -> None:
    members["LEAVES.JSONL"] = members["leaves.jsonl"]


def _no_leaves(members: dict[str, bytes]) -> None:
    del members["leaves.jsonl"]


def _empty_leaves(members: dict[str, bytes]) -> None:
    members["leaves.jsonl"] = b""


def _blank_line(members: dict[str, bytes]) -> None:
    members["leaves.jsonl"] = b"\n" + members["leaves.jsonl"]


def _cut_leaves(members: dict[str, bytes]) -> None:
    members["leaves.jsonl"] = members["leaves.jsonl"][:-1]


def _unsorted(members: dict[str, bytes]) -> None:
    members["leaves.jsonl"] = b"".join(members["leaves.jsonl"].splitlines(keepends=True)[::-1])


def _twice(members: dict[str, bytes]) -> None:
    first, *rest = members["leaves.jsonl"].splitlines(keepends=True)
    members["leaves.jsonl"] = b"".join([first, first, *rest])


def _windows(members: dict[str, bytes]) -> None:
    members["leaves.jsonl"] = members["leaves.jsonl"].replace(b"\n", b"\r\n")


def _false_leaf(members: dict[str, bytes]) -> None:
    members["leaves.jsonl"] = members["leaves.jsonl"].replace(b'"size":5', b'"size":4')


@pytest.mark.parametrize(
    "change",
    [
        _swap,
        _lose,
        _lose_manifest,
        _add,
        _misplace,
        _escape,
        _absolute,
        _upper,
        _no_leaves,
        _empty_leaves,
        _blank_line,
        _cut_leaves,
        _unsorted,
        _twice,
        _windows,
        _false_leaf,
    ],
)
def test_members_that_do_not_agree_with_each_other_are_refused(
    evidence: tuple[Evidence, ...], change: Callable[[dict[str, bytes]], None]
) -> None:
    data = rezip(write_pack(evidence).data, change)
    with pytest.raises((MalformedError, VerificationError)):
        read_pack(data)


@pytest.mark.parametrize(
    "spoil",
    [
        foreign_zip,
        lambda data: foreign_zip(data, zipfile.ZIP_DEFLATED),
        lambda data: foreign_zip(data, comment=b"hello"),
        lambda data: b"#!/bin/sh\n" + data,
        lambda data: data + b"\0",
        lambda data: data + data,
        lambda data: data.replace(b"PK\3\4\x0a\0\0\0", b"PK\3\4\x0a\0\x01\0", 1),
        lambda data: data.replace(b"\x21\0", b"\x22\0", 1),
        lambda data: data.replace(b"leaves.jsonl", b"leaves.jsonm", 1),
        lambda data: b"",
        lambda data: b"PK\5\6" + b"\0" * 18,
        lambda data: b"not a zip",
    ],
)
def test_a_zip_in_another_form_is_refused(
    evidence: tuple[Evidence, ...], spoil: Callable[[bytes], bytes]
) -> None:
    data = write_pack(evidence).data
    assert spoil(data) != data
    with pytest.raises(MalformedError):
        read_pack(spoil(data))


def test_a_pack_cut_off_anywhere_or_changed_anywhere_is_refused(
    make_evidence: MakeEvidence,
) -> None:
    data = write_pack([make_evidence(material=(b"proof",))]).data
    for at in range(len(data)):
        with pytest.raises(LongsealError):
            read_pack(data[:at])
        with pytest.raises(LongsealError):
            read_pack(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_a_member_of_a_size_it_does_not_have_is_refused(make_evidence: MakeEvidence) -> None:
    data = write_pack([make_evidence()]).data
    for size in (0xFFFFFFFF, 0xFFFFFFFE, 0):
        claim = data[:18] + struct.pack("<LL", size, size) + data[26:]
        with pytest.raises(MalformedError):
            read_pack(claim)


def test_a_name_given_twice_is_refused(make_evidence: MakeEvidence) -> None:
    data = write_pack([make_evidence()]).data
    first = data[: data.index(b"PK\3\4", 4)]
    with pytest.raises(MalformedError):
        read_pack(first + data)


def test_the_index_has_a_row_for_each_leaf(evidence: tuple[Evidence, ...]) -> None:
    rows = pq.read_table(io.BytesIO(write_pack(evidence).index)).to_pylist()
    assert len(rows) == len(evidence)
    for row, item in zip(rows, evidence, strict=True):
        leaf = item.leaf
        assert row == {
            "bundle_sha256": leaf.sha256,
            "size": leaf.size,
            "image": leaf.image,
            "repository": leaf.repository,
            "predicate_type": leaf.predicate_type,
            "identity": leaf.signer and leaf.signer.identity,
            "issuer": leaf.signer and leaf.signer.issuer,
            "signed_at": leaf.signed_at,
            "time_source": leaf.time_source,
            "collected_at": leaf.collected_at,
            "verdict": leaf.verdict,
            "reason": leaf.reason,
            "manifest": leaf.manifest,
            "policy": leaf.policy,
            "trust": leaf.trust,
        }


def test_a_pack_is_stored_with_its_index_and_loaded_by_digest(
    archive: Archive, evidence: tuple[Evidence, ...]
) -> None:
    pack = write_pack(evidence)
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    assert store_pack(archive, pack, until).fresh
    assert not store_pack(archive, pack, until).fresh
    assert load_pack(archive, pack.digest) == evidence
    assert list(archive.keys("packs/")) == [index_key(pack.digest), pack_key(pack.digest)]
    for key in (index_key(pack.digest), pack_key(pack.digest)):
        found = archive.stat(key)
        assert found is not None
        assert found.retain_until == until


def test_a_pack_has_the_label_that_it_was_first_given(
    archive: Archive, evidence: tuple[Evidence, ...]
) -> None:
    pack = write_pack(evidence)
    assert pack_label(archive, pack.digest) is None
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    store_pack(archive, pack, until, "default.verified")
    store_pack(archive, pack, until + timedelta(days=1), "other.verified")
    assert pack_label(archive, pack.digest) == Label("default.verified", until)
    assert packs_in(archive) == [pack.digest]
    found = archive.stat(label_key(pack.digest))
    assert found is not None and found.retain_until == until


@pytest.mark.parametrize("data", [b"[]", b"{}", b'{"class":1,"retainUntil":"2026"}', b"\xff"])
def test_what_is_no_label_is_not_read_as_one(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Label.parse(data)


def test_the_label_in_the_page_is_what_the_code_makes() -> None:
    label = Label("sbom.verified", datetime(2028, 12, 1, tzinfo=UTC))
    assert f"    {label.format().decode()}\n" in PAGE.read_text()


def test_an_index_that_a_crash_prevented_is_written_later(
    archive: Archive, evidence: tuple[Evidence, ...]
) -> None:
    pack = write_pack(evidence)
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    archive.put(pack_key(pack.digest), pack.data, until)
    store_index(archive, pack.digest, until)
    store_index(archive, pack.digest, until)
    assert archive.get(index_key(pack.digest)) == pack.index
    found = archive.stat(index_key(pack.digest))
    assert found is not None
    assert found.retain_until == until


def test_an_index_that_another_library_wrote_is_left_alone(
    tmp_path: Path, evidence: tuple[Evidence, ...]
) -> None:
    archive, pack = DirectoryArchive(tmp_path), write_pack(evidence)
    archive.put(index_key(pack.digest), b"the same rows, other bytes")
    assert store_pack(archive, pack).fresh


def test_a_pack_that_is_not_the_one_named_is_not_loaded(
    tmp_path: Path, evidence: tuple[Evidence, ...]
) -> None:
    archive = DirectoryArchive(tmp_path)
    pack, other = write_pack(evidence), write_pack(evidence[:1])
    archive.put(pack_key(pack.digest), other.data)
    with pytest.raises(VerificationError, match=pack.digest):
        load_pack(archive, pack.digest)
