"""``longseal verify TARGET``: what the target is, and what it can be checked against."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from longseal.archive.pack import load_evidence, pack_key
from longseal.archive.tombstones import place_of, restored, tombstones
from longseal.canonical import (
    MAX_JSON_BYTES,
    digest_of,
    digest_set,
    is_digest,
    parse_object,
    sha256_hex,
)
from longseal.catalog.models import Evidence
from longseal.errors import (
    RefusedError,
    SettingsError,
    UnsupportedError,
    VerificationError,
)
from longseal.registry.interface import Registry
from longseal.seal.ceremony import seal_trusted_root
from longseal.seal.keys import fingerprint, load_public_pem
from longseal.seal.organisation import keys_in_force, organisation_key
from longseal.seal.proof import Anchors, verify_seal, verify_statement
from longseal.seal.proof_folder import PROOF, verify_proof
from longseal.seal.published import SEAL, read_lines, read_seal
from longseal.seal.signers.interface import PublicKey
from longseal.seal.tree import leaf_hash
from longseal.verify.documents import Piece, evidence_in
from longseal.verify.engine import Engine, Outcome
from longseal.verify.formats import intake_manifest
from longseal.verify.image import OWN_KIND, Expectations, is_own_statement, verify_image
from longseal.verify.keys import load_key
from longseal.verify.policy import MAX_CERTIFICATE, Identity, Name, Policy, Rule
from longseal.verify.pool import Case, judge
from longseal.verify.report import Report, State
from longseal.verify.trust import TrustMaterial
from longseal.workspace import Workspace, utc_now

if TYPE_CHECKING:
    from longseal.mirror.arrival import SiteKit

_IMAGE = re.compile(r"(?:(https?)://)?([^/@]+)/([^@]+)@(sha256:[0-9a-f]{64})")
_DIGEST = re.compile(r"[A-Za-z0-9]{2,16}:[0-9a-f]{40,128}")
_LOCAL: Final = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?")


@dataclass(frozen=True, slots=True)
class Given:
    """What the verifier was told; what is None comes from the settings where it is needed.

    :param key: file of the organisation's public key, or its fingerprint
    :param artifact: file, or digest, that a bundle must speak of
    :param repository: whose rules of the policy count for a file, which hangs in none
    """

    target: str
    key: str | None = None
    trusted_root: Path | None = None
    identity: str | None = None
    issuer: str | None = None
    artifact: str | None = None
    seal_trusted_root: Path | None = None
    timestamp_roots: frozenset[str] | None = None
    quorum: int = 1
    repository: str | None = None


def verify(given: Given, workspace: Callable[[], Workspace]) -> Report:
    """Verify the target.

    :param workspace: opens the settings, for what was not given
    :raises RefusedError: the target is nothing that can be verified
    :raises SettingsError: something that the check needs was neither given nor set
    """
    report = Report(given.target)
    path = Path(given.target)
    if (path / "site" / "inventory.json").is_file():
        _volume(report, given, path, workspace)
    elif (path / PROOF).is_file():
        _proof_folder(report, given, path, workspace)
    elif (path / SEAL).is_file():
        _seal_folder(report, given, path, workspace)
    elif path.is_file():
        _file(report, given, path, workspace)
    elif match := _IMAGE.fullmatch(given.target):
        _image(report, given, match, workspace)
    elif is_digest(given.target):
        _known(report, given.target, workspace())
    else:
        raise RefusedError(
            f"{given.target[:200]} is no file, volume or seal folder, and no IMAGE@sha256:… or"
            " sha256:… digest"
        )
    return report


def _volume(report: Report, given: Given, path: Path, workspace: Callable[[], Workspace]) -> None:
    from longseal.mirror.volume import Volume

    key = given.key if given.key and is_digest(given.key) else _key(given, workspace)
    volume = Volume(path, key, given.timestamp_roots, given.quorum)
    volume.verify(report, utc_now())


def _seal_folder(
    report: Report, given: Given, path: Path, workspace: Callable[[], Workspace]
) -> None:
    anchors = _anchors(given, workspace)

    def check() -> str:
        seal, lines = verify_seal(lambda name: _read(path / name, name), anchors)
        return f"seal {seal.sequence} of {seal.period}: {len(lines)} attestations"

    report.attempt("seal", check)


def _proof_folder(
    report: Report, given: Given, path: Path, workspace: Callable[[], Workspace]
) -> None:
    key = given.key if given.key and is_digest(given.key) else fingerprint(_key(given, workspace))
    verify_proof(report, path, key, given.timestamp_roots, given.quorum)


def _file(report: Report, given: Given, path: Path, workspace: Callable[[], Workspace]) -> None:
    """Each piece of evidence in a file."""
    found = list(evidence_in(io.BytesIO(_read(path, "TARGET"))))
    if not found:
        report.add("file", State.UNKNOWN, "it holds no evidence of a known kind")
    engine: Engine | None = None
    for piece in found:
        name = "" if len(found) == 1 else f" {digest_of(piece.data)[:19]}"
        if piece.format == "unreadable":
            report.add(f"evidence{name}", State.UNKNOWN, piece.reason)
        elif piece.format == "sigstore-bundle" and is_own_statement(
            parse_object(piece.data, "the bundle")
        ):
            _statement(report, given, piece.data, workspace, f"signature by key{name}")
        else:
            engine = engine or _engine(given, workspace)
            report.attempt(f"signature{name}", _Signature(engine, piece, given))


def _statement(
    report: Report, given: Given, data: bytes, workspace: Callable[[], Workspace], name: str
) -> None:
    artifact = artifact_digest(given.artifact)
    anchors = _anchors(given, workspace)
    if given.seal_trusted_root is None:
        raise SettingsError("--seal-trusted-root", "give the file that lies beside the seal")
    root = _read(given.seal_trusted_root, "--seal-trusted-root")

    def by_key() -> str:
        kind = _kind_of(data)
        statement, stamped = verify_statement(data, anchors, root, kind)
        hexes = {subject.digest.get("sha256") for subject in statement.subjects}
        if artifact is not None and artifact.removeprefix("sha256:") not in hexes:
            raise VerificationError(f"{artifact} is no subject of it")
        return f"a {kind} statement of {len(hexes)} subjects, stamped {stamped:%Y-%m-%d %H:%M}"

    report.attempt(name, by_key)


@dataclass(frozen=True, slots=True)
class _Signature:
    engine: Engine
    piece: Piece
    given: Given

    def __call__(self) -> str:
        manifest = intake_manifest(self.piece.data, self.piece.format)
        named, repository = self.given.artifact, self.given.repository or ""
        digests = artifact_digests(named)
        artifact, others = (digests[0], digests[1:]) if digests else (None, [])
        data = None
        if named is not None and not _DIGEST.fullmatch(named):
            data = _read(Path(named), "--artifact", limit=None)
        case = Case(self.piece.data, artifact, repository, utc_now(), manifest, data)
        judgement = judge(self.engine, case)
        for other in others:
            if judgement.reason is not None and judgement.reason.slug == "subject":
                judgement = judge(self.engine, replace(case, image=other))
        if judgement.outcome is Outcome.UNKNOWN:
            raise UnsupportedError(str(judgement.reason))
        if judgement.reason is not None and judgement.reason.slug == "no-rule" and not repository:
            raise UnsupportedError(
                "a file hangs in no repository, and the policy's rules are for repositories: give"
                " --repository NAME, or --identity and --issuer"
            )
        if judgement.outcome is Outcome.REJECTED:
            raise VerificationError(str(judgement.reason))
        told = "" if artifact else " (its subject was not compared: give --artifact)"
        by = judgement.signer + (f" of {judgement.issuer}" if judgement.issuer else "")
        times = ", ".join(
            f"{time.source} {time.moment:%Y-%m-%d %H:%M:%S}" for time in judgement.times
        )
        return f"{judgement.predicate_type} by {by}, {times or 'at no known time'}{told}"


def _kind_of(data: bytes) -> str:
    """The kind that a statement of the organisation's says it is; its signature is checked next."""
    from longseal.seal.bundle import parse_key_bundle
    from longseal.seal.statement import Statement

    kind = Statement.parse(parse_key_bundle(data).payload).predicate_type
    match = OWN_KIND.fullmatch(kind)
    if match is None:
        raise UnsupportedError(f"a statement of another kind: {kind[:200]}")
    return match[1]


