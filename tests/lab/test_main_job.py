"""The main job on real services: harvested, sealed, mirrored by the DAGs; verified with no network.

A month is sealed once it is over, so the laboratory signs in the month that ended last. All that
comes after, the DAGs and the authorities that they ask, runs at the machine's own time.
"""

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from longseal.registry.layout import LayoutRegistry
from longseal.seal.keys import fingerprint, load_public_pem, public_pem
from longseal.seal.published import published
from longseal.settings import load
from longseal.workspace import Workspace
from tests.airflow_home import ROOT, Airflow
from tests.lab import PREDICATE_TYPES, Lab, SignedImage
from tests.lab.offline import Done, run_offline
from tests.lab.registries import Registry, registry
from tests.lab.s3 import S3
from tests.lab.softhsm import Token
from tests.lab.tools import tool
from tests.scheduler import Run, Scheduler, scheduler

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

ATTACKED = PREDICATE_TYPES[2]
"""The predicate type that an image has one attestation of; it has two of each other."""

NO_STATEMENT = "{0.repository}@{0.digest} statement"
IMAGE_STATEMENT = "https://stella.example/longseal/image/v1"
BUCKET = "main-job"
DAGS = ("harvest", "reseal", "mirror", "audit")
REQUEST = re.compile(r'"([A-Z]+) (/v2/\S+) HTTP/1\.1" \d+')


@dataclass(frozen=True)
class State:
    """All that the DAGs may have changed or asked for, but the catalog."""

    key_operations: dict[str, int]
    archive: dict[str, str]
    files: dict[str, tuple[int, int]]
    requests: list[tuple[str, str]]


