"""A registry in memory behind a real HTTP server on loopback, with switches for bad behaviour."""

import base64
import gzip
import json
import re
import ssl
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from longseal.canonical import digest_of
from longseal.registry.distribution import DistributionRegistry
from longseal.registry.model import OCI_INDEX, OCI_MANIFEST

EMPTY_CONFIG = b"{}"

Start = Callable[..., tuple["RegistryDouble", DistributionRegistry]]
"""The fixture ``start``: a registry with these quirks, and a client of it."""


@dataclass(frozen=True)
class Request:
    """A request as the server saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    at: float = field(default_factory=time.monotonic)


@dataclass
class Quirks:
    """Every way in which this registry can be other than it should be."""

    referrers_api: bool = True
    referrers_html: bool = False
    referrers_empty: bool = False
    """The API takes a subject and forgets it (Quay)."""
    oci_subject: bool = False
    """Say ``OCI-Subject`` on a PUT, whatever the API does (ECR)."""
    subject_for_fallback: bool = False
    """Answer for a fallback tag that is not there with the subject (GitLab)."""
    page: int | None = None
    endless: bool = False
    looping: bool = False
    inventing: str | None = None
    """A name of which every page has another."""
    next_host: str | None = None
    bearer: tuple[str, str] | None = None
    basic: tuple[str, str] | None = None
    basic_challenge: str = 'Basic realm="lab"'
    realm: str | None = None
    token_lifetime: int | None = None
    deletes: bool = True
    immutable: bool = False
    mounts: bool = True
    patches: bool = True
    ranges: bool = True
    least_piece: int | None = None
    blob_redirect: str | None = None
    redirect_for_ever: bool = False
    chunked: bool = False
    gzipped: bool = False
    digest_header: bool = True
    head: bool = True
    latency: float = 0.0
    uploads_at: str | None = None
    media_type: str | None = None
    """Content-Type of every manifest, whatever it is."""


@dataclass
class Failure:
    """An answer given instead of the right one."""

    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    truncate: bool = False
    """Answer rightly, and break off half way."""
    replace: Callable[[bytes], bytes] | None = None
    """Answer rightly, with the body changed."""
    hang_up: Literal["before", "after"] | None = None
    """Give no answer, before or after doing what was asked."""


@dataclass
class Repository:
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)


class RegistryDouble:
    """Speaks distribution-spec 1.1, pull and push, and records every request.

    Use it as a context manager; ``url`` is where it listens.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, **quirks: Any) -> None:
        self.quirks = Quirks(**quirks)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.connections = 0
        self.failures: list[tuple[re.Pattern[str], Failure, int | None]] = []
        self.before_put: Callable[[str, str], None] | None = None
        self.tokens: dict[str, int] = {}
        self.uploads: dict[str, bytes] = {}
        self.lose_answer: str | None = None
        self.lock = threading.RLock()
        double = self

        class Handler(_Handler):
            registry = double

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that hangs up is part of the tests."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.scheme = "http" if tls is None else "https"
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def __enter__(self) -> "RegistryDouble":
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fail(self, pattern: str, failure: Failure, times: int | None = None) -> None:
        """Answer requests whose ``METHOD path`` matches ``pattern`` with ``failure``."""
        self.failures.append((re.compile(pattern), failure, times))

    def heal(self) -> None:
        self.failures.clear()

    def count(self, method: str, part: str = "") -> int:
        return sum(r.method == method and part in r.path for r in self.requests)

    def methods(self) -> Counter[str]:
        return Counter(request.method for request in self.requests)

    def repository(self, name: str) -> Repository:
        with self.lock:
            return self.repositories.setdefault(name, Repository())

    def add_blob(self, name: str, data: bytes) -> str:
        digest = digest_of(data)
        self.repository(name).blobs[digest] = data
        return digest

    def add_manifest(
        self, name: str, document: dict[str, Any] | bytes, tag: str | None = None
    ) -> str:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        digest = digest_of(data)
        try:
            media_type = json.loads(data).get("mediaType", OCI_MANIFEST)
        except ValueError:
            media_type = OCI_MANIFEST
        self.repository(name).manifests[digest] = (media_type, data)
        if tag is not None:
            self.repository(name).tags[tag] = digest
        return digest

    def add_image(self, name: str, tag: str | None = None, layer: bytes = b"layer") -> str:
        """A small image; its digest."""
        return self.add_manifest(name, image(self, name, [layer]), tag)

    def add_index(self, name: str, digests: list[str], tag: str | None = None) -> str:
        listed = [self.descriptor(name, digest) for digest in digests]
        return self.add_manifest(
            name, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}, tag
        )

    def add_referrer(
        self,
        name: str,
        subject: str,
        data: bytes = b"{}",
        media_type: str = "application/vnd.dev.sigstore.bundle.v0.3+json",
        of: str | None = None,
    ) -> str:
        """An attachment with ``subject``, of one layer.

        :param of: the repository that has the subject, where it is another
        """
        document = image(self, name, [data], media_type)
        document["artifactType"] = media_type
        document["subject"] = self.descriptor(of or name, subject)
        return self.add_manifest(name, document)

    def descriptor(self, name: str, digest: str) -> dict[str, Any]:
        media_type, data = self.repository(name).manifests[digest]
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def referrers(self, name: str, subject: str) -> list[dict[str, Any]]:
        found = []
        for digest, (_, data) in self.repository(name).manifests.items():
            try:
                document = json.loads(data)
            except ValueError:
                continue
            if (document.get("subject") or {}).get("digest") == subject:
                entry = self.descriptor(name, digest)
                if "artifactType" in document:
                    entry["artifactType"] = document["artifactType"]
                found.append(entry)
        return found


