"""Proof folders: what one attestation's proof needs, in files that stock tools check.

The folder holds the attestation as found, its leaf with the inclusion proof, its seal, the seals
that renew it, and ``verify.sh`` (``docs/formats/proof.md``). It brings no anchor of its own: the
fingerprints of the organisation's key and of the timestamp roots come to the reader another way.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files as package_files
from itertools import pairwise
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from longseal.archive.leaf import Leaf
from longseal.archive.pack import Evidence, load_evidence
from longseal.canonical import digest_of, hex_of, sha256_hex, timestamp
from longseal.catalog.models import Evidence as EvidenceRow
from longseal.errors import MalformedError, RefusedError, UnsupportedError, VerificationError
from longseal.seal.bundle import parse_key_bundle
from longseal.seal.ceremony import authorities
from longseal.seal.checkpoint import Proof, parse_verifier_key
from longseal.seal.keys import KeySet, keyid, load_public_pem, public_pem
from longseal.seal.proof import Anchors, believed, verify_stamped
from longseal.seal.published import (
    SEAL,
    TRUSTED_ROOT,
    Published,
    check_tree,
    published,
    read_lines,
    seal_folder,
)
from longseal.seal.renewal import path, renewables
from longseal.seal.statement import Statement, required
from longseal.seal.timestamps import Token, parse_tokens, verify_quorum
from longseal.seal.tree import Tree, leaf_hash
from longseal.seal.trusted_root import parse_trusted_root
from longseal.verify.engine import Engine, Outcome
from longseal.verify.formats import readings
from longseal.verify.keys import cosign_takes, pem_of
from longseal.verify.policy import Policy
from longseal.verify.pool import Case, judge
from longseal.verify.report import Report
from longseal.verify.trust import TrustMaterial
from longseal.workspace import Workspace

VERIFY: Final = "verify.sh"
SUMS: Final = "SHA256SUMS"
LEAF: Final = "leaf.json"
PROOF: Final = "leaf.tlog-proof"
BUNDLE: Final = "bundle.sigstore.json"
SIGNER: Final = "signer.pub"

MAX_FILE_BYTES: Final = 64 * 1024 * 1024

_RENEWAL = re.compile(r"renewals/\d{6}/seal\.sigstore\.json")


def prove(workspace: Workspace, digest: str, folder: Path) -> list[Path]:
    """Write the proof of each sealed attestation that ``digest`` names.

    :param digest: of an attestation, of the manifest that carries it, or of an image
    :param folder: made here; with several attestations, each gets a folder in it
    :returns: the folders written
    :raises RefusedError: nothing is known of the digest, it is not verified, or not sealed yet;
        or the folder is there already
    """
    rows = workspace.catalog.about(digest)
    if not rows:
        raise RefusedError(f"nothing is known of {digest}")
    proven = [row for row in rows if row.verdict == "verified" and row.seal is not None]
    if not proven:
        states = ", ".join(sorted({row.verdict for row in rows}))
        raise RefusedError(
            f"no attestation of {digest} is verified and sealed (found: {states}): the next seal"
            " covers what is verified"
        )
    if folder.exists():
        raise RefusedError(f"{folder} is there already: name a new folder")
    written = []
    prover = _Prover(workspace)
    for row in proven:
        place = folder if len(proven) == 1 else folder / row.leaf_hash
        for name, data in prover.files(row).items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (place / VERIFY).chmod(0o755)
        written.append(place)
    return written


def told(workspace: Workspace, *folders: Path) -> list[str]:
    """What the reader of a proof must have been told, as ``verify.sh`` takes it.

    The key is that of the newest seal, which is an older one than signs now when that is new; the
    authorities are all whose timestamps count; the quorum is that of the settings, or less where a
    seal in ``folders`` was made when fewer had to stamp.

    :param folders: the proofs
    """
    newest = published(workspace)[-1]
    roots = {one.root_fingerprint for one in authorities(workspace, retired=True)}
    asked = workspace.settings.timestamp_quorum
    made = (
        Statement.parse(parse_key_bundle(path.read_bytes()).payload).predicate
        for folder in folders
        for path in folder.rglob(SEAL)
    )
    return [
        f"key=sha256:{newest.statement.predicate['keyid']}",
        *(f"tsa={root}" for root in sorted(roots)),
        f"quorum={min([asked, *(required(one, asked) for one in made)])}",
    ]


class _Prover:
    """Makes proofs; what several of them share is read once.

    :raises VerificationError: archive and catalog disagree
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._seals = {one.sequence: one for one in published(workspace)}
        self._resting = {one.sequence: one for one in renewables(workspace)}
        self._sealed: dict[int, tuple[list[bytes], Tree, bytes]] = {}

    def files(self, row: EvidenceRow) -> dict[str, bytes]:
        """The files of one proof, by name."""
        workspace = self._workspace
        item = load_evidence(workspace.archive, row.pack, row.leaf)
        seal = None if row.seal is None else self._seals.get(row.seal)
        if seal is None:
            raise VerificationError(f"the catalog names seal {row.seal}, which the archive has not")
        lines, tree, note = self._tree(seal)
        line = item.leaf.line()
        if line not in lines:
            raise VerificationError(
                f"the catalog says seal {row.seal}, which does not have the leaf"
            )
        index = lines.index(line)
        found = {
            "attestation": item.payload,
            "manifest.json": item.manifest,
            LEAF: line,
            PROOF: Proof(index, tree.proof(index), note).format(),
            "policy.json": workspace.kept(item.leaf.policy),
            "trusted_root.json": workspace.kept(item.leaf.trust),
            **{f"material/{sha256_hex(one)}": one for one in item.material},
            **_seal_files(workspace, seal, "seal"),
        }
        key = _signing_key(item.leaf, Policy.parse(found["policy.json"]))
        if key is not None:
            found[SIGNER] = pem_of(key).encode()
        if (bundle := _bundle(item, key)) is not None:
            found[BUNDLE] = bundle
        for renewal in self._renewals(seal):
            found |= _seal_files(workspace, renewal, f"renewals/{renewal.sequence:06}")
        found[SUMS] = "".join(
            f"{sha256_hex(data)}  {name}\n" for name, data in sorted(found.items())
        ).encode()
        found[VERIFY] = (package_files("longseal.seal") / VERIFY).read_bytes()
        return found

    def _tree(self, seal: Published) -> tuple[list[bytes], Tree, bytes]:
        """The leaves' lines, their checked tree, and its checkpoint."""
        if seal.sequence not in self._sealed:
            lines = list(read_lines(self._workspace, seal.files("leaves/").values()))
            note = self._workspace.kept(seal.files()["checkpoint"])
            self._sealed[seal.sequence] = lines, check_tree(seal, lines, note), note
        return self._sealed[seal.sequence]

    def _renewals(self, seal: Published) -> list[Published]:
        """The seals that keep ``seal`` provable, oldest first."""
        quorum = self._workspace.settings.timestamp_quorum
        carried = path(list(self._resting.values()), self._resting[seal.sequence], quorum)
        return [self._seals[one.sequence] for one in carried]


