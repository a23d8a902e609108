"""Manifests, indexes and names of the OCI specifications, parsed under limits and nothing else.

Sources: OCI image-spec 1.1 (manifest.md, image-index.md, descriptor.md), distribution-spec 1.1,
and Docker's schema 2 manifests and lists, which registries still hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from longseal.canonical import hex_of, is_digest, parse_object
from longseal.errors import MalformedError, UnsupportedError
from longseal.registry.interface import Descriptor

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
EMPTY_CONFIG: Final = "application/vnd.oci.empty.v1+json"

MANIFEST_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})

MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
"""Largest manifest or index read; distribution-spec asks registries to take as much."""

MAX_DESCRIPTORS: Final = 10_000
MAX_ANNOTATIONS: Final = 1_000
MAX_SIZE: Final = 2**63 - 1

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_ATTACHED = re.compile(r"sha256-([0-9a-f]{64})(?:\.(?:att|sig|sbom))?")
_MEDIA_TYPE = re.compile(r"[!-~][ -~]{0,254}")
_OTHER_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]{32,256}")


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """What Longseal reads of an image or artifact manifest.

    :param artifact_type: ``artifactType``, else the config's media type, as the referrers API says
    :param subject: the manifest that this one refers to
    """

    media_type: str
    artifact_type: str | None
    subject: Descriptor | None
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)


def check_repository(name: str) -> str:
    """``name``, when it is a repository name of distribution-spec.

    :raises MalformedError: otherwise; so no name leaves its place in a path or URL
    """
    if len(name) > 255 or _REPOSITORY.fullmatch(name) is None:
        raise MalformedError(f"not a repository name: {name[:80]!a}")
    return name


def is_tag(text: str) -> bool:
    """Whether ``text`` is a tag of distribution-spec."""
    return _TAG.fullmatch(text) is not None


def check_reference(reference: str) -> str:
    """``reference``, when it is a tag or a ``sha256:`` digest.

    :raises MalformedError: otherwise
    """
    if not is_digest(reference) and not is_tag(reference):
        raise MalformedError(f"neither a tag nor a sha256 digest: {reference[:80]!a}")
    return reference


def fallback_tag(digest: str) -> str:
    """The tag under which registries without the referrers API list a subject's referrers."""
    return f"sha256-{hex_of(digest)}"


def subject_in_tag(tag: str) -> str | None:
    """The image that a fallback tag, or one of cosign's older tags, speaks of."""
    match = _ATTACHED.fullmatch(tag)
    return f"sha256:{match[1]}" if match else None


def is_index(media_type: str) -> bool:
    """Whether a document of ``media_type`` lists manifests instead of layers."""
    return media_type in INDEX_TYPES


def parse_manifest(data: bytes, media_type: str | None = None) -> ImageManifest:
    """Read an image or artifact manifest.

    :param media_type: what the answer or descriptor calls it, for documents that do not say
    :raises MalformedError: not such a manifest, or beyond the limits
    :raises UnsupportedError: well-formed, but of another kind (schema 1, other digests)
    """
    document = parse_object(data, "manifest", MAX_MANIFEST_BYTES)
    found = _media_type_of(document, media_type)
    if found not in MANIFEST_TYPES:
        raise UnsupportedError(f"expected an image manifest, found {found!a}")
    config = _optional(document, "config")
    artifact_type = _text(document, "artifactType") or (config.media_type if config else None)
    return ImageManifest(
        media_type=found,
        artifact_type=artifact_type,
        subject=_optional(document, "subject"),
        config=config,
        layers=_descriptors(document, "layers"),
        annotations=_annotations(document),
    )


def parse_index(data: bytes, media_type: str | None = None) -> tuple[Descriptor, ...]:
    """The descriptors of an image index or manifest list, in its order.

    :raises MalformedError: not an index, or beyond the limits
    :raises UnsupportedError: well-formed, but of another kind
    """
    document = parse_object(data, "index", MAX_MANIFEST_BYTES)
    found = _media_type_of(document, media_type)
    if found not in INDEX_TYPES:
        raise UnsupportedError(f"expected an index, found {found!a}")
    if "manifests" not in document:
        # An error document served as an index must not pass for an empty one.
        raise MalformedError("an index has a list of manifests, and this one has not")
    return _descriptors(document, "manifests")