@dataclass
class Job:
    """The job's surroundings: a registry with signed images, two sites, and the settings.

    :param month: in which the images were attested, as ``YYYY-MM``
    """

    lab: Lab
    month: str
    folder: Path
    source: Registry
    site: Registry
    s3: S3
    token: Token
    images: list[SignedImage] = field(default_factory=list)

    @property
    def volume(self) -> Path:
        return self.folder / "ship-3"

    @property
    def kit(self) -> Path:
        return self.volume / "site"

    @property
    def environment(self) -> dict[str, str]:
        keys = {
            "MAIN_JOB_ACCESS_KEY": self.s3.access_key,
            "MAIN_JOB_SECRET_KEY": self.s3.secret_key,
        }
        return {"LONGSEAL_CONFIG": str(self.config), **self.token.environment, **keys}

    @property
    def config(self) -> Path:
        return self.folder / "longseal.yaml"

    @property
    def key_fingerprint(self) -> str:
        return fingerprint(load_public_pem(self.token.public_pem.read_bytes(), "public key"))

    def write_settings(self) -> None:
        self.volume.mkdir()
        lab, s3, tsa = self.lab, self.s3, self.lab.another_tsa()
        signer = {"issuer": lab.issuer, "identity": lab.identity}
        settings = {
            "organisation": "stella.example",
            "catalog": "sqlite:///catalog.db",
            "archive": {
                "kind": "s3",
                "bucket": BUCKET,
                "endpoint": s3.endpoint,
                "region": s3.region,
                "lock": "compliance",
                "access_key_env": "MAIN_JOB_ACCESS_KEY",
                "secret_key_env": "MAIN_JOB_SECRET_KEY",
            },
            "trust": {"trusted_root": str(lab.trusted_root)},
            "registries": [{"name": "main", "url": self.source.url, "repositories": ["corp/*"]}],
            "policy": [
                {
                    "repositories": ["corp/*"],
                    "predicates": ["https://stella-ops.example/**"],
                    "identities": [signer],
                }
            ],
            "signer": {"kind": "pkcs11", "uri": self.token.uri},
            "timestamps": [{"url": tsa.url, "certificates": str(tsa.chain)}],
            "rekor": {
                "url": lab.rekor_url,
                "public_key": str(lab.rekor_public_key),
                "origin": lab.rekor_origin,
            },
            "sites": [
                {
                    "name": "plant-7",
                    "kind": "registry",
                    "url": self.site.url,
                    "repositories": ["corp/*"],
                },
                {
                    "name": "ship-3",
                    "kind": "volume",
                    "path": str(self.volume),
                    "repositories": ["corp/*"],
                },
            ],
        }
        self.config.write_text(yaml.safe_dump(settings, sort_keys=False))

    def run_dags(self, airflow: Scheduler) -> dict[str, Run]:
        """Run every DAG, one after another, the reseal as a backfill; what came of each."""
        done = {}
        for name in DAGS:
            dag = f"longseal_{name}"
            if name == "reseal":
                airflow.backfill(dag, self.month, self.month, "completed")
            else:
                airflow.trigger(dag, {"share": 1} if name == "audit" else {})
            done[name] = airflow.wait(dag)[-1]
        return done

    def state(self) -> State:
        ledger = Workspace(load(self.config, {}), environ=self.environment).ledger
        versions = self.s3.client().get_paginator("list_object_versions").paginate(Bucket=BUCKET)
        folders = (self.source.folder / "storage", self.site.folder / "storage", self.volume)
        log = (self.source.folder / "logs" / f"{self.source.kind}.log").read_text()
        return State(
            key_operations={
                entry.details["folder"]: entry.details["operations"]
                for entry in ledger.walk()
                if entry.action == "key.operation.ended"
            },
            archive={
                each["VersionId"]: each["Key"] for page in versions for each in page["Versions"]
            },
            files={
                str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
                for folder in folders
                for path in folder.rglob("*")
                if path.is_file()
            },
            requests=[(found[1], found[2]) for found in REQUEST.finditer(log)],
        )

    # What somebody at a site does.

    def at_site(self, image: SignedImage) -> str:
        return f"{self.site.host}/{image.repository}@{image.digest}"

    def cosign_keyless(
        self, image: SignedImage, predicate_type: str, identity: str | None = None
    ) -> list[str]:
        return [
            tool("cosign"),
            "verify-attestation",
            f"--certificate-identity={identity or self.lab.identity}",
            f"--certificate-oidc-issuer={self.lab.issuer}",
            f"--trusted-root={self.kit}/trusted_root.json",
            f"--type={predicate_type}",
            self.at_site(image),
        ]

    def cosign_by_key(self, image: SignedImage, key: Path | None = None) -> list[str]:
        return [
            tool("cosign"),
            "verify-attestation",
            f"--key={key or self.token.public_pem}",
            f"--trusted-root={self.kit}/seal-trusted-root.json",
            f"--type={IMAGE_STATEMENT}",
            self.at_site(image),
        ]

    def longseal(self, image: SignedImage) -> list[str]:
        return [
            *(sys.executable, "-m", "longseal.cli", "verify", "--json", self.at_site(image)),
            f"--key={self.token.public_pem}",
            f"--identity={self.lab.identity}",
            f"--issuer={self.lab.issuer}",
            f"--trusted-root={self.kit}/trusted_root.json",
            f"--seal-trusted-root={self.kit}/seal-trusted-root.json",
        ]

    def longseal_volume(self, volume: Path, key: str | None = None) -> list[str]:
        command = [sys.executable, "-m", "longseal.cli", "verify", "--json", str(volume)]
        return [*command, f"--key={key or self.key_fingerprint}"]

    def offline(
        self, name: str, commands: Mapping[str, list[str]], served: Registry | None = None
    ) -> dict[str, Done]:
        """Run commands with the network denied, beside the site's registry."""
        done = run_offline(
            list(commands.values()),
            served or self.site,
            self.folder / name,
            [ROOT / "include"],
        )
        return dict(zip(commands, done, strict=True))


@dataclass(frozen=True)
class Ran:
    """The DAGs, run twice."""

    first: dict[str, Run]
    again: dict[str, Run]
    after_first: State
    after_again: State

    @property
    def requests_again(self) -> list[tuple[str, str]]:
        """What the second runs asked of the source."""
        return self.after_again.requests[len(self.after_first.requests) :]


@pytest.fixture(scope="module")
def job(
    lab_of_last_month: Lab, softhsm_token: Token, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Job]:
    """40 images with five attestations each, and nothing run yet."""
    lab, folder = lab_of_last_month, tmp_path_factory.mktemp("main-job")
    month = f"{datetime.now(UTC) + lab.clock:%Y-%m}"
    with registry("docker_registry", folder / "source", access_log=True) as source:
        made = Job(
            lab, month, folder, source, lab.registry("distribution"), lab.s3(), softhsm_token
        )
        made.s3.create_bucket(BUCKET)
        made.images = lab.sign_many(source.url)
        made.write_settings()
        yield made


@pytest.fixture(scope="module")
def ran(job: Job, airflow: Airflow) -> Ran:
    with scheduler(airflow, job.folder / "airflow", job.environment) as running:
        first = job.run_dags(running)
        after_first = job.state()
        again = job.run_dags(running)
    return Ran(first, again, after_first, job.state())