def verify_proof(
    report: Report,
    folder: Path,
    key: str,
    timestamp_roots: frozenset[str] | None,
    quorum: int,
) -> None:
    """Check a proof folder with nothing but what was given: the way beside ``verify.sh``.

    :param key: fingerprint of the key that signed the newest seal in it
    :param timestamp_roots: as in :class:`Anchors`
    """
    files: dict[str, bytes] = {}
    seals: list[_Checked] = []

    def listed() -> str:
        files.update(_listed(folder))
        return f"{len(files)} files"

    def sealed() -> str:
        seals.extend(_checked_seals(files, key, timestamp_roots, quorum))
        last = seals[-1].seal
        return f"seal {seals[0].seal.sequence} of {seals[0].seal.period}, renewed by {last.period}"

    def included() -> str:
        leaf = _included(files, seals[0].seal)
        return f"{leaf.predicate_type} about {leaf.image}"

    def judged() -> str:
        leaf = Leaf.parse(files[LEAF])
        material = tuple(files[f"material/{hex_of(digest)}"] for digest in leaf.material)
        evidence = Evidence(leaf, files["manifest.json"], files["attestation"], material)
        policy = Policy.parse(files["policy.json"])
        signer = _signing_key(leaf, policy)
        if BUNDLE in files and files[BUNDLE] != _bundle(evidence, signer):
            raise VerificationError(f"{BUNDLE} is not what the attestation says")
        if files.get(SIGNER) != (signer and pem_of(signer).encode()):
            raise VerificationError(f"{SIGNER} is not the key that the leaf names")
        trust = TrustMaterial.parse(files["trusted_root.json"])
        judgement = judge(Engine(trust, policy), Case.kept(evidence))
        if judgement.outcome is Outcome.UNKNOWN:
            raise UnsupportedError(str(judgement.reason))
        if judgement.outcome is not Outcome.VERIFIED:
            raise VerificationError(str(judgement.reason))
        return f"signed by {judgement.signer} at {judgement.signed_at:%Y-%m-%d %H:%M:%S}"

    steps = {"files": listed, "seals": sealed, "leaf": included, "attestation": judged}
    for name, step in steps.items():
        if not report.attempt(name, step):
            return


