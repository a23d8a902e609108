"""Three kinds of registry, and images to put into them."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import requests

from tests.lab.processes import HOST, free_port, start
from tests.lab.tools import tool

Kind = Literal["docker_registry", "distribution", "referrers"]
KINDS: tuple[Kind, ...] = ("docker_registry", "distribution", "referrers")

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

# Prometheus, tracing and the like are off; the cache is the one of the packaged configuration.
DISTRIBUTION_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: {silent}}}}}
storage:
  cache: {{blobdescriptor: inmemory}}
  filesystem: {{rootdirectory: {storage}}}
  delete: {{enabled: {deletes}}}
  maintenance: {{uploadpurging: {{enabled: false}}}}
http:
  addr: {address}
  secret: lab
"""


@dataclass(frozen=True)
class Registry:
    """A running registry: `url` for people who want http://, `host` for image references."""

    kind: Kind
    url: str
    folder: Path

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")


def command(
    kind: Kind, folder: Path, port: int, *, access_log: bool = False, deletes: bool = True
) -> list[str]:
    """The argv of a registry that keeps its content in `folder`, deletions enabled unless told.

    `docker_registry` (Debian's 2.8.2) and `distribution` (v3) have no referrers API: clients write
    fallback tags. `referrers` has it, and keeps manifests in memory only.
    """
    address = f"{HOST}:{port}"
    storage = folder / "storage"
    storage.mkdir(parents=True, exist_ok=True)
    if kind == "referrers":
        return [tool("refregistry"), "-addr", address, "-dir", str(storage)]
    config = folder / "config.yml"
    silent = str(not access_log).lower()
    text = DISTRIBUTION_CONFIG.format(
        storage=storage, address=address, silent=silent, deletes=str(deletes).lower()
    )
    config.write_text(text)
    binary = tool("docker-registry" if kind == "docker_registry" else "registry")
    return [binary, "serve", str(config)]


@contextmanager
def registry(
    kind: Kind,
    folder: Path,
    port: int | None = None,
    *,
    access_log: bool = False,
    deletes: bool = True,
) -> Iterator[Registry]:
    """Run a registry of one kind, on a free port unless told, with its content in `folder`."""
    port = port or free_port()
    url = f"http://{HOST}:{port}"
    env = {"OTEL_TRACES_EXPORTER": "none"}
    argv = command(kind, folder, port, access_log=access_log, deletes=deletes)
    with start(kind, argv, folder, url, ready="/v2/", env=env):
        yield Registry(kind, url, folder)


def push_image(
    registry_url: str, repository: str, tag: str, *, size: int = 1024, architecture: str = "amd64"
) -> str:
    """Push an image of one layer with `size` random bytes, and return its digest."""
    tarball = io.BytesIO()
    with tarfile.open(fileobj=tarball, mode="w") as archive:
        entry = tarfile.TarInfo("random")
        entry.size = size
        archive.addfile(entry, io.BytesIO(os.urandom(size)))
    diff = "sha256:" + hashlib.sha256(tarball.getvalue()).hexdigest()
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff]},
    }
    blobs = [(CONFIG, json.dumps(config).encode()), (LAYER, gzip.compress(tarball.getvalue(), 1))]
    descriptors = [
        {"mediaType": kind, "digest": push_blob(registry_url, repository, data), "size": len(data)}
        for kind, data in blobs
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptors[0],
        "layers": descriptors[1:],
    }
    return push_manifest(registry_url, repository, tag, json.dumps(manifest).encode(), MANIFEST)


def push_index(registry_url: str, repository: str, tag: str) -> tuple[str, list[str]]:
    """Push a multi-platform image, and return its digest and its children's."""
    children, entries = [], []
    for architecture in ("amd64", "arm64"):
        child_tag = f"{tag}-{architecture}"
        digest = push_image(registry_url, repository, child_tag, architecture=architecture)
        url = f"{registry_url}/v2/{repository}/manifests/{digest}"
        size = len(requests.get(url, headers={"Accept": MANIFEST}, timeout=30).content)
        platform = {"architecture": architecture, "os": "linux"}
        children.append(digest)
        entries.append(
            {"mediaType": MANIFEST, "digest": digest, "size": size, "platform": platform}
        )
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    return push_manifest(registry_url, repository, tag, json.dumps(index).encode(), INDEX), children


def push_blob(registry_url: str, repository: str, data: bytes) -> str:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    opened = requests.post(f"{registry_url}/v2/{repository}/blobs/uploads/", timeout=30)
    opened.raise_for_status()
    where = requests.compat.urljoin(registry_url, opened.headers["Location"])
    binary = {"Content-Type": "application/octet-stream"}
    done = requests.put(where, params={"digest": digest}, data=data, headers=binary, timeout=30)
    done.raise_for_status()
    return digest


def push_manifest(registry_url: str, repository: str, tag: str, data: bytes, kind: str) -> str:
    url = f"{registry_url}/v2/{repository}/manifests/{tag}"
    requests.put(url, data=data, headers={"Content-Type": kind}, timeout=30).raise_for_status()
    return "sha256:" + hashlib.sha256(data).hexdigest()
