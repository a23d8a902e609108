from __future__ import annotations

import dataclasses
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from longseal import settings as module
from longseal.errors import SettingsError
from longseal.settings import (
    ArtifactSettings,
    AzureSignerSettings,
    DirectoryArchiveSettings,
    Duration,
    FileSignerSettings,
    Filter,
    GcpSignerSettings,
    Identity,
    KmsSignerSettings,
    LayoutSettings,
    Pkcs11SignerSettings,
    RegistrySettings,
    RegistrySiteSettings,
    RekorSettings,
    RetentionClass,
    S3ArchiveSettings,
    SealSettings,
    Settings,
    VaultSignerSettings,
    VolumeSiteSettings,
    load,
    parse,
    policy_document,
    secret,
)

SMALL = """\
organisation: stella.example
catalog: sqlite:///catalog.db
archive: {kind: directory, path: archive}
trust: {trusted_root: trusted_root.json}
registries:
  - name: main
    url: http://localhost:5000
    repositories: ["corp/*"]
policy:
  - repositories: ["corp/*"]
    predicates: ["https://stella-ops.example/*"]
    identities:
      - issuer: https://issuer.stella.example
        identity: ci@stella.example
signer: {kind: file, path: org.key}
timestamps:
  - url: http://tsa.stella.example/api/v1/timestamp
    certificates: tsa.pem
"""

FULL = """\
organisation: stella.example
catalog: postgresql+psycopg://longseal@db/longseal
archive:
  kind: s3
  bucket: evidence
  prefix: longseal/
  endpoint: http://s3:7070/
  region: eu-west-1
  lock: compliance
  conn_id: longseal_s3
  access_key_env: S3_ACCESS_KEY
  secret_key_env: S3_SECRET_KEY
trust: {trusted_root: trusted_root.json}
keys: {pinned: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
registries:
  - name: main
    url: https://registry.stella.example:5000/
    repositories: ["corp/*"]
    visibility: public
    conn_id: longseal_registry
    username_env: REGISTRY_USER
    password_env: REGISTRY_PASSWORD
    repositories_file: more.txt
    tags: {include: ["v*"], exclude: ["*-dev", "*-rc*"]}
    digests: {exclude: ["sha256:0*"]}
    attachment_repositories: [corp/signatures]
    docker_config: docker.json
    ca_file: ca.pem
    client_certificate: client.pem
    client_key: client.key
    proxy: http://proxy.stella.example:3128/
    internal_hosts: [auth.stella.example, 10.0.0.9]
    requests_per_second: 50
  - {name: exported, layout: ./registry}
policy:
  - repositories: ["corp/*"]
    predicates: ["https://stella-ops.example/*"]
    identities:
      - {issuer: "https://issuer.stella.example", identity: ci@stella.example}
      - issuer_pattern: 'https://[a-z]+\\.stella\\.example'
        pattern: 'https://github\\.com/stella/[a-z-]+/\\.github/workflows/.*'
    max_certificate_minutes: 15
signer:
  kind: pkcs11
  uri: "pkcs11:token=longseal;object=org?module-path=/usr/lib/p11.so&pin-source=env:LONGSEAL_PIN"
timestamps:
  - {url: "http://tsa.stella.example/api/v1/timestamp", certificates: tsa.pem}
  - {url: "http://tsa.other.example/tsr/", certificates: tsa.pem}
timestamp_quorum: 2
rekor: {url: "http://rekor.stella.example:3003", public_key: rekor.pem}
seal: {unknown: refuse, artifact: {registry: main, repository: longseal/seals}}
image_statement_days: 90
harvest: {workers: 2}
retention:
  default: 30 months
  classes:
    sbom: {keep: 10 years, predicates: ["https://cyclonedx.org/*"]}
    scratch: {keep: 30 days, repositories: ["corp/tmp/**"]}
sites:
  - {name: plant-7, kind: registry, url: "http://plant:5000", repositories: ["corp/*"]}
  - {name: ship-3, kind: volume, path: /mnt/ship-3, volume_size: 4 GiB, repositories: ["corp/*"]}
"""

GCP_KEY = "projects/p/locations/eu/keyRings/r/cryptoKeys/org/cryptoKeyVersions/1"


