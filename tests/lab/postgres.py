"""PostgreSQL, on a Unix socket in a folder of its own; needs Debian's postgresql, no Go."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.processes import READY_SECONDS, LabError

# Nothing here outlives the tests, so nothing has to survive a power cut.
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "60",
}


@dataclass(frozen=True)
class Postgres:
    """A running server; whoever can reach its socket may do anything."""

    programs: Path
    folder: Path

    def create_database(self) -> str:
        """An empty database; its SQLAlchemy URL."""
        name = f"longseal_{secrets.token_hex(4)}"
        argv = [self.programs / "createdb", "--host", self.folder, "--username", "postgres", name]
        subprocess.run(argv, check=True)
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run a server with an empty cluster.

    :raises LabError: when it is not installed or does not start.
    """
    programs = _programs()
    # A socket's path is short, and the server, which never runs as root, has to get to it.
    folder = Path(tempfile.mkdtemp(prefix="longseal-pg-"))
    user: list[str] = []
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data, log = folder / "data", folder / "log"
    initdb = [programs / "initdb", "--no-sync", "--auth=trust", "--username=postgres"]
    initdb += ["--encoding=UTF8", "--locale=C", "--pgdata", data]
    server = [programs / "postgres", "-D", data, "-k", folder]
    server += [f"--{name}={value}" for name, value in SETTINGS.items()]
    try:
        with log.open("wb") as output:
            made = subprocess.run(
                ["setpriv", *user, "--", *initdb], cwd=folder, stdout=output, stderr=output
            )
            if made.returncode:
                raise LabError(f"initdb failed:\n{log.read_text()[-2000:]}")
            process = subprocess.Popen(
                ["setpriv", *user, "--pdeathsig=KILL", "--", *server],
                cwd=folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            running = Postgres(programs, folder)
            _await(running, process, log)
            yield running
        finally:
            # SIGINT is PostgreSQL's fast shutdown: it waits for no client.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name)
    if not found or not (found[-1] / "initdb").is_file() or shutil.which("setpriv") is None:
        raise LabError("not installed: postgresql (apt-get install postgresql)")
    return found[-1]


def _await(server: Postgres, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    ask = [server.programs / "pg_isready", "--quiet", "--host", server.folder]
    while process.poll() is None and time.monotonic() < deadline:
        if subprocess.run(ask).returncode == 0:
            return
        time.sleep(0.05)
    raise LabError(f"PostgreSQL does not answer:\n{log.read_text()[-2000:]}")
