"""What is attached to an image: the manifest's bytes, and the layers that may be attestations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from longseal.canonical import MAX_JSON_BYTES, parse_object
from longseal.errors import MalformedError, RegistryError
from longseal.registry.discovery import FALLBACK, INDEX, REFERRERS, Candidate
from longseal.registry.interface import Descriptor, Manifest, Registry
from longseal.registry.model import is_index, parse_manifest, parse_subject

MAX_LAYERS: Final = 100
MAX_TOTAL_BYTES: Final = 64 * 1024 * 1024
"""Most bytes of layers read for one attachment."""

BUNDLE: Final = "application/vnd.dev.sigstore.bundle"
DSSE: Final = "application/vnd.dsse.envelope.v1+json"
SIMPLE_SIGNING: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
IN_TOTO: Final = "application/vnd.in-toto+json"
BUILDKIT: Final = "application/vnd.docker.attestation.manifest.v1+json"

IN_INDEX: Final = "in-index"
"""Reason of an attachment that is :attr:`Attachment.in_index`."""

_ENVELOPE_VALUES: Final = 10_000
"""An envelope holds little but one long text; what has more values in it is no envelope, and is not
worth the memory that they take."""

Kind = Literal["bundle", "dsse", "simplesigning", "other"]


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as found: its descriptor, with cosign's older annotations, and its bytes."""

    descriptor: Descriptor
    data: bytes

    @property
    def kind(self) -> Kind:
        """What the bytes should be judged as."""
        return kind_of(self.descriptor.media_type, self.data)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A candidate, fetched.

    :param layers: the layers that may be attestations, in the manifest's order
    :param ignored: the other layers, which were not downloaded
    :param in_index: BuildKit's own, unsigned: an index lists it, and its digest speaks for it
    """

    candidate: Candidate
    manifest: Manifest
    layers: tuple[Layer, ...]
    ignored: tuple[Descriptor, ...] = ()
    in_index: bool = False


def classify(media_type: str) -> Kind:
    """What a layer of this media type holds; ``other`` for all that carries no signature here."""
    kind = media_type.partition(";")[0].strip()
    if kind == f"{BUNDLE}+json" or (kind.startswith(f"{BUNDLE}.v") and kind.endswith("+json")):
        return "bundle"
    return {DSSE: "dsse", SIMPLE_SIGNING: "simplesigning"}.get(kind, "other")  # type: ignore[return-value]


def kind_of(media_type: str, data: bytes) -> Kind:
    """:func:`classify`, with a look into what is called an in-toto statement, signed or not."""
    if media_type == IN_TOTO:
        return "dsse" if _is_envelope(data) else "other"
    return classify(media_type)


def fetch(registry: Registry, candidate: Candidate) -> Attachment:
    """Fetch a candidate's manifest and the layers that may be attestations.

    :raises MalformedError: the manifest speaks of another subject, or a limit is exceeded
    :raises UnsupportedError: the manifest is of a kind that cannot be read
    :raises RegistryError: it could not be fetched, or is named and not there
    """
    repository, digest = candidate.repository, candidate.manifest.digest
    manifest = registry.manifest(repository, digest)
    if manifest is None:
        raise RegistryError(f"{repository}: {digest} is named as attached and not there")
    in_index = candidate.places == (INDEX,)
    subject = None if in_index else parse_subject(manifest.data)
    refers = REFERRERS in candidate.places or FALLBACK in candidate.places
    if (refers and subject is None) or (
        subject is not None and subject.digest != candidate.subject
    ):
        found = subject.digest if subject else "no subject"
        raise MalformedError(f"{digest} is named for {candidate.subject} and has {found}")
    if is_index(manifest.media_type):
        return Attachment(candidate, manifest, ())
    parsed = parse_manifest(manifest.data, manifest.media_type)
    layers = parsed.layers
    if len(layers) > MAX_LAYERS:
        raise MalformedError(f"{digest} has {len(layers)} layers, more than {MAX_LAYERS}")
    if in_index or parsed.artifact_type == BUILDKIT:
        return Attachment(candidate, manifest, (), layers, in_index=True)
    wanted = [layer for layer in layers if _may_speak(layer)]
    for layer in wanted:
        if layer.size > MAX_JSON_BYTES:
            raise MalformedError(
                f"layer {layer.digest} has {layer.size} bytes, more than {MAX_JSON_BYTES}"
            )
    if sum(layer.size for layer in wanted) > MAX_TOTAL_BYTES:
        raise MalformedError(f"the layers of {digest} have more than {MAX_TOTAL_BYTES} bytes")
    return Attachment(
        candidate,
        manifest,
        tuple(_layer(registry, repository, layer) for layer in wanted),
        tuple(layer for layer in layers if not _may_speak(layer)),
    )


def _may_speak(layer: Descriptor) -> bool:
    return layer.media_type == IN_TOTO or classify(layer.media_type) != "other"


def _layer(registry: Registry, repository: str, descriptor: Descriptor) -> Layer:
    data = registry.blob(repository, descriptor.digest, descriptor.size)
    if len(data) != descriptor.size:
        raise MalformedError(
            f"layer {descriptor.digest} has {len(data)} bytes, its descriptor says "
            f"{descriptor.size}"
        )
    return Layer(descriptor, data)


def _is_envelope(data: bytes) -> bool:
    """Whether bytes called an in-toto statement are a signed envelope around one."""
    try:
        document = parse_object(data, "statement", values=_ENVELOPE_VALUES)
        return {"payload", "signatures"} <= document.keys()
    except MalformedError:
        return False