def parse_subject(data: bytes) -> Descriptor | None:
    """The ``subject`` of any manifest or index."""
    return _optional(parse_object(data, "manifest", MAX_MANIFEST_BYTES), "subject")


def media_type_of(data: bytes, declared: str | None = None) -> str:
    """What a manifest or index is: its own ``mediaType``, else ``declared``, else its shape.

    :raises MalformedError: the bytes are neither
    """
    return _media_type_of(parse_object(data, "manifest", MAX_MANIFEST_BYTES), declared)


def _media_type_of(document: dict[str, Any], declared: str | None) -> str:
    if "manifests" in document and ("layers" in document or "config" in document):
        # CVE-2021-41190: two readers must not see two documents in the same bytes.
        raise MalformedError("a document with both manifests and layers is no manifest")
    own = _text(document, "mediaType")
    if own is not None:
        return own
    if declared is not None and declared in MANIFEST_TYPES | INDEX_TYPES:
        return declared
    if "manifests" in document:
        return OCI_INDEX
    if "config" in document or "layers" in document:
        return OCI_MANIFEST
    raise MalformedError("neither a manifest nor an index: no mediaType, layers or manifests")


def parse_descriptor(value: object) -> Descriptor:
    """One content descriptor.

    :raises MalformedError: a part is missing or not of its type
    :raises UnsupportedError: the digest is of another algorithm than SHA-256
    """
    if not isinstance(value, dict):
        raise MalformedError(f"a descriptor is an object, found {type(value).__name__}")
    digest, size = value.get("digest"), value.get("size")
    if not isinstance(digest, str) or not is_digest(digest):
        if isinstance(digest, str) and _OTHER_DIGEST.fullmatch(digest):
            algorithm = digest.partition(":")[0]
            if algorithm != "sha256":
                raise UnsupportedError(f"digests of algorithm {algorithm[:32]!a} are not supported")
        raise MalformedError(
            f"expected a digest sha256:<64 hex digits>, found {str(digest)[:80]!a}"
        )
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_SIZE:
        raise MalformedError(
            f"the size of {digest} is not a whole number from 0: {str(size)[:40]!a}"
        )
    media_type = _text(value, "mediaType")
    if media_type is None:
        raise MalformedError(f"the descriptor of {digest} has no mediaType")
    return Descriptor(
        media_type,
        digest,
        size,
        _text(value, "artifactType"),
        _annotations(value),
        _platform(value.get("platform")),
    )


def _platform(value: object) -> str | None:
    """A hint like the others: what is no platform is none."""
    if not isinstance(value, dict):
        return None
    parts = [value.get(name) for name in ("os", "architecture", "variant")]
    text = "/".join(part for part in parts if isinstance(part, str) and part)
    return text if 0 < len(text) <= 200 else None


def _optional(document: dict[str, Any], key: str) -> Descriptor | None:
    value = document.get(key)
    return None if value is None else parse_descriptor(value)


def _descriptors(document: dict[str, Any], key: str) -> tuple[Descriptor, ...]:
    values = document.get(key)
    if values is None:
        values = []  # Go encodes an empty list as null
    if not isinstance(values, list):
        raise MalformedError(f"{key} is a list, found {type(values).__name__}")
    if len(values) > MAX_DESCRIPTORS:
        raise MalformedError(f"{key} has {len(values)} entries, more than {MAX_DESCRIPTORS}")
    return tuple(parse_descriptor(value) for value in values)


def _text(value: dict[str, Any], key: str) -> str | None:
    text = value.get(key)
    if text is None or text == "":
        return None
    if not isinstance(text, str) or _MEDIA_TYPE.fullmatch(text) is None:
        raise MalformedError(f"{key} is not a media type: {str(text)[:80]!a}")
    return text


def _annotations(value: dict[str, Any]) -> Mapping[str, str]:
    found = value.get("annotations")
    if found is None:
        return {}
    if not isinstance(found, dict) or len(found) > MAX_ANNOTATIONS:
        raise MalformedError(f"annotations are an object of at most {MAX_ANNOTATIONS} strings")
    for key, item in found.items():
        if not isinstance(item, str):
            raise MalformedError(f"annotation {key[:80]!a} is not a string")
    return found
