"""What one run works with: the settings, and everything that they name, opened when first used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Final, Protocol

from longseal.archive.interface import Archive
from longseal.audit.ledger import Entry, Ledger
from longseal.canonical import digest_of, hex_of
from longseal.catalog.catalog import Catalog
from longseal.errors import MalformedError, SettingsError
from longseal.registry.interface import Registry
from longseal.seal.signers.checked import Budget, CountingSigner
from longseal.seal.signers.interface import Signer
from longseal.settings import (
    AzureSignerSettings,
    DirectoryArchiveSettings,
    Duration,
    FileSignerSettings,
    GcpSignerSettings,
    KmsSignerSettings,
    LayoutSettings,
    Pkcs11SignerSettings,
    RegistrySettings,
    RegistrySiteSettings,
    S3ArchiveSettings,
    Settings,
    SignerSettings,
    VaultSignerSettings,
    policy_document,
    secret,
)

MIN_SECRET: Final = 32

SEALS_KEPT: Final = Duration(10, "year")
"""How long an archive that can lock keeps seals and ledger at least, from their writing on."""


@dataclass(frozen=True, slots=True)
class Login:
    """A user name and its secret, from wherever secrets are kept; both None for nobody's.

    :param session_token: what AWS gives beside temporary keys
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)


class Secrets(Protocol):
    """Where the login behind a ``conn_id`` is kept: in Airflow, a connection."""

    def login(self, conn_id: str, setting: str) -> Login:
        """The login called ``conn_id``.

        :raises SettingsError: naming ``setting``, when there is none
        """


class NoConnections:
    """The command's own view: connections belong to Airflow."""

    def login(self, conn_id: str, setting: str) -> Login:
        """Refuse, and say what to do."""
        raise SettingsError(
            setting,
            f"the connection {conn_id!r} is known to Airflow only; outside it, name environment"
            " variables that hold the login",
        )


def utc_now() -> datetime:
    """The clock of a run."""
    return datetime.now(UTC)


