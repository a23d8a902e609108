"""The archive in an S3 bucket, with Object Lock.

Objects are written once (``If-None-Match: *``), in a single part, so that the store's SHA-256
checksum is the object's own digest. What is read is the latest version: Object Lock keeps a locked
version for ever reachable by its id, but does not stop a newer one or a delete marker from hiding
it. The credentials need ``s3:ListBucket`` (without it an absent object looks like a forbidden one),
``s3:GetObject``, ``s3:PutObject`` and, with a lock, ``s3:GetBucketObjectLockConfiguration``,
``s3:GetObjectRetention``, ``s3:PutObjectRetention``, ``s3:GetObjectLegalHold`` and
``s3:PutObjectLegalHold``; :meth:`S3Archive.trials` tries deletions as
well, and says where it may not. With ``cold_days`` it needs ``s3:PutObjectTagging``, and, for the
trial, ``s3:GetLifecycleConfiguration``. An object that a lifecycle rule moved to a cold class is
read once the store has made a copy (``s3:RestoreObject``), which the first attempt to read asks
for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

from longseal.archive.interface import Stored, Trial
from longseal.archive.keys import check_disposable, check_key, check_prefix, is_key
from longseal.canonical import sha256_hex, timestamp
from longseal.errors import (
    ArchiveError,
    ConflictError,
    MalformedError,
    RefusedError,
    RestoreInProgress,
    SettingsError,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_OBJECT_BYTES: Final = 4 * 1024**3
"""Largest object: S3 takes 5 GB in a single part, and more parts have no SHA-256 of their own."""

_CONFLICT_PAUSES: Final = (0.1, 0.5, 2.0)
"""Seconds between tries while another request for the same key is under way (409)."""

_CHUNK: Final = 1024 * 1024

# Dot first, so that they are no keys of the archive.
_PROBE: Final = ".longseal-probe"
_TRIAL: Final = ".longseal-trial"

_TRIAL_LOCK: Final = timedelta(minutes=2)
"""For how long an object of a trial is locked."""

RESTORED_DAYS: Final = 7
"""How long a copy of what lies in a cold class stays readable."""

_COLD: Final = ("GLACIER", "DEEP_ARCHIVE")
"""Classes that are read by way of a copy; GLACIER_IR is read at once."""

COLD_TAG: Final = "longseal-cold"
"""The tag by which a lifecycle rule finds what it is to move, and when: days from the writing."""

_ASK_AGAIN: Final = timedelta(hours=1)


def s3_client(
    endpoint: str | None = None,
    region: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
    session_token: str | None = None,
) -> S3Client:
    """A boto3 client as the archive wants it: standard retries, bounded waiting.

    Without keys boto3 finds its credentials itself (environment, profile, instance role).

    :raises SettingsError: the endpoint is no URL, or half a pair of keys is given
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        retries={"mode": "standard", "max_attempts": 5},
        connect_timeout=10,
        read_timeout=60,
        # Few stores other than AWS's give each bucket a host name.
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    try:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint,
            region_name=region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            aws_session_token=session_token,
            config=config,
        )
    except (BotoCoreError, ValueError) as err:
        raise SettingsError("archive.endpoint", f"no S3 client can be made: {err}") from err


def lifecycle(prefix: str, days: Iterable[int], cold_class: str) -> dict[str, Any]:
    """The lifecycle configuration that moves packs to a cold class, as S3's API takes it.

    :param prefix: of the archive, ending in ``/`` or empty
    :param days: of each tier, as packs are tagged
    """
    return {
        "Rules": [
            {
                "ID": f"{COLD_TAG}-{many}",
                "Status": "Enabled",
                "Filter": {
                    "And": {
                        "Prefix": f"{prefix}packs/",
                        "Tags": [{"Key": COLD_TAG, "Value": str(many)}],
                    }
                },
                "Transitions": [{"Days": many, "StorageClass": cold_class}],
            }
            for many in days
        ]
    }


