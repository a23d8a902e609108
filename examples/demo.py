"""``make demo``: the main job, DAG by DAG, on the images under ``examples/registry``.

Everything happens in ``var/demo``, which is made anew each time: Airflow on SQLite, a copy of the
image layouts as the registry, a directory as the archive, a volume as the offline site. The key is
in a SoftHSM token where there is one, else in a file. The timestamp authority is a local double,
since a demo must not need the internet; a real one belongs to somebody else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.lab.softhsm import create_token

from longseal.audit.audit import audit
from longseal.canonical import digest_of
from longseal.catalog.catalog import Catalog
from longseal.registry.attach import attach
from longseal.registry.attachment import fetch
from longseal.registry.discovery import discover
from longseal.registry.interface import Descriptor
from longseal.registry.layout import LayoutRegistry
from longseal.seal.bundle import MEDIA_TYPE
from longseal.seal.keys import fingerprint
from longseal.seal.organisation import organisation_key
from longseal.seal.signers.file import FileSigner
from longseal.settings import Pkcs11SignerSettings, load
from longseal.workspace import Workspace

ROOT = Path(__file__).parent.parent
HOME = ROOT / "var" / "demo"
PERIOD = "r-demo"

SETTINGS = """\
organisation: stella.example
catalog: sqlite:///catalog.db
archive: {{kind: directory, path: archive}}
trust: {{trusted_root: {examples}/trusted_root.json}}
registries:
  - {{name: exported, layout: registry, repositories: ["corp/*"]}}
policy:
  - repositories: ["corp/*"]
    predicates: ["https://stella-ops.example/**"]
    identities: [{{issuer: "http://localhost:18100", identity: ci@stella.example}}]
signer: {signer}
timestamps: [{{url: "{tsa_url}", certificates: {tsa_chain}}}]
sites:
  - {{name: ship-3, kind: volume, path: ship-3, repositories: ["corp/*"]}}
"""


@dataclass
class Steps:
    """What was run, and how long it took."""

    environment: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)

    def dag(self, name: str, conf: dict[str, Any] | None = None) -> None:
        """Run one DAG as a DAG, and stop the demo where it fails."""
        command = [_bin("airflow"), "dags", "test", f"longseal_{name}"]
        if conf is not None:
            command += ["--conf", json.dumps(conf)]
        self.run(f"DAG longseal_{name}", command)

    def run(self, name: str, command: list[str]) -> str:
        """Run a command; its output goes to a log file and is returned."""
        print(f"  {name} …", flush=True)
        begun = time.monotonic()
        done = subprocess.run(
            command, env=self.environment, cwd=HOME, capture_output=True, text=True, check=False
        )
        self.seconds[name] = time.monotonic() - begun
        log = HOME / "logs" / f"{name.replace(' ', '-')}.log"
        log.parent.mkdir(exist_ok=True)
        log.write_text(done.stdout + done.stderr)
        if done.returncode != 0:
            print(done.stdout[-3000:], done.stderr[-3000:], sep="\n", file=sys.stderr)
            raise SystemExit(f"{name} failed; the whole log is in {log.relative_to(ROOT)}")
        return done.stdout


def main() -> None:
    """Run the demo and print its table."""
    shutil.rmtree(HOME, ignore_errors=True)
    for folder in ("archive", "ship-3"):
        (HOME / folder).mkdir(parents=True)
    shutil.copytree(ROOT / "examples" / "registry", HOME / "registry")
    _transplant()
    with ExitStack() as stack:
        tsa = stack.enter_context(TimestampAuthorityDouble(HOME / "tsa"))
        signer, token_environment = _signer()
        settings = HOME / "longseal.yaml"
        settings.write_text(
            SETTINGS.format(
                examples=ROOT / "examples",
                signer=signer,
                tsa_url=tsa.url,
                tsa_chain=tsa.chain_path,
            )
        )
        os.environ.update(token_environment)
        steps = Steps(_environment(settings))
        steps.run("Airflow's database", [_bin("airflow"), "db", "migrate"])
        steps.dag("harvest")
        steps.dag("reseal", {"period": PERIOD})
        steps.dag("mirror")
        steps.dag("prune")
        steps.dag("audit")
        workspace = Workspace(load(settings, os.environ))
        key = fingerprint(organisation_key(workspace).key)
        verified = _verify_offline(steps, key)
        _report(workspace, steps, verified, key)


def _environment(settings: Path) -> dict[str, str]:
    home = HOME / "airflow"
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        "PYTHONPATH": f"{ROOT / 'include'}:{ROOT / 'plugins'}",
        "LONGSEAL_CONFIG": str(settings),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
    }


def _signer() -> tuple[str, dict[str, str]]:
    """A SoftHSM token where the library is or can be installed, else a key in a file."""
    try:
        if shutil.which("softhsm2-util") is None and os.geteuid() == 0:
            subprocess.run(
                ["apt-get", "install", "-y", "-q", "softhsm2"], capture_output=True, check=False
            )
        token = create_token(HOME / "softhsm")
    except Exception as err:
        print(f"  no SoftHSM token ({err}): a key in a file it is, which is not for production")
        path = HOME / "organisation.pem"
        FileSigner.create(path)
        return f"{{kind: file, path: {path}}}", {}
    return f'{{kind: pkcs11, uri: "{token.uri}"}}', dict(token.environment)


def _transplant() -> None:
    """Hang one image's attestation on another image: the harvest must see through that."""
    registry = LayoutRegistry("exported", HOME / "registry")
    first, second = "corp/a-svc0", "corp/a-svc1"
    stolen = registry.resolve(first, "v5")
    victim = registry.manifest(second, "v1")
    assert stolen is not None and victim is not None
    found = discover(registry, first, stolen, registry.tags(first))
    layer = fetch(registry, found.candidates[0]).layers[0]
    subject = Descriptor(victim.media_type, victim.digest, len(victim.data))
    attach(registry, second, subject, MEDIA_TYPE, layer.data, {})