def _image(
    report: Report, given: Given, match: re.Match[str], workspace: Callable[[], Workspace]
) -> None:
    from longseal.registry.distribution import DistributionRegistry

    scheme, host, repository, digest = match.groups()
    if scheme is None:
        scheme = "http" if _LOCAL.fullmatch(host) else "https"
    registry = DistributionRegistry(host, f"{scheme}://{host}")
    kit = _site_kit(given, registry)
    if kit is None:
        expected = _expectations(given, workspace)
    else:
        checked: list[Expectations] = []

        def vouched() -> str:
            anchors = kit.anchors()
            signed = kit.inventory(anchors)
            said = kit.check(signed.inventory.files)
            keys = kit.keys(anchors, signed)
            checked.append(kit.expectations(replace(anchors, keys=keys)))
            return said

        if not report.attempt("site kit", vouched):
            return
        expected = checked[0]
    verify_image(report, registry, repository, digest, expected, utc_now())


def _site_kit(given: Given, registry: Registry) -> SiteKit | None:
    """At a site's registry a fingerprint is enough: its kit has the rest, and is checked first."""
    from longseal.mirror.arrival import SiteKit, kit_of_registry

    alone = given.trusted_root is None and given.seal_trusted_root is None
    if given.key is None or not is_digest(given.key) or not alone or given.identity is not None:
        return None
    read = kit_of_registry(registry)
    return read and SiteKit(read, given.key, given.timestamp_roots, given.quorum)


