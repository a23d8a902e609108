"""Packs: immutable ZIP files of evidence, each named by its SHA-256, and their Parquet indexes.

The bytes of a pack follow from the evidence alone (``docs/formats/pack.md``), so reading one is
simple and strict: the members are read in order, written again, and compared with what was found.
No decompressor and no ZIP directory of somebody else's making is ever trusted.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final

from longseal.archive.interface import Archive, Stored
from longseal.archive.leaf import Leaf
from longseal.canonical import (
    canonical_json,
    digest_of,
    digest_set,
    hex_of,
    parse_object,
    parse_timestamp,
    sha256_hex,
    timestamp,
)
from longseal.errors import ConflictError, MalformedError, RefusedError, VerificationError
from longseal.seal.tree import leaf_hash

MAX_PACK_BYTES: Final = 256 * 1024 * 1024
"""Largest pack, in bytes: packs are held in memory whole."""

MAX_MEMBERS: Final = 65_534
"""Most members of a pack: a ZIP needs its 64-bit extension beyond."""

MAX_LABEL_BYTES: Final = 4096

_PACK = re.compile(r"packs/sha256/([0-9a-f]{64})\.zip").fullmatch
_MEMBER = re.compile(r"leaves\.jsonl|(?:blobs|manifests)/sha256/[0-9a-f]{64}")
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_VERSION_NEEDED = 10
_MADE_BY_UNIX = 3 << 8 | 20
_JANUARY_1980 = 1 << 5 | 1
_READ_ONLY_FILE = 0o100444 << 16


@dataclass(frozen=True, slots=True)
class Evidence:
    """An attestation's untouched bytes and all that its verification needs later.

    :param leaf: what is said of it
    :param manifest: the OCI manifest that carried it, as found
    :param payload: the bundle or DSSE layer, as found
    :param material: proofs and certificates added, in the order of the leaf's ``material``
    """

    leaf: Leaf
    manifest: bytes
    payload: bytes
    material: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that it takes in a pack, names left aside."""
        parts = (self.leaf.line(), self.manifest, self.payload, *self.material)
        return sum(map(len, parts))


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack ready to be stored.

    :param digest: ``sha256:`` digest of ``data``
    :param data: the ZIP file
    :param index: the Parquet file; it holds nothing that the leaves do not
    :param leaves: the lines of its leaves, sorted
    """

    digest: str
    data: bytes
    index: bytes
    leaves: tuple[bytes, ...]


def pack_key(digest: str) -> str:
    """Where the pack with ``digest`` is archived."""
    return f"packs/sha256/{hex_of(digest)}.zip"


def label_key(digest: str) -> str:
    """Where the label of the pack with ``digest`` is archived."""
    return f"packs/sha256/{hex_of(digest)}.json"


def index_key(digest: str) -> str:
    """Where the index of the pack with ``digest`` is archived."""
    return f"packs/sha256/{hex_of(digest)}.parquet"


@dataclass(frozen=True, slots=True)
class Label:
    """What was decided of a pack before it was written, and its bytes do not say.

    :param evidence_class: of the settings' retention, and the verdict: ``default.verified``
    :param retain_until: as promised then
    """

    evidence_class: str
    retain_until: datetime

    def format(self) -> bytes:
        """RFC 8785 JSON."""
        return canonical_json(
            {"class": self.evidence_class, "retainUntil": timestamp(self.retain_until)}
        )

    @classmethod
    def parse(cls, data: bytes) -> Label:
        """The label that ``data`` spells.

        :raises MalformedError: it is none
        """
        found = parse_object(data, "a pack's label", MAX_LABEL_BYTES)
        name, until = found.get("class"), found.get("retainUntil")
        if not isinstance(name, str) or not isinstance(until, str):
            raise MalformedError("a pack's label names no class, or no date")
        return cls(name, parse_timestamp(until))


def write_pack(evidence: Iterable[Evidence]) -> Pack:
    """Pack ``evidence``; its order and repetitions make no difference.

    :raises VerificationError: bytes that differ from the digests in their leaf
    :raises RefusedError: no evidence at all, or more than a pack holds
    """
    by_line = {item.leaf.line(): item for item in evidence}
    if not by_line:
        raise RefusedError("a pack holds one piece of evidence at least, found none")
    lines = tuple(sorted(by_line))
    leaves = tuple(by_line[line].leaf for line in lines)
    members: dict[str, bytes] = {"leaves.jsonl": b"".join(line + b"\n" for line in lines)}
    for line, leaf in zip(lines, leaves, strict=True):
        item = by_line[line]
        if len(item.material) != len(leaf.material):
            raise VerificationError(
                f"the leaf of {leaf.sha256} names {len(leaf.material)} pieces of material, "
                f"found {len(item.material)}"
            )
        members[_manifest(leaf.manifest)] = item.manifest
        members[_blob(f"sha256:{leaf.sha256}")] = item.payload
        members.update(zip(map(_blob, leaf.material), item.material, strict=True))
    _check(leaves, members)
    size = sum(_LOCAL.size + _CENTRAL.size + 2 * len(n) + len(d) for n, d in members.items())
    if len(members) > MAX_MEMBERS or size + _END.size > MAX_PACK_BYTES:
        raise RefusedError(
            f"{len(members)} members of {size} bytes are more than a pack holds "
            f"({MAX_MEMBERS} and {MAX_PACK_BYTES}): divide the evidence"
        )
    data = _zip(members)
    return Pack(digest_of(data), data, _index(leaves), lines)


def read_pack(data: bytes) -> tuple[Evidence, ...]:
    """The evidence in a pack, in the order of its leaves.

    :raises MalformedError: ``data`` is not, byte for byte, what :func:`write_pack` makes
    :raises VerificationError: a member differs from its name, or from what a leaf says of it
    """
    members = _unzip(data)
    listing = members.get("leaves.jsonl", b"")
    if not listing.endswith(b"\n"):
        raise MalformedError("a pack has no leaves.jsonl, or one that breaks off within a line")
    lines = listing[:-1].split(b"\n")
    if any(a >= b for a, b in pairwise(lines)):
        raise MalformedError("the lines of leaves.jsonl are not sorted, or one is there twice")
    leaves = tuple(map(Leaf.parse, lines))
    _check(leaves, members)
    return tuple(
        Evidence(
            leaf,
            members[_manifest(leaf.manifest)],
            members[_blob(f"sha256:{leaf.sha256}")],
            tuple(members[_blob(digest)] for digest in leaf.material),
        )
        for leaf in leaves
    )


def store_pack(
    archive: Archive,
    pack: Pack,
    retain_until: datetime | None = None,
    evidence_class: str | None = None,
    cold_days: int | None = None,
) -> Stored:
    """Archive a pack, then its index and label: what a crash prevents, :func:`store_index` and
    :func:`store_label` mend.

    :param cold_days: after which the pack, not its index, may go to the store's cold class

    An index that is there already stays: another version of the Parquet library may have written
    it, with other bytes and the same rows.
    """
    stored = archive.put(pack_key(pack.digest), pack.data, retain_until, cold_days)
    if archive.stat(index_key(pack.digest)) is None:
        archive.put(index_key(pack.digest), pack.index, retain_until)
    if retain_until is not None and evidence_class is not None:
        store_label(archive, pack.digest, Label(evidence_class, retain_until))
    return stored


def store_label(archive: Archive, digest: str, label: Label) -> None:
    """Archive a pack's label: the first stands, for the same pack may be promised another date on
    another day, and then its lock grows."""
    if archive.stat(label_key(digest)) is None:
        with suppress(ConflictError):
            archive.put(label_key(digest), label.format(), label.retain_until)


def store_index(archive: Archive, digest: str, retain_until: datetime | None = None) -> None:
    """Archive the index of a pack that was archived without one.

    :raises VerificationError: the pack's bytes are not those of ``digest``
    """
    if archive.stat(index_key(digest)) is None:
        leaves = [item.leaf for item in load_pack(archive, digest)]
        archive.put(index_key(digest), _index(leaves), retain_until)


def pack_label(archive: Archive, digest: str) -> Label | None:
    """The label of an archived pack; None of one that was archived without."""
    if archive.stat(label_key(digest)) is None:
        return None
    return Label.parse(archive.get(label_key(digest), MAX_LABEL_BYTES))


def packs_in(archive: Archive) -> list[str]:
    """The digests of all packs that the archive has."""
    return [f"sha256:{found[1]}" for key in archive.keys("packs/sha256/") if (found := _PACK(key))]


def load_pack(archive: Archive, digest: str) -> tuple[Evidence, ...]:
    """The evidence of an archived pack, read back whole and hashed.

    :raises VerificationError: the bytes are not those of ``digest``
    """
    data = archive.get(pack_key(digest), MAX_PACK_BYTES)
    if digest_of(data) != digest:
        raise VerificationError(f"expected a pack {digest}, found {digest_of(data)}")
    return read_pack(data)


def load_by_leaf(archive: Archive, digest: str) -> dict[str, Evidence]:
    """:func:`load_pack`, by the hex leaf hash that the catalog names evidence by."""
    return {leaf_hash(one.leaf.line()).hex(): one for one in load_pack(archive, digest)}


def load_evidence(archive: Archive, digest: str, line: str) -> Evidence:
    """The one piece of evidence of an archived pack whose leaf is ``line``.

    :raises VerificationError: the pack has no such leaf, or other bytes than ``digest`` says
    """
    for one in load_pack(archive, digest):
        if one.leaf.line().decode() == line:
            return one
    raise VerificationError("the catalog's leaf is not in the pack that it names")


def _manifest(digest: str) -> str:
    return f"manifests/sha256/{hex_of(digest)}"


def _blob(digest: str) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def _check(leaves: Sequence[Leaf], members: Mapping[str, bytes]) -> None:
    """Every member is what its name and the leaves say, and every leaf has its members."""
    for name, data in members.items():
        if name != "leaves.jsonl" and sha256_hex(data) != name[-64:]:
            raise VerificationError(f"{name} has other bytes, with SHA-256 {sha256_hex(data)}")
    needed = {"leaves.jsonl"}
    # One hashing a payload, not one a leaf: many leaves may name one large payload.
    payloads: dict[str, tuple[str, int]] = {}
    for leaf in leaves:
        payload = _blob(f"sha256:{leaf.sha256}")
        mine = {_manifest(leaf.manifest), payload, *map(_blob, leaf.material)}
        # Not mine - members.keys(), which looks at every member for each leaf.
        if missing := {name for name in mine if name not in members}:
            raise MalformedError(f"a pack lacks {min(missing)}, which a leaf names")
        needed |= mine
        if payload not in payloads:
            payloads[payload] = (digest_set(members[payload])["sha512"], len(members[payload]))
        if payloads[payload] != (leaf.sha512, leaf.size):
            raise VerificationError(
                f"the leaf of {leaf.sha256} says {leaf.size} bytes with SHA-512 {leaf.sha512}, "
                f"found {payloads[payload][1]} bytes with {payloads[payload][0]}"
            )
    if foreign := members.keys() - needed:
        raise MalformedError(f"a pack holds {min(foreign)}, which no leaf names")


def _zip(members: Mapping[str, bytes]) -> bytes:
    """A ZIP file (APPNOTE.TXT 6.3): stored, sorted by name, one fixed date and mode."""
    body, directory = io.BytesIO(), io.BytesIO()
    for name in sorted(members):
        data, text = members[name], name.encode("ascii")
        common = (_VERSION_NEEDED, 0, 0, 0, _JANUARY_1980)
        sizes = (zlib.crc32(data), len(data), len(data), len(text), 0)
        directory.write(
            _CENTRAL.pack(
                b"PK\1\2", _MADE_BY_UNIX, *common, *sizes, 0, 0, 0, _READ_ONLY_FILE, body.tell()
            )
        )
        directory.write(text)
        body.write(_LOCAL.pack(b"PK\3\4", *common, *sizes))
        body.write(text)
        body.write(data)
    counts = (len(members), len(members))
    end = _END.pack(b"PK\5\6", 0, 0, *counts, directory.tell(), body.tell(), 0)
    return body.getvalue() + directory.getvalue() + end


def _unzip(data: bytes) -> dict[str, bytes]:
    if len(data) > MAX_PACK_BYTES:
        raise MalformedError(f"a pack of {len(data)} bytes: {MAX_PACK_BYTES} is the most")
    members: dict[str, bytes] = {}
    at = 0
    while data.startswith(b"PK\3\4", at) and len(data) - at >= _LOCAL.size:
        *_, size, _, name_length, _ = _LOCAL.unpack_from(data, at)
        start = at + _LOCAL.size + name_length
        name = data[at + _LOCAL.size : start].decode("ascii", "replace")
        if _MEMBER.fullmatch(name) is None:
            raise MalformedError(f"a pack holds a member of another kind: {name[:120]!a}")
        at = start + size
        members[name] = data[start:at]
        if len(members) > MAX_MEMBERS:
            raise MalformedError(f"a pack of more than {MAX_MEMBERS} members")
    if _zip(members) != data:
        raise MalformedError(
            "not a pack: expected a ZIP of stored members, sorted, each once, with the fixed date "
            "and mode and nothing between, before or after them"
        )
    return members


def _index(leaves: Sequence[Leaf]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    moment = pa.timestamp("ms", tz="UTC")
    columns = {
        "bundle_sha256": pa.array([leaf.sha256 for leaf in leaves], pa.string()),
        "size": pa.array([leaf.size for leaf in leaves], pa.int64()),
        "image": pa.array([leaf.image for leaf in leaves], pa.string()),
        "repository": pa.array([leaf.repository for leaf in leaves], pa.string()),
        "predicate_type": pa.array([leaf.predicate_type for leaf in leaves], pa.string()),
        "identity": pa.array(
            [leaf.signer and leaf.signer.identity for leaf in leaves], pa.string()
        ),
        "issuer": pa.array([leaf.signer and leaf.signer.issuer for leaf in leaves], pa.string()),
        "signed_at": pa.array([leaf.signed_at for leaf in leaves], moment),
        "time_source": pa.array([leaf.time_source for leaf in leaves], pa.string()),
        "collected_at": pa.array([leaf.collected_at for leaf in leaves], moment),
        "verdict": pa.array([leaf.verdict for leaf in leaves], pa.string()),
        "reason": pa.array([leaf.reason for leaf in leaves], pa.string()),
        "manifest": pa.array([leaf.manifest for leaf in leaves], pa.string()),
        "policy": pa.array([leaf.policy for leaf in leaves], pa.string()),
        "trust": pa.array([leaf.trust for leaf in leaves], pa.string()),
    }
    out = io.BytesIO()
    pq.write_table(
        pa.table(columns),
        out,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=3,
        row_group_size=len(leaves),
        store_schema=False,
    )
    return out.getvalue()