def _verify_offline(steps: Steps, key: str) -> dict[str, Any]:
    """Verify the volume as the site would: with no network at all, and no settings."""
    command = [sys.executable, "-m", "longseal.cli", "verify", "ship-3", "--key", key, "--json"]
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode:
        raise SystemExit("this machine cannot make an environment without network (unshare -rn)")
    environment = {
        name: value for name, value in steps.environment.items() if name != "LONGSEAL_CONFIG"
    }
    offline = Steps(environment, steps.seconds)
    found: dict[str, Any] = json.loads(
        offline.run("verify with no network", ["unshare", "-rn", *command])
    )
    return found


def _report(workspace: Workspace, steps: Steps, verified: dict[str, Any], key: str) -> None:
    evidence = Catalog.open(workspace.settings.catalog).evidence()
    images = {row.image for row in evidence if row.verdict == "verified"}
    rejected = [row for row in evidence if row.verdict != "verified"]
    seal = workspace.catalog.seals()[-1]
    ledger = next(check for check in audit(workspace).checks if check.name == "ledger")
    attested = [c for c in verified["checks"] if c["detail"].endswith(", sealed")]
    delivery = workspace.catalog.deliveries("ship-3")[-1]
    table = Table(title=f"Longseal, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", show_header=False)
    rows = {
        "found": f"{len(evidence)} attestations on {len(images)} images",
        "verified": str(len(evidence) - len(rejected)),
        "quarantined": "\n".join(f"{row.image[:19]}… {row.reason}" for row in rejected) or "0",
        "sealed": f"{seal.size} attestations in seal {seal.sequence} ({seal.period}),"
        f" root {seal.root[:16]}…, {seal.digest[:19]}…",
        "key": f"{_kind(workspace)} {key}",
        "key operations": ledger.detail,
        "mirrored": f"{delivery.images} images to ship-3, inventory {delivery.sequence}",
        "verified offline": f"{verified['result']}: {len(attested)} attestations,"
        f" {len(verified['checks'])} checks, policy {digest_of(workspace.policy)[:19]}…",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    table.add_section()
    for name, seconds in steps.seconds.items():
        table.add_row(name, f"{seconds:.1f} s")
    table.add_row("in all", f"{sum(steps.seconds.values()):.0f} s")
    Console(width=120).print(table)
    print(
        f"\nTo verify the volume again, with no network:\n  unshare -rn {_bin('longseal')} verify "
        f"{(HOME / 'ship-3').relative_to(ROOT)} --key {key}"
    )


def _kind(workspace: Workspace) -> str:
    pkcs11 = isinstance(workspace.settings.signer, Pkcs11SignerSettings)
    return "in SoftHSM," if pkcs11 else "in a file, NOT FOR PRODUCTION,"


def _bin(name: str) -> str:
    return str(Path(sys.executable).parent / name)


if __name__ == "__main__":
    main()