REGISTRY_FILES = ("ca.pem", "client.pem", "client.key", "docker.json", "more.txt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("trusted_root.json", "tsa.pem", "rekor.pem", *REGISTRY_FILES):
        (tmp_path / name).write_text("x")
    (tmp_path / "registry").mkdir()
    return tmp_path


@pytest.fixture
def read(folder: Path) -> Callable[[str], Settings]:
    def read(text: str) -> Settings:
        path = folder / "longseal.yaml"
        path.write_text(text)
        return load(path, {})

    return read


@pytest.fixture
def refusal(read: Callable[[str], Settings], folder: Path) -> Callable[[str], str]:
    """What a refused file is answered with, less the folder that it is in."""

    def refusal(text: str) -> str:
        with pytest.raises(SettingsError) as refused:
            read(text)
        assert "\n" not in str(refused.value)
        return str(refused.value).replace(f"{folder}/", "")

    return refusal


def small(old: str, new: str) -> str:
    assert old in SMALL
    return SMALL.replace(old, new)


def test_the_smallest_file_is_filled_with_defaults(
    read: Callable[[str], Settings], folder: Path
) -> None:
    found = read(SMALL)
    assert found.catalog == f"sqlite:///{folder}/catalog.db"
    assert found.archive == DirectoryArchiveSettings(path=folder / "archive")
    assert found.trust == folder / "trusted_root.json"
    assert found.signer == FileSignerSettings(path=folder / "org.key")
    assert (found.timestamp_quorum, found.image_statement_days) == (1, 400)
    assert found.pinned_key is found.rekor is found.harvest_workers is None
    assert found.retention.default == Duration(24, "month")
    assert found.policy[0].max_certificate_minutes == 10
    assert found.registries[0].visibility == "private"


def test_every_setting_is_read(read: Callable[[str], Settings], folder: Path) -> None:
    found = read(FULL)
    assert found.catalog == "postgresql+psycopg://longseal@db/longseal"
    assert found.archive == S3ArchiveSettings(
        bucket="evidence",
        prefix="longseal/",
        endpoint="http://s3:7070",
        region="eu-west-1",
        lock="compliance",
        conn_id="longseal_s3",
        access_key_env="S3_ACCESS_KEY",
        secret_key_env="S3_SECRET_KEY",
    )
    assert found.pinned_key == "sha256:" + 64 * "0"
    assert found.registries == (
        RegistrySettings(
            name="main",
            url="https://registry.stella.example:5000",
            repositories=("corp/*", "x"),
            repositories_file=folder / "more.txt",
            tags=Filter(include=("v*",), exclude=("*-dev", "*-rc*")),
            digests=Filter(exclude=("sha256:0*",)),
            attachment_repositories=("corp/signatures",),
            visibility="public",
            conn_id="longseal_registry",
            username_env="REGISTRY_USER",
            password_env="REGISTRY_PASSWORD",
            docker_config=folder / "docker.json",
            ca_file=folder / "ca.pem",
            client_certificate=folder / "client.pem",
            client_key=folder / "client.key",
            proxy="http://proxy.stella.example:3128",
            internal_hosts=("auth.stella.example", "10.0.0.9"),
            requests_per_second=50,
        ),
        LayoutSettings(name="exported", layout=folder / "registry"),
    )
    assert found.policy[0].identities == (
        Identity(issuer="https://issuer.stella.example", identity="ci@stella.example"),
        Identity(
            issuer_pattern=r"https://[a-z]+\.stella\.example",
            pattern=r"https://github\.com/stella/[a-z-]+/\.github/workflows/.*",
        ),
    )
    assert found.policy[0].max_certificate_minutes == 15
    assert isinstance(found.signer, Pkcs11SignerSettings)
    assert found.signer.uri.startswith("pkcs11:token=longseal;object=org?")
    assert [item.url for item in found.timestamps] == [
        "http://tsa.stella.example/api/v1/timestamp",
        "http://tsa.other.example/tsr/",
    ]
    assert found.rekor == RekorSettings(
        url="http://rekor.stella.example:3003",
        public_key=folder / "rekor.pem",
        origin="rekor.stella.example",
    )
    assert (found.timestamp_quorum, found.image_statement_days, found.harvest_workers) == (2, 90, 2)
    assert found.seal == SealSettings(
        unknown="refuse", artifact=ArtifactSettings(registry="main", repository="longseal/seals")
    )
    assert found.retention.default == Duration(30, "month")
    assert found.retention.classes == (
        RetentionClass(
            name="sbom", keep=Duration(10, "year"), predicates=("https://cyclonedx.org/*",)
        ),
        RetentionClass(name="scratch", keep=Duration(30, "day"), repositories=("corp/tmp/**",)),
    )
    assert found.sites == (
        RegistrySiteSettings(name="plant-7", url="http://plant:5000", repositories=("corp/*",)),
        VolumeSiteSettings(
            name="ship-3",
            path=Path("/mnt/ship-3"),
            volume_size=4 * 1024**3,
            repositories=("corp/*",),
        ),
    )


def test_seals_go_to_a_registry_that_is_known(read: Callable[[str], Settings]) -> None:
    text = "seal: {artifact: {registry: elsewhere, repository: seals}}\n"
    with pytest.raises(SettingsError, match="no registry is called 'elsewhere'; known: main"):
        read(SMALL + text)


def test_a_key_in_a_cloud_is_read(read: Callable[[str], Settings]) -> None:
    found = read(
        small("{kind: file, path: org.key}", "{kind: aws-kms, key_id: alias/org, region: eu}")
    )
    assert found.signer == KmsSignerSettings(key_id="alias/org", region="eu")
    role = "arn:aws:iam::111122223333:role/seals/sealer"
    found = read(
        small(
            "{kind: file, path: org.key}",
            f"{{kind: aws-kms, key_id: x, role_arn: '{role}', external_id: e-7, "
            "max_operations: 5}",
        )
    )
    assert found.signer == KmsSignerSettings(
        key_id="x", role_arn=role, external_id="e-7", max_operations=5
    )


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        (f"kind: gcp-kms, key: {GCP_KEY}", GcpSignerSettings(key=GCP_KEY)),
        (
            "kind: azure-key-vault, vault: corp, key: org",
            AzureSignerSettings(vault="corp", key="org"),
        ),
        ("kind: vault, key: org", VaultSignerSettings(key="org")),
    ],
)
def test_a_key_in_another_cloud_is_read(
    read: Callable[[str], Settings], written: str, read_as: object
) -> None:
    assert read(small("kind: file, path: org.key", written)).signer == read_as


