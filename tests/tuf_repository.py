"""A TUF repository over HTTP on loopback; python-tuf makes and signs its metadata."""

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

ROLES = ("root", "timestamp", "snapshot", "targets")
TARGET = "trusted_root.json"


class TufRepository:
    """Serves ``files``; a test may put there whatever it likes after :meth:`publish`.

    :param files: what each path gives: bytes, or a function that writes the body by itself
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes | Callable[[Any], None]] = {}
        self.asked: list[str] = []
        self.url = ""
        self.signers = {role: CryptoSigner.generate_ed25519() for role in ROLES}
        later = datetime.now(UTC).replace(microsecond=0) + timedelta(days=365)
        self.root = Root(expires=later, consistent_snapshot=True)
        for role, signer in self.signers.items():
            self.root.add_key(signer.public_key, role)
        self.timestamp = Timestamp(expires=later)
        self.snapshot = Snapshot(expires=later)
        self.targets = Targets(expires=later)
        self.bootstrap = self._sign("root", self.root, self.signers["root"])
        self.files["/1.root.json"] = self.bootstrap

    def publish(self, target: bytes) -> None:
        """The next version of everything but the root, with ``target``."""
        info = TargetFile.from_data(TARGET, target, ["sha256"])
        self.targets.targets = {TARGET: info}
        self.files[f"/targets/{info.hashes['sha256']}.{TARGET}"] = target
        if self.files.get("/timestamp.json"):
            for signed in (self.targets, self.snapshot, self.timestamp):
                signed.version += 1
        self.sign()

    def sign(self) -> None:
        """Serve the metadata as it is now."""
        targets = self._sign("targets", self.targets, self.signers["targets"])
        self.files[f"/{self.targets.version}.targets.json"] = targets
        self.snapshot.meta = {"targets.json": _meta(self.targets.version, targets)}
        snapshot = self._sign("snapshot", self.snapshot, self.signers["snapshot"])
        self.files[f"/{self.snapshot.version}.snapshot.json"] = snapshot
        self.timestamp.snapshot_meta = _meta(self.snapshot.version, snapshot)
        self.files["/timestamp.json"] = self._sign(
            "timestamp", self.timestamp, self.signers["timestamp"]
        )

    def rotate(self, role: str, vouched: bool = True) -> None:
        """A new key for ``role`` in a new root.

        :param vouched: signed with the root key before, too; else by the new one alone
        """
        before = self.signers["root"]
        self.root.revoke_key(self.signers[role].public_key.keyid, role)
        self.signers[role] = CryptoSigner.generate_ed25519()
        self.root.add_key(self.signers[role].public_key, role)
        self.root.version += 1
        signers = [self.signers["root"], before] if vouched else [self.signers["root"]]
        self.files[f"/{self.root.version}.root.json"] = self._sign("root", self.root, *signers)
        self.sign()

    def _sign(self, role: str, signed: Any, *signers: CryptoSigner) -> bytes:
        metadata = Metadata(signed)
        for signer in {one.public_key.keyid: one for one in signers}.values():
            metadata.sign(signer, append=True)
        return metadata.to_bytes()


def _meta(version: int, data: bytes) -> MetaFile:
    return MetaFile.from_data(version, data, ["sha256"])


@contextmanager
def served() -> Iterator[TufRepository]:
    """A repository whose server runs."""
    repository = TufRepository()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, repository))
    server.daemon_threads = True
    repository.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield repository
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, repository: TufRepository, *args: Any) -> None:
        self.repository = repository
        super().__init__(*args)

    def do_GET(self) -> None:
        self.repository.asked.append(self.path)
        found = self.repository.files.get(self.path)
        if found is None:
            self.send_error(404)
        elif callable(found):
            found(self)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(found)))
            self.end_headers()
            self.wfile.write(found)

    def log_message(self, *_: object) -> None:
        pass


def without_end(handler: Any) -> None:
    """A body that goes on as long as somebody reads."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" " * 65_536)
    except OSError:
        handler.close_connection = True


def drop_by_drop(handler: Any) -> None:
    """A byte now and then, each soon enough for any timeout between two."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        handler.close_connection = True
