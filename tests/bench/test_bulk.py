"""What is made in bulk is harvested whole, from a registry as from layouts on disk."""

import os
from pathlib import Path

import pytest

from longseal import harvest
from longseal.settings import load
from longseal.workspace import Workspace
from tests.bench import bulk, child
from tests.doubles.registry import RegistryDouble
from tests.doubles.sigstore import IDENTITY, ISSUER


def _harvest(settings: Path) -> harvest.Tally:
    workspace = Workspace(load(settings, os.environ))
    (batch,) = harvest.plan(workspace)[0]
    return harvest.harvest(workspace, batch).total


def test_a_registry_with_a_repository_of_them(tmp_path: Path) -> None:
    double = bulk.new_double()
    trusted_root = tmp_path / "trusted_root.json"
    trusted_root.write_bytes(double.trusted_root())
    with RegistryDouble() as registry:
        registry.repositories["corp/service"] = bulk.repository(double, 0, images=2)
        settings = child.write_settings(
            tmp_path / "here", {"url": registry.url}, trusted_root, IDENTITY, ISSUER
        )
        first, again = _harvest(settings), _harvest(settings)
    assert (first.found, first.verified, first.known) == (10, 10, 0)
    assert (again.found, again.verified, again.known) == (10, 0, 10)


def test_layouts_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    registry, trusted_root = bulk.layouts(100)
    settings = child.write_settings(
        tmp_path / "here", {"layout": str(registry)}, trusted_root, IDENTITY, ISSUER
    )
    assert _harvest(settings).verified == 100
    before = trusted_root.stat().st_mtime_ns
    assert bulk.layouts(100) == (registry, trusted_root)
    assert trusted_root.stat().st_mtime_ns == before