@pytest.mark.parametrize(
    "wrong",
    [
        f"kind: gcp-kms, key: {GCP_KEY.rpartition('/')[0]}",
        "kind: azure-key-vault, vault: evil.example/x, key: org",
        "kind: vault, key: ../sys/raw",
        "kind: aws-kms, key_id: x, role_arn: sealer",
        "kind: aws-kms, key_id: x, external_id: e-7",
        "kind: aws-kms, key_id: x, session_name: october",
        "kind: file, path: org.key, max_operations: 0",
    ],
)
def test_a_signer_that_cannot_be_meant_is_refused(
    wrong: str, refusal: Callable[[str], str]
) -> None:
    assert ": signer" in refusal(small("kind: file, path: org.key", wrong))


def test_settings_travel_to_other_processes_and_can_be_compared(
    read: Callable[[str], Settings],
) -> None:
    found = read(FULL)
    assert pickle.loads(pickle.dumps(found)) == found
    assert hash(found) == hash(read(FULL))


def test_the_file_comes_from_the_environment_when_none_is_given(folder: Path) -> None:
    path = folder / "other.yaml"
    path.write_text(SMALL)
    assert load(None, {"LONGSEAL_CONFIG": str(path)}).organisation == "stella.example"


@pytest.mark.parametrize("environ", [{}, {"LONGSEAL_CONFIG": ""}])
def test_no_file_named_is_an_error_that_says_how_to_name_one(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"LONGSEAL_CONFIG: no settings: give --config"):
        load(None, environ)


