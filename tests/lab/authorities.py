"""Fulcio, Rekor v2 and the Sigstore timestamp authority, each a stock binary."""

import hashlib
import json
import socket
import socketserver
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.lab import keys
from tests.lab.processes import HOST, free_port, start
from tests.lab.tools import tool


@dataclass(frozen=True)
class Fulcio:
    url: str
    ca: keys.CertifiedKey


@dataclass(frozen=True)
class Rekor:
    url: str
    key: ed25519.Ed25519PrivateKey
    origin: str
    public_pem: Path

    @property
    def log_id(self) -> bytes:
        """The whole hash whose first four bytes are a checkpoint's key id (C2SP signed-note)."""
        raw = self.key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        return hashlib.sha256(self.origin.encode() + b"\n\x01" + raw).digest()


@dataclass(frozen=True)
class Tsa:
    url: str
    ca: keys.CertifiedKey
    chain: Path


@contextmanager
def fulcio(
    folder: Path, issuer: str, ct_log: str, clock: timedelta = timedelta()
) -> Iterator[Fulcio]:
    """Fulcio's fileca: an intermediate that certifies tokens of one OIDC issuer."""
    ca = keys.fulcio_ca()
    key, chain = ca.write(folder)
    config = folder / "fulcio.json"
    issuers = {issuer: {"IssuerURL": issuer, "ClientID": "sigstore", "Type": "email"}}
    config.write_text(json.dumps({"OIDCIssuers": issuers}))
    port = free_port()
    url = f"http://{HOST}:{port}"
    binary, environment = _at("fulcio", clock)
    argv = [binary, "serve", "--ca=fileca", f"--fileca-cert={chain}", f"--fileca-key={key}"]
    # It asks for a password also for a key that has none.
    argv += ["--fileca-key-passwd=none", "--fileca-watch=false"]
    argv += [f"--config-path={config}", f"--ct-log-url={ct_log}"]
    # One port for both protocols makes it panic; its third listener must differ between labs.
    argv += [f"--host={HOST}", f"--port={port}"]
    argv += [f"--grpc-host={HOST}", f"--grpc-port={free_port()}"]
    argv += [f"--legacy-unix-domain-socket=@lab-fulcio-{port}", f"--metrics-port={free_port()}"]
    with start("fulcio", argv, folder, url, ready="/healthz", env=environment):
        yield Fulcio(url, ca)


@contextmanager
def rekor(folder: Path, origin: str) -> Iterator[Rekor]:
    """A Rekor v2 log on files, with the kind of key that the public log has."""
    key = ed25519.Ed25519PrivateKey.generate()
    signer = keys.write_key(key, folder / "rekor.key")
    public = folder / "rekor.pub"
    public.write_bytes(keys.spki(key, serialization.Encoding.PEM))
    storage = folder / "rekor"
    storage.mkdir()
    port = free_port()
    url = f"http://{HOST}:{port}"
    argv = [tool("posix"), "serve", f"--hostname={origin}", f"--signer-filepath={signer}"]
    argv += [f"--storage-dir={storage}", f"--http-address={HOST}", f"--http-port={port}"]
    argv += [f"--grpc-address={HOST}", f"--grpc-port={free_port()}"]
    argv += [f"--http-metrics-port={free_port()}"]
    # An entry is answered once a checkpoint covers it: every ten seconds by default.
    argv += ["--batch-max-age=20ms", "--checkpoint-interval=100ms"]
    with start("rekor", argv, folder, url, ready="/healthz"):
        yield Rekor(url, key, origin, public)


@contextmanager
def tsa(folder: Path, name: str, clock: timedelta = timedelta()) -> Iterator[Tsa]:
    """A timestamp authority; as many as wanted, each under a root of its own.

    Its metrics port cannot be chosen (2112), so it lives in a network namespace of its own and
    listens on a Unix socket, which a relay here makes a TCP port again.
    """
    ca = keys.tsa_signer(name)
    key, chain = ca.write(folder)
    binary, environment = _at("timestamp-server", clock)
    argv = [binary, "serve", "--timestamp-signer=file"]
    argv += [f"--file-signer-key-path={key}", f"--certificate-chain-path={chain}"]
    argv += ["--disable-ntp-monitoring"]
    isolated = subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0
    with ExitStack() as stack:
        if isolated:
            short = stack.enter_context(tempfile.TemporaryDirectory(prefix="lab-"))
            port = stack.enter_context(_Relay(f"{short}/tsa")).server_address[1]
            argv += ["--scheme=unix", f"--socket-path={short}/tsa"]
        else:
            port = free_port()
            argv += ["--scheme=http", f"--host={HOST}", f"--port={port}"]
        url = f"http://{HOST}:{port}"
        stack.enter_context(
            start(name, argv, folder, url, ready="/ping", env=environment, isolated=isolated)
        )
        yield Tsa(f"{url}/api/v1/timestamp", ca, chain)


def _at(name: str, clock: timedelta) -> tuple[str, dict[str, str]]:
    """The binary and the environment of a service whose clock is so far ahead of the machine's."""
    if not clock:
        return tool(name), {}
    seconds = round(clock.total_seconds())
    return tool(f"movable-{name}"), {"LAB_CLOCK_SECONDS": str(seconds)}


class _Relay(socketserver.ThreadingTCPServer):
    """A loopback TCP port that leads to a Unix socket."""

    daemon_threads = True

    def __init__(self, path: str) -> None:
        super().__init__((HOST, 0), _Connection)
        self.path = path
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as inner:
            inner.connect(self.server.path)
            threading.Thread(target=_copy, args=(self.request, inner), daemon=True).start()
            _copy(inner, self.request)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
