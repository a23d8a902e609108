"""The laboratory's binaries: stock tools at pinned versions, kept outside the checkout.

`python -m tests.lab tools` builds what is missing, about seven minutes on two cores the first time.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.processes import LabError

MODULES = {
    "cosign": "github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3",
    "fulcio": "github.com/sigstore/fulcio@v1.8.8",
    "posix": "github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix@v2.2.0",
    "timestamp-server": "github.com/sigstore/timestamp-authority/v2/cmd/timestamp-server@v2.1.2",
    "registry": "github.com/distribution/distribution/v3/cmd/registry@v3.1.2",
    "oras": "oras.land/oras/cmd/oras@v1.3.6",
    "regctl": "github.com/regclient/regclient/cmd/regctl@v0.11.7",
    "regsync": "github.com/regclient/regclient/cmd/regsync@v0.11.7",
    "crane": "github.com/google/go-containerregistry/cmd/crane@v0.22.1",
    "versitygw": "github.com/versity/versitygw/cmd/versitygw@v1.8.0",
}
MOVABLE = {f"movable-{name}": MODULES[name] for name in ("fulcio", "timestamp-server")}
"""Built once more, with a clock that the variable `LAB_CLOCK_SECONDS` moves.

Go asks the kernel for the time, not the C library: nothing outside the binary can move its clock.
"""
CLOCK = Path(__file__).parent / "clock" / "lab_clock.go"
PACKAGES = {
    "docker-registry": Path("/usr/bin/docker-registry"),
    "faketime": Path("/usr/bin/faketime"),
    "softhsm2": Path("/usr/lib/softhsm/libsofthsm2.so"),
}
GO_ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
OWN = {
    "refregistry": Path(__file__).parent / "refregistry",
    "sigstorego": Path(__file__).parents[1] / "bench" / "sigstorego",
}
"""Small Go programs of the tests' own, built again when their sources change."""
BUILT = (*MODULES, *MOVABLE, *OWN)

_NOW = re.compile(r"(?m)^func Now\(\) Time {\n\tsec, nsec, mono := \w+\(\)\n")


def folder() -> Path:
    """`LONGSEAL_LAB_BIN`, else a folder of the user's cache named after the pins."""
    if chosen := os.environ.get("LONGSEAL_LAB_BIN"):
        return Path(chosen).resolve()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    pins = hashlib.sha256("\n".join(MODULES.values()).encode()).hexdigest()[:12]
    return cache / "longseal-lab" / pins


def tool(name: str) -> str:
    """The path of a binary, `refregistry` and the Debian packages' own included.

    :raises LabError: when it is not there, naming the command that makes it.
    """
    path = PACKAGES.get(name) or folder() / _filename(name)
    if not path.exists():
        raise LabError(f"{name} is not installed at {path}: run `python -m tests.lab tools`")
    return str(path)


def run(folder: Path, name: str, *arguments: str, **more: str) -> str:
    """Run a stock tool where it knows nothing but its arguments; what it keeps is in `folder`.

    :param more: of its environment
    :raises subprocess.CalledProcessError: with its standard error in `stderr` and in a note.
    """
    home = folder / "home"
    home.mkdir(exist_ok=True)
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "TMPDIR": str(folder),
        "COSIGN_PASSWORD": "",
        **more,
    }
    argv = [tool(name), *arguments]
    try:
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr[-2000:])
        raise
    return done.stdout


def missing() -> list[str]:
    """The Go-built binaries that are not there yet."""
    return [name for name in BUILT if not (folder() / _filename(name)).exists()]


def install() -> None:
    """Build and install whatever is missing; safe to run twice, and at the same time.

    :raises LabError: when Go or `apt-get` is missing or a build failed.
    """
    target = folder()
    target.mkdir(parents=True, exist_ok=True)
    with _locked(target / ".lock"):
        for name, path in PACKAGES.items():
            with _reported(name, path.exists()) as wanted:
                if wanted:
                    _install_package(name)
        absent = missing()
        if absent and not shutil.which("go"):
            raise LabError(f"Go 1.26 or later is needed to build {', '.join(absent)}")
        for name in BUILT:
            with _reported(name, name not in absent) as wanted:
                if wanted:
                    _build(name, target)


def _filename(name: str) -> str:
    if name in OWN:
        sources = [OWN[name] / file for file in ("go.mod", "go.sum", "main.go")]
    elif name in MOVABLE:
        sources = [CLOCK]
    else:
        return name
    content = b"".join(path.read_bytes() for path in sources)
    return f"{name}-{hashlib.sha256(content).hexdigest()[:8]}"


def _build(name: str, target: Path) -> None:
    fresh = target / ".building"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    built, where = name, fresh
    if name in OWN:
        argv, where = ["go", "build", "-trimpath", "-o", str(fresh / name), "."], OWN[name]
    elif name in MOVABLE:
        argv = ["go", "install", f"-overlay={_clock_overlay(fresh)}", MOVABLE[name]]
        built = name.removeprefix("movable-")
    else:
        argv = ["go", "install", MODULES[name]]
    _run(argv, where, GO_ENVIRONMENT | {"GOBIN": str(fresh)})
    (fresh / built).rename(target / _filename(name))
    shutil.rmtree(fresh)


def _clock_overlay(folder: Path) -> Path:
    """What makes `go` build with a `time.Now` that adds the laboratory's seconds."""
    package = Path(_run(["go", "env", "GOROOT"], folder, {}).strip()) / "src" / "time"
    source, changes = _NOW.subn(
        lambda found: f"{found[0]}\tsec += labClockSeconds\n", (package / "time.go").read_text()
    )
    if changes != 1:
        raise LabError(f"{package}/time.go: expected one Now that reads the clock, as Go 1.26 has")
    changed, overlay = folder / "time.go", folder / "overlay.json"
    changed.write_text(source)
    replaced = {package / "time.go": changed, package / CLOCK.name: CLOCK}
    overlay.write_text(json.dumps({"Replace": {str(a): str(b) for a, b in replaced.items()}}))
    return overlay


def _install_package(name: str) -> None:
    if not shutil.which("apt-get"):
        raise LabError(f"apt-get is needed to install {name}")
    # At run level 1 Debian starts no service that it installs.
    environment = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    root = [] if os.geteuid() == 0 else ["sudo", "-n", "-E"]
    install = [*root, "apt-get", "install", "-qq", "--no-install-recommends", name]
    try:
        _run(install, Path("/"), environment)
    except LabError:
        _run([*root, "apt-get", "update", "-qq"], Path("/"), environment)
        _run(install, Path("/"), environment)


def _run(argv: list[str], where: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        argv, cwd=where, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LabError(f"`{' '.join(argv)}` failed:\n{done.stderr[-2000:]}")
    return done.stdout


@contextmanager
def _reported(name: str, present: bool) -> Iterator[bool]:
    started = time.monotonic()
    yield not present
    print(f"{name}: {'present' if present else f'{time.monotonic() - started:.0f} s'}", flush=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