def test_a_file_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.yaml: settings: cannot be read: No such"):
        load(folder / "absent.yaml", {})


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "    url: http",
            "    urll: http",
            'longseal.yaml:7: registries[0].urll: unknown key; did you mean "url"?',
        ),
        (
            "catalog: sqlite:///catalog.db",
            "catalog: sqlite:///catalog.db\nzzz: 1",
            "longseal.yaml:3: zzz: unknown key; known: archive, catalog, ",
        ),
        ("organisation: stella.example\n", "", "longseal.yaml:1: organisation: missing"),
        ("    url: http://localhost:5000\n", "", "expected exactly one of url or layout"),
        (
            "    url: http://localhost:5000\n",
            "    url: http://localhost:5000\n    layout: registry\n",
            "longseal.yaml:7: registries[0].url: unknown key; known: attachment_repositories, ",
        ),
        (
            "kind: directory",
            "kind: ftp",
            "longseal.yaml:3: archive.kind: expected directory or s3, found 'ftp'",
        ),
        ("{kind: directory, path: archive}", "{path: archive}", "3: archive.kind: missing"),
        (
            "{kind: directory, path: archive}",
            "{kind: s3, bucket: evidence, path: archive}",
            "longseal.yaml:3: archive.path: unknown key; known: access_key_env, bucket, ",
        ),
        (
            "{kind: directory, path: archive}",
            "{kind: s3, bucket: evidence, prefix: /longseal}",
            "longseal.yaml:3: archive.prefix: expected key parts that each end in /",
        ),
        (
            "{kind: directory, path: archive}",
            "{kind: s3, bucket: evidence, access_key_env: A}",
            "longseal.yaml:3: archive.access_key_env: needs secret_key_env beside it",
        ),
        ("stella.example\ncat", "Stella\ncat", "1: organisation: expected a domain name"),
        ("sqlite:///catalog.db", "mysql://db/x", "2: catalog: expected sqlite:///PATH or"),
        ("sqlite:///catalog.db", '"sqlite:///:memory:"', "2: catalog: expected sqlite:///PATH"),
        ("    repositories", "    visibility: secret-ish\n    repositories", "private or public"),
        ("http://localhost:5000", "localhost:5000", "registries[0].url: expected an http or https"),
        ("http://localhost:5000", "http://a/?b=c", "registries[0].url: expected an http or https"),
        ("http://localhost:5000", "ftp://localhost", "registries[0].url: expected an http or"),
        ('["corp/*"]\npolicy', "corp/*\npolicy", "8: registries[0].repositories: expected a list"),
        ('["corp/*"]\npolicy', "[]\npolicy", "registries[0].repositories: expected at least one"),
        ("trust: {", "harvest: {workers: 0}\ntrust: {", "expected a whole number from 1 to 256"),
        ("trust: {", "harvest: {workers: 1.5}\ntrust: {", "expected a whole number from 1 to 256"),
        ("trust: {", "harvest: {workers: yes}\ntrust: {", "expected a whole number from 1 to 256"),
        ("trust: {", "harvest: [1]\ntrust: {", "4: harvest: expected a mapping, found a list"),
        ("trust: {", "harvest:\ntrust: {", "4: harvest: expected a mapping, found nothing"),
        ("trust: {", "keys: {pinned: abc}\ntrust: {", "keys.pinned: expected sha256: and 64 hex"),
        ("trust: {", "retention: {default: 2 weeks}\ntrust: {", "expected a duration, as in 24"),
        ("trust: {", "retention: {default: 0 days}\ntrust: {", "expected a duration, as in 24"),
        (
            "trust: {",
            "retention: {floor: 12 months, default: 364 days}\ntrust: {",
            "4: retention.default: shorter than retention.floor, 12 months",
        ),
        (
            "trust: {",
            "retention: {floor: 1 year, classes: {sbom: {keep: 11 months}}}\ntrust: {",
            "4: retention.classes.sbom.keep: shorter than retention.floor, 1 year",
        ),
        (
            "trust: {",
            "retention: {dispose: 23 months}\ntrust: {",
            "4: retention.dispose: 23 months is before the 24 months for which it is kept",
        ),
        (
            "trust: {",
            "retention: {dispose: 5 years, classes: {sbom: {keep: 1 year, archive: 6 years}}}"
            "\ntrust: {",
            "4: retention.classes.sbom.dispose: 5 years is before the 6 years",
        ),
        (
            "trust: {",
            "retention: {profile: cra, dispose: 9 years}\ntrust: {",
            "4: retention.dispose: 9 years is before the 10 years for which it is kept",
        ),
        (
            "trust: {",
            "retention: {dispose: sometime}\ntrust: {",
            "4: retention.dispose: expected a duration",
        ),
        (
            "trust: {",
            "retention: {cold: 1 month}\ntrust: {",
            "4: retention.cold: a folder has no cold class",
        ),
        (
            "trust: {",
            "retention: {max_share: 0}\ntrust: {",
            "4: retention.max_share",
        ),
        (
            "trust: {",
            "retention: {classes: {sbom: {keep: 1 day, outcomes: [good]}}}\ntrust: {",
            "4: retention.classes.sbom.outcomes",
        ),
        (
            "trust: {",
            "retention: {default: 1 day, profile: cra}\ntrust: {",
            "4: retention: give only one of default and profile",
        ),
        (
            "trust: {",
            "retention: {classes: {A B: {keep: 1 day}}}\ntrust: {",
            "4: retention.classes: expected a name of lower-case letters",
        ),
        (
            "trust: {",
            "sites:\n- {kind: volume, name: a, path: v, repositories: [x],\n   volume_size: 4}\n"
            "trust: {",
            "6: sites[0].volume_size: expected a size, as in 4 GiB or 700 MB, found '4'",
        ),
        (
            "trust: {",
            "timestamp_quorum: 2\ntrust: {",
            "4: timestamp_quorum: asks for 2 authorities, but timestamps names 1",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_line(
    old: str, new: str, expected: str, refusal: Callable[[str], str]
) -> None:
    assert expected in refusal(small(old, new))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "longseal.yaml: settings: empty"),
        ("# nothing\n", "longseal.yaml: settings: empty"),
        ("[]", "longseal.yaml:1: settings: expected a mapping, found a list"),
        ("a: [", "longseal.yaml:1: settings: not YAML"),
        ("a: 1\n---\nb: 2", "settings: not YAML"),
        ("a: \x01", "settings: not YAML: it holds a character that YAML does not allow"),
        ("a: &x 1\nb: *x", "longseal.yaml:1: settings: anchors and aliases are not allowed"),
        ("a: *x", "longseal.yaml:1: settings: anchors and aliases are not allowed"),
        ("a: !!python/object/apply:os.system [id]", "settings: tags are not allowed"),
        ("a: " + 1000 * "[", "settings: nested deeper than 16 levels"),
        ("a: " + 1000 * "{b: ", "settings: nested deeper than 16 levels"),
        ("? [a]\n: 1", "longseal.yaml:1: settings: a key must be plain text"),
        ("a: 1\nb: 2\na: 3", "longseal.yaml:1: a: given twice, the second time in line 3"),
        ('a: "x\\ny"', "longseal.yaml:1: a: holds a control character or a line break"),
        ("a: " + 5000 * "9", "longseal.yaml:1: a: not a number that can be read"),
        ("a: " + 1024 * 1024 * "x", "settings: larger than the 1048576 bytes allowed"),
    ],
)
def test_what_is_no_settings_file_is_refused(
    text: str, expected: str, refusal: Callable[[str], str]
) -> None:
    assert expected in refusal(text)


