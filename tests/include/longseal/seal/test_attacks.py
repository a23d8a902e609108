"""What somebody with an old seal, a registry or the catalog in hand cannot make of it."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CalledProcessError

import pytest
from tests.doubles.registry import RegistryDouble
from tests.include.longseal.seal.substitution import key_that_fits
from tests.installation import Installation, harvest_all, seal
from tests.lab import Lab
from tests.proven import Proven

from longseal import cli
from longseal.audit.audit import audit
from longseal.canonical import canonical_json, digest_of, timestamp
from longseal.errors import ConflictError, VerificationError
from longseal.registry.attach import EMPTY, attach
from longseal.registry.distribution import DistributionRegistry
from longseal.registry.interface import Descriptor
from longseal.seal.bundle import MEDIA_TYPE, format_key_bundle, parse_key_bundle, verify_key_bundle
from longseal.seal.ceremony import BUNDLE, Ceremony, seal_trusted_root
from longseal.seal.images import attach_images, places_of, sign_images, statement_folders
from longseal.seal.keys import fingerprint, public_pem
from longseal.seal.organisation import anchors_of, key_set, signed_as
from longseal.seal.proof import Anchors, verify_chain, verify_seal
from longseal.seal.proof_folder import prove
from longseal.seal.published import SEAL, Published, predicate_type, read_seal, seal_folder
from longseal.seal.signers.interface import PublicKey
from longseal.seal.statement import PAYLOAD_TYPE, Statement, Subject, pae
from longseal.verify.report import State
from longseal.workspace import Workspace

INFLATED = 1_000_000


def substituted(genuine: bytes) -> tuple[bytes, PublicKey]:
    """A seal's bundle with other content, and a key under which its old signature holds."""
    parts = parse_key_bundle(genuine)
    statement = json.loads(parts.payload)
    statement["predicate"]["counts"]["verified"] = INFLATED
    payload = canonical_json(statement)
    message = pae(PAYLOAD_TYPE, payload)
    key = key_that_fits(parts.signature, hashlib.sha256(message).digest())
    return format_key_bundle(payload, parts.signature, key, parts.timestamps), key


def reader(workspace: Workspace, sequence: int, bundle: bytes) -> Callable[[str], bytes]:
    """A seal's files as the archive has them, but with this bundle."""
    seal = read_seal(workspace, sequence)

    def read(name: str) -> bytes:
        if name == SEAL:
            return bundle
        if name in seal.files():
            return workspace.kept(seal.files()[name])
        return workspace.archive.get(f"{seal_folder(sequence)}/{name}")

    return read


