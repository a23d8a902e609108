"""A registry that speaks the OCI distribution specification 1.1 over HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import Any, BinaryIO, Final, TypeVar, Unpack

from longseal.canonical import MAX_JSON_BYTES, digest_of, hex_of, is_digest, parse_object
from longseal.errors import MalformedError, RegistryError
from longseal.patterns import matches_any
from longseal.registry.auth import Scope
from longseal.registry.connections import Answer
from longseal.registry.interface import Descriptor, Manifest
from longseal.registry.model import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MAX_DESCRIPTORS,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    check_reference,
    check_repository,
    is_tag,
    media_type_of,
    parse_index,
)
from longseal.registry.transport import Options, Transport
from longseal.registry.upload import REFUSALS, Upload, refusal

MAX_PAGES: Final = 5_000
MAX_NAMES: Final = 1_000_000
MAX_LIST_BYTES: Final = 64 * 1024 * 1024
MAX_LIST_SECONDS: Final = 1_800.0
MAX_BARREN_PAGES: Final = 10
"""Pages in a row with nothing new on them; a registry that hides what one may not see has some."""

PAGE: Final = 1_000
"""Names asked for on one page; a registry may give fewer."""

ACCEPT: Final = ", ".join(
    (
        OCI_MANIFEST,
        OCI_INDEX,
        DOCKER_MANIFEST,
        DOCKER_LIST,
        "application/vnd.oci.artifact.manifest.v1+json",
    )
)

_NEXT = re.compile(r"<([^<>]{1,4096})>\s*;[^,<]*\brel=\"?next\"?", re.IGNORECASE)
_CATALOG: Final = Scope("")
_T = TypeVar("_T")


class DistributionRegistry:
    """:class:`~longseal.registry.interface.Registry` over HTTP; thread-safe.

    :param name: the settings' name for it
    :param url: ``http://`` or ``https://`` and a host
    :param patterns: repositories to work on; with no ``*`` in any, the catalog is never asked for

    The other options are those of :class:`~longseal.registry.transport.Transport`.
    """

    def __init__(
        self,
        name: str,
        url: str,
        patterns: Sequence[str] = ("**",),
        **options: Unpack[Options],
    ) -> None:
        self._name = name
        self._patterns = tuple(patterns)
        self._http = Transport(url, **options)
        self._referrers_api: dict[str, bool] = {}
        self._asked: set[str] = set()
        self._holders: dict[str, tuple[str, ...]] = {}
        self._uploading = tuple(Lock() for _ in range(64))
        self._asking = tuple(Lock() for _ in range(64))

    @property
    def name(self) -> str:
        return self._name

    def repositories(self) -> Iterator[str]:
        if not any("*" in pattern for pattern in self._patterns):
            yield from sorted({check_repository(name) for name in self._patterns})
            return
        names = self._names(f"/v2/_catalog?n={PAGE}", _CATALOG, "repositories")
        if names is None:
            raise RegistryError(
                f"{self._http.host} has no catalog: name its repositories, without a *"
            )
        yield from sorted(
            name for name in map(check_repository, names) if matches_any(self._patterns, name)
        )

    def tags(self, repository: str) -> tuple[str, ...]:
        target = f"/v2/{check_repository(repository)}/tags/list?n={PAGE}"
        tags = self._names(target, Scope(repository), "tags") or frozenset()
        for tag in tags:
            if not is_tag(tag):
                raise MalformedError(f"{self._http.host}/{repository} lists {tag[:80]!a} as a tag")
        return tuple(sorted(tags))

    def manifest(self, repository: str, reference: str) -> Manifest | None:
        answer = self._http.request(
            "GET",
            self._manifest_target(repository, reference),
            Scope(repository),
            accept=ACCEPT,
            limit=MAX_MANIFEST_BYTES,
        )
        if answer.status == 404:
            return None
        digest = digest_of(answer.body)
        claimed = reference if is_digest(reference) else _header_digest(answer)
        where = f"{self._http.host}/{repository}: {reference}"
        if claimed is not None and claimed != digest:
            raise RegistryError(f"{where}: asked for {claimed}, got bytes of {digest}")
        content_type = _content_type(answer)
        if content_type in ("text/html", "text/plain"):
            raise RegistryError(f"{where}: expected a manifest, found {content_type}")
        return Manifest(digest, media_type_of(answer.body, content_type), answer.body)

    def resolve(self, repository: str, tag: str) -> str | None:
        answer = self._http.request(
            "HEAD",
            self._manifest_target(repository, tag),
            Scope(repository),
            accept=ACCEPT,
            allow=(200, 404, 405),
        )
        if answer.status == 404:
            return None
        digest = _header_digest(answer) if answer.status == 200 else None
        if digest is None:
            found = self.manifest(repository, tag)
            return found.digest if found else None
        return digest

    def referrers(self, repository: str, digest: str) -> tuple[Descriptor, ...] | None:
        """See the interface. That a repository has no referrers API is remembered, for it alone:
        there are servers on which one repository has the API and its neighbour has not.
        """
        hex_of(digest)
        if check_repository(repository) not in self._asked:
            # The first thread asks, and the others learn from its answer, if it gets one.
            with self._asking[hash(repository) % len(self._asking)]:
                if repository not in self._asked:
                    try:
                        return self._ask_for_referrers(repository, digest, None)
                    finally:
                        self._asked.add(repository)
        known = self._referrers_api.get(repository)
        return None if known is False else self._ask_for_referrers(repository, digest, known)

    def _ask_for_referrers(
        self, repository: str, digest: str, known: bool | None
    ) -> tuple[Descriptor, ...] | None:
        found = self._listed(
            f"/v2/{repository}/referrers/{digest}",
            Scope(repository),
            lambda answer: {
                item.digest: item for item in parse_index(answer.body, _content_type(answer))
            },
            MAX_DESCRIPTORS,
            web_page_is_none=True,
        )
        if found is None and known:
            raise RegistryError(
                f"{self._http.host}/{repository}: the referrers API answered before, and now not"
            )
        self._referrers_api[repository] = found is not None
        return None if found is None else tuple(found.values())

    def blob(self, repository: str, digest: str, limit: int) -> bytes:
        target = self._blob_target(repository, digest)
        answer = self._http.request("GET", target, Scope(repository), limit=limit, allow=(200,))
        if digest_of(answer.body) != digest:
            raise RegistryError(
                f"{self._http.host}/{repository}: asked for {digest}, "
                f"got bytes of {digest_of(answer.body)}"
            )
        return answer.body

    def open_blob(self, repository: str, digest: str, start: int = 0) -> BinaryIO:
        return self._http.open(self._blob_target(repository, digest), Scope(repository), start)

    def has_blob(self, repository: str, digest: str) -> bool:
        target = self._blob_target(repository, digest)
        return self._http.request("HEAD", target, Scope(repository)).status == 200

    def put_blob(self, repository: str, digest: str, size: int, data: BinaryIO) -> bool:
        check_repository(repository)
        # Threads that share a blob bring it once. docker-registry 2.8 writes a blob's link anew
        # with each upload, and refuses manifests that name the blob meanwhile.
        with self._uploading[hash(digest) % len(self._uploading)]:
            holders = self._holders.get(digest, ())
            if repository in holders:
                return False
            sent = False

            def there() -> bool:
                return self.has_blob(repository, digest)

            if not there():
                upload = Upload(self._http, repository, digest, size, data, there)
                sent = upload.run(elsewhere=holders[0] if holders else None)
            self._holders[digest] = (*holders, repository)
            return sent

    def put_manifest(self, repository: str, manifest: Manifest, tag: str | None = None) -> None:
        reference = manifest.digest if tag is None else tag
        answer = self._http.request(
            "PUT",
            self._manifest_target(repository, reference),
            Scope(repository, write=True),
            content_type=manifest.media_type,
            body=manifest.data,
            allow=(200, 201, 202, 204, *REFUSALS),
        )
        if answer.status in REFUSALS:
            refused = refusal(self._http, f"store {reference} in", repository, answer)
            if answer.code == "DIGEST_INVALID" and digest_of(manifest.data) == manifest.digest:
                # Not true of these bytes: another client is uploading a blob that they name.
                raise RegistryError(str(refused))
            raise refused
        stored = _header_digest(answer)
        if stored is not None and stored != manifest.digest:
            raise RegistryError(
                f"{self._http.host}/{repository} stored {stored} for {manifest.digest}"
            )

    def delete_manifest(self, repository: str, digest: str) -> None:
        hex_of(digest)
        answer = self._http.request(
            "DELETE",
            self._manifest_target(repository, digest),
            Scope(repository, write=True),
            allow=(200, 202, 204, *REFUSALS),
        )
        if answer.status in REFUSALS and answer.status != 404:
            raise refusal(self._http, f"delete {digest} from", repository, answer)

    def _names(self, first: str, scope: Scope, key: str) -> frozenset[str] | None:
        def read(answer: Answer) -> dict[str, None]:
            listed = parse_object(answer.body, key).get(key, "missing")
            if listed is None:
                listed = []  # Go encodes an empty list as null
            if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
                raise MalformedError(f"no list of {key} in the answer")
            return dict.fromkeys(listed)

        names = self._listed(first, scope, read, MAX_NAMES)
        return None if names is None else frozenset(names)

    def _listed(
        self,
        first: str,
        scope: Scope,
        read: Callable[[Answer], dict[str, _T]],
        most: int,
        web_page_is_none: bool = False,
    ) -> dict[str, _T] | None:
        """All pages of a listing, by name; None where there is no such thing.

        :param read: what one page lists
        """
        where = f"{self._http.host}{first}"
        found: dict[str, _T] = {}
        barren = 0
        for number, answer in enumerate(self._pages(first, scope)):
            web_page = web_page_is_none and _content_type(answer) == "text/html"
            if answer.status == 404 or web_page:
                if number:
                    raise RegistryError(f"{where}: a page is gone")
                return None
            try:
                page = read(answer)
            except MalformedError as err:
                raise RegistryError(f"{where}: unreadable list: {err}") from err
            barren = barren + 1 if page.keys() <= found.keys() else 0
            found |= page
            if len(found) > most:
                raise RegistryError(f"{where}: more than {most} entries")
            if barren > MAX_BARREN_PAGES:
                raise RegistryError(f"{where}: a list whose pages never end, with nothing on them")
        return found

    def _pages(self, first: str, scope: Scope) -> Iterator[Answer]:
        """Every page of a listing (distribution-spec, ``Link: <…>; rel="next"``)."""
        target: str | None = first
        pages = size = 0
        began = time.monotonic()
        while target is not None:
            pages += 1
            if pages > MAX_PAGES:
                raise RegistryError(f"{self._http.host}{first}: a list whose pages never end")
            answer = self._http.request(
                "GET",
                target,
                scope,
                accept=f"application/json, {OCI_INDEX}",
                limit=MAX_JSON_BYTES,
            )
            size += len(answer.body)
            if size > MAX_LIST_BYTES or time.monotonic() - began > MAX_LIST_SECONDS:
                raise RegistryError(
                    f"{self._http.host}{first}: a list of more than {MAX_LIST_BYTES} bytes or "
                    f"{MAX_LIST_SECONDS:.0f} seconds"
                )
            yield answer
            link = answer.headers.get("Link")
            if not link:
                return
            found = _NEXT.search(link)
            if found is None:
                raise RegistryError(f"{self._http.host}{first}: cannot read the link to more pages")
            target = self._http.here(found[1], target)
            if target is None:
                raise RegistryError(f"{self._http.host}{first}: the next page is on another host")

    def _manifest_target(self, repository: str, reference: str) -> str:
        return f"/v2/{check_repository(repository)}/manifests/{check_reference(reference)}"

    def _blob_target(self, repository: str, digest: str) -> str:
        return f"/v2/{check_repository(repository)}/blobs/sha256:{hex_of(digest)}"


def _header_digest(answer: Answer) -> str | None:
    digest: Any = answer.headers.get("Docker-Content-Digest")
    return digest if digest and is_digest(digest) else None


def _content_type(answer: Answer) -> str:
    return answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
