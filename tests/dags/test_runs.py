import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.airflow_home import HOME, Airflow
from tests.doubles.registry import RegistryDouble
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import EXAMPLES, Installation
from tests.retired import REPOSITORY, RULE, approval_policy, retire

from longseal.archive import prune
from longseal.archive.approval import sign_policy
from longseal.registry.copy import copy_manifest_tree
from longseal.registry.discovery import discover
from longseal.registry.distribution import DistributionRegistry
from longseal.registry.layout import LayoutRegistry

PASSWORD = "correct-horse-battery"
REMOTE = "corp/a-svc1"
ALL = ("harvest", "reseal", "mirror", "prune", "audit")


@dataclass(frozen=True)
class Runs:
    """The DAGs that were run, by name, and all that was logged meanwhile."""

    by_dag: dict[str, dict[str, Any]]
    log: str

    def tasks(self, dag: str) -> dict[str, str]:
        return {name: state for name, (state, _) in self.by_dag[dag]["tasks"].items()}


def run(airflow: Airflow, installation: Installation, *runs: dict[str, Any]) -> Runs:
    """Run DAGs, each ``{"dag": "harvest", …}`` as ``run_dags`` takes it."""
    wanted = [
        {"config": str(installation.config), **one, "dag": f"longseal_{one['dag']}"} for one in runs
    ]
    files = [installation.folder.parent / name for name in ("runs.json", "results.json")]
    files[0].write_text(json.dumps(wanted))
    connection = {"conn_type": "longseal_registry", "login": "robot", "password": PASSWORD}
    done = airflow.python(
        *("-m", "tests.dags.run_dags", *map(str, files)),
        env={"AIRFLOW_CONN_CORP_REGISTRY": json.dumps(connection)},
    )
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-4000:]
    results = json.loads(files[1].read_text())
    return Runs({one["dag"]: found for one, found in zip(runs, results, strict=True)}, log)


def run_all(airflow: Airflow, installation: Installation) -> Runs:
    confs = {"reseal": {"period": "r-one"}}
    return run(airflow, installation, *({"dag": dag, "conf": confs.get(dag)} for dag in ALL))


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryDouble]:
    """One image of the examples with its attestations, behind a login."""
    with RegistryDouble(basic=("robot", PASSWORD)) as running:
        source = LayoutRegistry("examples", EXAMPLES / "registry")
        running.quirks.basic = None
        target = DistributionRegistry("main", running.url)
        image = source.resolve(REMOTE, "v1")
        assert image is not None
        found = discover(source, REMOTE, image, source.tags(REMOTE))
        for digest in (image, *(one.manifest.digest for one in found.candidates)):
            copy_manifest_tree(source, target, REMOTE, REMOTE, digest)
        manifest = source.manifest(REMOTE, image)
        assert manifest is not None
        target.put_manifest(REMOTE, manifest, "v1")
        running.quirks.basic = ("robot", PASSWORD)
        yield running


@pytest.fixture(scope="module")
def installed(
    tmp_path_factory: pytest.TempPathFactory,
    honest_authority: TimestampAuthorityDouble,
    registry: RegistryDouble,
) -> Installation:
    """Longseal with a registry that asks for a login, beside one that is a folder."""
    layout = {"name": "exported", "layout": "registry"}
    main = {"name": "main", "url": registry.url, "conn_id": "corp_registry"}
    folder = tmp_path_factory.mktemp("runs") / "longseal"
    made = Installation(folder, honest_authority, {"registries": [layout, main]})
    shutil.copytree(EXAMPLES / "registry/corp/a-svc0", folder / "registry/corp/a-svc0")
    return made


@pytest.fixture(scope="module")
def first(airflow: Airflow, installed: Installation) -> Runs:
    """Every DAG, once."""
    return run_all(airflow, installed)


def test_every_dag_runs_to_its_end(first: Runs, installed: Installation) -> None:
    assert {dag: done["state"] for dag, done in first.by_dag.items()} == dict.fromkeys(
        ALL, "success"
    )
    assert first.tasks("harvest") == dict.fromkeys(
        ("trust", "trusted", "judge", "plan", "harvest[0]", "harvest[1]", "summarise"), "success"
    ) | {"complete_proofs": "skipped", "watch": "skipped"}
    assert first.tasks("mirror") == dict.fromkeys(
        ("choose_sites", "plan", "deliver[0]", "finish[0]"), "success"
    )
    assert first.tasks("prune") == dict.fromkeys(("plan", "approve", "prune", "restore"), "skipped")
    assert "5 images: 25 attestations found, 25 verified, 0 rejected" in first.log
    # The seal, the statement about its images, and the site's inventory.
    assert installed.key_operations() == 3
    tags = LayoutRegistry("ship", installed.folder / "ship" / "images").tags(REMOTE)
    assert "v1" in tags


def test_every_dag_may_run_again_and_nothing_new_is_signed_fetched_or_written(
    airflow: Airflow, first: Runs, installed: Installation, registry: RegistryDouble
) -> None:
    files, operations = installed.files(), installed.key_operations()
    registry.requests.clear()
    again = run_all(airflow, installed)
    assert {done["state"] for done in again.by_dag.values()} == {"success"}
    assert "25 attestations found, 0 verified, 0 rejected, 0 unknown, 25 known before" in again.log
    assert installed.files() == files
    assert installed.key_operations() == operations
    assert registry.count("GET", "/referrers/") > 0
    assert registry.count("GET", "/blobs/") == 0
    assert set(registry.methods()) <= {"GET", "HEAD"}