@dataclass(frozen=True, slots=True)
class _Checked:
    """
    :param tokens: a good one of each authority that is believed
    """

    seal: Published
    keyid: str
    tokens: tuple[Token, ...]


def _listed(folder: Path) -> dict[str, bytes]:
    """Every file that ``SHA256SUMS`` names, with the bytes that it says."""
    there = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    found: dict[str, bytes] = {}
    sums = _read(there, SUMS).decode("ascii", "replace")
    for line in sums.splitlines():
        digest, _, name = line.partition("  ")
        found[name] = _read(there, name)
        if sha256_hex(found[name]) != digest:
            raise VerificationError(f"{name} has other bytes than {SUMS} says")
    if foreign := there.keys() - found.keys() - {SUMS, VERIFY}:
        raise VerificationError(f"{min(foreign)} is here, and {SUMS} does not name it")
    return found


def _read(there: Mapping[str, Path], name: str) -> bytes:
    if name not in there:
        raise VerificationError(f"{name[:200]} is missing")
    with there[name].open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise VerificationError(f"{name} has more than {MAX_FILE_BYTES} bytes")
    return data


def _checked_seals(
    files: Mapping[str, bytes], key: str, timestamp_roots: frozenset[str] | None, quorum: int
) -> list[_Checked]:
    """The seal, and those that renew it: each checked, and each naming the one before."""
    folders = ["seal", *sorted({n.rpartition("/")[0] for n in files if _RENEWAL.fullmatch(n)})]
    found = [_checked_seal(files, folder, timestamp_roots, quorum) for folder in folders]
    newest = found[-1]
    if f"sha256:{newest.keyid}" != key:
        raise VerificationError(
            f"seal {newest.seal.sequence} is by sha256:{newest.keyid}, not by {key}"
        )
    keys = KeySet.parse(files[f"{folders[-1]}/key-set.json"])
    for checked in found:
        keys.key_for(checked.keyid, min(token.gen_time for token in checked.tokens))
    for before, (folder, renewal) in pairwise(zip(folders, found, strict=True)):
        for algorithm, name in (("sha256", "seals.sha256"), ("sha512", "renewal.sha512")):
            _require_named(files, before[1].seal, algorithm, f"{folder}/{name}")
        if renewal.seal.sequence <= before[1].seal.sequence:
            raise VerificationError(f"{folder} is no later seal")
        # RFC 4998 section 5.3: valid relative to the time of the one that follows.
        renewed = max(token.gen_time for token in renewal.tokens)
        standing = [one for one in before[1].tokens if one.authority.valid_until >= renewed]
        if len(standing) < quorum:
            raise VerificationError(
                f"{folder} was stamped at {timestamp(renewed)}: too late for"
                f" {before[0]}, whose timestamps did not hold any more"
            )
    return found


def _checked_seal(
    files: Mapping[str, bytes], folder: str, timestamp_roots: frozenset[str] | None, quorum: int
) -> _Checked:
    def read(name: str) -> bytes:
        try:
            return files[f"{folder}/{name}"]
        except KeyError:
            raise VerificationError(f"{folder}/{name} is missing") from None

    anchors = Anchors(load_public_pem(read("key.pub"), "key.pub"), timestamp_roots, quorum)
    statement, good = verify_stamped(read(SEAL), anchors, read(TRUSTED_ROOT), "seal")
    seal = Published(int(statement.predicate["sequence"]), read(SEAL), statement)
    for name in ("checkpoint", "key-set.json", "seals.sha256"):
        if seal.files().get(name) != digest_of(read(name)):
            raise VerificationError(f"{folder}/{name} has other bytes than the seal says")
    authorities = believed(parse_trusted_root(read(TRUSTED_ROOT))[0], anchors)
    tokens = parse_tokens(read("renewal.tokens.json"), f"{folder}/renewal.tokens.json")
    verify_quorum(tokens, read("renewal.sha512"), authorities, quorum)
    _require_named(files, seal, "sha512", f"{folder}/renewal.sha512")
    own_root = f"{seal_folder(seal.sequence)}/{TRUSTED_ROOT}"
    _require_line(files, read(TRUSTED_ROOT), own_root, "sha512", f"{folder}/renewal.sha512")
    return _Checked(seal, keyid(anchors.key), good)


