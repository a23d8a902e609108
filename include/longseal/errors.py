"""The errors of Longseal: one root, two branches.

::

    LongsealError
    ├── PermanentError            trying again changes nothing: a task fails at once
    │   ├── SettingsError         longseal.yaml, its schema, or a file or secret that it names
    │   ├── MalformedError        bytes from outside that are not what they claim to be
    │   ├── UnsupportedError      well-formed, but nothing here can judge it
    │   ├── VerificationError     a signature, proof, digest or statement that does not hold
    │   ├── SignerError           key missing or ambiguous, PIN refused, signature not the key's own
    │   ├── ConflictError         a stored thing has this name already, with other bytes
    │   └── RefusedError          the request would break an invariant; nothing was done
    └── RetryableError            a task backs off and tries again
        ├── RegistryError         the registry did not answer, throttled, or answered unreadably
        ├── TimestampError        too few timestamp authorities answered well
        ├── LogError              the transparency log did not answer well
        └── ArchiveError          the archive could not be reached or would not write
            └── RestoreInProgress it lies in a cold class, and a copy to read is on its way

A message says what was expected, what was found and what to do; it never holds a secret.
"""

from __future__ import annotations


class LongsealError(Exception):
    """The root of everything that Longseal raises on purpose."""


class PermanentError(LongsealError):
    """Trying again with the same input gives the same answer."""


class SettingsError(PermanentError):
    """A setting is missing, unknown, or names something that is not there.

    :param setting: dotted name of the setting, as in ``signer.uri``
    :param message: what was expected and found, and what to do
    :param where: file and line, where the setting came from a file
    """

    def __init__(self, setting: str, message: str, where: str | None = None) -> None:
        self.setting = setting
        self.where = where
        super().__init__(f"{where}: {setting}: {message}" if where else f"{setting}: {message}")


class MalformedError(PermanentError):
    """Bytes from outside are not what they claim to be."""


class UnsupportedError(PermanentError):
    """Well-formed, but nothing here can judge it: never to be reported as bad."""


class VerificationError(PermanentError):
    """A signature, proof, digest or statement does not hold."""


class SignerError(PermanentError):
    """The signing key cannot be used as the settings say."""


class ConflictError(PermanentError):
    """A stored thing has this name already, with other bytes."""


class RefusedError(PermanentError):
    """The request would break an invariant; nothing was done."""


class RetryableError(LongsealError):
    """The same call may succeed later.

    :param retry_after: seconds that the other side asked to be left alone, where it said so
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class RegistryError(RetryableError):
    """The registry did not answer, throttled, or answered unreadably."""


class TimestampError(RetryableError):
    """Too few timestamp authorities answered well."""


class LogError(RetryableError):
    """The transparency log did not answer well."""


class ArchiveError(RetryableError):
    """The archive could not be reached or would not write."""


class RestoreInProgress(ArchiveError):
    """What is to be read lies in a cold storage class; a copy of it was asked for."""


def brief(err: Exception) -> str:
    """What another library's error says, in one short line for a message of ours."""
    return " ".join(str(err).split())[:300] or type(err).__name__
