"""`python -m tests.lab up|tools`."""

import argparse
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.lab import tools
from tests.lab.lab import Lab, open_lab
from tests.lab.processes import LabError
from tests.lab.registries import KINDS, Registry

SETTINGS = """\
organisation: stella.example
catalog: sqlite:///{folder}/catalog.db
archive: {{kind: directory, path: {folder}/archive}}
# archive: {{kind: s3, bucket: evidence, endpoint: "{s3.endpoint}", lock: compliance}}
trust: {{trusted_root: {lab.trusted_root}}}
registries:
  - {{name: main, url: "{main.url}", repositories: ["corp/*"]}}
policy:
  - repositories: ["corp/*"]
    predicates: ["https://stella-ops.example/**"]
    identities: [{{issuer: "{lab.issuer}", identity: {lab.identity}}}]
    max_certificate_minutes: 10
signer: {{kind: pkcs11, uri: "{token.uri}"}}
timestamps: [{{url: "{lab.tsa_url}", certificates: {lab.tsa_chain}}}]
rekor: {{url: "{lab.rekor_url}", public_key: {lab.rekor_public_key}, origin: {lab.rekor_origin}}}
retention: {{default: 24 months}}
sites:
  - {{name: plant-7, kind: registry, url: "{site.url}", repositories: ["corp/*"]}}
  - {{name: ship-3, kind: volume, path: {folder}/ship-3, repositories: ["corp/*"]}}
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("tools", help="build and install what is missing")
    up = verbs.add_parser("up", help="start everything, print where it is, wait for Ctrl-C")
    up.add_argument("--images", type=int, default=0, help="push and sign so many images first")
    up.add_argument("--attestations", type=int, default=5, help="so many for each image")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if arguments.verb == "tools":
            tools.install()
            print(f"all in {tools.folder()}")
        else:
            with tempfile.TemporaryDirectory(prefix="longseal-lab-") as name:
                _up(Path(name), arguments.images, arguments.attestations)
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


def _up(folder: Path, images: int, attestations: int) -> None:
    with open_lab(folder) as lab:
        running = {kind: lab.registry(kind) for kind in KINDS}
        main, site = running["docker_registry"], lab.registry("docker_registry")
        s3, token = lab.s3(), lab.softhsm()
        s3.create_bucket("evidence")
        if images:
            started = time.monotonic()
            made = lab.sign_many(main.url, images=images, attestations=attestations)
            seconds = time.monotonic() - started
            print(f"signed {len(made)} images, {attestations} times each, in {seconds:.1f} s\n")
        for name in ("archive", "ship-3"):
            (folder / name).mkdir()
        settings = folder / "longseal.yaml"
        settings.write_text(SETTINGS.format(**locals()))
        _describe(lab, running)
        print(f"# {settings}\n# export SOFTHSM2_CONF={token.config}")
        print(f"# export AWS_ACCESS_KEY_ID={s3.access_key} AWS_SECRET_ACCESS_KEY={s3.secret_key}\n")
        print(settings.read_text(), flush=True)
        threading.Event().wait()


def _describe(lab: Lab, running: dict[str, Registry]) -> None:
    rows = {
        "OIDC issuer (stand-in)": lab.issuer,
        "CT log (stand-in)": lab.ct_log.url,
        "Fulcio": lab.fulcio.url,
        "Rekor v2": f"{lab.rekor_url}, origin {lab.rekor_origin}, key {lab.rekor_public_key}",
        "timestamp authority": f"{lab.tsa_url}, chain {lab.tsa_chain}",
        "trusted root": str(lab.trusted_root),
        "signing config": str(lab.signing_config),
        **{f"registry {kind}": registry.url for kind, registry in running.items()},
        "S3 (versitygw)": lab.s3().endpoint,
        "tools": str(tools.folder()),
        "logs": str(lab.folder / "logs"),
    }
    for name, value in rows.items():
        print(f"{name:24} {value}")
    print()


if __name__ == "__main__":
    sys.exit(main())