def _expectations(given: Given, workspace: Callable[[], Workspace]) -> Expectations:
    anchors = _anchors(given, workspace) if given.key or given.trusted_root is None else None
    root = None
    if given.seal_trusted_root is not None:
        root = _read(given.seal_trusted_root, "--seal-trusted-root")
    elif anchors is not None:
        root = seal_trusted_root(workspace(), retired=True)
    return Expectations(_engine(given, workspace), anchors, root)


def _known(report: Report, digest: str, workspace: Workspace) -> None:
    """Evidence that the catalog knows by its own, its image's or its manifest's digest."""
    rows = workspace.catalog.about(digest)
    if not rows:
        disposed = [
            one for one in tombstones(workspace) if one.disposed and digest in one.place[2:]
        ]
        for one in disposed:
            report.add(
                f"{one.place[1]}@{one.place[2]} {one.place[4][:19]}",
                State.UNKNOWN,
                f"disposed of on {one.at}, approved by {one.approver}, under {one.deletion}: no"
                f" copy is left to verify; its leaf is in seal {', '.join(map(str, one.seals))}",
            )
        if not disposed:
            report.add("catalog", State.UNKNOWN, f"nothing is known of {digest}")
    sealed: dict[int, set[str]] = {}
    for row in rows:

        def check(row: Evidence = row) -> str:
            item = load_evidence(workspace.archive, row.pack, row.leaf)
            leaf = item.leaf
            if leaf.verdict != "verified":
                raise VerificationError(f"it is {leaf.verdict}: {leaf.reason}")
            engine = Engine(
                TrustMaterial.parse(workspace.kept(leaf.trust)),
                Policy.parse(workspace.kept(leaf.policy)),
            )
            judgement = judge(engine, Case.kept(item))
            if judgement.outcome is not Outcome.VERIFIED:
                raise VerificationError(f"it no longer verifies: {judgement.reason}")
            return f"{leaf.predicate_type} by {judgement.signer}{_where(workspace, row, sealed)}"

        report.attempt(f"{row.repository}@{row.image} {row.bundle[:19]}", check)