class Workspace:
    """Opens what the settings name, once, and hands it to the steps.

    :param actor: who is acting, for the ledger: a user, or a DAG run and its try
    :param clock: gives the time in UTC; a test gives another one
    """

    def __init__(
        self,
        settings: Settings,
        *,
        environ: Mapping[str, str] = os.environ,
        secrets: Secrets | None = None,
        actor: str = "longseal",
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.settings = settings
        self.actor = actor
        self.now = clock
        self._environ = environ
        self._secrets = secrets or NoConnections()
        self._registries: dict[str, Registry] = {}
        self._opening = Lock()

    @cached_property
    def catalog(self) -> Catalog:
        """What is known."""
        return Catalog.open(self.settings.catalog)

    @cached_property
    def archive(self) -> Archive:
        """Where evidence is kept."""
        chosen = self.settings.archive
        if isinstance(chosen, DirectoryArchiveSettings):
            from longseal.archive.directory import DirectoryArchive

            directory = DirectoryArchive(chosen.path)
            directory.check()
            return directory
        return self._s3(chosen)

    @cached_property
    def ledger(self) -> Ledger:
        """The record of every action."""
        now = self.now()
        return Ledger(self.archive, SEALS_KEPT.after(now) - now)

    def note(self, action: str, details: Mapping[str, object]) -> Entry:
        """Write an action into the ledger."""
        return self.ledger.append(action, details, self.now(), self.actor)

    # -- registries --------------------------------------------------------------------------

    def registry(self, name: str) -> Registry:
        """The registry that the settings call ``name``: one for all threads."""
        for index, chosen in enumerate(self.settings.registries):
            if chosen.name == name:
                with self._opening:
                    return self._registry(chosen, f"registries[{index}]")
        raise SettingsError("registries", f"no registry is called {name[:80]!r}")

    def site_registry(self, site: RegistrySiteSettings) -> Registry:
        """The registry of a site that is one."""
        return self._registry(site, "sites")

    def _registry(
        self, chosen: RegistrySettings | LayoutSettings | RegistrySiteSettings, setting: str
    ) -> Registry:
        if chosen.name not in self._registries or isinstance(chosen, RegistrySiteSettings):
            if isinstance(chosen, LayoutSettings):
                from longseal.registry.layout import LayoutRegistry

                opened: Registry = LayoutRegistry(chosen.name, chosen.layout, chosen.repositories)
            else:
                opened = self._distribution(chosen, setting)
            if isinstance(chosen, RegistrySiteSettings):
                return opened
            self._registries[chosen.name] = opened
        return self._registries[chosen.name]

    def _distribution(
        self, chosen: RegistrySettings | RegistrySiteSettings, setting: str
    ) -> Registry:
        from longseal.registry.auth import Credentials
        from longseal.registry.distribution import DistributionRegistry

        login = self._login(chosen.conn_id, chosen.username_env, chosen.password_env, setting)
        return DistributionRegistry(
            chosen.name,
            chosen.url,
            patterns=chosen.repositories,
            credentials=Credentials(login.username, login.password, chosen.docker_config),
            ca_file=chosen.ca_file,
            client_certificate=chosen.client_certificate,
            client_key=chosen.client_key,
            proxy=chosen.proxy,
            internal_hosts=chosen.internal_hosts,
            budget=chosen.requests_per_second,
            bandwidth=chosen.bandwidth if isinstance(chosen, RegistrySiteSettings) else None,
        )

    # -- keys and policy ---------------------------------------------------------------------

    @cached_property
    def budget(self) -> Budget:
        """The key operations that this run may take."""
        return Budget(self.settings.signer.max_operations)

    def signer(self) -> CountingSigner:
        """The organisation's key, opened anew for whoever counts its operations."""
        return self.counted(next(self.signers()))

    def signers(self) -> Iterator[Signer]:
        """The key, and the one that follows it where the settings name one."""
        for chosen in (self.settings.signer, self.settings.next_signer):
            if chosen is not None:
                yield self._signer(chosen)

    def counted(self, signer: Signer) -> CountingSigner:
        """``signer``, held to this run's budget of key operations."""
        return CountingSigner(signer, self.budget)

    def _signer(self, chosen: SignerSettings) -> Signer:
        match chosen:
            case Pkcs11SignerSettings():
                from longseal.seal.signers.pkcs11 import Pkcs11Signer

                return Pkcs11Signer(chosen.uri)
            case KmsSignerSettings():
                return self._kms(chosen)
            case GcpSignerSettings():
                from longseal.seal.signers.service import ServiceSigner, gcp

                return ServiceSigner(gcp(chosen.key))
            case AzureSignerSettings():
                from longseal.seal.signers.service import ServiceSigner, azure

                return ServiceSigner(azure(chosen.vault, chosen.key))
            case VaultSignerSettings():
                from longseal.seal.signers.service import ServiceSigner, vault

                return ServiceSigner(vault(chosen.key))
            case FileSignerSettings():
                from longseal.seal.signers.file import FileSigner

                return FileSigner(chosen.path, chosen.password_env)

    def _kms(self, chosen: KmsSignerSettings) -> Signer:
        from longseal.seal.signers.aws_kms import AwsKmsSigner, Role, kms_client, region_of

        login = self._login(chosen.conn_id, chosen.access_key_env, chosen.secret_key_env, "signer")
        role = chosen.role_arn and Role(chosen.role_arn, chosen.external_id, chosen.session_name)
        connect = partial(
            kms_client,
            chosen.region or region_of(chosen.key_id),
            chosen.endpoint,
            login.username,
            login.password,
            login.session_token,
            role or None,
        )
        return AwsKmsSigner(chosen.key_id, connect)

    @cached_property
    def trusted_root(self) -> bytes:
        """The trusted root in force; see :mod:`longseal.trust`.

        :raises SettingsError: naming the setting under ``trust`` that gives none
        """
        from longseal.trust import in_force

        return in_force(self)

    @cached_property
    def policy(self) -> bytes:
        """The policy document in force."""
        return policy_document(self.settings)

    @cached_property
    def recheck_secret(self) -> bytes | None:
        """What the signing workers' receipts are made with; None where the settings name none.

        :raises SettingsError: the variable is not set, or what it holds could be guessed
        """
        variable = self.settings.seal.recheck_secret_env
        if variable is None:
            return None
        found = secret(self._environ, variable, "seal.recheck_secret_env").encode()
        if len(found) < MIN_SECRET:
            raise SettingsError(
                "seal.recheck_secret_env",
                f"the secret in {variable} has under {MIN_SECRET} characters: openssl rand -hex 32",
            )
        return found

    def read_setting(self, setting: str, path: Path) -> bytes:
        """The file that ``setting`` names.

        :raises SettingsError: naming ``setting``, when it cannot be read
        """
        try:
            return path.read_bytes()
        except OSError as err:
            raise SettingsError(setting, f"{path} cannot be read: {err.strerror}") from err

    def store(self, key: str, data: bytes) -> None:
        """Archive what outlives the evidence: seals, leaves, keys and whatever they speak of.

        :raises ConflictError: other bytes have that name
        """
        self.archive.put(key, data, SEALS_KEPT.after(self.now()))

    # -- content in the archive --------------------------------------------------------------

    def keep(self, data: bytes) -> str:
        """Archive a document under its digest, which is returned."""
        digest = digest_of(data)
        key = object_key(digest)
        if self.archive.stat(key) is None:
            self.store(key, data)
        return digest

    def kept(self, digest: str) -> bytes:
        """The archived document with this digest, checked.

        :raises MalformedError: the archive holds other bytes under that name
        """
        data = self.archive.get(object_key(digest))
        if digest_of(data) != digest:
            raise MalformedError(f"the archive's {object_key(digest)} has other bytes")
        return data

    # ----------------------------------------------------------------------------------------

    def _s3(self, chosen: S3ArchiveSettings) -> Archive:
        from longseal.archive.retention import cold_tiers
        from longseal.archive.s3 import S3Archive, lifecycle, s3_client

        login = self._login(chosen.conn_id, chosen.access_key_env, chosen.secret_key_env, "archive")
        client = s3_client(chosen.endpoint, chosen.region, login.username, login.password)
        lock = None if chosen.lock == "none" else chosen.lock
        cold = lifecycle(chosen.prefix, cold_tiers(self.settings.retention), chosen.cold_class)
        return S3Archive(client, chosen.bucket, chosen.prefix, lock, cold["Rules"])

    def _login(
        self, conn_id: str | None, user_env: str | None, password_env: str | None, setting: str
    ) -> Login:
        if user_env and password_env:
            return Login(
                secret(self._environ, user_env, setting),
                secret(self._environ, password_env, setting),
            )
        return self._secrets.login(conn_id, f"{setting}.conn_id") if conn_id else Login()


def object_key(digest: str) -> str:
    """Where the archive keeps a document with this digest."""
    return f"objects/sha256/{hex_of(digest)}"
