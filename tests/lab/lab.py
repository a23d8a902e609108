"""The laboratory: a private Sigstore, its registries, its object storage, and stock clients."""

import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.lab import authorities, registries, tools, trust
from tests.lab.authorities import Fulcio, Rekor, Tsa
from tests.lab.registries import Kind, Registry
from tests.lab.s3 import S3, s3
from tests.lab.softhsm import Token, create_token
from tests.lab.standins import CtLogStandIn, OidcStandIn

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


class Lab:
    """A running laboratory: addresses, files of trust, and what one does with them."""

    identity = "ci@stella.example"
    rekor_origin = REKOR_ORIGIN
    push_image = staticmethod(registries.push_image)
    push_index = staticmethod(registries.push_index)

    def __init__(self, folder: Path, stack: ExitStack, clock: timedelta = timedelta()) -> None:
        """Start the Sigstore services in an empty folder; `stack` stops them.

        :param clock: how far the clocks of all that give a time are ahead of the machine's; a
            Rekor v2 log gives none
        """
        start = stack.enter_context
        self.folder = folder
        self.clock = clock
        self.oidc: OidcStandIn = start(OidcStandIn(clock))
        self.ct_log: CtLogStandIn = start(CtLogStandIn(clock))
        self.fulcio: Fulcio = start(
            authorities.fulcio(folder, self.oidc.url, self.ct_log.url, clock)
        )
        self.rekor: Rekor = start(authorities.rekor(folder, REKOR_ORIGIN))
        self.tsa: Tsa = start(authorities.tsa(folder, "tsa1", clock))
        self.issuer = self.oidc.url
        self.rekor_url = self.rekor.url
        self.rekor_public_key = self.rekor.public_pem
        self.tsa_url = self.tsa.url
        self.tsa_chain = self.tsa.chain  # PEM: the signing certificate, then its root
        self.trusted_root = folder / "trusted_root.json"
        self.signing_config = folder / "signing_config.json"
        root = trust.trusted_root(self.fulcio, self.ct_log, self.rekor, [self.tsa])
        self.trusted_root.write_text(json.dumps(root))
        config = trust.signing_config(self.issuer, self.fulcio, self.rekor, self.tsa)
        self.signing_config.write_text(json.dumps(config))
        self._stack = stack
        self._s3: S3 | None = None
        self._made = 0
        # sigstore-python refuses the bundle of the log's first entry, whose JSON has no logIndex:
        # this shall be it, and no other.
        blob = folder / "index-zero"
        blob.write_text("the first entry of the log\n")
        self.index_zero_bundle = folder / "index-zero.sigstore.json"
        bundle = f"--bundle={self.index_zero_bundle}"
        self._attest("attest-blob", PREDICATE_TYPES[0], {}, self.identity, bundle, str(blob))

    # Further services, started on demand and stopped with the laboratory.

    def registry(self, kind: Kind = "docker_registry") -> Registry:
        """Start another registry."""
        return self._stack.enter_context(registries.registry(kind, self._fresh(kind)))

    def s3(self) -> S3:
        """The S3 server; started on first use."""
        if self._s3 is None:
            self._s3 = self._stack.enter_context(s3(self._fresh("s3")))
        return self._s3

    def another_tsa(self) -> Tsa:
        """Start a further timestamp authority, at the machine's time.

        The trusted root file does not know it.
        """
        folder = self._fresh("tsa")
        folder.mkdir()
        return self._stack.enter_context(authorities.tsa(folder, folder.name))

    def softhsm(self, label: str = "longseal") -> Token:
        """Make a SoftHSM token with a key pair."""
        return create_token(self.folder / "softhsm", label)

    # What one does with them.

    def attest(
        self,
        image_ref: str,
        predicate_type: str,
        predicate: dict[str, Any],
        *,
        identity: str | None = None,
        repository: str | None = None,
    ) -> None:
        """`cosign attest`, keyless, as `identity`; takes a second, nearly all of it waiting.

        One at a time for an image: without a referrers API cosign reads, extends and writes the
        fallback tag.

        :param repository: `COSIGN_REPOSITORY`, where the image's own is not meant
        """
        more = {} if repository is None else {"COSIGN_REPOSITORY": repository}
        who = identity or self.identity
        self._attest("attest", predicate_type, predicate, who, image_ref, **more)

    def verify_attestation(self, image_ref: str, predicate_type: str) -> str:
        """`cosign verify-attestation`, keyless, for the laboratory's identity and issuer."""
        who = ["--certificate-identity", self.identity, "--certificate-oidc-issuer", self.issuer]
        what = ["--trusted-root", str(self.trusted_root), "--type", predicate_type]
        return self.cosign("verify-attestation", *who, *what, image_ref)

    def sign_many(
        self,
        registry_url: str,
        *,
        images: int = 40,
        attestations: int = 5,
        repositories: int = 5,
        prefix: str = "corp/",
        workers: int = 32,
    ) -> list[SignedImage]:
        """Push `images` images into `repositories` repositories and attest each of them
        `attestations` times, cycling through `PREDICATE_TYPES`; every predicate is distinct.

        :param workers: images at a time; Rekor lets a client wait a second, so many pay.
        """
        types = tuple(PREDICATE_TYPES[n % len(PREDICATE_TYPES)] for n in range(attestations))

        def make(number: int) -> SignedImage:
            repository = f"{prefix}service-{number % repositories}"
            tag = f"v{number // repositories + 1}"
            digest = self.push_image(registry_url, repository, tag)
            reference = f"{registry_url.removeprefix('http://')}/{repository}@{digest}"
            for order, predicate_type in enumerate(types):
                predicate = {"image": number, "order": order, "passed": True}
                self.attest(reference, predicate_type, predicate)
            return SignedImage(reference, repository, tag, digest, types)

        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(make, range(images)))

    def cosign(self, *arguments: str, **environment: str) -> str:
        """Run stock cosign where it knows nothing but its arguments and this `environment`.

        :raises subprocess.CalledProcessError: with its standard error in `stderr` and in a note.
        """
        return self.run("cosign", *arguments, **environment)

    def run(self, name: str, *arguments: str, **environment: str) -> str:
        """Run a tool (cosign, oras, crane, regctl, regsync) in a clean environment."""
        return tools.run(self.folder, name, *arguments, **environment)

    def _attest(
        self,
        verb: str,
        predicate_type: str,
        predicate: dict[str, Any],
        identity: str,
        *rest: str,
        **environment: str,
    ) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            document, token = Path(temporary, "predicate.json"), Path(temporary, "token")
            document.write_text(json.dumps(predicate))
            token.write_text(self.oidc.token(identity))  # no newline: cosign would send it
            trusted = f"--trusted-root={self.trusted_root}"
            signing = [f"--identity-token={token}", f"--signing-config={self.signing_config}"]
            what = [f"--type={predicate_type}", f"--predicate={document}"]
            self.cosign(verb, "--yes", trusted, *signing, *what, *rest, **environment)

    def _fresh(self, name: str) -> Path:
        self._made += 1
        return self.folder / f"{name}-{self._made}"


@contextmanager
def open_lab(folder: Path, clock: timedelta = timedelta()) -> Iterator[Lab]:
    """Run a laboratory in an empty folder: the Sigstore services now, the others on demand.

    :param clock: how far it signs ahead of the machine's time
    :raises LabError: when a tool is missing or a service did not start.
    """
    with ExitStack() as stack:
        yield Lab(folder, stack, clock)
