"""A TUF repository that a trusted root comes from.

:func:`fetch` is the one thing that touches the network. What it brings is kept whole, so that
:func:`verify` shows years later, with no network and no clock, that the repository's keys did name
those bytes (TUF specification 1.0, §5; freshness is left out there: it held when it was fetched).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from longseal.errors import RetryableError, VerificationError, brief
from longseal.settings import TufSettings

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Root, TargetFile
    from tuf.ngclient import FetcherInterface

MAX_TARGET_BYTES: Final = 16 * 1024 * 1024
"""Largest trusted root that is brought, whatever the repository announces."""

MAX_ROOTS: Final = 256
"""Most root rotations since the root that the settings name."""

_TIMEOUT: Final = 120.0
"""Seconds for all of a refresh."""


@dataclass(frozen=True, slots=True)
class Named:
    """The target that verified metadata names, and how old that metadata is.

    :param versions: of root and timestamp: neither ever goes back
    :param expires: when the metadata of each role ends
    """

    info: TargetFile
    versions: tuple[int, int]
    expires: Mapping[str, datetime]

    def check(self, data: bytes) -> None:
        """Check that ``data`` is the target.

        :raises VerificationError: it is not
        """
        from tuf.api.exceptions import LengthOrHashMismatchError

        try:
            self.info.verify_length_and_hashes(data)
        except LengthOrHashMismatchError as err:
            raise VerificationError(f"the TUF target has other bytes: {err}") from err


def fetch(
    repository: TufSettings,
    bootstrap: bytes,
    files: Mapping[str, bytes],
    timeout: float = _TIMEOUT,
) -> tuple[dict[str, bytes], bytes]:
    """Bring the newest metadata, and the target that it names.

    :param bootstrap: the root metadata that the settings name
    :param files: metadata that an earlier call returned; nothing older is taken
    :param timeout: seconds for all of it
    :returns: the metadata by name, as :func:`verify` takes it, and the target's bytes
    :raises VerificationError: what is there does not hold: signatures, an older version than
        before, expired, other hashes, more bytes than allowed
    :raises RetryableError: the repository did not answer
    """
    from tuf.api.exceptions import (
        DownloadError,
        DownloadLengthMismatchError,
        RepositoryError,
    )
    from tuf.ngclient import Updater, UpdaterConfig

    where = f"the TUF repository {repository.url}"
    with TemporaryDirectory(prefix="longseal-tuf-") as name:
        folder = Path(name)
        for file, data in files.items():
            path = folder / file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        try:
            updater = Updater(
                str(folder),
                repository.url,
                fetcher=_fetcher(repository.ca_file, timeout),
                config=UpdaterConfig(max_root_rotations=MAX_ROOTS),
                bootstrap=bootstrap,
            )
            updater.refresh()
            found = {
                str(path.relative_to(folder)): path.read_bytes()
                for path in sorted(folder.rglob("*.json"))
                if path.is_file() and not path.is_symlink()
            }
            named = verify(bootstrap, found, repository.target)
            if named.info.length > MAX_TARGET_BYTES:
                raise VerificationError(
                    f"{where} announces {named.info.length} bytes of {repository.target}:"
                    f" {MAX_TARGET_BYTES} is the most"
                )
            target = folder / "target"
            updater.download_target(named.info, str(target), f"{repository.url}/targets/")
            return found, target.read_bytes()
        except DownloadLengthMismatchError as err:
            raise VerificationError(f"{where} sends without end: {err}") from err
        except RepositoryError as err:
            text = f"{where} does not hold ({type(err).__name__}): {_said(err)}"
            raise VerificationError(text) from err
        except DownloadError as err:
            raise RetryableError(f"{where} did not answer: {_said(err)}") from err


def verify(bootstrap: bytes, files: Mapping[str, bytes], target: str) -> Named:
    """What archived metadata names as ``target``, from the root that is trusted on.

    :param files: ``root_history/<n>.root.json``, ``timestamp.json``, ``snapshot.json`` and
        ``targets.json`` as fetched
    :raises VerificationError: the metadata does not follow from ``bootstrap``, or names no target
    """
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

    try:
        root: Metadata[Root] = Metadata.from_bytes(bootstrap)
        _require_signed(root, Root.type, root)
        while (name := f"root_history/{root.signed.version + 1}.root.json") in files:
            newer: Metadata[Root] = Metadata.from_bytes(files[name])
            _require_signed(root, Root.type, newer)
            _require_signed(newer, Root.type, newer)
            if newer.signed.version != root.signed.version + 1:
                raise VerificationError(f"{name} is root metadata of another version")
            root = newer
        timestamp: Metadata[Timestamp] = Metadata.from_bytes(files["timestamp.json"])
        snapshot: Metadata[Snapshot] = Metadata.from_bytes(files["snapshot.json"])
        targets: Metadata[Targets] = Metadata.from_bytes(files["targets.json"])
        for role, metadata in (
            (Timestamp.type, timestamp),
            (Snapshot.type, snapshot),
            (Targets.type, targets),
        ):
            _require_signed(root, role, metadata)
        for meta, name, found in (
            (timestamp.signed.snapshot_meta, "snapshot.json", snapshot.signed.version),
            (snapshot.signed.meta["targets.json"], "targets.json", targets.signed.version),
        ):
            meta.verify_length_and_hashes(files[name])
            if meta.version != found:
                raise VerificationError(f"{name} is of another version than is said of it")
        info = targets.signed.targets.get(target)
    except (RepositoryError, ValueError, KeyError, TypeError, AttributeError) as err:
        text = f"the TUF metadata does not hold ({type(err).__name__}): {_said(err)}"
        raise VerificationError(text) from err
    if info is None:
        raise VerificationError(
            f"the TUF repository's top-level targets have no {target}: expected the trusted root"
        )
    return Named(
        info,
        (root.signed.version, timestamp.signed.version),
        {
            role: signed.expires.replace(tzinfo=UTC)
            for role, signed in (
                ("root", root.signed),
                ("timestamp", timestamp.signed),
                ("snapshot", snapshot.signed),
                ("targets", targets.signed),
            )
        },
    )


def _require_signed(root: Metadata[Root], role: str, metadata: Metadata[Any]) -> None:
    root.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)


def _fetcher(ca_file: Path | None, timeout: float) -> FetcherInterface:
    import requests
    import urllib3
    from tuf.api.exceptions import DownloadError, DownloadHTTPError, SlowRetrievalError
    from tuf.ngclient import FetcherInterface

    deadline = time.monotonic() + timeout

    class Fetcher(FetcherInterface):
        """Bounded in time for all downloads together; the caller bounds each one's bytes."""

        def _fetch(self, url: str) -> Iterator[bytes]:
            response = requests.get(
                url,
                headers={"Accept-Encoding": "identity"},
                timeout=min(timeout, 15),
                allow_redirects=False,
                stream=True,
                verify=True if ca_file is None else str(ca_file),
            )
            if response.status_code != 200:
                response.close()
                text = f"{url} answered {response.status_code}"
                raise DownloadHTTPError(text, response.status_code)
            return self._chunks(url, response)

        def _chunks(self, url: str, response: requests.Response) -> Iterator[bytes]:
            with response:
                # What has come, and not a full buffer: else one byte at a time has no end.
                try:
                    while chunk := response.raw.read1(65_536):
                        if time.monotonic() > deadline:
                            raise SlowRetrievalError(f"{url} did not end within {timeout:g} s")
                        yield chunk
                except urllib3.exceptions.HTTPError as err:
                    raise DownloadError(f"{url} broke off") from err

    return Fetcher()


def _said(err: Exception) -> str:
    cause = f" ({type(err.__cause__).__name__})" if err.__cause__ else ""
    return f"{brief(err)}{cause}"
