"""The seal as an OCI artifact: all that ``longseal verify FOLDER`` reads, in one manifest.

``oras pull`` writes the folder. The tag is the period.
"""

from __future__ import annotations

from typing import Any, Final

from longseal.canonical import digest_of, timestamp
from longseal.errors import ConflictError
from longseal.registry.artifact import File, artifact_manifest, put_artifact
from longseal.seal.bundle import MEDIA_TYPE
from longseal.seal.published import SEAL, TRUSTED_ROOT, Published, seal_folder
from longseal.seal.revocation import REVOCATION
from longseal.workspace import Workspace

ARTIFACT_TYPE: Final = "application/vnd.longseal.seal.v1"
FILE_TYPE: Final = "application/vnd.longseal.file.v1"
_BESIDE: Final = (SEAL, TRUSTED_ROOT, "renewal.sha512", "renewal.tokens.json")


def push_seal(workspace: Workspace, seal: Published) -> dict[str, Any]:
    """Push a published seal where the settings want it; one that is there is left as it is.

    :returns: ``artifact``, the manifest's digest, and ``pushed``, whether this call wrote it; None
        and False where the settings name no place
    :raises ConflictError: something else has the seal's tag; nothing is overwritten
    :raises RegistryError: the registry did not take it
    """
    place = workspace.settings.seal.artifact
    if place is None:
        return {"artifact": None, "pushed": False}
    registry = workspace.registry(place.registry)
    folder = f"{seal_folder(seal.sequence)}/"
    told = (key.removeprefix(folder) for key in workspace.archive.keys(f"{folder}{REVOCATION}/"))
    beside = (*_BESIDE, *told)
    digests = {
        **{name: digest_of(workspace.archive.get(f"{folder}{name}")) for name in beside},
        **seal.files(),
    }

    def read(name: str) -> bytes:
        if name in beside:
            return workspace.archive.get(f"{folder}{name}")
        return workspace.kept(digests[name])

    files = [
        File(name, digest, len(read(name)), MEDIA_TYPE if name == SEAL else FILE_TYPE)
        for name, digest in digests.items()
    ]
    manifest = artifact_manifest(
        ARTIFACT_TYPE,
        files,
        {
            "org.opencontainers.image.created": timestamp(seal.sealed_at),
            "longseal.seal.sequence": str(seal.sequence),
            "longseal.seal.root": seal.root,
        },
    )
    there = registry.manifest(place.repository, seal.period)
    if there is not None:
        if there.digest != manifest.digest:
            raise ConflictError(
                f"{place.repository}:{seal.period} is {there.digest}, and not the seal"
                f" {manifest.digest}: somebody else wrote there; look at it, and delete it"
            )
        return {"artifact": manifest.digest, "pushed": False}
    put_artifact(registry, place.repository, seal.period, manifest, files, read)
    workspace.note(
        "seal.pushed",
        {
            "sequence": seal.sequence,
            "registry": place.registry,
            "repository": place.repository,
            "artifact": manifest.digest,
        },
    )
    return {"artifact": manifest.digest, "pushed": True}
