"""The laboratory: a private Sigstore, its registries, its object storage, and stock clients."""

import base64
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization

from tests.lab import keys, registries
from tests.lab.authorities import Fulcio, Rekor, Tsa, fulcio, rekor, tsa
from tests.lab.registries import Kind, Registry, push_image, push_index
from tests.lab.s3 import S3, s3
from tests.lab.softhsm import Token, create_token
from tests.lab.standins import CtLogStandIn, OidcStandIn
from tests.lab.tools import tool

PREDICATE_TYPES = tuple(
    f"https://stella-ops.example/{name}/v1"
    for name in ("sbom-delta", "reachability-graph", "policy-result")
)
REKOR_ORIGIN = "rekor.lab"


@dataclass(frozen=True)
class SignedImage:
    """An image that `sign_many` made, and the predicate types attested, in order."""

    reference: str
    repository: str
    tag: str
    digest: str
    predicate_types: tuple[str, ...]


@dataclass
class Lab:
    """A running laboratory: addresses, files of trust, and what one does with them."""

    folder: Path
    oidc: OidcStandIn
    ct_log: CtLogStandIn
    fulcio: Fulcio
    rekor: Rekor
    tsas: list[Tsa]
    identity: str = "ci@stella.example"
    _stack: ExitStack = field(default_factory=ExitStack)
    _s3: S3 | None = None
    _made: int = 0

    @property
    def issuer(self) -> str:
        return self.oidc.url

    @property
    def trusted_root(self) -> Path:
        """A trusted root of all of these services."""
        return self.folder / "trusted_root.json"

    @property
    def signing_config(self) -> Path:
        return self.folder / "signing_config.json"

    @property
    def rekor_url(self) -> str:
        return self.rekor.url

    @property
    def rekor_public_key(self) -> Path:
        return self.folder / "rekor.pub"

    @property
    def rekor_origin(self) -> str:
        return self.rekor.origin

    @property
    def tsa_url(self) -> str:
        return self.tsas[0].url

    @property
    def tsa_chain(self) -> Path:
        """PEM: the signing certificate, then its root."""
        return self.tsas[0].chain

    @property
    def index_zero_bundle(self) -> Path:
        """The bundle of the log's first entry, whose JSON has no `logIndex`; over `index-zero`."""
        return self.folder / "index-zero.sigstore.json"

    # Services on demand, stopped with the laboratory.

    def registry(self, kind: Kind = "docker_registry") -> Registry:
        """Start another registry."""
        return self._stack.enter_context(registries.registry(kind, self._fresh(kind)))

    def s3(self) -> S3:
        """The S3 server; started on first use."""
        if self._s3 is None:
            self._s3 = self._stack.enter_context(s3(self._fresh("s3")))
        return self._s3

    def another_tsa(self) -> Tsa:
        """Start a further timestamp authority. The trusted root file knows it afterwards."""
        name = f"tsa{len(self.tsas) + 1}"
        self.tsas.append(self._stack.enter_context(tsa(self.folder, name)))
        self._write_trust()
        return self.tsas[-1]

    def softhsm(self, label: str = "longseal") -> Token:
        """Make a SoftHSM token with a key pair."""
        return create_token(self.folder / "softhsm", label)

    # What one does with them.

    def push_image(self, registry_url: str, repository: str, tag: str, *, size: int = 1024) -> str:
        return push_image(registry_url, repository, tag, size=size)

    def push_index(self, registry_url: str, repository: str, tag: str) -> tuple[str, list[str]]:
        return push_index(registry_url, repository, tag)

    def attest(
        self,
        image_ref: str,
        predicate_type: str,
        predicate: dict[str, Any],
        *,
        identity: str | None = None,
    ) -> None:
        """`cosign attest`, keyless, as `identity`. One at a time for an image: where the registry
        has no referrers API, cosign reads, changes and writes the fallback tag.
        """
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            document = Path(temporary) / "predicate.json"
            document.write_text(json.dumps(predicate))
            signing = self._signing_flags(Path(temporary), identity)
            what = ["--type", predicate_type, "--predicate", str(document)]
            self.cosign("attest", *signing, *what, image_ref)

    def attest_blob(
        self, blob: Path, predicate_type: str, predicate: dict[str, Any], bundle: Path
    ) -> None:
        """`cosign attest-blob`, keyless; the bundle goes to a file."""
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            document = Path(temporary) / "predicate.json"
            document.write_text(json.dumps(predicate))
            signing = self._signing_flags(Path(temporary), None)
            what = ["--type", predicate_type, "--predicate", str(document)]
            self.cosign("attest-blob", *signing, *what, "--bundle", str(bundle), str(blob))

    def verify_attestation(self, image_ref: str, predicate_type: str) -> str:
        """`cosign verify-attestation`, keyless, for this laboratory's identity and issuer."""
        who = ["--certificate-identity", self.identity, "--certificate-oidc-issuer", self.issuer]
        trust = ["--trusted-root", str(self.trusted_root)]
        return self.cosign("verify-attestation", *trust, *who, "--type", predicate_type, image_ref)

    def sign_many(
        self,
        registry_url: str,
        *,
        images: int = 40,
        attestations: int = 5,
        repositories: int = 5,
        prefix: str = "corp/",
        workers: int | None = None,
    ) -> list[SignedImage]:
        """Push `images` images into `repositories` repositories and attest each of them
        `attestations` times, cycling through `PREDICATE_TYPES`; every predicate is distinct.
        """
        types = tuple(PREDICATE_TYPES[n % len(PREDICATE_TYPES)] for n in range(attestations))

        def make(number: int) -> SignedImage:
            repository = f"{prefix}service-{number % repositories}"
            tag = f"v{number // repositories + 1}"
            digest = push_image(registry_url, repository, tag)
            reference = f"{registry_url.removeprefix('http://')}/{repository}@{digest}"
            for order, predicate_type in enumerate(types):
                predicate = {"image": number, "order": order, "passed": True}
                self.attest(reference, predicate_type, predicate)
            return SignedImage(reference, repository, tag, digest, types)

        with ThreadPoolExecutor(workers or (os.cpu_count() or 1) + 1) as pool:
            return list(pool.map(make, range(images)))

    def cosign(self, *arguments: str) -> str:
        """Run stock cosign where it knows nothing but its arguments.

        :raises subprocess.CalledProcessError: with its standard error in a note.
        """
        return self.run("cosign", *arguments)

    def run(self, name: str, *arguments: str) -> str:
        """Run a tool (cosign, oras, crane, regctl, regsync) in a clean environment."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        environment = {"HOME": str(home), "PATH": os.environ["PATH"], "TMPDIR": str(self.folder)}
        done = subprocess.run(
            [tool(name), *arguments], env=environment, capture_output=True, text=True, check=False
        )
        try:
            done.check_returncode()
        except subprocess.CalledProcessError as error:
            error.add_note(done.stderr[-2000:])
            raise
        return done.stdout

    def _signing_flags(self, folder: Path, identity: str | None) -> list[str]:
        token = folder / "token"
        token.write_text(self.oidc.token(identity or self.identity))  # no newline: cosign sends it
        flags = ["--yes", "--identity-token", str(token)]
        flags += ["--signing-config", str(self.signing_config)]
        return [*flags, "--trusted-root", str(self.trusted_root)]

    def _fresh(self, name: str) -> Path:
        self._made += 1
        return self.folder / f"{name}-{self._made}"

    def _write_trust(self) -> None:
        start = {"start": keys.BORN.strftime("%Y-%m-%dT%H:%M:%SZ")}
        root = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [
                {
                    # Verifiers take the checkpoint's origin from this address.
                    "baseUrl": f"https://{self.rekor.origin}",
                    "hashAlgorithm": "SHA2_256",
                    "publicKey": _public_key(self.rekor.key, "PKIX_ED25519", start),
                    "logId": {"keyId": _base64(self.rekor.log_id)},
                }
            ],
            "certificateAuthorities": [_authority(self.fulcio.ca, self.fulcio.url, start)],
            "ctlogs": [
                {
                    "baseUrl": self.ct_log.url,
                    "hashAlgorithm": "SHA2_256",
                    "publicKey": _public_key(self.ct_log.key, "PKIX_ECDSA_P256_SHA_256", start),
                    "logId": {"keyId": _base64(self.ct_log.log_id)},
                }
            ],
            "timestampAuthorities": [_authority(each.ca, each.url, start) for each in self.tsas],
        }
        self.trusted_root.write_text(json.dumps(root, indent=1))

        def service(url: str, version: int) -> list[dict[str, Any]]:
            return [{"url": url, "majorApiVersion": version, "validFor": start, "operator": "lab"}]

        config = {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "caUrls": service(self.fulcio.url, 1),
            "oidcUrls": service(self.issuer, 1),
            "rekorTlogUrls": service(self.rekor.url, 2),
            "tsaUrls": service(self.tsa_url, 1),
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaConfig": {"selector": "ANY"},
        }
        self.signing_config.write_text(json.dumps(config, indent=1))


@contextmanager
def open_lab(folder: Path) -> Iterator[Lab]:
    """Run a laboratory in an empty folder: the Sigstore services now, the others on demand.

    :raises LabError: when a tool is missing or a service did not start.
    """
    with ExitStack() as stack:
        oidc = stack.enter_context(OidcStandIn())
        ct_log = stack.enter_context(CtLogStandIn())
        made = Lab(
            folder,
            oidc,
            ct_log,
            stack.enter_context(fulcio(folder, oidc.url, ct_log.url)),
            stack.enter_context(rekor(folder, REKOR_ORIGIN)),
            [stack.enter_context(tsa(folder))],
            _stack=stack,
        )
        made._write_trust()
        made.rekor_public_key.write_bytes(keys.public_pem(made.rekor.key))
        # sigstore-python refuses the log's first entry; nothing else shall be it.
        blob = folder / "index-zero"
        blob.write_text("the first entry of the log\n")
        made.attest_blob(blob, PREDICATE_TYPES[0], {"order": 0}, made.index_zero_bundle)
        yield made


def _authority(ca: keys.CertifiedKey, uri: str, start: dict[str, str]) -> dict[str, Any]:
    der = [each.public_bytes(serialization.Encoding.DER) for each in ca.chain]
    name = ca.chain[-1].subject.rfc4514_string()
    return {
        "subject": {"organization": "lab", "commonName": name},
        "uri": uri,
        "certChain": {"certificates": [{"rawBytes": _base64(each)} for each in der]},
        "validFor": start,
    }


def _public_key(key: keys.PrivateKey, details: str, start: dict[str, str]) -> dict[str, Any]:
    return {"rawBytes": _base64(keys.spki(key)), "keyDetails": details, "validFor": start}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