def test_bytes_that_are_not_utf_8_are_refused() -> None:
    with pytest.raises(SettingsError, match="not UTF-8 at byte 3"):
        parse(b"a: \xff", Path("longseal.yaml"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("url: http://localhost", "url: http://robot:hunter2@localhost"),
        ("url: http://localhost", "password: hunter2\n    url: http://localhost"),
        ("url: http://localhost", "Token: hunter2\n    url: http://localhost"),
        ("url: http://localhost", "password_env: 'hunter2 !'\n    url: http://localhost"),
        ("url: http://localhost:5000", "url: http://hunter2@localhost"),
        ("url: http://localhost:5000", "url: http://localhost/?x=hunter2"),
        ("sqlite:///catalog.db", "postgresql+psycopg://longseal:hunter2@db/longseal"),
        ("sqlite:///catalog.db", "postgresql+psycopg://db/longseal?password=hunter2"),
        ("kind: file, path: org.key", "kind: pkcs11, uri: 'pkcs11:object=o?pin-value=hunter2'"),
        ("kind: file, path: org.key", "kind: pkcs11, uri: 'pkcs11:object=o', pin: hunter2"),
        ("kind: file, path: org.key", "kind: aws-kms, key_id: x, secret_access_key: hunter2"),
        ("kind: file, path: org.key", "kind: file, path: org.key, passphrase: hunter2"),
    ],
)
def test_a_secret_in_the_file_is_refused_and_never_repeated(
    old: str, new: str, refusal: Callable[[str], str]
) -> None:
    assert "hunter2" not in refusal(small(old, new))


def test_a_secret_in_the_file_is_told_where_it_belongs(refusal: Callable[[str], str]) -> None:
    key = "kind: file, path: org.key"
    assert "pin-source=env:NAME" in refusal(
        small(key, "kind: pkcs11, uri: 'pkcs11:object=o?pin-value=1234'")
    )
    assert "longseal.yaml:15: signer.pin: a secret does not belong in this file" in refusal(
        small(key, "kind: pkcs11, pin: 1234")
    )
    assert "PGPASSWORD" in refusal(
        small("sqlite:///catalog.db", "postgresql+psycopg://longseal:x@db/longseal")
    )


IDENTITIES = """\
    identities:
      - issuer: https://issuer.stella.example
        identity: ci@stella.example
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (re.sub(r"policy:\n(  .*\n)+", "", SMALL), "1: policy: missing"),
        (re.sub(r"policy:\n(  .*\n)+", "policy: []\n", SMALL), "9: policy: trusts nobody"),
        (SMALL.replace(IDENTITIES, ""), "10: policy[0].identities: missing"),
        (
            SMALL.replace(IDENTITIES, "    identities: []\n"),
            "12: policy[0].identities: trusts nobody",
        ),
        (
            small("        identity: ci@stella.example\n", ""),
            "policy[0].identities[0]: expected exactly one of identity or pattern",
        ),
        (
            small("issuer: https://issuer.stella.example\n        ", ""),
            "policy[0].identities[0]: expected exactly one of issuer or issuer_pattern",
        ),
        (
            small("identity: ci", "pattern: ci\n        identity: ci"),
            "policy[0].identities[0]: expected exactly one of identity or pattern",
        ),
    ],
)
def test_a_policy_that_trusts_nobody_is_refused(
    text: str, expected: str, refusal: Callable[[str], str]
) -> None:
    assert expected in refusal(text)


@pytest.mark.parametrize(
    "pattern",
    [".*", ".+", "^.*$", "(?s).*", r"[\s\S]+", "[^ ]*", "(.*)|x", r".*@.*", "https://.*", "x|.*"],
)
@pytest.mark.parametrize("key", ["pattern", "issuer_pattern"])
def test_a_pattern_that_takes_anybody_is_refused(
    key: str, pattern: str, refusal: Callable[[str], str]
) -> None:
    old = {"pattern": "identity: ci@stella.example", "issuer_pattern": "issuer: https://issuer.st"}
    text = SMALL.replace("https://issuer.stella.example", "https://issuer.st")
    message = refusal(text.replace(old[key], f"{key}: '{pattern}'"))
    assert f"policy[0].identities[0].{key}: matches identities of anybody" in message


@pytest.mark.parametrize(
    "pattern", [r".*@stella\.example", r"https://github\.com/stella/.*", r"spiffe://stella/.*"]
)
def test_a_pattern_that_names_whom_it_trusts_is_taken(
    pattern: str, read: Callable[[str], Settings]
) -> None:
    found = read(small("identity: ci@stella.example", f"pattern: '{pattern}'"))
    assert found.policy[0].identities[0].pattern == pattern


@pytest.mark.parametrize("pattern", ["(", "a{99999999999999999999}", "[z-a]", "*"])
def test_a_pattern_that_does_not_compile_is_refused(
    pattern: str, refusal: Callable[[str], str]
) -> None:
    message = refusal(small("identity: ci@stella.example", f"pattern: '{pattern}'"))
    assert "longseal.yaml:14: policy[0].identities[0].pattern: not a regular" in message


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("trusted_root.json", "trust.trusted_root: no such file: trusted_root.json"),
        ("tsa.pem", "timestamps[0].certificates: no such file: tsa.pem"),
        ("rekor.pem", "rekor.public_key: no such file: rekor.pem"),
        ("ca.pem", "registries[0].ca_file: no such file: ca.pem"),
        ("client.pem", "registries[0].client_certificate: no such file: client.pem"),
        ("client.key", "registries[0].client_key: no such file: client.key"),
        ("docker.json", "registries[0].docker_config: no such file: docker.json"),
        ("more.txt", "registries[0].repositories_file: no such file: more.txt"),
        ("registry", "registries[1].layout: no such folder: registry"),
    ],
)
def test_a_named_file_that_is_not_there_is_refused(
    missing: str, expected: str, folder: Path, refusal: Callable[[str], str]
) -> None:
    (folder / missing).rename(folder / "elsewhere")
    assert expected in refusal(FULL)


def test_the_key_is_not_needed_where_nothing_signs(read: Callable[[str], Settings]) -> None:
    signer = read(SMALL).signer
    assert isinstance(signer, FileSignerSettings)
    assert not signer.path.exists()


def test_a_list_in_a_file_adds_repositories_to_those_named(
    read: Callable[[str], Settings], folder: Path
) -> None:
    (folder / "more.txt").write_text("# ours\n\ncorp/db\n  team/**  # theirs\n")
    listed = "url: http://localhost:5000\n    repositories_file: more.txt"
    found = read(small("url: http://localhost:5000", listed)).registries[0]
    assert found.repositories == ("corp/*", "corp/db", "team/**")
    alone = small("url: http://localhost:5000", listed).replace('repositories: ["corp/*"]', "", 1)
    assert read(alone).registries[0].repositories == ("corp/db", "team/**")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"corp/db\n../etc\n", "more.txt:2: expected the name or pattern"),
        (b"a b", "more.txt:1: expected the name or pattern"),
        (b"# none", "names no repository"),
        (b"\xff", "cannot be read: UnicodeDecodeError"),
        (b"x\n" * 600_000, "larger than"),
    ],
)
def test_a_list_in_a_file_that_cannot_be_meant_is_refused(
    content: bytes, expected: str, folder: Path, refusal: Callable[[str], str]
) -> None:
    (folder / "more.txt").write_bytes(content)
    message = refusal(FULL)
    assert "registries[0].repositories_file: " in message and expected in message


def test_a_filter_takes_what_is_included_and_not_excluded() -> None:
    chosen = Filter(include=("v*", "latest"), exclude=("*-dev",))
    assert [tag for tag in ("v1", "latest", "v1-dev", "w1") if chosen.takes(tag)] == [
        "v1",
        "latest",
    ]
    assert Filter().takes("anything")


@pytest.mark.parametrize("section", ["registries", "sites"])
def test_a_name_given_twice_is_refused(section: str, refusal: Callable[[str], str]) -> None:
    first, second = {"registries": ("main", "exported"), "sites": ("plant-7", "ship-3")}[section]
    message = refusal(FULL.replace(f"name: {second}", f"name: {first}"))
    assert f"{section}[1].name: '{first}' is taken already" in message


def test_the_cra_profile_keeps_for_ten_years(read: Callable[[str], Settings]) -> None:
    found = read(SMALL + "retention: {profile: cra}\n")
    assert found.retention.default == Duration(10, "year")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4 GiB", 4 * 1024**3), ("700 MB", 700_000_000), ("1KB", 1000), ("2 TiB", 2 * 1024**4)],
)
def test_sizes_are_read_as_bytes(text: str, expected: int, read: Callable[[str], Settings]) -> None:
    site = read(FULL.replace("4 GiB", text)).sites[1]
    assert isinstance(site, VolumeSiteSettings)
    assert site.volume_size == expected


@pytest.mark.parametrize(
    ("duration", "moment", "expected"),
    [
        (Duration(24, "month"), "2026-10-31T00:00:00", "2028-10-31T00:00:00"),
        (Duration(1, "month"), "2027-01-31T12:00:00", "2027-02-28T12:00:00"),
        (Duration(2, "month"), "2026-11-30T00:00:00", "2027-01-30T00:00:00"),
        (Duration(10, "year"), "2028-02-29T00:00:00", "2038-02-28T00:00:00"),
        (Duration(30, "day"), "2026-12-15T00:00:00", "2027-01-14T00:00:00"),
    ],
)
def test_durations_follow_the_calendar(duration: Duration, moment: str, expected: str) -> None:
    start = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    assert duration.after(start) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


def test_a_duration_past_the_calendar_is_an_error() -> None:
    for duration in (Duration(9999, "year"), Duration(10**7, "day")):
        with pytest.raises(OverflowError):
            duration.after(datetime(2026, 1, 1, tzinfo=UTC))


def test_a_setting_is_found_again_by_its_name(read: Callable[[str], Settings]) -> None:
    found = read(SMALL)
    assert found.where("registries[0].url").endswith("longseal.yaml:7")
    assert found.where("registries[0].ca_file").endswith("longseal.yaml:6")
    assert found.where("rekor.url").endswith("longseal.yaml:1")


def test_a_site_is_found_by_its_name(read: Callable[[str], Settings]) -> None:
    assert read(FULL).site("ship-3").name == "ship-3"
    with pytest.raises(SettingsError, match="no site is called 'ship-9'; known: plant-7, ship-3"):
        read(FULL).site("ship-9")


def test_a_secret_comes_from_the_environment() -> None:
    assert secret({"PIN": "1234"}, "PIN", "signer.uri") == "1234"
    with pytest.raises(SettingsError, match=r"signer\.uri: the environment variable PIN is not"):
        secret({"PIN": ""}, "PIN", "signer.uri")


def test_the_policy_document_says_all_that_the_policy_says(
    read: Callable[[str], Settings],
) -> None:
    assert json.loads(policy_document(read(FULL))) == {
        "rules": [
            {
                "repositories": ["corp/*"],
                "predicates": ["https://stella-ops.example/*"],
                "identities": [
                    {
                        "identity": "ci@stella.example",
                        "issuer": "https://issuer.stella.example",
                    },
                    {
                        "issuerPattern": r"https://[a-z]+\.stella\.example",
                        "pattern": r"https://github\.com/stella/[a-z-]+/\.github/workflows/.*",
                    },
                ],
                "maxCertificateMinutes": 15,
            }
        ]
    }


def test_the_policy_document_leaves_order_out(read: Callable[[str], Settings]) -> None:
    found = read(SMALL)
    rule = found.policy[0]
    other = dataclasses.replace(rule, repositories=("b", "a"), identities=2 * rule.identities)
    turned = dataclasses.replace(other, repositories=("a", "b", "a"), identities=rule.identities)
    one = dataclasses.replace(found, policy=(rule, other))
    two = dataclasses.replace(found, policy=(turned, rule, rule))
    assert policy_document(one) == policy_document(two) != policy_document(found)


SCHEMA: dict[str, Any] = json.loads(
    resources.files("longseal").joinpath("settings.schema.json").read_text()
)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_object_of_the_schema_is_closed() -> None:
    def walk(schema: Any, path: str) -> Iterator[str]:
        if isinstance(schema, dict):
            properties = schema.get("properties", {})
            if properties and "additionalProperties" not in schema and set(properties) != {"kind"}:
                yield path
            for key, value in schema.items():
                yield from walk(value, f"{path}/{key}")
        elif isinstance(schema, list):
            for at, value in enumerate(schema):
                yield from walk(value, f"{path}/{at}")

    assert list(walk(SCHEMA, "")) == []


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return resolved(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]) | schema
    return schema


def rows(schema: dict[str, Any], name: str) -> Iterator[str]:
    """The table of ``docs/formats/settings.md``, a line a setting, from the schema."""
    schema = resolved(schema)
    if name and "description" in schema:
        default = f"`{schema['default'] or '(empty)'}`" if "default" in schema else ""
        if isinstance(schema.get("default"), list | bool):
            default = f"`{json.dumps(schema['default'])}`"
        key = f"{name}: {schema['const']}" if "const" in schema else name
        if "enum" in schema:
            key += ": " + "\\|".join(schema["enum"])
        yield f"| `{key}` | {schema['description']} | {default} |"
    if "enum" in schema.get("properties", {}).get("kind", {}):
        for option in schema["allOf"]:
            yield from rows(option["then"], name)
        return
    if "if" in schema:
        yield from rows(schema["else"], name)
        yield from rows(schema["then"], name)
        return
    required = {*schema.get("required", ())}
    for key, value in schema.get("properties", {}).items():
        inner = f"{name}.{key}" if name else key
        for row in rows(value, inner):
            yield (
                re.sub(r"\|  \|$", "| required |", row)
                if key in required and row.startswith((f"| `{inner}`", f"| `{inner}: "))
                else row
            )
    if isinstance(schema.get("additionalProperties"), dict):
        yield from rows(schema["additionalProperties"], f"{name}.NAME")
    if "items" in schema and "properties" not in schema:
        yield from rows(schema["items"], f"{name}[]")


def test_the_page_of_settings_has_the_table_that_the_schema_gives() -> None:
    page = Path(__file__).parents[3] / "docs" / "formats" / "settings.md"
    head = ["| key | meaning | default |", "| --- | --- | --- |"]
    table = "\n".join([*head, *dict.fromkeys(rows(SCHEMA, ""))])
    assert table in page.read_text(), f"docs/formats/settings.md should hold:\n{table}"


def test_the_examples_of_the_page_are_good_settings(folder: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "formats" / "settings.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert examples
    for example in examples:
        assert parse(example.encode(), folder / "longseal.yaml").organisation == "stella.example"


def test_the_defaults_of_the_schema_are_those_in_force(
    read: Callable[[str], Settings],
) -> None:
    """Writing every default of the schema out changes nothing."""
    bare = yaml.safe_load(FULL)
    for key in ("visibility", "repositories", "repositories_file"):
        del bare["registries"][0][key]
    del (
        bare["policy"][0]["max_certificate_minutes"],
        bare["archive"]["prefix"],
        bare["archive"]["lock"],
    )
    del bare["timestamp_quorum"], bare["image_statement_days"], bare["retention"]["default"]
    del bare["seal"]["unknown"]

    def filled(schema: dict[str, Any], value: Any) -> Any:
        schema = resolved(schema)
        for option in schema.get("allOf", ()):
            if "if" in option and option["if"]["properties"]["kind"]["const"] == value["kind"]:
                return filled(option["then"], value)
        if "if" in schema:
            return filled(schema["then" if "layout" in value else "else"], value)
        if isinstance(value, list):
            return [filled(schema.get("items", {}), item) for item in value]
        if not isinstance(value, dict):
            return value
        more = schema.get("additionalProperties")
        known = {
            key: resolved(inner)["default"]
            for key, inner in schema.get("properties", {}).items()
            if "default" in resolved(inner)
        }
        return known | {
            key: filled(schema.get("properties", {}).get(key, more), item)
            for key, item in value.items()
        }

    full = filled(SCHEMA, bare)
    assert full["timestamp_quorum"] == 1
    assert full["retention"]["classes"]["sbom"]["repositories"] == ["**"]
    assert read(yaml.safe_dump(full)) == read(yaml.safe_dump(bare))


def test_reading_settings_starts_nothing_heavy() -> None:
    script = "import sys, longseal.settings; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONPATH": str(Path(module.__file__).parents[1])},
    ).stdout.split()
    assert not {"sigstore", "boto3", "pyarrow", "pkcs11", "airflow", "jsonschema"} & {*loaded}