def _where(workspace: Workspace, row: Evidence, sealed: dict[int, set[str]]) -> str:
    text = ", not sealed yet"
    if row.seal is not None:
        if row.seal not in sealed:
            seal = read_seal(workspace, row.seal)
            lines = read_lines(workspace, seal.files("leaves/").values())
            sealed[row.seal] = {leaf_hash(line).hex() for line in lines}
        if row.leaf_hash not in sealed[row.seal]:
            raise VerificationError(f"the catalog says seal {row.seal}, which does not have it")
        text = f", in seal {row.seal}"
    return text + _pruned(workspace, row)


def _pruned(workspace: Workspace, row: Evidence) -> str:
    """When the registry's copy went, by whose approval, and where it can be read."""
    read = f"; archived in {pack_key(row.pack)}, to be had by longseal prove {row.manifest}"
    if row.tombstone is not None:
        for one in tombstones(workspace, {row.tombstone}):
            if one.place == place_of(row):
                by = f"on {one.at}, approved by {one.approver}, under {one.deletion}"
                return f", pruned from {row.source} {by}{read}"
        return f", being pruned from {row.source} by the plan {row.tombstone}{read}"
    for said in restored(workspace).get(place_of(row), ())[-1:]:
        by = f"{said['restoredAt']} by {said['actor']}"
        return f", pruned under {said['deletion']} and put back on {by}"
    return ""


def _anchors(given: Given, workspace: Callable[[], Workspace]) -> Anchors:
    key = _key(given, workspace)
    keys = None
    if given.key is None or is_digest(given.key):
        keys = keys_in_force(workspace()).keys
    return Anchors(key, given.timestamp_roots, given.quorum, keys)


def _key(given: Given, workspace: Callable[[], Workspace]) -> PublicKey:
    if given.key is None or is_digest(given.key):
        key = organisation_key(workspace()).key
        if given.key not in (None, fingerprint(key)):
            raise SettingsError("--key", f"the settings' key is {fingerprint(key)}")
        return key
    return load_public_pem(_read(Path(given.key), "--key"), "--key")


def _engine(given: Given, workspace: Callable[[], Workspace]) -> Engine:
    if given.trusted_root is not None:
        trust = TrustMaterial.parse(_read(given.trusted_root, "--trusted-root"))
    else:
        trust = TrustMaterial.parse(workspace().trusted_root)
    if (given.identity is None) != (given.issuer is None):
        raise SettingsError("--identity", "give --identity and --issuer together")
    signers: tuple[Identity, ...] = ()
    keys: tuple[bytes, ...] = ()
    if given.identity is not None:
        signers = (Identity(Name(given.identity, None), Name(given.issuer, None)),)
    if given.key is not None and not is_digest(given.key):
        keys = (load_key(_read(Path(given.key), "--key"), "--key"),)
    if not signers and (not keys or given.trusted_root is None):
        return Engine(trust, Policy.parse(workspace().policy))
    rule = Rule(("**",), ("**",), signers, MAX_CERTIFICATE, keys)
    return Engine(trust, Policy(digest_of(b""), (rule,)))


def artifact_digest(artifact: str | None) -> str | None:
    """The digest that ``--artifact`` means: the one given, or that of the file it names.

    :raises SettingsError: naming ``--artifact``, when the file cannot be read
    """
    if artifact is None or is_digest(artifact):
        return artifact
    return f"sha256:{sha256_hex(_read(Path(artifact), '--artifact', limit=None))}"


def artifact_digests(artifact: str | None) -> list[str]:
    """The digests that subjects may name ``--artifact`` by: npm's have SHA-512.

    :raises SettingsError: naming ``--artifact``, when the file cannot be read
    """
    if artifact is None:
        return []
    if _DIGEST.fullmatch(artifact):
        return [artifact]
    data = _read(Path(artifact), "--artifact", limit=None)
    return [f"{name}:{value}" for name, value in digest_set(data).items()]


def _read(path: Path, setting: str, limit: int | None = MAX_JSON_BYTES * 8) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read() if limit is None else file.read(limit + 1)
    except OSError as err:
        raise SettingsError(setting, f"{path} cannot be read: {err.strerror}") from err
    if limit is not None and len(data) > limit:
        raise SettingsError(setting, f"{path} is larger than {limit} bytes")
    return data
