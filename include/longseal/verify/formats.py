"""The evidence formats that are read, each as a Sigstore bundle for the engine.

Harvest, recheck and ``longseal verify`` all read evidence here, from the two things that are kept
of it: the payload's bytes as found, and the bytes of the manifest that carried it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from longseal.canonical import canonical_json, digest_of, parse_object
from longseal.errors import MalformedError, UnsupportedError
from longseal.registry.attachment import kind_of
from longseal.registry.model import MAX_MANIFEST_BYTES, parse_manifest
from longseal.verify import legacy
from longseal.verify.documents import Format
from longseal.verify.statement import PAYLOAD_TYPE

INTAKE: Final = "application/vnd.longseal.intake.v1+json"
"""Media type of what stands for a manifest where evidence was not found attached to an image."""


_PROVEN = re.compile(rb'"inclusionProof"\s*:\s*\{')


@dataclass(frozen=True, slots=True)
class Reading:
    """One signature in a piece of evidence.

    :param bundle: JSON of a Sigstore bundle: the bytes found, or made from them
    :param artifact: of cosign's older attachments, the layer: what a message signature signs, and
        the envelope as older log entries hash it
    """

    bundle: bytes
    artifact: bytes | None = None


def readings(
    payload: bytes, manifest: bytes, material: Sequence[bytes] = ()
) -> tuple[Reading, ...]:
    """What ``payload`` says, a layer of the OCI manifest ``manifest``, or taken in with it.

    Mostly that is one reading. Cosign's older image signatures all sign the same bytes, so one
    layer's bytes may stand there many times, with a signature in the annotations of each.

    :param material: what was added later: log entries with their proofs, in place of those that
        have the log's promise alone
    :raises MalformedError: the manifest has no such layer, the material is about something else, or
        something in them is broken
    :raises UnsupportedError: they are well-formed, and of a kind that cannot be read
    """
    found = _readings(payload, manifest)
    if not material:
        return found
    proven = {_promised(parse_object(one, "added material")): one for one in material}
    used: set[bytes] = set()
    completed = tuple(_completed(one, proven, used) for one in found)
    if used != proven.keys():
        raise MalformedError("the added material has a log entry that the evidence does not have")
    return completed


def _completed(reading: Reading, proven: Mapping[bytes, bytes], used: set[bytes]) -> Reading:
    bundle = parse_object(reading.bundle, "the bundle")
    material = bundle["verificationMaterial"]
    entries = material["tlogEntries"]
    for number, entry in enumerate(entries):
        name = _promised(entry)
        if name in proven and not entry.get("inclusionProof"):
            used.add(name)
            entries[number] = parse_object(proven[name], "added material")
    return replace(reading, bundle=json.dumps(bundle).encode())


def _promised(entry: Mapping[str, Any]) -> bytes:
    """A log entry without its proof. Protobuf's JSON leaves zero out, and so the first's index."""
    promised = {"logIndex": "0", **entry}
    promised.pop("inclusionProof", None)
    return canonical_json(promised)


def _readings(payload: bytes, manifest: bytes) -> tuple[Reading, ...]:
    digest = digest_of(payload)
    carrier = parse_object(manifest, "manifest", MAX_MANIFEST_BYTES)
    if carrier.get("mediaType") == INTAKE:
        if carrier.get("payload") != digest:
            raise MalformedError(f"what was taken in is {carrier.get('payload')!a}, not {digest}")
        return (_taken_in(payload, carrier.get("format")),)
    layers = [one for one in parse_manifest(manifest).layers if one.digest == digest]
    if not layers:
        raise MalformedError(f"the manifest {digest_of(manifest)} has no layer {digest}")
    kinds = {kind_of(layer.media_type, payload) for layer in layers}
    if "bundle" in kinds:
        return (Reading(payload),)
    found: list[Reading] = []
    for layer in layers:
        if "dsse" in kinds:
            found.append(Reading(legacy.attestation(payload, layer.annotations), payload))
        else:
            found.append(Reading(legacy.signature(payload, layer.annotations), payload))
    return tuple(dict.fromkeys(found))


def intake_manifest(payload: bytes, form: Format) -> bytes:
    """What stands for the manifest of evidence that was not found attached to an image."""
    return canonical_json({"format": form, "mediaType": INTAKE, "payload": digest_of(payload)})


def is_intake(manifest: bytes) -> bool:
    """Whether this is what :func:`intake_manifest` makes."""
    carrier = parse_object(manifest, "manifest", MAX_MANIFEST_BYTES)
    return carrier.get("mediaType") == INTAKE


def _taken_in(payload: bytes, form: object) -> Reading:
    if form == "sigstore-bundle":
        return Reading(payload)
    if form == "pep-740":
        return Reading(_pep_740(parse_object(payload, "the attestation")))
    if form == "dsse-envelope":
        return Reading(legacy.attestation(payload, {}), payload)
    if form == "unreadable":
        raise MalformedError("it could not be read when it was taken in")
    raise UnsupportedError(f"evidence of a format that cannot be read: {str(form)[:40]!a}")


def _pep_740(attestation: dict[str, Any]) -> bytes:
    """The bundle of an attestation object of PyPI (PEP 740, "Attestation objects")."""
    if attestation.get("version") != 1:
        version = str(attestation.get("version"))[:40]
        raise UnsupportedError(f"expected an attestation of version 1, found {version!a}")
    material, envelope = attestation.get("verification_material"), attestation.get("envelope")
    if not isinstance(material, dict) or not isinstance(envelope, dict):
        raise MalformedError("an attestation's verification_material and envelope are objects")
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "certificate": {"rawBytes": material.get("certificate")},
            "tlogEntries": material.get("transparency_entries"),
        },
        "dsseEnvelope": {
            "payload": envelope.get("statement"),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": envelope.get("signature")}],
        },
    }
    return json.dumps(bundle).encode()


def may_lack_proof(payload: bytes, manifest: bytes) -> bool:
    """Whether evidence may have a log's promise without its inclusion proof.

    A glance, to know where it is worth a look: nothing is parsed.
    """
    if b'"inclusionPromise"' in payload:
        return _PROVEN.search(payload) is None
    return legacy.BUNDLE.encode() in manifest