def test_an_old_signature_with_a_key_computed_to_fit_passes_for_no_seal(
    harvested: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = harvested.workspace()
    sealed = seal(workspace, "r-one").sealed
    assert sealed is not None
    forged, key = substituted(sealed.bundle)
    read = reader(workspace, 1, forged)

    # The attack is real: by hint and signature alone this is a good bundle, tokens and all.
    assert verify_key_bundle(parse_key_bundle(forged), key)
    with monkeypatch.context() as patch:
        patch.setattr(Anchors, "named", lambda self, named: self.key)
        believed, _ = verify_seal(read, Anchors(key))
    assert believed.statement.predicate["counts"]["verified"] == INFLATED

    # The pinned key, and the key set with it.
    with pytest.raises(VerificationError, match="names key"):
        verify_seal(read, anchors_of(workspace))
    with pytest.raises(VerificationError, match="names another key"):
        verify_seal(read, replace(anchors_of(workspace), key=key, keys=None))
    # Even who takes the computed key for the organisation's: the content names the true one, and
    # cannot name one that is computed from it.
    with pytest.raises(VerificationError, match="names another key"):
        verify_seal(read, Anchors(key))


def test_the_command_refuses_it_by_every_key(
    harvested: Installation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = harvested.workspace()
    sealed = seal(workspace, "r-one").sealed
    assert sealed is not None
    forged, key = substituted(sealed.bundle)
    folder = tmp_path / "seal"
    for name in (*sealed.files(), "seal-trusted-root.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(reader(workspace, 1, b"")(name))
    (tmp_path / "computed.pub").write_text(public_pem(key))
    verify = ["verify", str(folder), "--config", str(harvested.config)]
    (folder / SEAL).write_bytes(sealed.bundle)
    assert cli.main(verify) == 0
    (folder / SEAL).write_bytes(forged)
    assert cli.main(verify) == 1
    assert cli.main([*verify, "--key", str(tmp_path / "computed.pub")]) == 1
    assert "names another key" in capsys.readouterr().out


@pytest.fixture
def proven(harvested: Installation, tmp_path: Path) -> Proven:
    """The proof of one attestation, its only seal replaced, in the hands of who was told the
    computed key's fingerprint."""
    workspace = harvested.workspace()
    seal(workspace, "r-one")
    digest = workspace.catalog.evidence()[0].bundle
    (folder,) = prove(workspace, digest, tmp_path / "proof")
    proof = Proven.of(folder, workspace)
    assert proof.check()
    forged, key = substituted((folder / "seal" / SEAL).read_bytes())
    (folder / "seal" / SEAL).write_bytes(forged)
    (folder / "seal/key.pub").write_text(public_pem(key))
    proof.list_again()
    return replace(proof, key=fingerprint(key))


def test_who_was_told_the_wrong_fingerprint_is_warned_by_the_content_and_the_key_free_list(
    proven: Proven, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not proven.check()
    assert "names another key" in proven.said
    monkeypatch.setattr(Anchors, "named", lambda self, named: self.key)
    assert not proven.check()
    assert "renewal.sha512 does not have seals/000001/" in proven.said


@pytest.mark.lab
def test_the_script_warns_as_well(proven: Proven) -> None:
    assert proven.script() != 0
    script = proven.folder / "verify.sh"
    assert "keyid" in script.read_text()


def test_of_two_seals_with_one_number_the_archive_takes_one(harvested: Installation) -> None:
    one, other = harvested.workspace(), harvested.workspace()
    sealed = seal(one, "r-one").sealed
    assert sealed is not None
    forged, _ = substituted(sealed.bundle)
    with pytest.raises(ConflictError):
        other.store(f"{seal_folder(1)}/{SEAL}", forged)


def test_a_second_history_shows_when_one_site_sees_both(
    harvested: Installation, tmp_path: Path
) -> None:
    """A key holder keeps two archives: each alone holds together, and no two seals of them do."""
    second = harvested.copy(tmp_path / "second")
    seal(harvested.workspace(), "r-one")
    seal(second.workspace(), "r-uno")
    histories = []
    for history in (harvested, second):
        seal(history.workspace(), "r-two")
        assert audit(history.workspace()).state is State.PASSED
        histories.append([read_seal(history.workspace(), number) for number in (1, 2)])
    (first, _), (_, other) = histories
    with pytest.raises(VerificationError, match="does not name seal 1"):
        verify_chain([first, other])
    for chain in histories:
        verify_chain(chain)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"previous": "sha256:" + "0" * 64}, "does not name seal 1"),
        ({"renews": []}, "does not renew seal 1"),
        ({"renews": [{"sequence": 1, "digest": "sha256:" + "0" * 64}]}, "does not renew seal 1"),
    ],
)
def test_a_seal_that_leaves_its_predecessor_out_breaks_the_chain(
    harvested: Installation, change: dict[str, object], found: str
) -> None:
    workspace = harvested.workspace()
    seal(workspace, "r-one")
    seal(workspace, "r-two")
    first, second = read_seal(workspace, 1), read_seal(workspace, 2)
    statement = second.statement
    other = replace(statement, predicate={**statement.predicate, **change})
    with pytest.raises(VerificationError, match=found):
        verify_chain([first, Published(2, second.bundle, other)])


def test_no_public_images_statement_names_a_private_image(harvested: Installation) -> None:
    """Through signing and attaching: what hangs on an image names its own group alone."""
    shutil.copytree(
        harvested.folder / "registry/corp/a-svc1", harvested.folder / "open/corp/a-svc1"
    )
    shutil.rmtree(harvested.folder / "registry/corp/a-svc1")
    registries = [
        {"name": "exported", "layout": "registry"},
        {"name": "open", "layout": "open", "visibility": "public"},
    ]
    harvested.write(registries=registries)
    workspace = harvested.workspace()
    harvest_all(workspace)
    sealed = seal(workspace, "r-one").sealed
    assert sealed is not None
    places = places_of(workspace, sealed)
    public = {place.image for place in places if place.registry == "open"}
    private = {place.image for place in places if place.registry == "exported"} - public
    assert public and private
    sign_images(workspace, sealed)
    attach_images(workspace, sealed)
    statements = {
        digest_of(workspace.archive.get(f"{folder}/{BUNDLE}")): Ceremony(workspace, folder)
        for folder in statement_folders(workspace, 1)
    }
    hanging = workspace.catalog.image_statements()
    assert {row.source for row in hanging} == {"open", "exported"}
    for row in hanging:
        named = Statement.parse(statements[row.bundle].statement()).subjects
        assert all(one.name is None for one in named)
        others = private if row.source == "open" else public
        assert not {f"sha256:{one.digest['sha256']}" for one in named} & others