def test_no_run_leaves_a_secret_behind(first: Runs, installed: Installation) -> None:
    kept = [
        path
        for folder in (HOME, installed.folder)
        for path in folder.rglob("*")
        if path.is_file() and PASSWORD.encode() in path.read_bytes()
    ]
    assert PASSWORD not in first.log
    assert kept == []


def test_what_cannot_be_done_fails_once_and_says_why_in_its_last_line(
    airflow: Airflow, first: Runs, installed: Installation
) -> None:
    broken = installed.folder / "broken.yaml"
    broken.write_text(installed.config.read_text().replace("trusted_root.json", "absent.json"))
    runs = run(
        airflow,
        installed,
        {"dag": "reseal"},
        {"dag": "audit", "config": str(broken)},
    )
    assert runs.by_dag["reseal"]["state"] == "failed"
    assert runs.by_dag["reseal"]["tasks"]["freeze"] == ["failed", 1]
    assert runs.tasks("reseal")["sign"] == "upstream_failed"
    assert runs.by_dag["audit"]["tasks"]["audit"] == ["failed", 1]
    said = [
        line.partition("AirflowFailException: ")[2]
        for line in runs.log.splitlines()
        if "AirflowFailException: " in line
    ]
    assert said[0].startswith("period: a manual run names what it seals")
    assert f"{broken}:" in said[1]
    assert "trust.trusted_root: no such file" in said[1]


def test_a_site_that_is_not_there_holds_no_other_one_up(
    airflow: Airflow, first: Runs, installed: Installation
) -> None:
    site = {"kind": "volume", "repositories": ["corp/*"]}
    config = installed.folder / "sites.yaml"
    text = installed.config.read_text()
    sites = [{**site, "name": name, "path": name} for name in ("plant", "boat")]
    config.write_text(f"{text.partition('sites:')[0]}sites: {json.dumps(sites)}\n")
    (installed.folder / "boat").mkdir()
    runs = run(airflow, installed, {"dag": "mirror", "config": str(config)})
    assert runs.by_dag["mirror"]["state"] == "failed"
    assert runs.by_dag["mirror"]["tasks"] == {
        "choose_sites": ["success", 1],
        "plan": ["success", 1],
        "deliver[0]": ["failed", 1],
        "deliver[1]": ["success", 1],
        "finish[0]": ["failed", 1],
        "finish[1]": ["success", 1],
    }
    assert (installed.folder / "boat" / "site" / "inventory.json").is_file()


PRUNED = dict.fromkeys(("plan", "approve", "prune"), "success")
NOT_PRUNED = dict.fromkeys(("plan", "approve", "prune"), "skipped")


def test_a_run_of_the_prune_puts_back_the_digest_that_its_form_names(
    airflow: Airflow, installation: Installation
) -> None:
    manifest = retire(installation)
    planned = prune.plan(installation.workspace())
    assert planned is not None
    prune.execute(installation.workspace(), planned.digest, "grace")
    image = installation.workspace().catalog.evidence()[0].image
    dry = {"restore": f"registry.example/{REPOSITORY}@{image}", "dry_run": True}
    runs = run(airflow, installation, {"dag": "prune", "conf": dry})
    assert runs.tasks("prune") == {**NOT_PRUNED, "restore": "success"}
    assert f"{manifest}" in runs.log
    assert installation.registry().manifest(REPOSITORY, manifest) is None

    conf = {**dry, "dry_run": False, "registry": "exported"}
    runs = run(
        airflow,
        installation,
        {"dag": "prune", "conf": conf},
        {"dag": "prune", "conf": conf},
    )
    assert runs.by_dag["prune"]["state"] == "failed"
    assert f"AirflowFailException: nothing that {image} names was pruned from exported" in runs.log
    assert installation.registry().manifest(REPOSITORY, manifest) is not None
    entries = list(installation.workspace().ledger.walk())
    (restored,) = (entry for entry in entries if entry.action == "evidence.restored")
    assert restored.actor.startswith("airflow longseal_prune/manual__")


def test_what_is_approved_is_pruned(airflow: Airflow, installation: Installation) -> None:
    manifest = retire(installation)
    runs = run(airflow, installation, {"dag": "prune", "approve": True})
    assert runs.tasks("prune") == {**PRUNED, "restore": "skipped"}
    assert installation.registry().manifest(REPOSITORY, manifest) is None
    (deleted,) = (
        entry for entry in installation.workspace().ledger.walk() if entry.action == "prune.deleted"
    )
    assert deleted.details["approver"] == "grace (grace)"
    assert deleted.actor.startswith("airflow longseal_prune/manual__")
    assert deleted.actor.endswith("/prune try 1, started by dag_test")


def test_what_the_signed_policy_approves_waits_for_nobody(
    airflow: Airflow, installation: Installation
) -> None:
    manifest = retire(installation)
    signed = sign_policy(
        installation.workspace(),
        approval_policy({**RULE, "repositories": ["corp/*"], "classes": ["default.*"]}),
    )
    runs = run(airflow, installation, {"dag": "prune"})
    assert runs.tasks("prune") == {**PRUNED, "restore": "skipped"}
    assert installation.registry().manifest(REPOSITORY, manifest) is None
    (begun,) = (
        entry for entry in installation.workspace().ledger.walk() if entry.action == "prune.begun"
    )
    assert begun.details["approver"] == f"policy {signed['policy']} (version 1)"
