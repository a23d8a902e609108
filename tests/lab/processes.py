"""Real servers as child processes: on a free loopback port, answering, and gone when we are."""

import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

HOST = "127.0.0.1"
READY_SECONDS = 60
OFFLINE = ("unshare", "--user", "--map-root-user", "--net")
"""What runs a command where there is no network."""


class LabError(RuntimeError):
    """A part of the laboratory is missing or did not start."""


_claims: list[socket.socket] = []


def free_port() -> int:
    """A port below the range that the kernel gives to clients, claimed until this process ends.

    The claim is an abstract Unix socket: no other laboratory takes the port meanwhile.
    """
    while True:
        port = random.randrange(20000, 32000)
        claim = socket.socket(socket.AF_UNIX)
        with suppress(OSError), socket.socket() as probe:
            claim.bind(f"\0longseal-lab-{port}")
            probe.bind(("", port))
            _claims.append(claim)
            return port
        claim.close()


@dataclass(eq=False)
class Service:
    """One running server; a context manager that ends its whole process group."""

    name: str
    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(
    name: str,
    argv: list[str],
    folder: Path,
    url: str,
    *,
    ready: str = "/",
    env: dict[str, str] | None = None,
    isolated: bool = False,
) -> Service:
    """Start a server and return once its path `ready` gets any answer below 500.

    It logs to `folder/logs/<name>.log`. The kernel kills it when the *thread* that called this
    ends, for whatever reason: call it from the main thread. `isolated` gives it a network namespace
    of its own, to be reached by Unix socket.

    :raises LabError: when the process ended or stayed silent; quotes the end of its log.
    """
    log = folder / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    prefix = [*OFFLINE] if isolated else []
    if shutil.which("setpriv"):
        prefix += ["setpriv", "--pdeathsig", "KILL", "--"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            prefix + argv,
            cwd=folder,
            env=os.environ | {"HOME": str(folder)} | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    service = Service(name, url, log, process)
    deadline = time.monotonic() + READY_SECONDS
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if _answers(url + ready):
                return service
            time.sleep(0.05)
    except BaseException:
        service.stop()
        raise
    state = "gave no answer" if process.poll() is None else "ended"
    service.stop()
    tail = log.read_text(errors="replace")[-2000:]
    raise LabError(f"{name} {state}; the end of {log}:\n{tail}")


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2):
            return True
    except urllib.error.HTTPError as answer:
        return answer.code < 500
    except OSError:
        return False
