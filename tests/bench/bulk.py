"""Attestations by the thousand, genuine and made here, as repositories of five an image."""

import hashlib
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from longseal.canonical import digest_of, hex_of
from longseal.registry.attach import attachment_manifest
from longseal.registry.interface import Descriptor
from longseal.registry.layout import MARKER, REF_NAME
from longseal.registry.model import EMPTY_CONFIG, OCI_INDEX, OCI_MANIFEST
from tests.doubles import sigstore, sigstore_v2
from tests.doubles.registry import Repository
from tests.doubles.sigstore_v2 import SigstoreV2Double, Statement

AN_IMAGE = 5
"""Attestations of an image."""

IMAGES = 20
"""Images of a repository."""

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_TYPES = ("sbom-delta", "reachability-graph", "policy-result")
_EMPTY = b"{}"


def new_double() -> SigstoreV2Double:
    """A private Sigstore that began yesterday."""
    return SigstoreV2Double(_now() - timedelta(days=1))


def repository(double: SigstoreV2Double, number: int, images: int = IMAGES) -> Repository:
    """A repository's content: tagged images without layers, and what is attached to them."""
    content = Repository(blobs={digest_of(_EMPTY): _EMPTY})
    subjects = []
    for image in range(images):
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": EMPTY_CONFIG, "digest": digest_of(_EMPTY), "size": 2},
            "layers": [],
            "annotations": {"number": f"{number}.{image}"},
        }
        data = json.dumps(document).encode()
        subject = Descriptor(OCI_MANIFEST, digest_of(data), len(data))
        content.manifests[subject.digest] = (OCI_MANIFEST, data)
        content.tags[f"v{image + 1}"] = subject.digest
        subjects.append(subject)
    attested = [
        (
            subject,
            Statement(
                subject.digest,
                f"https://stella-ops.example/{_TYPES[order % len(_TYPES)]}/v1",
                {"order": order, "passed": True},
            ),
        )
        for subject in subjects
        for order in range(AN_IMAGE)
    ]
    bundles = double.attest_all(
        [statement for _, statement in attested], _now() - timedelta(hours=1)
    )
    for (subject, statement), bundle in zip(attested, bundles, strict=True):
        annotations = {
            "dev.sigstore.bundle.content": "dsse-envelope",
            "dev.sigstore.bundle.predicateType": statement.predicate_type,
        }
        manifest = attachment_manifest(subject, BUNDLE, bundle, annotations)
        content.blobs[digest_of(bundle)] = bundle
        content.manifests[manifest.digest] = (manifest.media_type, manifest.data)
    return content


def layouts(attestations: int) -> tuple[Path, Path]:
    """A folder of image layouts with so many attestations, and its trusted root: made by every
    core the first time, and kept in the user's cache.

    :param attestations: a multiple of a repository's hundred
    """
    sources = b"".join(
        Path(str(module.__file__)).read_bytes() for module in (sigstore, sigstore_v2)
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longseal-bench"
    made = hashlib.sha256(sources + Path(__file__).read_bytes()).hexdigest()[:12]
    folder = cache / made / str(attestations)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as name:
            fresh = Path(name, "fresh")
            fresh.mkdir()
            double = new_double()
            (fresh / "trusted_root.json").write_bytes(double.trusted_root())
            # Forked, since keys are not handed over otherwise.
            with ProcessPoolExecutor(
                mp_context=multiprocessing.get_context("fork"),
                initializer=_adopt,
                initargs=(double, fresh / "registry"),
            ) as processes:
                for _ in processes.map(_write, range(attestations // (IMAGES * AN_IMAGE))):
                    pass
            fresh.rename(folder)
    return folder / "registry", folder / "trusted_root.json"


_double: SigstoreV2Double
_root: Path


def _adopt(double: SigstoreV2Double, root: Path) -> None:
    global _double, _root
    _double, _root = double, root


def _write(number: int) -> None:
    folder = _root / "corp" / f"service-{number}"
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    content = repository(_double, number)
    names = {digest: tag for tag, digest in content.tags.items()}
    entries = []
    for digest, (media_type, data) in content.manifests.items():
        entry = {"mediaType": media_type, "digest": digest, "size": len(data)}
        if digest in names:
            entry["annotations"] = {REF_NAME: names[digest]}
        entries.append(entry)
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    files = content.blobs | {digest: data for digest, (_, data) in content.manifests.items()}
    for digest, data in files.items():
        (blobs / hex_of(digest)).write_bytes(data)
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_bytes(MARKER)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
