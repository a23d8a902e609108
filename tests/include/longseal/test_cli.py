"""The command: exit codes, one JSON document, one clear line for what is wrong."""

import json
from pathlib import Path

import pytest
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import EXAMPLES, IDENTITY, ISSUER, Installation
from tests.retired import retire

from longseal.canonical import digest_of
from longseal.cli import main
from longseal.seal.keys import fingerprint
from longseal.seal.organisation import organisation_key

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: str) -> tuple[int, dict[str, object]]:
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_main_job_by_command(harvested: Installation, capsys: Capture) -> None:
    config = ("--config", str(harvested.config))
    code, found = run(capsys, "harvest", *config)
    assert (code, found["known"], found["found"]) == (0, 100, 100)
    code, found = run(capsys, "reseal", "--period", "r-one", *config)
    assert code == 0
    assert (found["sequence"], found["size"], found["key_operations"]) == (1, 100, 2)
    assert (found["image_statements"], found["already_sealed"]) == (1, False)
    code, found = run(capsys, "reseal", "--period", "r-one", *config)
    assert (code, found["key_operations"], found["already_sealed"]) == (0, 0, True)
    code, found = run(capsys, "mirror", "--site", "ship", *config)
    assert (code, found["images"]) == (0, 20)
    code, found = run(capsys, "prune", *config)
    assert (code, found["plan"]) == (0, None)
    code, found = run(capsys, "audit", *config)
    assert (code, found["result"]) == (0, "passed")
    key = fingerprint(organisation_key(harvested.workspace()).key)
    code, found = run(capsys, "verify", str(harvested.folder / "ship"), "--key", key)
    assert (code, found["result"]) == (0, "passed")
    sealed = harvested.folder / "ship/site/seals/000001"
    public = str(harvested.folder / "ship/site/org.pub")
    assert main(["verify", str(sealed), "--key", public]) == 0
    assert "100 attestations" in capsys.readouterr().out


def test_a_cutoff_that_is_no_time_or_in_the_future_plans_nothing(
    tmp_path: Path, authority: TimestampAuthorityDouble
) -> None:
    installation = Installation(tmp_path / "installation", authority)
    config = ("--config", str(installation.config))
    retire(installation)
    wrong = ["", "None", "never", "1700000000", "2024-11", "24 months", "2999-01-01T00:00:00Z"]
    for before in wrong:
        assert main(["prune", "--before", before, *config]) == 2, before
    assert not list(installation.workspace().archive.keys("prunes/"))
    assert main(["prune", "--before", "2023-06-01T00:00:00Z", *config]) == 1


def test_trust_material_that_has_ended_is_a_finding_of_the_harvest(
    tmp_path: Path, authority: TimestampAuthorityDouble, capsys: Capture
) -> None:
    installation = Installation(tmp_path / "installation", authority)
    root = json.loads((EXAMPLES / "trusted_root.json").read_bytes())
    root["timestampAuthorities"][0]["validFor"]["end"] = "2024-06-01T00:00:00Z"
    (installation.folder / "root.json").write_text(json.dumps(root))
    installation.write(trust={"trusted_root": "root.json"})
    code, found = run(capsys, "harvest", "--config", str(installation.config))
    assert (code, found["trust"]) == (
        1,
        {
            "root": digest_of((installation.folder / "root.json").read_bytes()),
            "ending": ["every timestamp authority has ended"],
            "failed": None,
        },
    )


def test_what_a_directory_does_not_enforce_is_a_finding(
    harvested: Installation, capsys: Capture
) -> None:
    code, found = run(capsys, "archive", "check", "--config", str(harvested.config))
    assert code == 1
    assert found["lock"] == {
        "enforced": False,
        "found": "whoever administers the disk can delete a file before its date",
    }


def test_a_bundle_is_verified_with_no_settings_at_all(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LONGSEAL_CONFIG", raising=False)
    bundle = _bundle(tmp_path)
    given = ("--trusted-root", str(EXAMPLES / "trusted_root.json"), "--issuer", ISSUER)
    assert main(["verify", str(bundle), *given, "--identity", IDENTITY]) == 0
    assert main(["verify", str(bundle), *given, "--identity", "me@stella.example"]) == 1
    other = "sha256:" + "0" * 64
    strict = ("--identity", IDENTITY, "--artifact", other)
    assert main(["verify", str(bundle), *given, *strict]) == 1
    bundle.write_text("{}")
    assert main(["verify", str(bundle), *given, "--identity", IDENTITY]) == 2


def test_what_is_nothing_to_verify_is_said_in_one_line(capsys: Capture) -> None:
    assert main(["verify", "no-such-thing"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("longseal: no-such-thing is no file")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"policy": []}, "policy"),
        ({"trust": {"trusted_root": "org.pem"}}, "trust.trusted_root"),
        ({"archive": {"kind": "directory", "path": "nowhere"}}, "archive.path"),
        ({"registries": [{"name": "main", "url": "http://127.0.0.1:9"}]}, "registries"),
        ({"catalog": "nonsense://x"}, "catalog"),
    ],
    ids=["trusts nobody", "trusted root", "archive", "registry", "catalog"],
)
def test_a_setting_that_does_not_hold_is_one_line_and_exit_2(
    harvested: Installation,
    capsys: Capture,
    changes: dict[str, object],
    setting: str,
) -> None:
    harvested.write(**changes)
    before = harvested.files()
    assert main(["harvest", "--config", str(harvested.config)]) == 2
    said = capsys.readouterr().err
    assert setting in said
    assert said.count("\n") == 1
    assert harvested.files() == before


@pytest.mark.parametrize(
    ("signer", "said"),
    [
        ({"kind": "file", "path": "nowhere.pem"}, "signer"),
        ({"kind": "pkcs11", "uri": "pkcs11:token=t?module-path=/nowhere.so"}, "signer.uri"),
    ],
)
def test_a_key_that_cannot_be_used_is_one_line_and_nothing_half_written(
    harvested: Installation, capsys: Capture, signer: dict[str, str], said: str
) -> None:
    harvested.write(signer=signer)
    before = harvested.files()
    command = ["reseal", "--period", "r-one", "--config", str(harvested.config)]
    assert main(command) == 2
    assert said in capsys.readouterr().err
    assert harvested.files() == before


def _bundle(folder: Path) -> Path:
    for path in sorted((EXAMPLES / "registry").rglob("blobs/sha256/*")):
        data = path.read_bytes()
        if data.startswith(b'{"mediaType":"application/vnd.dev.sigstore.bundle'):
            found = folder / "bundle.json"
            found.write_bytes(data)
            return found
    raise AssertionError("no bundle among the examples")