def _require_named(
    files: Mapping[str, bytes], seal: Published, algorithm: str, listing: str
) -> None:
    name = f"{seal_folder(seal.sequence)}/{SEAL}"
    _require_line(files, seal.bundle, name, algorithm, listing)


def _require_line(
    files: Mapping[str, bytes], data: bytes, name: str, algorithm: str, listing: str
) -> None:
    line = f"{hashlib.new(algorithm, data).hexdigest()}  {name}".encode()
    if line not in files.get(listing, b"").splitlines():
        raise VerificationError(f"{listing} does not have {name}")


def _included(files: Mapping[str, bytes], seal: Published) -> Leaf:
    """The leaf, which is in the seal's tree and speaks of the files beside it."""
    leaf, described = Leaf.parse(files[LEAF]), seal.statement.predicate["tree"]
    _, checkpoint_key = parse_verifier_key(described["checkpointKey"])
    proof = Proof.parse(files[PROOF])
    head = proof.verify(leaf_hash(files[LEAF]), described["origin"], checkpoint_key)
    if (head.size, head.root.hex()) != (described["size"], described["root"]):
        raise VerificationError("the proof leads to another tree than the sealed one")
    named = {
        "attestation": f"sha256:{leaf.sha256}",
        "manifest.json": leaf.manifest,
        "policy.json": leaf.policy,
        "trusted_root.json": leaf.trust,
        **{f"material/{hex_of(one)}": one for one in leaf.material},
    }
    for name, digest in named.items():
        if digest_of(files.get(name, b"")) != digest:
            raise VerificationError(f"{name} is not what the leaf speaks of")
    for kind, digest in (("policies", leaf.policy), ("trusted-roots", leaf.trust)):
        if f"{kind}/{hex_of(digest)}.json" not in seal.files():
            raise VerificationError(f"the seal does not have {digest} among its {kind}")
    return leaf


def _signing_key(leaf: Leaf, policy: Policy) -> bytes | None:
    """The policy's key that signed, in DER; None where a certificate did."""
    named = leaf.signer and leaf.signer.key
    if named is None:
        return None
    for key in policy.keys:
        if digest_of(key) == named:
            return key
    raise VerificationError(f"the policy of the leaf does not name its key {named}")


def _bundle(item: Evidence, key: bytes | None) -> bytes | None:
    """What cosign verifies of it; None where it takes nothing of this kind by itself."""
    if key is not None and not cosign_takes(key):
        return None
    try:
        return readings(item.payload, item.manifest, item.material)[0].bundle
    except (MalformedError, UnsupportedError):
        return None


def _seal_files(workspace: Workspace, seal: Published, folder: str) -> dict[str, bytes]:
    archive, source = workspace.archive, seal_folder(seal.sequence)
    subjects = seal.files()
    keys = KeySet.parse(workspace.kept(subjects["key-set.json"]))
    keyid = seal.statement.predicate["keyid"]
    key = next(one.key for one in keys.keys if one.keyid == keyid)
    root = archive.get(f"{source}/{TRUSTED_ROOT}")
    found = {
        SEAL: seal.bundle,
        TRUSTED_ROOT: root,
        "key.pub": public_pem(key).encode(),
        **{
            name: workspace.kept(subjects[name])
            for name in ("checkpoint", "key-set.json", "seals.sha256")
        },
        **{
            name: archive.get(f"{source}/{name}")
            for name in ("renewal.sha512", "renewal.tokens.json")
        },
    }
    for number, authority in enumerate(parse_trusted_root(root)[0]):
        chain = [one.public_bytes(Encoding.PEM) for one in authority.certificates]
        found[f"tsa/{number}/chain.pem"] = b"".join(chain)
        found[f"tsa/{number}/root.pem"] = chain[-1]
    return {f"{folder}/{name}": data for name, data in found.items()}