@pytest.fixture(scope="module")
def at_site(job: Job, ran: Ran) -> dict[str, Done]:
    """What stock cosign and longseal say at a site with no network, by verifier and image."""
    first, stranger = job.images[0], job.folder / "stranger.pub"
    stranger.write_text(public_pem(ec.generate_private_key(ec.SECP256R1()).public_key()))
    commands = {
        "volume": job.longseal_volume(job.volume),
        "another fingerprint": job.longseal_volume(job.volume, "sha256:" + "0" * 64),
        "another key": job.cosign_by_key(first, stranger),
        "another identity": job.cosign_keyless(first, ATTACKED, "mallory@stella.example"),
    }
    for image in job.images:
        for kind in dict.fromkeys(image.predicate_types):
            commands[f"keyless {kind} {image.reference}"] = job.cosign_keyless(image, kind)
        commands[f"key {image.reference}"] = job.cosign_by_key(image)
        commands[f"longseal {image.reference}"] = job.longseal(image)
    return job.offline("offline", commands)


@dataclass(frozen=True)
class Tampered:
    """A site where one byte of `part` of an image was changed: on its volume, in its registry.

    :param check: the end of the name of the check that covers it
    """

    part: str
    image: SignedImage
    check: str
    verdicts: dict[str, Done]

    def failures(self, target: str) -> dict[str, str]:
        return failures(self.verdicts[target])

    @property
    def covering_check(self) -> str:
        return f"{self.image.repository}@{self.image.digest} {self.check}"


@pytest.fixture(scope="module", params=["manifest", "attestation", "statement"])
def tampered(request: pytest.FixtureRequest, job: Job, ran: Ran) -> Tampered:
    part, image, other = request.param, job.images[7], job.images[8]
    if part == "manifest":
        check, digest = part, image.digest
    else:
        kind = ATTACKED if part == "attestation" else IMAGE_STATEMENT
        attachment, digest = attached(job, image, kind)
        check = attachment[:19]
    name = digest.removeprefix("sha256:")
    folder = job.folder / f"changed-{part}"
    shutil.copytree(job.volume, folder / "volume")
    shutil.copytree(job.site.folder, folder / "registry")
    stored = f"docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"
    change_a_byte(folder / "volume/images" / image.repository / "blobs/sha256" / name)
    change_a_byte(folder / "registry/storage" / stored)
    commands = {
        "volume": job.longseal_volume(folder / "volume"),
        "keyless": job.cosign_keyless(image, ATTACKED),
        "key": job.cosign_by_key(image),
        "pull": [tool("crane"), "manifest", job.at_site(image)],
        "longseal": job.longseal(image),
        "another image": job.cosign_keyless(other, ATTACKED),
    }
    served = Registry(job.site.kind, job.site.url, folder / "registry")
    return Tampered(part, image, check, job.offline(f"offline-{part}", commands, served))


def attached(job: Job, image: SignedImage, predicate_type: str) -> tuple[str, str]:
    """The digests of the one attachment of this type, and of the bundle in it."""
    layout = LayoutRegistry("volume", job.volume / "images")
    found = []
    for referrer in layout.referrers(image.repository, image.digest) or ():
        manifest = layout.manifest(image.repository, referrer.digest)
        assert manifest is not None
        content = json.loads(manifest.data)
        if content["annotations"]["dev.sigstore.bundle.predicateType"] == predicate_type:
            found.append((referrer.digest, content["layers"][0]["digest"]))
    (one,) = found
    return one


def change_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle] = ord("A") if data[middle] != ord("A") else ord("B")
    path.write_bytes(data)


def failures(done: Done) -> dict[str, str]:
    """What a report in JSON says did not hold, with why."""
    checks = json.loads(done.output)["checks"]
    return {each["check"]: each["detail"] for each in checks if each["result"] != "passed"}


def test_every_dag_succeeds_both_times(ran: Ran) -> None:
    for runs in (ran.first, ran.again):
        assert {name: run.state for name, run in runs.items()} == dict.fromkeys(DAGS, "success")
    # A backfill reprocesses the run that is there.
    tried = {"harvest": 1, "reseal": 2, "mirror": 1, "audit": 1}
    for runs, expected in ((ran.first, dict.fromkeys(DAGS, 1)), (ran.again, tried)):
        for name, run in runs.items():
            tries = {task: tries for task, (_, tries) in run.tasks.items()}
            # Without a secret for receipts there is nothing to map a recheck over.
            assert tries.pop("recheck_packs", 0) == 0
            assert set(tries.values()) == {expected[name]}


def test_the_reseal_runs_took_their_month_from_their_dates(job: Job, ran: Ran) -> None:
    for runs in (ran.first, ran.again):
        assert (runs["reseal"].kind, runs["reseal"].month) == ("backfill", job.month)


