"""An RFC 3161 authority on loopback, answering by ``openssl ts``, that can be told to misbehave."""

import datetime
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import AuthorityInformationAccessOID
from tests.doubles.stamper import Stamper

Mode = Literal[
    "honest",
    "down",  # 503
    "silent",  # closes the connection without an answer
    "slow",  # an honest answer, `delay` seconds late
    "endless",  # a byte every tenth of a second, for ever
    "huge",
    "garbage",
    "redirect",  # to a path that answers honestly
    "other-digest",  # a good token, over something else
    "replay",  # the first answer it ever gave
    "rejection",  # a well-formed refusal
    "other-key",  # a token by an authority with the same names and another key
    "trailing",  # an honest token with bytes behind it
    "unsorted",  # an honest token, its set of certificates not in DER's order
]

_CONFIG = """\
[tsa]
serial = {folder}/serial
crypto_device = builtin
signer_digest = sha256
default_policy = 1.3.6.1.4.1.99999.1
digests = {digests}
accuracy = secs:1
clock_precision_digits = 0
ess_cert_id_alg = sha256
"""


class TimestampAuthorityDouble:
    """A context manager: the authority answers at ``url`` while it is open.

    :param folder: a directory of its own
    :param name: of its certificates
    :param age: how long ago the certificates were made
    :param life: how long they are valid from then; less than ``age`` for an expired chain
    :param root_life: of the root, where another
    :param with_chain: put the root into each token too, which some clients cannot read
    :param clock: gives the time that it stamps, in place of the machine's; then the tokens are made
        here and not by openssl, which knows no other time
    :param revocation: let the certificate say where its revocation is told, and tell it there
    """

    def __init__(
        self,
        folder: Path,
        name: str = "tsa",
        *,
        age: datetime.timedelta = datetime.timedelta(days=1),
        life: datetime.timedelta = datetime.timedelta(days=3650),
        root_life: datetime.timedelta | None = None,
        with_chain: bool = False,
        clock: Callable[[], datetime.datetime] | None = None,
        revocation: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.mode: Mode = "honest"
        self.delay = 1.0
        self.requests = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/timestamp"
        self._clock = clock
        self.revoked: datetime.datetime | None = None
        extensions = self._told_at() if revocation else ()
        self._born = self._now().replace(microsecond=0) - age
        self._stampers = {
            "signer": self._new_key("signer", name, life, root_life, extensions),
            "stranger": self._new_key("stranger", name, life, None, ()),
        }
        self.chain = self._stampers["signer"].chain
        self.pem = b"".join(each.public_bytes(Encoding.PEM) for each in self.chain)
        self.chain_path = folder / "chain.pem"
        self.chain_path.write_bytes(self.pem)
        for section, digests in (("honest", "sha256"), ("refusing", "sha512")):
            text = _CONFIG.format(folder=folder, digests=digests)
            (folder / f"{section}.cnf").write_text(text)
        (folder / "serial").write_text("01\n")
        self._with_chain = with_chain
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._first: bytes | None = None

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, query: bytes) -> bytes:
        """The TimeStampResp for a query, as the mode has it."""
        if self.mode == "unsorted":
            first, second = sorted(self.chain, key=lambda each: each.public_bytes(Encoding.DER))
            return self._stampers["signer"].answer(query, self._now(), (second, first))
        if self.mode == "other-digest":
            place = query.index(b"\x04\x20") + 2
            return self._reply(query[:place] + bytes(32) + query[place + 32 :])
        if self.mode == "other-key":
            return self._reply(query, signer="stranger")
        if self.mode == "rejection":
            return self._reply(query, config="refusing")
        if self.mode == "replay" and self._first is not None:
            return self._first
        reply = self._reply(query)
        self._first = self._first or reply
        return reply + b"\0" if self.mode == "trailing" else reply

    def _now(self) -> datetime.datetime:
        return self._clock() if self._clock else datetime.datetime.now(datetime.UTC)

    def _reply(self, query: bytes, signer: str = "signer", config: str = "honest") -> bytes:
        if self._clock is not None and config == "honest":
            stamper = self._stampers[signer]
            return stamper.answer(query, self._now(), stamper.chain[:1])
        with self._lock:
            source, target = self.folder / "query.tsq", self.folder / "reply.tsr"
            source.write_bytes(query)
            argv = ["openssl", "ts", "-reply", "-queryfile", str(source), "-out", str(target)]
            argv += ["-config", f"{self.folder}/{config}.cnf", "-section", "tsa"]
            argv += [
                "-inkey",
                f"{self.folder}/{signer}.key",
                "-signer",
                f"{self.folder}/{signer}.pem",
            ]
            if self._with_chain:
                argv += ["-chain", str(self.chain_path)]
            subprocess.run(argv, check=True, capture_output=True, timeout=30)
            return target.read_bytes()

    def _told_at(self) -> Sequence[x509.ExtensionType]:
        crl, ocsp = (
            x509.UniformResourceIdentifier(f"{self.url}/{name}") for name in ("crl", "ocsp")
        )
        access = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, ocsp)
        return (
            x509.CRLDistributionPoints([x509.DistributionPoint([crl], None, None, None)]),
            x509.AuthorityInformationAccess([access]),
        )

    def _new_key(
        self,
        file: str,
        name: str,
        life: datetime.timedelta,
        root_life: datetime.timedelta | None,
        extensions: Sequence[x509.ExtensionType],
    ) -> Stamper:
        """Make a root and a timestamping certificate; write the latter and its key for openssl."""
        stamper = Stamper.new(name, self._born, life, root_life, extensions)
        pem = stamper.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.folder / f"{file}.key").write_bytes(pem)
        (self.folder / f"{file}.pem").write_bytes(stamper.chain[0].public_bytes(Encoding.PEM))
        return stamper

    def listed(self, **more: Any) -> dict[str, Any]:
        """How the settings name it."""
        return {"url": self.url, "certificates": str(self.chain_path), **more}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if double.mode == "down":
                    self._send(503, b"try later")
                elif double.mode == "garbage":
                    self._send(200, b"<html>captive portal</html>")
                else:
                    if double.mode == "slow":
                        time.sleep(double.delay)
                    self._send(200, double._stampers["signer"].crl(double._now(), double.revoked))

            def do_POST(self) -> None:
                query = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path.endswith("/ocsp"):
                    stamper = double._stampers["signer"]
                    self._send(200, stamper.ocsp(double._now(), double.revoked))
                    return
                double.requests += 1
                match "honest" if self.path.endswith("/elsewhere") else double.mode:
                    case "silent":
                        self.close_connection = True
                    case "down":
                        self._send(503, b"try later")
                    case "redirect":
                        self.send_response(307)
                        self.send_header("Location", f"{double.url}/elsewhere")
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                    case "garbage":
                        self._send(200, b"<html>captive portal</html>")
                    case "huge":
                        self._send(200, bytes(1_000_000))
                    case "endless":
                        self._drip()
                    case mode:
                        if mode == "slow":
                            time.sleep(double.delay)
                        self._send(200, double.answer(query))

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with suppress(BrokenPipeError):
                    self.wfile.write(body)

            def _drip(self) -> None:
                self.send_response(200)
                self.end_headers()
                try:
                    while not double._closing.wait(0.1):
                        self.wfile.write(b"\0")
                except OSError:
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler
