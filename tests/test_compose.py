"""The compose stack, checked without a container engine: its schema, and our own rules."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from longseal.settings import Pkcs11SignerSettings, S3ArchiveSettings, parse
from tests.lab.s3 import S3

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docker-compose.yaml").read_text()
STACK: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
AIRFLOW = {
    "api-server",
    "scheduler",
    "dag-processor",
    "triggerer",
    "worker",
    "signer",
    "airflow-init",
}
ONE_SHOT = {"airflow-init", "bucket-init", "token-init"}
MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")


def environment(service: str) -> dict[str, str]:
    return SERVICES[service].get("environment", {})


def mounts(service: str) -> dict[str, str]:
    """Where each volume of a service is mounted, by its source."""
    parts = (entry.split(":") for entry in SERVICES[service].get("volumes", ()))
    return {source: target for source, target, *_ in parts}


def make_env(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "deploy" / "make_env.py", path], capture_output=True, text=True
    )


def read_env(path: Path) -> dict[str, str]:
    assert make_env(path).returncode == 0
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def test_the_stack_meets_the_compose_specification() -> None:
    schema = json.loads((ROOT / "tests" / "assets" / "compose-spec.json").read_text())
    jsonschema.Draft7Validator(schema).validate(STACK)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate(STACK | {"services": {"a": {"imagee": "x"}}})


def test_the_stack_has_every_part() -> None:
    assert SERVICES.keys() == AIRFLOW | ONE_SHOT | {"postgres", "redis", "registry", "s3"}


@pytest.mark.parametrize("service", sorted(AIRFLOW))
def test_every_airflow_service_sees_the_code(service: str) -> None:
    for folder in ("dags", "plugins", "include"):
        assert mounts(service)[f"./{folder}"] == f"/opt/airflow/{folder}"
        assert (ROOT / folder).is_dir()
    assert environment(service)["PYTHONPATH"] == "/opt/airflow/include:/opt/airflow/plugins"
    assert environment(service)["LONGSEAL_CONFIG"].startswith(mounts(service)["./deploy/config"])


@pytest.mark.parametrize("service", sorted(SERVICES.keys() - ONE_SHOT))
def test_every_service_that_stays_up_has_a_health_check(service: str) -> None:
    check = SERVICES[service]["healthcheck"]
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert check["interval"] and check["timeout"] and check["retries"]


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_service_waits_for_what_is_ready_or_done(service: str) -> None:
    for other, how in SERVICES[service].get("depends_on", {}).items():
        done = other in ONE_SHOT
        expected = "service_completed_successfully" if done else "service_healthy"
        assert how["condition"] == expected
    assert SERVICES[service]["restart"] == ("no" if service in ONE_SHOT else "unless-stopped")


def test_only_the_api_server_is_exposed_and_only_to_this_machine() -> None:
    exposed = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert exposed == {"api-server": ["127.0.0.1:8080:8080"]}
    assert all(service.get("network_mode", "none") == "none" for service in SERVICES.values())
    assert not any(service.get("privileged") for service in SERVICES.values())


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_images_are_pinned_by_a_tag(service: str) -> None:
    assert re.fullmatch(r"[a-z0-9/]+:v?\d+\.\d+[a-z0-9.-]*", SERVICES[service]["image"])


def test_every_variable_is_made_by_make_env_and_none_has_a_default(tmp_path: Path) -> None:
    used = re.findall(r"(?<!\$)\$\{?(\w+)([^}]*)\}?", TEXT)
    assert {rest for _, rest in used} == {":?run make env"}
    assert {name for name, _ in used} == read_env(tmp_path / "env").keys()


def test_no_secret_is_written_into_the_stack() -> None:
    for service in SERVICES:
        for key, value in environment(service).items():
            if re.search(r"PASSWORD|SECRET|_KEY|PIN$|CONN$|BROKER|BACKEND", key):
                assert "${" in value, f"{service}: {key}"


def test_the_pin_and_the_token_are_the_signers_alone() -> None:
    for secret in ("LONGSEAL_PIN", "SOFTHSM2_CONF"):
        assert {name for name in SERVICES if secret in environment(name)} == {
            "signer",
            "token-init",
        }
    assert {name for name in SERVICES if "token" in mounts(name)} == {"signer", "token-init"}
    assert SERVICES["signer"]["command"][3:5] == ["--queues", "signing"]
    assert SERVICES["token-init"]["network_mode"] == "none"


def test_every_mounted_file_is_there_and_every_volume_is_declared() -> None:
    for service in SERVICES:
        for source in mounts(service):
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
            else:
                assert source in STACK["volumes"]


def test_the_image_holds_what_the_stack_runs() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert "--requirement /tmp/requirements.txt" in dockerfile
    assert "apache-airflow-providers-fab==" in dockerfile
    for service in ("bucket-init", "token-init"):
        script = Path(SERVICES[service]["command"][1])
        assert (ROOT / "deploy" / script.name).is_file()
        assert f"deploy/{script.name}" in dockerfile
    assert environment("signer")["SOFTHSM2_CONF"] == "/opt/airflow/softhsm2.conf"
    conf = (ROOT / "deploy" / "softhsm2.conf").read_text()
    assert f"directories.tokendir = {mounts('signer')['token']}\n" in conf


def test_no_secret_enters_the_image() -> None:
    """The build's context is a list of what it needs."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    assert not any(line.startswith("!.env") for line in lines)


def test_the_settings_of_the_stack_fit_it() -> None:
    path = ROOT / "deploy" / "config" / "longseal.yaml"
    settings = parse(path.read_bytes(), path)
    archive, signer = settings.archive, settings.signer
    assert isinstance(archive, S3ArchiveSettings)
    assert isinstance(signer, Pkcs11SignerSettings)
    assert {archive.access_key_env, archive.secret_key_env} <= environment("worker").keys()
    assert [archive.endpoint, archive.bucket] == SERVICES["bucket-init"]["command"][2:]
    module, token, key = SERVICES["token-init"]["command"][2:]
    assert signer.uri.startswith(f"pkcs11:token={token};object={key}?module-path={module}&")
    assert signer.uri.endswith("pin-source=env:LONGSEAL_PIN")
    assert settings.catalog == "postgresql+psycopg://longseal@postgres/longseal"
    assert "PGPASSWORD" in environment("worker")


def test_the_secrets_are_new_each_time_and_for_the_owner_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        one, two = read_env(tmp_path / "one"), read_env(tmp_path / "two")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o600
    assert not {*one.values()} & {*two.values()}
    assert len({*one.values()}) == len(one)
    assert len(base64.urlsafe_b64decode(one["AIRFLOW_FERNET_KEY"])) == 32
    for name, value in one.items():
        assert re.fullmatch(r"[\w=-]{16,}", value), name


def test_secrets_that_are_there_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "env"
    read_env(path)
    before = path.read_bytes()
    again = make_env(path)
    assert again.returncode == 1
    assert "is there already and was kept" in again.stderr
    assert path.read_bytes() == before


def test_making_secrets_prints_none(tmp_path: Path) -> None:
    done = make_env(tmp_path / "env")
    values = [line.split("=", 1)[1] for line in (tmp_path / "env").read_text().splitlines()]
    assert values and not any(value in done.stdout + done.stderr for value in values)


@pytest.mark.skipif(not MODULE.exists(), reason="SoftHSM is not installed (apt: softhsm2)")
def test_the_token_is_made_once_with_one_key(tmp_path: Path) -> None:
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    env = os.environ | {
        "SOFTHSM2_CONF": str(tmp_path / "softhsm2.conf"),
        "LONGSEAL_PIN": "0a1b2c3d4e5f6071",
        "LONGSEAL_SO_PIN": "1706f5e4d3c2b1a0",
    }

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            [sys.executable, *command], env=env, capture_output=True, text=True, check=True
        )
        assert "0a1b2c3d4e5f6071" not in done.stdout + done.stderr
        return done.stdout

    for _ in range(2):
        run(ROOT / "deploy" / "init_token.py", MODULE, "longseal", "org")
    assert len([*(tmp_path / "tokens").iterdir()]) == 1
    script = """
import os, sys, pkcs11
token = pkcs11.lib(sys.argv[1]).get_token(token_label="longseal")
with token.open(user_pin=os.environ["LONGSEAL_PIN"]) as session:
    [key] = session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY})
    [public] = session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PUBLIC_KEY})
    signature = key.sign(32 * b"x", mechanism=pkcs11.Mechanism.ECDSA)
    assert public.verify(32 * b"x", signature, mechanism=pkcs11.Mechanism.ECDSA)
    print(key.label, key[pkcs11.Attribute.EXTRACTABLE], key[pkcs11.Attribute.SENSITIVE])
"""
    assert run("-c", script, MODULE).split() == ["org", "False", "True"]


@pytest.mark.lab
def test_the_bucket_is_made_once_with_object_lock(s3_server: S3) -> None:
    env = os.environ | {
        "S3_ACCESS_KEY": s3_server.access_key,
        "S3_SECRET_KEY": s3_server.secret_key,
    }
    command = [
        sys.executable,
        ROOT / "deploy" / "init_bucket.py",
        s3_server.endpoint,
        "compose-bucket",
    ]
    for _ in range(2):
        subprocess.run(command, env=env, check=True)
    client = s3_server.client()
    lock = client.get_object_lock_configuration(Bucket="compose-bucket")
    assert lock["ObjectLockConfiguration"]["ObjectLockEnabled"] == "Enabled"
    client.create_bucket(Bucket="plain-bucket")
    done = subprocess.run([*command[:-1], "plain-bucket"], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "without Object Lock" in done.stderr.splitlines()[-1]