def test_the_seal_covers_every_attestation(job: Job, ran: Ran) -> None:
    workspace = Workspace(load(job.config, {}), environ=job.environment)
    (seal,) = published(workspace)
    assert seal.period == job.month
    assert seal.size == 200
    assert seal.statement.predicate["counts"]["verified"] == 200
    assert seal.statement.predicate["counts"]["images"] == 40


def test_the_seal_took_one_key_operation_and_all_images_together_another(ran: Ran) -> None:
    assert ran.after_first.key_operations == {
        "seals/000001/1": 1,
        "seals/000001/images/0001": 1,
        # The signed inventories of the two sites.
        "deliveries/plant-7/000001": 1,
        "deliveries/ship-3/000001": 1,
    }


def test_a_second_run_signs_nothing(ran: Ran) -> None:
    assert ran.after_again.key_operations == ran.after_first.key_operations


def test_a_second_run_downloads_no_blob(ran: Ran) -> None:
    def blobs(requests: list[tuple[str, str]]) -> list[str]:
        return [path for method, path in requests if method == "GET" and "/blobs/" in path]

    assert len(set(blobs(ran.after_first.requests))) >= 200
    assert ran.requests_again
    assert blobs(ran.requests_again) == []


def test_a_second_run_writes_nothing_to_archive_registries_and_volume(ran: Ran) -> None:
    assert {method for method, _ in ran.requests_again} <= {"GET", "HEAD"}
    assert ran.after_first.archive
    assert ran.after_again.archive == ran.after_first.archive
    assert ran.after_again.files == ran.after_first.files


def test_with_no_network_cosign_verifies_every_attestation(
    job: Job, at_site: dict[str, Done]
) -> None:
    shown = Counter[str]()
    for image in job.images:
        for kind, count in Counter(image.predicate_types).items():
            done = at_site[f"keyless {kind} {image.reference}"]
            assert done.code == 0, done.errors
            assert len(done.output.splitlines()) == count
            shown[kind] += count
    assert shown.total() == 200


def test_with_no_network_cosign_verifies_every_image_by_the_organisations_key(
    job: Job, at_site: dict[str, Done]
) -> None:
    for image in job.images:
        done = at_site[f"key {image.reference}"]
        assert done.code == 0, done.errors


def test_with_no_network_longseal_agrees_about_every_image(
    job: Job, at_site: dict[str, Done]
) -> None:
    for image in job.images:
        done = at_site[f"longseal {image.reference}"]
        assert done.code == 0, done.errors
        assert failures(done) == {}
        # The manifest, five attestations, one statement.
        assert len(json.loads(done.output)["checks"]) == 7


def test_with_no_network_the_volume_verifies_by_the_keys_fingerprint(
    at_site: dict[str, Done],
) -> None:
    assert at_site["volume"].code == 0, at_site["volume"].errors
    assert failures(at_site["volume"]) == {}


def test_with_no_network_another_key_or_identity_is_refused(at_site: dict[str, Done]) -> None:
    assert at_site["another fingerprint"].code == 1
    assert list(failures(at_site["another fingerprint"])) == ["key"]
    assert at_site["another key"].code != 0
    assert "no matching attestations" in at_site["another key"].errors
    assert at_site["another identity"].code != 0
    assert "no matching CertificateIdentity" in at_site["another identity"].errors


def test_a_changed_byte_on_the_volume_fails_the_check_that_covers_it(tampered: Tampered) -> None:
    assert tampered.verdicts["volume"].code == 1
    failed = tampered.failures("volume")
    assert tampered.covering_check in failed
    assert "has bytes of" in failed[tampered.covering_check]
    assert "has other bytes" in failed["blobs"]
    if tampered.part == "attestation":
        assert set(failed) == {tampered.covering_check, "blobs"}


def test_a_changed_byte_in_the_registry_fails_the_check_that_covers_it(tampered: Tampered) -> None:
    assert tampered.verdicts["longseal"].code != 0
    failed = tampered.failures("longseal")
    assert "got bytes of" in failed[tampered.covering_check]
    assert set(failed) <= {tampered.covering_check, NO_STATEMENT.format(tampered.image)}


def test_a_changed_byte_in_the_registry_is_refused_by_stock_tools(tampered: Tampered) -> None:
    refused = {name for name in ("keyless", "key", "pull") if tampered.verdicts[name].code != 0}
    # Given a digest, cosign never asks for the image's manifest: whoever pulls it notices.
    covers = {"manifest": "pull", "attestation": "keyless", "statement": "key"}
    assert refused == {covers[tampered.part]}
    assert tampered.verdicts["another image"].code == 0