class S3Archive:
    """Write-once storage in a bucket; safe for several threads and processes at once.

    The bucket is looked at on first use, not here.

    :param prefix: what every key begins with in the bucket, as ``longseal/``
    :param lock: the Object Lock mode of what is put with a retain-until date; None locks nothing
    :param cold: the lifecycle that the bucket should have; :meth:`trials` looks for it
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        prefix: str = "",
        lock: Literal["compliance", "governance"] | None = None,
        cold: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._cold = cold
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._lock = lock
        self._opened = False

    def check(self) -> None:
        """Write a probe twice, to see that the store overwrites nothing.

        :raises SettingsError: bucket, credentials, lock or the store itself will not do
        """
        self._open()
        name = self._prefix + _PROBE
        with self._errors("write to the archive"):
            # The first one is refused as well where an earlier check left its probe.
            if self._create(name, b"", {}) is not None and self._create(name, b"", {}) is not None:
                raise SettingsError(
                    "archive.endpoint",
                    "the store ignores If-None-Match and overwrote an object: take another store",
                )

    def put(
        self,
        key: str,
        data: bytes,
        retain_until: datetime | None = None,
        cold_days: int | None = None,
    ) -> Stored:
        """See :class:`~longseal.archive.interface.Archive`.

        A later date than the one in force extends it, none shortens; a date that is past locks
        nothing.

        :raises RefusedError: more than :data:`MAX_OBJECT_BYTES`
        """
        name = self._name(key)
        if len(data) > MAX_OBJECT_BYTES:
            raise RefusedError(f"{key} has {len(data)} bytes: {MAX_OBJECT_BYTES} is the most")
        self._open()
        until = self._lockable(retain_until)
        locking: dict[str, Any] = {}
        if until is not None and self._lock is not None:
            locking = {
                "ObjectLockMode": self._lock.upper(),
                "ObjectLockRetainUntilDate": until,
            }
        if cold_days is not None:
            locking["Tagging"] = f"{COLD_TAG}={cold_days}"
        with self._errors(f"write {key} to the archive"):
            version = self._create(name, data, locking)
        digest = sha256_hex(data)
        if version is not None:
            return Stored(key, len(data), digest, version or None, until, fresh=True)
        found = self.stat(key)
        if found is None:
            raise ArchiveError(
                f"the name {key} is taken, yet nothing can be seen there: a delete marker hides "
                "it; find out who set it, and remove the marker"
            )
        if found.sha256 != digest:
            raise ConflictError(
                f"{key} is in the archive with SHA-256 {found.sha256}, other bytes than the "
                f"{len(data)} with {digest}: nothing was written"
            )
        return self._extended(found, until)

    def retain(self, key: str, until: datetime) -> Stored:
        """See :class:`~longseal.archive.interface.Archive`; without a lock, nothing is retained."""
        found = self.stat(key)
        if found is None:
            raise ArchiveError(f"{key} is not in the archive: nothing is retained")
        return self._extended(found, self._lockable(until))

    def _extended(self, found: Stored, until: datetime | None) -> Stored:
        if until is None or (found.retain_until is not None and found.retain_until >= until):
            return found
        with self._errors(f"extend the retention of {found.key}"):
            self._client.put_object_retention(
                Bucket=self._bucket,
                Key=self._name(found.key),
                Retention={
                    "Mode": self._mode,
                    "RetainUntilDate": until,
                },
                **_versioned(found.version),
            )
        return replace(found, retain_until=until)

    def get(self, key: str, limit: int | None = None) -> bytes:
        """See :class:`~longseal.archive.interface.Archive`; checked against the store's digest."""
        name = self._name(key)
        self._open()
        most = MAX_OBJECT_BYTES if limit is None else limit
        chunks, size = [], 0
        with self._errors(f"read {key} from the archive"):
            # Asked for, the checksum is compared by botocore once all is read.
            answer = self._read(name, ChecksumMode="ENABLED")
            with closing(answer["Body"]) as body:
                for chunk in body.iter_chunks(_CHUNK):
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > most:
                        raise MalformedError(f"{key} has more than the {most} bytes allowed")
        return b"".join(chunks)

    def stat(self, key: str) -> Stored | None:
        """See :class:`~longseal.archive.interface.Archive`.

        The digest is the store's checksum; an object without one is read and hashed.
        """
        name = self._name(key)
        self._open()
        with self._errors(f"look at {key} in the archive"):
            try:
                head = self._client.head_object(
                    Bucket=self._bucket, Key=name, ChecksumMode="ENABLED"
                )
            except self._client.exceptions.ClientError as err:
                if _status(err) == 404:
                    return None
                raise
            version = head.get("VersionId")
            digest = _whole_digest(head.get("ChecksumSHA256")) or self._hash(name, version)
        until = head.get("ObjectLockRetainUntilDate")
        return Stored(
            key,
            head["ContentLength"],
            digest,
            version,
            until and until.astimezone(UTC),
            cold=head.get("StorageClass") in _COLD
            and 'ongoing-request="false"' not in head.get("Restore", ""),
        )

    def hold(self, key: str, held: bool) -> None:
        """See :class:`~longseal.archive.interface.Archive`; without a lock, nothing is held."""
        name = self._name(key)
        self._open()
        if self._lock is None:
            return
        wanted: Literal["ON", "OFF"] = "ON" if held else "OFF"
        with self._errors(f"change the legal hold of {key}"):
            head = self._client.head_object(Bucket=self._bucket, Key=name)
            if head.get("ObjectLockLegalHoldStatus", "OFF") != wanted:
                self._client.put_object_legal_hold(
                    Bucket=self._bucket,
                    Key=name,
                    LegalHold={"Status": wanted},
                    **_versioned(head.get("VersionId")),
                )

    def dispose(self, key: str, now: datetime) -> None:
        """See :class:`~longseal.archive.interface.Archive`: every version and delete marker.

        Needs ``s3:ListBucketVersions`` and ``s3:DeleteObjectVersion``, and never the right to
        bypass a lock.
        """
        name = self._name(check_disposable(key))
        self._open()
        with self._errors(f"delete {key} from the archive"):
            pages = self._client.get_paginator("list_object_versions")
            found = pages.paginate(Bucket=self._bucket, Prefix=name)
            versions, markers = [], []
            for page in found:
                versions += [one for one in page.get("Versions", ()) if one["Key"] == name]
                markers += [one for one in page.get("DeleteMarkers", ()) if one["Key"] == name]
            for each in versions:
                head = self._client.head_object(
                    Bucket=self._bucket, Key=name, **_versioned(each.get("VersionId"))
                )
                until = head.get("ObjectLockRetainUntilDate")
                if until is not None and until > now:
                    raise RefusedError(f"{key} is locked until {timestamp(until)}: it stays")
                if head.get("ObjectLockLegalHoldStatus") == "ON":
                    raise RefusedError(f"{key} is under the store's legal hold: it stays")
            for one in (*versions, *markers):
                if denied := self._denied(partial(self._drop, name, one.get("VersionId"))):
                    raise RefusedError(f"the store does not delete {key} ({denied}): it stays")

    def keys(self, prefix: str) -> Iterator[str]:
        """See :class:`~longseal.archive.interface.Archive`."""
        start = self._prefix + check_prefix(prefix)
        self._open()
        pages = self._client.get_paginator("list_objects_v2")
        with self._errors("list the archive"):
            for page in pages.paginate(Bucket=self._bucket, Prefix=start):
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(self._prefix)
                    if is_key(key):
                        yield key

    def trials(self) -> Iterator[Trial]:
        """See :class:`~longseal.archive.interface.Archive`.

        What it writes lies under ``.longseal-trial/``, locked for two minutes; what an earlier call
        left there is deleted, where the credentials may.
        """
        self._open()
        with self._errors("try the archive"):
            self._sweep()
            name = f"{self._prefix}{_TRIAL}/{uuid.uuid4().hex}"
            if self._create(name, b"tried", {}) is None:
                raise ArchiveError(f"the store said that the new name {name} is taken")
            yield self._refused(
                "overwrite",
                lambda: self._put(name, b"other", IfNoneMatch="*"),
                "a second write to a name",
            )
            wrong = base64.b64encode(bytes(32)).decode()
            yield self._refused(
                "checksum",
                lambda: self._put(f"{name}-checksum", b"tried", ChecksumSHA256=wrong),
                "bytes that differ from their SHA-256",
            )
            yield from self._lock_trials(f"{name}-locked")
            if self._cold:
                yield self._lifecycle_trial()

    def _lifecycle_trial(self) -> Trial:
        """Whether the bucket has the rules by which packs go to their cold class."""
        found: dict[str, Any] = {}

        def ask() -> None:
            found.update(self._client.get_bucket_lifecycle_configuration(Bucket=self._bucket))

        denied = self._denied(ask)
        if denied is not None and denied != "NoSuchLifecycleConfiguration":
            return Trial("cold", None, f"the store does not say its lifecycle ({denied})")
        there = [
            (rule.get("Filter"), rule.get("Transitions"))
            for rule in found.get("Rules", ())
            if rule.get("Status") == "Enabled"
        ]
        missing = [
            rule["ID"] for rule in self._cold if (rule["Filter"], rule["Transitions"]) not in there
        ]
        if missing:
            return Trial(
                "cold",
                False,
                f"the bucket lacks {', '.join(missing)}: longseal archive lifecycle prints them",
            )
        return Trial(
            "cold", True, f"{len(self._cold)} lifecycle rules move packs when they are due"
        )

    def _lock_trials(self, name: str) -> Iterator[Trial]:
        if self._lock is None:
            for rule in ("lock", "shorten", "hold"):
                yield Trial(rule, False, "archive.lock is none: nothing is locked")
            return
        until = datetime.now(UTC).replace(microsecond=0) + _TRIAL_LOCK
        mode = self._lock.upper()
        version = self._put(
            name, b"tried", ObjectLockMode=mode, ObjectLockRetainUntilDate=until
        ).get("VersionId")
        held = self._put(f"{name}-held", b"tried").get("VersionId")
        free = self._put(f"{name}-free", b"tried").get("VersionId")
        # A refusal shows a lock only where the same credentials may delete what is not locked.
        denied = self._denied(lambda: self._drop(f"{name}-free", free))
        unable = denied and f"these credentials delete nothing ({denied}): the lock was not tried"
        yield self._refused(
            "lock", lambda: self._drop(name, version), "a deletion before the date", unable
        )

        def retain(moment: datetime) -> Any:
            return self._client.put_object_retention(
                Bucket=self._bucket,
                Key=name,
                Retention={"Mode": self._mode, "RetainUntilDate": moment},
                **_versioned(version),
            )

        denied = self._denied(lambda: retain(until + timedelta(minutes=1)))
        unfit = denied and f"these credentials set no date ({denied}), not even a later one"
        yield self._refused(
            "shorten", lambda: retain(until - timedelta(minutes=1)), "an earlier date", unfit
        )
        place: Any = {"Bucket": self._bucket, "Key": f"{name}-held", **_versioned(held)}
        denied = self._denied(
            lambda: self._client.put_object_legal_hold(**place, LegalHold={"Status": "ON"})
        )
        yield self._refused(
            "hold",
            lambda: self._drop(f"{name}-held", held),
            "a deletion of what is held",
            unable or (denied and f"these credentials set no legal hold ({denied})"),
        )
        self._denied(
            lambda: self._client.put_object_legal_hold(**place, LegalHold={"Status": "OFF"})
        )

    def _refused(
        self, rule: str, call: Callable[[], object], what: str, unable: str | None = None
    ) -> Trial:
        if unable:
            return Trial(rule, None, unable)
        code = self._denied(call)
        if code is None:
            return Trial(rule, False, f"the store took {what}")
        return Trial(rule, True, f"the store refused {what} ({code})")

    def _denied(self, call: Callable[[], object]) -> str | None:
        """The code with which the store refused; None where it did not."""
        try:
            call()
        except self._client.exceptions.ClientError as err:
            if 400 <= _status(err) < 500:
                return str(err.response.get("Error", {}).get("Code", _status(err)))
            raise
        return None

    def _sweep(self) -> None:
        prefix = f"{self._prefix}{_TRIAL}/"
        found: dict[str, Any] = {}

        def list_versions() -> None:
            found.update(self._client.list_object_versions(Bucket=self._bucket, Prefix=prefix))

        self._denied(list_versions)
        for each in (*found.get("Versions", ()), *found.get("DeleteMarkers", ())):
            self._denied(lambda each=each: self._drop(each["Key"], each.get("VersionId")))  # type: ignore[misc]

    def _put(self, name: str, data: bytes, **more: Any) -> Any:
        return self._client.put_object(Bucket=self._bucket, Key=name, Body=data, **more)

    def _drop(self, name: str, version: str | None) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=name, **_versioned(version))

    @property
    def _mode(self) -> Literal["COMPLIANCE", "GOVERNANCE"]:
        return "COMPLIANCE" if self._lock == "compliance" else "GOVERNANCE"

    def _read(self, name: str, **more: Any) -> Any:
        """Open an object; what lies in a cold class is asked for instead.

        :raises RestoreInProgress: it lies in one
        """
        try:
            return self._client.get_object(Bucket=self._bucket, Key=name, **more)
        except self._client.exceptions.ClientError as err:
            if err.response.get("Error", {}).get("Code") != "InvalidObjectState":
                raise
        return self._thaw(name)

    def _thaw(self, name: str) -> NoReturn:
        asked = "a copy was asked for now"
        try:
            self._client.restore_object(
                Bucket=self._bucket,
                Key=name,
                RestoreRequest={
                    "Days": RESTORED_DAYS,
                    "GlacierJobParameters": {"Tier": "Standard"},
                },
            )
        except self._client.exceptions.ClientError as err:
            # 409: RestoreAlreadyInProgress
            if _status(err) != 409:
                raise
            asked = "a copy is on its way"
        raise RestoreInProgress(
            f"{name} lies in a cold storage class; {asked}, and can be read for {RESTORED_DAYS}"
            " days once it is there, after minutes to 48 hours: run the same again then",
            retry_after=_ASK_AGAIN.total_seconds(),
        )

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _lockable(self, until: datetime | None) -> datetime | None:
        if self._lock is None or until is None or until <= datetime.now(UTC):
            return None
        # S3 keeps whole seconds: cut here, so that what is compared later is what was asked for.
        return until.astimezone(UTC).replace(microsecond=0)

    def _open(self) -> None:
        """Once: that the bucket is there, so that "no object" never means "no bucket"."""
        if self._opened:
            return
        with self._errors("open the archive"):
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except self._client.exceptions.ClientError as err:
                if _status(err) != 404:
                    raise
                raise SettingsError("archive.bucket", f"no bucket {self._bucket!r} there") from err
            if self._lock is not None:
                try:
                    answer = self._client.get_object_lock_configuration(Bucket=self._bucket)
                    enabled = answer["ObjectLockConfiguration"].get("ObjectLockEnabled")
                except self._client.exceptions.ClientError as err:
                    if _status(err) != 404:
                        raise
                    enabled = None
                if enabled != "Enabled":
                    raise SettingsError(
                        "archive.lock",
                        f"the bucket {self._bucket!r} has no Object Lock: make one that has, or "
                        "set archive.lock to none, and nothing is retained",
                    )
        self._opened = True

    def _create(self, name: str, data: bytes, locking: dict[str, Any]) -> str | None:
        """The version written, empty where the store has none; None where the name is taken."""
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        for pause in (*_CONFLICT_PAUSES, None):
            try:
                answer = self._client.put_object(
                    Bucket=self._bucket,
                    Key=name,
                    Body=data,
                    IfNoneMatch="*",
                    ChecksumSHA256=checksum,
                    **locking,
                )
                return answer.get("VersionId", "")
            except self._client.exceptions.ClientError as err:
                if _status(err) == 412:
                    return None
                if _status(err) != 409 or pause is None:
                    raise
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _hash(self, name: str, version: str | None) -> str:
        answer = self._read(name, **_versioned(version))
        digest = hashlib.sha256()
        with closing(answer["Body"]) as body:
            for chunk in body.iter_chunks(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            CredentialRetrievalError,
            NoCredentialsError,
            PartialCredentialsError,
        )

        try:
            yield
        except ClientError as err:
            code = err.response.get("Error", {}).get("Code", "")
            if code == "NoSuchBucket":
                raise SettingsError("archive.bucket", f"no bucket {self._bucket!r} there") from err
            if _status(err) in (401, 403):
                raise SettingsError(
                    "archive.bucket",
                    f"could not {what}: the store refused ({code}); check the credentials and what "
                    f"they may do in {self._bucket!r}",
                ) from err
            raise ArchiveError(f"could not {what}: the store answered {code}") from err
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as err:
            raise SettingsError(
                "archive.conn_id", f"could not {what}: no complete credentials found"
            ) from err
        except BotoCoreError as err:
            raise ArchiveError(f"could not {what}: {err}") from err


def _versioned(version: str | None) -> dict[str, Any]:
    return {"VersionId": version} if version else {}


def _status(err: Any) -> int:
    return int(err.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _whole_digest(checksum: str | None) -> str | None:
    """Hex of a checksum of the whole object; None for one of parts, or none."""
    try:
        # A checksum of parts ends in "-<count>", which is no base64.
        digest = base64.b64decode(checksum or "", validate=True)
    except binascii.Error:
        return None
    return digest.hex() if len(digest) == 32 else None