def image(
    registry: RegistryDouble,
    name: str,
    layers: list[bytes],
    layer_type: str = "application/vnd.oci.image.layer.v1.tar",
) -> dict[str, Any]:
    """The document of an image whose blobs are in ``registry``."""
    config = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": registry.add_blob(name, EMPTY_CONFIG),
        "size": len(EMPTY_CONFIG),
    }
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config,
        "layers": [
            {"mediaType": layer_type, "digest": registry.add_blob(name, data), "size": len(data)}
            for data in layers
        ],
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: RegistryDouble
    # Headers and body in one segment: else Nagle and delayed ACK add 40 ms to every answer.
    wbufsize = -1
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        with self.registry.lock:
            self.registry.connections += 1

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.handle_request()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def handle_request(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        if len(self.body) < length and self.command != "PATCH":
            self.close_connection = True
            return
        registry = self.registry
        with registry.lock:
            registry.requests.append(
                Request(self.command, self.path, dict(self.headers), self.body)
            )
            failure = self.planned_failure()
        if registry.quirks.latency:
            time.sleep(registry.quirks.latency)
        self.failure = failure
        if failure and failure.hang_up == "before":
            self.close_connection = True
        elif failure and not (failure.truncate or failure.replace or failure.hang_up):
            self.answer(failure.status, failure.body, dict(failure.headers))
        elif self.authorised():
            self.route()
        self.wfile.flush()

    def planned_failure(self) -> Failure | None:
        failures = self.registry.failures
        for position, (pattern, failure, times) in enumerate(failures):
            if pattern.search(f"{self.command} {self.path}"):
                if times is not None:
                    if times <= 0:
                        continue
                    failures[position] = (pattern, failure, times - 1)
                return failure
        return None

    def authorised(self) -> bool:
        quirks, given = self.registry.quirks, self.headers.get("Authorization", "")
        if self.path.startswith("/token"):
            return True
        if quirks.bearer is not None:
            token = given.removeprefix("Bearer ")
            left = self.registry.tokens.get(token, 0)
            if left > 0:
                self.registry.tokens[token] = left - 1
                return True
            parts = urlsplit(self.path).path.split("/")
            name = "/".join(parts[2:-2]) if len(parts) > 4 else "catalog"
            actions = "pull" if self.command in ("GET", "HEAD") else "pull,push"
            realm = quirks.realm or f"{self.registry.url}/token"
            challenge = f'Bearer realm="{realm}",service="lab",scope="repository:{name}:{actions}"'
        elif quirks.basic is not None:
            if given == _basic(*quirks.basic):
                return True
            challenge = quirks.basic_challenge
        else:
            return True
        self.answer(401, _error("UNAUTHORIZED"), {"WWW-Authenticate": challenge})
        return False

    def route(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path == "/token":
            return self.token()
        if url.path == "/v2/":
            return self.answer(200, b"{}")
        if url.path == "/v2/_catalog":
            names = sorted(self.registry.repositories)
            return self.listing(url.path, query, {}, "repositories", names)
        for pattern, handler in _ROUTES:
            match = re.fullmatch(pattern, url.path)
            if match:
                with self.registry.lock:
                    return handler(self, *match.groups(), query)
        return self.answer(404, b"404 page not found", {"Content-Type": "text/plain"})

    def token(self) -> None:
        user = self.registry.quirks.bearer
        given = self.headers.get("Authorization", "")
        if user is not None and user[0] and given != _basic(*user):
            return self.answer(401, _error("UNAUTHORIZED"))
        token = uuid.uuid4().hex
        self.registry.tokens[token] = self.registry.quirks.token_lifetime or 10**9
        return self.answer(200, json.dumps({"token": token}).encode())

    def listing(
        self,
        path: str,
        query: dict[str, str],
        extra: dict[str, Any],
        key: str,
        items: list[Any],
        content_type: str = "application/json",
    ) -> None:
        quirks = self.registry.quirks
        headers = {"Content-Type": content_type}
        start = int(query.get("at", 0))
        size = quirks.page or 10**9
        more = start + size < len(items) or quirks.endless or quirks.looping
        if quirks.inventing is not None:
            more, items = True, [f"{quirks.inventing}{number}" for number in range(start + size)]
        if more:
            following = f"{path}?at={start if quirks.looping else start + size}"
            headers["Link"] = f'<{quirks.next_host or ""}{following}>; rel="next"'
        page = items[start : start + size] if size else []
        self.answer(200, json.dumps({**extra, key: page}).encode(), headers)

    def tags(self, name: str, query: dict[str, str]) -> None:
        found = self.registry.repositories.get(name)
        if found is None:
            return self.answer(404, _error("NAME_UNKNOWN"))
        path = f"/v2/{name}/tags/list"
        return self.listing(path, query, {"name": name}, "tags", sorted(found.tags))

    def referrers(self, name: str, digest: str, query: dict[str, str]) -> None:
        if self.registry.quirks.referrers_html:
            return self.answer(200, b"<html>hello</html>", {"Content-Type": "text/html"})
        if not self.registry.quirks.referrers_api:
            return self.answer(404, b"404 page not found", {"Content-Type": "text/plain"})
        found = self.registry.referrers(name, digest)
        if self.registry.quirks.referrers_empty:
            found = []
        path = f"/v2/{name}/referrers/{digest}"
        extra = {"schemaVersion": 2, "mediaType": OCI_INDEX}
        return self.listing(path, query, extra, "manifests", found, OCI_INDEX)

    def manifest(self, name: str, reference: str, query: dict[str, str]) -> None:
        repository, quirks = self.registry.repository(name), self.registry.quirks
        digest = repository.tags.get(reference, reference)
        if quirks.subject_for_fallback and re.fullmatch("sha256-[0-9a-f]{64}", digest):
            digest = digest.replace("-", ":")
        if self.command == "PUT":
            return self.put_manifest(name, reference)
        if self.command == "DELETE":
            if not quirks.deletes:
                return self.answer(405, _error("UNSUPPORTED"))
            if repository.manifests.pop(digest, None) is None:
                return self.answer(404, _error("MANIFEST_UNKNOWN"))
            repository.tags = {tag: d for tag, d in repository.tags.items() if d != digest}
            return self.answer(202)
        if digest not in repository.manifests:
            return self.answer(404, _error("MANIFEST_UNKNOWN"))
        if self.command == "HEAD" and not quirks.head:
            return self.answer(405)
        media_type, data = repository.manifests[digest]
        headers = {"Content-Type": quirks.media_type or media_type}
        if quirks.digest_header:
            headers["Docker-Content-Digest"] = digest
        return self.answer(200, data, headers)

    def put_manifest(self, name: str, reference: str) -> None:
        registry = self.registry
        if registry.before_put is not None:
            registry.before_put(name, reference)
        repository = registry.repository(name)
        digest = digest_of(self.body)
        if ":" in reference and reference != digest:
            return self.answer(400, _error("DIGEST_INVALID"))
        if registry.quirks.immutable and repository.tags.get(reference, digest) != digest:
            return self.answer(400, _error("TAG_INVALID"))
        document = json.loads(self.body)
        needed = [*document.get("layers", []), *filter(None, [document.get("config")])]
        if any(item["digest"] not in repository.blobs for item in needed):
            return self.answer(400, _error("MANIFEST_BLOB_UNKNOWN"))
        repository.manifests[digest] = (self.headers["Content-Type"], self.body)
        if ":" not in reference:
            repository.tags[reference] = digest
        headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
        if registry.quirks.oci_subject and "subject" in document:
            headers["OCI-Subject"] = document["subject"]["digest"]
        return self.answer(201, b"", headers)

    def blob(self, name: str, digest: str, query: dict[str, str]) -> None:
        quirks = self.registry.quirks
        data = self.registry.repository(name).blobs.get(digest)
        if data is None:
            return self.answer(404, _error("BLOB_UNKNOWN"))
        if quirks.redirect_for_ever:
            return self.answer(307, b"", {"Location": f"{self.path}?again"})
        if quirks.blob_redirect is not None:
            location = f"{quirks.blob_redirect}/v2/{name}/blobs/{digest}"
            return self.answer(307, b"", {"Location": location})
        headers = {"Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted is None or not quirks.ranges:
            return self.answer(200, data, headers)
        headers["Content-Range"] = f"bytes {wanted[1]}-{len(data) - 1}/{len(data)}"
        return self.answer(206, data[int(wanted[1]) :], headers)

    def begin(self, name: str, query: dict[str, str]) -> None:
        if self.registry.quirks.mounts and "mount" in query:
            there = self.registry.repository(query["from"]).blobs.get(query["mount"])
            if there is not None:
                self.registry.add_blob(name, there)
                return self.answer(201, b"", {"Docker-Content-Digest": query["mount"]})
        number = uuid.uuid4().hex
        self.registry.uploads[number] = b""
        return self.uploading(202, name, number)

    def upload(self, name: str, number: str, query: dict[str, str]) -> None:
        if number not in self.registry.uploads or query.get("_state") != "a+b":
            return self.answer(404, _error("BLOB_UPLOAD_UNKNOWN"))
        held = self.registry.uploads[number]
        if self.command == "GET":
            return self.uploading(204, name, number)
        if self.command == "PATCH":
            if not self.registry.quirks.patches:
                return self.answer(405, _error("UNSUPPORTED"))
            if self.headers["Content-Range"].partition("-")[0] != str(len(held)):
                return self.answer(416)
            self.registry.uploads[number] = held + self.body
            return self.uploading(202, name, number)
        data = held + self.body
        if digest_of(data) != query.get("digest"):
            return self.answer(400, _error("DIGEST_INVALID"))
        self.registry.add_blob(name, data)
        del self.registry.uploads[number]
        return self.answer(201, b"", {"Docker-Content-Digest": digest_of(data)})

    def uploading(self, status: int, name: str, number: str) -> None:
        at = self.registry.quirks.uploads_at or ""
        location = f"{at}/v2/{name}/blobs/uploads/{number}?_state=a%2Bb"
        held = len(self.registry.uploads[number])
        headers = {"Location": location, "Range": f"0-{max(held - 1, 0)}"}
        if self.registry.quirks.least_piece is not None:
            headers["OCI-Chunk-Min-Length"] = str(self.registry.quirks.least_piece)
        self.answer(status, b"", headers)

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        quirks, failure = self.registry.quirks, getattr(self, "failure", None)
        headers = headers or {}
        if self.command == self.registry.lose_answer:
            self.registry.lose_answer, self.close_connection = None, True
            return
        if failure and failure.hang_up:
            self.close_connection = True
            return
        self.send_response_only(status)
        if status in (200, 206) and failure and failure.replace is not None:
            body = failure.replace(body)
        if status == 200 and quirks.gzipped and self.command == "GET":
            body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
        for key, value in headers.items():
            self.send_header(key, value)
        chunked = status == 200 and quirks.chunked and self.command == "GET"
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if failure and failure.truncate:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif chunked:
            for start in range(0, len(body), 65536):
                piece = body[start : start + 65536]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.wfile.write(body)


def _error(code: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": "as asked"}]}).encode()


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


_ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"/v2/(.+)/tags/list", _Handler.tags),
    (r"/v2/(.+)/referrers/([^/]+)", _Handler.referrers),
    (r"/v2/(.+)/manifests/([^/]+)", _Handler.manifest),
    (r"/v2/(.+)/blobs/uploads/", _Handler.begin),
    (r"/v2/(.+)/blobs/uploads/([0-9a-f]+)", _Handler.upload),
    (r"/v2/(.+)/blobs/([^/]+)", _Handler.blob),
]