@pytest.mark.parametrize(
    "folder", ["seals/000001/1", "seals/000001/images/0001", "prunes/aa/1", "deletions/aa"]
)
def test_what_somebody_claimed_is_not_signed_where_another_kind_belongs(
    harvested: Installation, folder: str
) -> None:
    """Whoever writes into the archive has the key sign no approval in place of something else."""
    workspace = harvested.workspace()
    subject = Subject.of(b"{}", "approval-policy.json")
    kind = predicate_type(workspace, "approval-policy")
    until = timestamp(workspace.now())
    predicate = {"version": 1, "validUntil": until, **signed_as(workspace)}
    ceremony = Ceremony(workspace, folder)
    ceremony.claim(Statement((subject,), kind, predicate).format())
    before = harvested.key_operations()
    with pytest.raises(VerificationError, match=r"statement, found .*/approval-policy/v1"):
        ceremony.sign()
    assert harvested.key_operations() == before
    assert not ceremony.signed


def test_nothing_but_an_image_statement_has_an_image_as_its_subject(
    every_kind: tuple[Installation, dict[str, bytes]],
) -> None:
    installation, bundles = every_kind
    rows = installation.workspace().catalog.evidence()
    known = {digest[7:] for row in rows for digest in (row.image, row.manifest)}
    for kind, data in bundles.items():
        subjects = Statement.parse(parse_key_bundle(data).payload).subjects
        named = {one.digest["sha256"] for one in subjects} & known
        assert bool(named) == (kind == "image"), kind
        assert all((one.name is None) == (kind == "image") for one in subjects), kind


@pytest.mark.lab
@pytest.mark.parametrize("kind", ["seal", "inventory", "prune-plan", "deletion", "key-set"])
def test_cosign_takes_no_other_statement_for_a_signature_of_an_image(
    kind: str, every_kind: tuple[Installation, dict[str, bytes]], lab: Lab, tmp_path: Path
) -> None:
    """Whoever may push hangs the organisation's other statements on an image, as referrers."""
    installation, bundles = every_kind
    workspace = installation.workspace()
    row = workspace.catalog.evidence()[0]
    root = tmp_path / "root.json"
    root.write_bytes(seal_trusted_root(workspace, retired=True))

    def cosign(server: RegistryDouble, verb: str, of: str, *more: str) -> str:
        key = tmp_path / "org.pub"
        payload = parse_key_bundle(bundles[of]).payload
        named = Statement.parse(payload).predicate["keyid"]
        found = key_set(workspace)
        assert found is not None
        key.write_text(public_pem(next(one.key for one in found[0].keys if one.keyid == named)))
        return lab.cosign(
            verb,
            f"--key={key}",
            f"--trusted-root={root}",
            "--use-signed-timestamps",
            "--insecure-ignore-tlog=true",
            "--allow-http-registry",
            *more,
            f"{server.host}/{row.repository}@{row.image}",
        )

    with RegistryDouble() as server:
        registry = DistributionRegistry("main", server.url)
        image = installation.registry().manifest(row.repository, row.image)
        assert image is not None
        registry.put_blob(row.repository, digest_of(EMPTY), len(EMPTY), io.BytesIO(EMPTY))
        registry.put_manifest(row.repository, image)
        subject = Descriptor(image.media_type, image.digest, len(image.data))

        def hang(of: str) -> str:
            kind_of = Statement.parse(parse_key_bundle(bundles[of]).payload).predicate_type
            annotations = {
                "dev.sigstore.bundle.content": "dsse-envelope",
                "dev.sigstore.bundle.predicateType": kind_of,
            }
            attach(registry, row.repository, subject, MEDIA_TYPE, bundles[of], annotations)
            return kind_of

        kind_of = hang(kind)
        for verb, more in (("verify", []), ("verify-attestation", [f"--type={kind_of}"])):
            with pytest.raises(CalledProcessError) as refused:
                cosign(server, verb, kind, *more)
            assert "no matching" in refused.value.stderr, refused.value.stderr
        kind_of = hang("image")
        assert cosign(server, "verify-attestation", "image", f"--type={kind_of}")
