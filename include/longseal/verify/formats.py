"""The evidence formats that are read, each as a Sigstore bundle for the engine.

Harvest, recheck and ``longseal verify`` all read evidence here, from the two things that are kept
of it: the payload's bytes as found, and the bytes of the manifest that carried it.
"""

from __future__ import annotations

from dataclasses import dataclass

from longseal.canonical import digest_of
from longseal.errors import MalformedError
from longseal.registry.attachment import kind_of
from longseal.registry.model import parse_manifest
from longseal.verify import legacy


@dataclass(frozen=True, slots=True)
class Reading:
    """One signature in a piece of evidence.

    :param bundle: JSON of a Sigstore bundle: the bytes found, or made from them
    :param artifact: of cosign's older attachments, the layer: what a message signature signs, and
        the envelope as older log entries hash it
    """

    bundle: bytes
    artifact: bytes | None = None


def readings(payload: bytes, manifest: bytes) -> tuple[Reading, ...]:
    """What ``payload``, a layer of the OCI manifest ``manifest``, says.

    Mostly that is one reading. Cosign's older image signatures all sign the same bytes, so one
    layer's bytes may stand there many times, with a signature in the annotations of each.

    :raises MalformedError: the manifest has no such layer, or an annotation is broken
    """
    digest = digest_of(payload)
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
