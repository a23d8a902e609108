"""Commands where there is no network: a loopback of their own, and on it one registry.

`python -m tests.lab.offline COMMANDS RESULTS KIND FOLDER PORT`, inside the namespace, is its half.
"""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tests.lab.processes import OFFLINE, LabError
from tests.lab.registries import Kind, Registry, registry

ROOT = Path(__file__).parents[2]
AT_ONCE = 3
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    output: str
    errors: str


def run_offline(
    commands: Sequence[Sequence[str]], served: Registry, folder: Path, folders: Sequence[Path] = ()
) -> list[Done]:
    """Run commands in a network namespace that holds nothing but a loopback.

    :param served: this registry's storage is served there, at its usual address
    :param folder: an empty folder, for what passes between here and there
    :param folders: put before the import path of commands that are Python
    :raises LabError: the namespace cannot be made, or reaches something
    """
    folder.mkdir()
    files = folder / "commands.json", folder / "results.json"
    files[0].write_text(json.dumps([list(each) for each in commands]))
    port = served.url.rpartition(":")[2]
    argv = [*OFFLINE, sys.executable]
    argv += ["-m", "tests.lab.offline", *map(str, files), served.kind, str(served.folder), port]
    path = ":".join(map(str, [*folders, ROOT]))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"offline: {done.stderr[-2000:]}")
    return [Done(*each) for each in json.loads(files[1].read_text())]


def raise_loopback() -> None:
    """What `ip link set lo up` does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request), 16)
        request = struct.pack("16sh14x", b"lo", flags | IFF_UP)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)


def _run(command: list[str], home: Path) -> tuple[int, str, str]:
    environment = {**os.environ, "HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def main(commands: str, results: str, kind: str, folder: str, port: str) -> None:
    interfaces = [name for _, name in socket.if_nameindex()]
    if interfaces != ["lo"]:
        raise LabError(f"a network is left: {interfaces}")
    raise_loopback()
    wanted, home = json.loads(Path(commands).read_text()), Path(results).parent
    with registry(cast(Kind, kind), Path(folder), int(port)), ThreadPoolExecutor(AT_ONCE) as pool:
        done = list(pool.map(_run, wanted, [home] * len(wanted)))
    Path(results).write_text(json.dumps(done))


if __name__ == "__main__":
    main(*sys.argv[1:])
