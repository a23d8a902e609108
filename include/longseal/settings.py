"""``longseal.yaml``: the one file of settings, read by the DAGs and by the command alike.

:func:`load` reads it; ``settings.schema.json`` beside this module says what may stand in it, and
``docs/formats/settings.md`` says it for people. Secrets are never in the file: it names an Airflow
connection, an environment variable or a file that holds them.
"""

from __future__ import annotations

import calendar
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import yaml

from longseal.canonical import canonical_json, digest_of
from longseal.errors import MalformedError, SettingsError, UnsupportedError
from longseal.patterns import ANYTHING, matches_any

if TYPE_CHECKING:
    from jsonschema import ValidationError

MAX_BYTES: Final = 1024 * 1024
"""Largest ``longseal.yaml`` that is read."""

MAX_DEPTH: Final = 16

INTAKE: Final = "intake"
"""What stands in place of a registry's name where evidence was found in none."""

MAX_OPERATIONS: Final = 200
"""Key operations that a run may take: a seal, and statements about nearly 200,000 images."""

Visibility = Literal["private", "public"]


@dataclass(frozen=True, slots=True)
class Duration:
    """A length of time as people say it; months and years follow the calendar.

    :param unit: day, month or year
    """

    count: int
    unit: str

    def after(self, moment: datetime) -> datetime:
        """``moment`` and this much later; the 31st becomes the last day of a shorter month.

        :raises OverflowError: past the year 9999
        """
        if self.unit == "day":
            return moment + timedelta(days=self.count)
        months = moment.month - 1 + self.count * (12 if self.unit == "year" else 1)
        year, month = moment.year + months // 12, months % 12 + 1
        if year > 9999:
            raise OverflowError(f"{self} after {moment} is past the year 9999")
        day = min(moment.day, calendar.monthrange(year, month)[1])
        return moment.replace(year=year, month=month, day=day)

    @property
    def days(self) -> int:
        """As many days as it can be, for a store that counts in them."""
        return self.count * {"day": 1, "month": 31, "year": 366}[self.unit]

    def __str__(self) -> str:
        return f"{self.count} {self.unit}{'' if self.count == 1 else 's'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryArchiveSettings:
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class S3ArchiveSettings:
    """
    :param prefix: empty, or parts that each end in ``/``
    :param lock: ``none`` takes a bucket without Object Lock, which promises no retention
    :param cold_class: the storage class of ``retention.cold``
    """

    bucket: str
    prefix: str = ""
    lock: Literal["compliance", "governance", "none"] = "governance"
    cold_class: Literal["GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"] = "GLACIER"
    region: str | None = None
    endpoint: str | None = None
    conn_id: str | None = None
    access_key_env: str | None = None
    secret_key_env: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Tags or digests, by patterns where ``*`` stands for anything."""

    include: tuple[str, ...] = ("**",)
    exclude: tuple[str, ...] = ()

    def takes(self, text: str) -> bool:
        """Whether ``text`` is included and not excluded."""
        return matches_any(self.include, text) and not matches_any(self.exclude, text)


EVERYTHING: Final = Filter()


@dataclass(frozen=True, slots=True, kw_only=True)
class TufSettings:
    """
    :param root: the repository's root metadata to begin with
    :param target: name of the target that is the trusted root
    """

    url: str
    root: Path
    target: str = "trusted_root.json"
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """:param repositories: names and patterns, those of ``repositories_file`` among them"""

    name: str
    url: str
    repositories: tuple[str, ...] = ("**",)
    repositories_file: Path | None = None
    tags: Filter = EVERYTHING
    digests: Filter = EVERYTHING
    attachment_repositories: tuple[str, ...] = ()
    visibility: Visibility = "private"
    conn_id: str | None = None
    username_env: str | None = None
    password_env: str | None = None
    docker_config: Path | None = None
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    proxy: str | None = None
    internal_hosts: tuple[str, ...] = ()
    requests_per_second: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutSettings:
    """A folder of OCI image layouts that stands in for a registry."""

    name: str
    layout: Path
    repositories: tuple[str, ...] = ("**",)
    repositories_file: Path | None = None
    tags: Filter = EVERYTHING
    digests: Filter = EVERYTHING
    attachment_repositories: tuple[str, ...] = ()
    visibility: Visibility = "private"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who may sign: of each pair exactly one is set; expressions go under ``re.fullmatch``."""

    issuer: str | None = None
    issuer_pattern: str | None = None
    identity: str | None = None
    pattern: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRule:
    """:param repositories: patterns where ``*`` stops at ``/`` and ``**`` crosses it
    :param predicates: the same, over predicate types
    :param keys: PEM files of public keys
    """

    repositories: tuple[str, ...]
    predicates: tuple[str, ...]
    identities: tuple[Identity, ...]
    max_certificate_minutes: int = 10
    keys: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pkcs11SignerSettings:
    uri: str
    max_operations: int = MAX_OPERATIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class KmsSignerSettings:
    """:param role_arn: the role to assume before the key is used"""

    key_id: str
    region: str | None = None
    endpoint: str | None = None
    role_arn: str | None = None
    external_id: str | None = None
    session_name: str = "longseal"
    conn_id: str | None = None
    access_key_env: str | None = None
    secret_key_env: str | None = None
    max_operations: int = MAX_OPERATIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class GcpSignerSettings:
    key: str
    max_operations: int = MAX_OPERATIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureSignerSettings:
    vault: str
    key: str
    max_operations: int = MAX_OPERATIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultSignerSettings:
    key: str
    max_operations: int = MAX_OPERATIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSignerSettings:
    path: Path
    password_env: str | None = None
    max_operations: int = MAX_OPERATIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class TimestampSettings:
    """
    :param retired: asked no more; what it stamped still counts
    :param revocation: whether what its certificates name is fetched and archived: CRLs, OCSP
    """

    url: str
    certificates: Path
    retired: bool = False
    revocation: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RekorSettings:
    """:param origin: the origin line of the log's checkpoints"""

    url: str
    public_key: Path
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactSettings:
    """:param registry: the name of one of the registries"""

    registry: str
    repository: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SealSettings:
    """
    :param unknown: whether a period with something unknown is sealed or refused
    :param recheck_secret_env: where the secret is that receipts of a recheck ahead are made with;
        None for no recheck but that of the seal
    :param artifact: where seals are pushed as OCI artifacts; None for nowhere
    """

    unknown: Literal["seal", "refuse"] = "seal"
    recheck_secret_env: str | None = None
    artifact: ArtifactSettings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogWatchSettings:
    """:param url: what the log's ``checkpoint`` and ``tile/`` stand below
    :param origin: the origin line of the log's checkpoints
    """

    url: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionClass:
    """:param keep: how long it stays in the registry
    :param archive: how long the archive locks it at least; None for as long as ``keep``
    :param cold: when the store moves it to a cold class, counted from the collection; None: never
    :param dispose: when the archive lets go of it, counted from the collection; None: never
    :param outcomes: the verdicts of its evidence
    """

    name: str
    keep: Duration
    archive: Duration | None = None
    cold: Duration | None = None
    dispose: Duration | None = None
    repositories: tuple[str, ...] = ("**",)
    predicates: tuple[str, ...] = ("**",)
    outcomes: tuple[str, ...] = ("verified", "rejected", "ignored", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """:param classes: in the order written; the first that takes an attestation has it
    :param floor: what no class may go under
    :param max_share: most of a repository's attachments that a prune takes, in percent
    :param max_count: most attachments that a prune takes
    """

    default: Duration = Duration(24, "month")
    archive: Duration | None = None
    cold: Duration | None = None
    dispose: Duration | None = None
    classes: tuple[RetentionClass, ...] = ()
    floor: Duration | None = None
    max_share: int = 20
    max_count: int = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySiteSettings:
    """:param tags: the tags whose images go there
    :param platforms: patterns of the platforms of indexes that go there, as ``linux/amd64``
    :param bandwidth: bytes a second that uploads may take; None for no limit
    """

    name: str
    url: str
    repositories: tuple[str, ...]
    tags: Filter = EVERYTHING
    platforms: tuple[str, ...] = ANYTHING
    bandwidth: int | None = None
    conn_id: str | None = None
    username_env: str | None = None
    password_env: str | None = None
    docker_config: Path | None = None
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    proxy: str | None = None
    internal_hosts: tuple[str, ...] = ()
    requests_per_second: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSiteSettings:
    """:param volume_size: most bytes that a volume holds; None where there is no limit
    :param receipt_key: fingerprint of the site's own key; None where no receipts are awaited
    :param receipt_days: how long after a delivery its receipt may take
    """

    name: str
    path: Path
    repositories: tuple[str, ...]
    tags: Filter = EVERYTHING
    volume_size: int | None = None
    receipt_key: str | None = None
    receipt_days: int = 30


ArchiveSettings = DirectoryArchiveSettings | S3ArchiveSettings
SignerSettings = (
    Pkcs11SignerSettings
    | KmsSignerSettings
    | GcpSignerSettings
    | AzureSignerSettings
    | VaultSignerSettings
    | FileSignerSettings
)
SiteSettings = RegistrySiteSettings | VolumeSiteSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of ``longseal.yaml``. Paths are absolute.

    :param path: the file itself
    :param catalog: an SQLAlchemy URL
    :param trust: where the Sigstore trusted root that attestations are verified against is from:
        a file, or a TUF repository
    :param pinned_key: fingerprint that the organisation's key must have, ``sha256:<hex>``
    :param complete_proofs: URL of the Rekor v1 log that is asked for proofs; None for none
    :param recovery_key: fingerprint of the offline key that may sign a new key set alone
    :param next_signer: the key that is to follow the signer's
    :param harvest_workers: processes that verify; None for one a core
    :param lines: line of each setting by its dotted name, for :meth:`where`
    """

    path: Path
    organisation: str
    catalog: str
    archive: ArchiveSettings
    trust: Path | TufSettings
    registries: tuple[RegistrySettings | LayoutSettings, ...]
    policy: tuple[PolicyRule, ...]
    signer: SignerSettings
    timestamps: tuple[TimestampSettings, ...]
    timestamp_quorum: int = 1
    pinned_key: str | None = None
    recovery_key: str | None = None
    next_signer: SignerSettings | None = None
    rekor: RekorSettings | None = None
    log_watch: LogWatchSettings | None = None
    complete_proofs: str | None = None
    seal: SealSettings = SealSettings()
    image_statement_days: int = 400
    harvest_workers: int | None = None
    retention: RetentionSettings = RetentionSettings()
    sites: tuple[SiteSettings, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)

    def where(self, setting: str) -> str:
        """File and line of ``setting``, or of the nearest setting around it that the file has.

        For a :class:`~longseal.errors.SettingsError` raised by what only sees its own part.
        """
        return _where(self.path, self.lines, setting)

    def site(self, name: str) -> SiteSettings:
        """The site called ``name``.

        :raises SettingsError: there is none
        """
        for site in self.sites:
            if site.name == name:
                return site
        known = ", ".join(site.name for site in self.sites) or "none"
        raise SettingsError(
            "sites", f"no site is called {name[:80]!r}; known: {known}", self.where("sites")
        )


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read the settings from ``path``, else from the file that ``LONGSEAL_CONFIG`` names.

    :raises SettingsError: no such file, or something in it is wrong; it names file and line
    """
    if path is None:
        named = environ.get("LONGSEAL_CONFIG")
        if not named:
            raise SettingsError(
                "LONGSEAL_CONFIG", "no settings: give --config FILE, or name the file here"
            )
        path = Path(named)
    settings = parse(_read(path), path)
    _require_files(settings)
    return _with_listed_repositories(settings)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as err:
        raise SettingsError(
            "settings", f"cannot be read: {err.strerror or err}", str(path)
        ) from err


def parse(data: bytes, path: Path) -> Settings:
    """The settings in ``data``; opens none of the files that they name.

    :param path: where ``data`` is from: for messages, and for the folder of relative paths
    :raises SettingsError: something is wrong in it
    """
    document = _Document(data, path)
    _check_schema(document)
    settings = _build(document)
    _check_patterns(document, settings)
    return settings


def with_policy(settings: Settings, path: Path) -> Settings:
    """``settings`` with the policy of another file, which has the key ``policy``.

    :raises SettingsError: the file cannot be read, or something in its policy is wrong
    """
    document = _Document(_read(path), path)
    value = document.value if isinstance(document.value, dict) else {}
    document.value = {"policy": value["policy"]} if "policy" in value else {}
    _check_schema(document, {**_schema(), "required": ["policy"]})
    changed = replace(
        settings,
        policy=tuple(_rule(item, path.absolute().parent) for item in document.value["policy"]),
        path=path,
        lines=document.lines,
    )
    _check_patterns(document, changed)
    return changed


def secret(environ: Mapping[str, str], variable: str, setting: str) -> str:
    """The secret in the environment variable that ``setting`` names.

    :raises SettingsError: the variable is unset or empty
    """
    value = environ.get(variable)
    if not value:
        raise SettingsError(setting, f"the environment variable {variable} is not set")
    return value


def policy_document(settings: Settings) -> bytes:
    """The policy as canonical JSON; leaves name its digest.

    Rules are OR-ed, so their order is left out of it, and that of the lists in them. The keys that
    it trusts stand in it themselves: the files that hold them are read.

    :raises SettingsError: a key cannot be read
    """
    rules = []
    for at, rule in enumerate(settings.policy):
        spelled = {
            "repositories": sorted(set(rule.repositories)),
            "predicates": sorted(set(rule.predicates)),
            "identities": _sorted({_spelled(identity) for identity in rule.identities}),
            "maxCertificateMinutes": rule.max_certificate_minutes,
        }
        if rule.keys:
            spelled["keys"] = _sorted(
                {
                    _spelled_key(settings, f"policy[{at}].keys[{key_at}].file", file)
                    for key_at, file in enumerate(rule.keys)
                }
            )
        rules.append(spelled)
    return canonical_json({"rules": _sorted({canonical_json(rule) for rule in rules})})


def _spelled_key(settings: Settings, setting: str, file: Path) -> bytes:
    from longseal.verify.keys import load_key, pem_of

    try:
        with file.open("rb") as opened:
            key = load_key(opened.read(MAX_BYTES), str(file))
    except OSError as err:
        text = f"{file} cannot be read: {err.strerror or err}"
        raise SettingsError(setting, text, settings.where(setting)) from err
    except (MalformedError, UnsupportedError) as err:
        raise SettingsError(setting, str(err), settings.where(setting)) from err
    return canonical_json({"pem": pem_of(key), "sha256": digest_of(key)})


def _spelled(identity: Identity) -> bytes:
    spelled = {
        "issuer": identity.issuer,
        "issuerPattern": identity.issuer_pattern,
        "identity": identity.identity,
        "pattern": identity.pattern,
    }
    return canonical_json({key: text for key, text in spelled.items() if text is not None})


def _sorted(spelled: Iterable[bytes]) -> list[Any]:
    return [json.loads(text) for text in sorted(spelled)]


_SECRET_KEYS: Final = frozenset(
    {
        "access_key",
        "access_key_id",
        "api_key",
        "credentials",
        "passphrase",
        "passwd",
        "password",
        "pin",
        "private_key",
        "secret",
        "secret_access_key",
        "secret_key",
        "session_token",
        "token",
    }
)
_USER_AND_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]*@")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class _Document:
    """A YAML file as plain data, with the line of every setting in it.

    PyYAML's composer recurses, so depth is bounded over its events, before it composes.
    """

    def __init__(self, data: bytes, path: Path) -> None:
        self.path = path
        self.lines: dict[str, int] = {}
        if len(data) > MAX_BYTES:
            raise self._broken(f"larger than the {MAX_BYTES} bytes allowed")
        try:
            text = data.decode()
        except UnicodeDecodeError as err:
            raise self._broken(f"not UTF-8 at byte {err.start}") from err
        try:
            self._check_events(text)
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as err:
            line = err.problem_mark.line + 1 if err.problem_mark else None
            raise self._broken(f"not YAML: {err.problem}", line) from err
        except yaml.YAMLError as err:
            raise self._broken("not YAML: it holds a character that YAML does not allow") from err
        if root is None:
            raise self._broken("empty")
        self._scalars = yaml.SafeLoader("")
        self.value = self._plain(root, "")

    def error(self, setting: str, message: str) -> SettingsError:
        return SettingsError(setting or "settings", message, _where(self.path, self.lines, setting))

    def _broken(self, message: str, line: int | None = None) -> SettingsError:
        return SettingsError("settings", message, f"{self.path}:{line}" if line else str(self.path))

    def _check_events(self, text: str) -> None:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = _line(event)
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise self._broken("anchors and aliases are not allowed: write it out", line)
            if getattr(event, "tag", None):
                raise self._broken("tags are not allowed: write plain YAML", line)
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    raise self._broken(f"nested deeper than {MAX_DEPTH} levels", line)
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1

    def _plain(self, node: yaml.Node, setting: str) -> Any:
        self.lines.setdefault(setting, _line(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, setting)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, f"{setting}[{at}]") for at, item in enumerate(node.value)]
        kind = node.tag.rpartition(":")[2]
        if kind in {"int", "bool", "null"}:
            try:
                return self._scalars.construct_object(node)
            except ValueError as err:
                raise self.error(setting, "not a number that can be read") from err
        self._check_text(node.value, setting)
        return node.value

    def _mapping(self, node: yaml.MappingNode, setting: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or _CONTROL.search(key):
                raise self._broken("a key must be plain text", line)
            inner = f"{setting}.{key}" if setting else key
            if key in found:
                raise self.error(inner, f"given twice, the second time in line {line}")
            self.lines[inner] = line
            if key.lower().replace("-", "_") in _SECRET_KEYS:
                raise self.error(
                    inner,
                    "a secret does not belong in this file: name an Airflow connection (conn_id), "
                    "an environment variable (…_env) or a file that holds it",
                )
            found[key] = self._plain(value_node, inner)
        return found

    def _check_text(self, text: str, setting: str) -> None:
        """Refuse what is no text for a setting. The message never repeats it: it may be secret."""
        if _CONTROL.search(text):
            raise self.error(setting, "holds a control character or a line break")
        if "pin-value" in text.lower():
            raise self.error(
                setting,
                "a PIN does not belong in this file: give pin-source=env:NAME or "
                "pin-source=file:PATH instead of pin-value",
            )
        if _USER_AND_PASSWORD.search(text) or "password=" in text.lower():
            raise self.error(
                setting,
                "a password does not belong in a URL: name an Airflow connection (conn_id) or an "
                "environment variable (username_env, password_env); PostgreSQL takes PGPASSWORD "
                "or a .pgpass file",
            )


def _line(part: yaml.Event | yaml.Node) -> int:
    return part.start_mark.line + 1 if part.start_mark else 1


def _where(path: Path, lines: Mapping[str, int], setting: str) -> str:
    while setting not in lines and setting:
        setting = setting[: max(setting.rfind("."), setting.rfind("["), 0)]
    return f"{path}:{lines[setting]}" if setting in lines else str(path)


@cache
def _schema() -> Any:
    text = resources.files("longseal").joinpath("settings.schema.json").read_text("utf-8")
    return json.loads(text)


def _check_schema(document: _Document, schema: Any = None) -> None:
    from jsonschema import Draft202012Validator

    errors = Draft202012Validator(schema or _schema()).iter_errors(document.value)
    found = [
        (error.validator != "additionalProperties", document.lines.get(setting, 0), setting, text)
        for error in errors
        for setting, text in _explained(error)
    ]
    if found:
        # An unknown key first: what it was meant for is then missing, which explains less.
        *_, setting, text = min(found)
        raise document.error(setting, text)


_NOT_ECHOED = re.compile(r"(_env|\.uri|url|endpoint|catalog)$")


def _explained(error: ValidationError) -> Iterator[tuple[str, str]]:
    """A schema error as pairs of setting and message."""
    setting = _dotted(error.absolute_path)
    schema: Any = error.schema
    wanted: Any = error.validator_value
    instance: Any = error.instance
    match error.validator:
        case "additionalProperties":
            known = sorted(schema["properties"])
            for key in instance:
                if key not in known:
                    close = difflib.get_close_matches(key, known, 1)
                    hint = f'did you mean "{close[0]}"?' if close else f"known: {', '.join(known)}"
                    yield _dotted([*error.absolute_path, key]), f"unknown key; {hint}"
        case "required":
            for key in wanted:
                if key not in instance:
                    yield _dotted([*error.absolute_path, key]), "missing"
        case "dependentRequired":
            for key, needed in wanted.items():
                for other in needed:
                    if key in instance and other not in instance:
                        yield _dotted([*error.absolute_path, key]), f"needs {other} beside it"
        case "oneOf":
            names = " or ".join(option["required"][0] for option in wanted)
            yield setting, f"expected exactly one of {names}"
        case "anyOf":
            yield _dotted([*error.absolute_path, wanted[0]["required"][0]]), "missing"
        case "not":
            yield setting, f"give only one of {' and '.join(wanted['required'])}"
        case "minItems" if setting == "policy" or setting.endswith(".identities"):
            yield setting, "trusts nobody: name at least one identity that may attest"
        case "minItems":
            yield setting, "expected at least one"
        case "enum":
            yield setting, f"expected {' or '.join(wanted)}{_found(instance, setting)}"
        case _:
            expected = schema.get("title") or _TYPES.get(str(schema.get("type")), "another value")
            limits = _limits(schema)
            yield setting, f"expected {expected}{limits}{_found(instance, setting)}"


_TYPES: Final = {"object": "a mapping", "array": "a list", "integer": "a whole number"}


def _limits(schema: Mapping[str, Any]) -> str:
    if "minimum" in schema:
        return f" from {schema['minimum']} to {schema['maximum']}"
    most = schema.get("maxLength") or schema.get("maxItems") or schema.get("maxProperties")
    return f" (at most {most})" if most else ""


def _found(value: object, setting: str) -> str:
    if isinstance(value, dict | list):
        return f", found a {'mapping' if isinstance(value, dict) else 'list'}"
    if value is None:
        return ", found nothing"
    return "" if _NOT_ECHOED.search(setting) else f", found {str(value)[:60]!r}"


def _dotted(path: Iterable[str | int]) -> str:
    name = ""
    for part in path:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += f".{part}" if name else part
    return name


def _build(document: _Document) -> Settings:
    value = document.value
    folder = document.path.absolute().parent
    _require_unique_names(document, "registries", INTAKE)
    _require_unique_names(document, "sites")
    artifact = value.get("seal", {}).get("artifact")
    known = [item["name"] for item in value["registries"]]
    if artifact is not None and artifact["registry"] not in known:
        raise document.error(
            "seal.artifact.registry",
            f"no registry is called {artifact['registry']!r}; known: {', '.join(known)}",
        )
    authorities = sum(not item.get("retired", False) for item in value["timestamps"])
    quorum = value.get("timestamp_quorum", 1)
    if quorum > authorities:
        raise document.error(
            "timestamp_quorum",
            f"asks for {quorum} authorities, but timestamps names {authorities} to ask",
        )
    return Settings(
        path=document.path,
        organisation=value["organisation"],
        catalog=_catalog(value["catalog"], folder),
        archive=_archive(value["archive"], folder),
        trust=_trust(value["trust"], folder),
        registries=tuple(_registry(item, folder) for item in value["registries"]),
        policy=tuple(_rule(item, folder) for item in value["policy"]),
        signer=_signer(value["signer"], folder),
        timestamps=tuple(
            TimestampSettings(
                url=item["url"],
                certificates=folder / item["certificates"],
                retired=item.get("retired", False),
                revocation=item.get("revocation", True),
            )
            for item in value["timestamps"]
        ),
        timestamp_quorum=quorum,
        pinned_key=value.get("keys", {}).get("pinned"),
        recovery_key=value.get("keys", {}).get("recovery"),
        next_signer=_signer(value["next_signer"], folder) if "next_signer" in value else None,
        rekor=_rekor(value["rekor"], folder) if "rekor" in value else None,
        complete_proofs=value["complete_proofs"]["url"].rstrip("/")
        if "complete_proofs" in value
        else None,
        log_watch=_log_watch(value["log_watch"], folder) if "log_watch" in value else None,
        seal=_seal(value.get("seal", {})),
        image_statement_days=value.get("image_statement_days", 400),
        harvest_workers=value.get("harvest", {}).get("workers"),
        retention=_retention(
            document, value.get("retention", {}), value["archive"]["kind"] == "s3"
        ),
        sites=tuple(_site(item, folder) for item in value.get("sites", ())),
        lines=document.lines,
    )


def _require_unique_names(document: _Document, setting: str, *taken: str) -> None:
    seen = set(taken)
    for at, item in enumerate(document.value.get(setting, ())):
        if item["name"] in seen:
            raise document.error(f"{setting}[{at}].name", f"{item['name']!r} is taken already")
        seen.add(item["name"])


def _catalog(url: str, folder: Path) -> str:
    prefix = "sqlite:///"
    return f"{prefix}{folder / url.removeprefix(prefix)}" if url.startswith(prefix) else url


_FILES: Final = (
    "repositories_file",
    "docker_config",
    "ca_file",
    "client_certificate",
    "client_key",
)
_PATHS: Final = frozenset({"path", "root", "layout", "public_key", *_FILES})


_LISTS: Final = frozenset(
    {"repositories", "predicates", "internal_hosts", "attachment_repositories", "platforms"}
)


def _fields(item: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The keys of a schema object as the fields of its dataclass."""
    found = {key: value for key, value in item.items() if key != "kind"}
    for key in _PATHS & found.keys():
        found[key] = folder / found[key]
    for key in _LISTS & found.keys():
        found[key] = tuple(found[key])
    for key in {"tags", "digests"} & found.keys():
        found[key] = Filter(**{part: tuple(patterns) for part, patterns in found[key].items()})
    for key in {"url", "endpoint", "proxy"} & found.keys():
        found[key] = found[key].rstrip("/")
    return found


def _archive(item: Mapping[str, Any], folder: Path) -> ArchiveSettings:
    if item["kind"] == "directory":
        return DirectoryArchiveSettings(**_fields(item, folder))
    return S3ArchiveSettings(**_fields(item, folder))


def _trust(item: Mapping[str, Any], folder: Path) -> Path | TufSettings:
    if "tuf" in item:
        return TufSettings(**_fields(item["tuf"], folder))
    found: Path = folder / item["trusted_root"]
    return found


def _registry(item: Mapping[str, Any], folder: Path) -> RegistrySettings | LayoutSettings:
    if "repositories_file" in item:
        item = {"repositories": (), **item}
    if "layout" in item:
        return LayoutSettings(**_fields(item, folder))
    return RegistrySettings(**_fields(item, folder))


def _rule(item: Mapping[str, Any], folder: Path) -> PolicyRule:
    found = dict(item)
    return PolicyRule(
        repositories=tuple(found.pop("repositories")),
        predicates=tuple(found.pop("predicates")),
        identities=tuple(Identity(**identity) for identity in found.pop("identities", ())),
        keys=tuple(folder / key["file"] for key in found.pop("keys", ())),
        **found,
    )


def _signer(item: Mapping[str, Any], folder: Path) -> SignerSettings:
    match item["kind"]:
        case "pkcs11":
            return Pkcs11SignerSettings(**_fields(item, folder))
        case "aws-kms":
            return KmsSignerSettings(**_fields(item, folder))
        case "gcp-kms":
            return GcpSignerSettings(**_fields(item, folder))
        case "azure-key-vault":
            return AzureSignerSettings(**_fields(item, folder))
        case "vault":
            return VaultSignerSettings(**_fields(item, folder))
        case _:
            return FileSignerSettings(**_fields(item, folder))


def _rekor(item: Mapping[str, Any], folder: Path) -> RekorSettings:
    return RekorSettings(**{"origin": _host(item["url"]), **_fields(item, folder)})


def _seal(item: Mapping[str, Any]) -> SealSettings:
    artifact = item.get("artifact")
    return SealSettings(**{**item, "artifact": ArtifactSettings(**artifact) if artifact else None})


def _log_watch(item: Mapping[str, Any], folder: Path) -> LogWatchSettings:
    return LogWatchSettings(**{"origin": _host(item["url"]), **_fields(item, folder)})


def _host(url: str) -> str:
    return re.sub(r":\d+$", "", url.split("/")[2])


_LISTS_OF_A_CLASS: Final = ("repositories", "predicates", "outcomes")


def _retention(document: _Document, item: Mapping[str, Any], cold: bool) -> RetentionSettings:
    """:param cold: whether the archive has a cold class"""
    default = "10 years" if item.get("profile") == "cra" else item.get("default", "24 months")
    floor = _tier(item.get("floor"))
    found = RetentionSettings(
        default=_duration(default),
        archive=_tier(item.get("archive")),
        cold=_tier(item.get("cold")),
        dispose=_tier(item.get("dispose")),
        classes=tuple(
            RetentionClass(
                name=name,
                keep=_duration(entry["keep"]),
                archive=_tier(entry.get("archive")),
                cold=_tier(entry.get("cold", item.get("cold"))),
                dispose=_tier(entry.get("dispose", item.get("dispose"))),
                **{key: tuple(entry[key]) for key in _LISTS_OF_A_CLASS if key in entry},
            )
            for name, entry in item.get("classes", {}).items()
        ),
        floor=floor,
        **{name: item[name] for name in ("max_share", "max_count") if name in item},
    )
    if floor is not None:
        keeps = {f"retention.classes.{one.name}.keep": one.keep for one in found.classes}
        for setting, keep in {"retention.default": found.default, **keeps}.items():
            if keep.after(_ANY_DAY) < floor.after(_ANY_DAY):
                raise document.error(setting, f"shorter than retention.floor, {item['floor']}")
    if not cold and any((found.cold, *(one.cold for one in found.classes))):
        raise document.error("retention.cold", "a folder has no cold class: archive.kind is not s3")
    _require_last(document, "retention", found.dispose, (found.default, found.archive))
    for one in found.classes:
        tiers = (one.keep, one.archive or found.archive)
        _require_last(document, f"retention.classes.{one.name}", one.dispose, tiers)
    return found


def _require_last(
    document: _Document,
    setting: str,
    dispose: Duration | None,
    tiers: Iterable[Duration | None],
) -> None:
    """Nothing is disposed of before the registry and the archive may let go of it."""
    for tier in filter(None, tiers):
        if dispose is not None and dispose.after(_ANY_DAY) < tier.after(_ANY_DAY):
            raise document.error(
                f"{setting}.dispose", f"{dispose} is before the {tier} for which it is kept"
            )


def _tier(text: str | None) -> Duration | None:
    return None if text in (None, "never") else _duration(text)


_ANY_DAY: Final = datetime(2001, 1, 1, tzinfo=UTC)


def _duration(text: str) -> Duration:
    count, unit = text.split()
    return Duration(int(count), unit.removesuffix("s"))


def _site(item: Mapping[str, Any], folder: Path) -> SiteSettings:
    found = _fields(item, folder)
    for name in ("volume_size", "bandwidth"):
        if name in found:
            found[name] = size_of(found[name])
    if item["kind"] == "registry":
        return RegistrySiteSettings(**found)
    return VolumeSiteSettings(**found)


def size_of(text: str) -> int:
    """Bytes in ``4 GiB`` (powers of 1,024) or ``4 GB`` (powers of 1,000).

    :raises SettingsError: it is no size
    """
    if re.fullmatch(r"[1-9][0-9]{0,5} ?[KMGT](B|iB)", text) is None:
        raise SettingsError("size", f"expected a size, as in 4 GiB or 700 MB, found {text[:40]!r}")
    unit = text.lstrip("0123456789 ")
    power = " KMGT".index(unit[0])
    return int(text.removesuffix(unit)) * int((1024 if "i" in unit else 1000) ** power)


_NOBODY_IN_PARTICULAR: Final = (
    "q7@q7.invalid",
    "https://q7.invalid",
    "https://q7.invalid/q7/q7/.github/workflows/q7.yml@refs/heads/q7",
    "spiffe://q7.invalid/q7",
)


def _check_patterns(document: _Document, settings: Settings) -> None:
    """Refuse an expression that takes identities nobody can have meant."""
    for rule_at, rule in enumerate(settings.policy):
        for at, identity in enumerate(rule.identities):
            for key in ("issuer_pattern", "pattern"):
                pattern = getattr(identity, key)
                if pattern is None:
                    continue
                setting = f"policy[{rule_at}].identities[{at}].{key}"
                try:
                    expression = re.compile(pattern)
                except (re.error, OverflowError, RecursionError) as err:
                    raise document.error(setting, f"not a regular expression: {err}") from err
                if any(expression.fullmatch(anybody) for anybody in _NOBODY_IN_PARTICULAR):
                    raise document.error(
                        setting,
                        "matches identities of anybody, and there is no any-identity setting: "
                        "name the host or domain that you trust",
                    )


def _require_files(settings: Settings) -> None:
    """Refuse names of files that are not there. The key's own file is left to the signer: only the
    workers that sign have it."""
    named: list[tuple[str, Path | None]]
    if isinstance(settings.trust, TufSettings):
        named = [("trust.tuf.root", settings.trust.root)]
        named.append(("trust.tuf.ca_file", settings.trust.ca_file))
    else:
        named = [("trust.trusted_root", settings.trust)]
    if settings.rekor:
        named.append(("rekor.public_key", settings.rekor.public_key))
    named += [
        (f"timestamps[{at}].certificates", item.certificates)
        for at, item in enumerate(settings.timestamps)
    ]
    named += [
        (f"policy[{at}].keys[{key_at}].file", file)
        for at, rule in enumerate(settings.policy)
        for key_at, file in enumerate(rule.keys)
    ]
    for group, items in (("registries", settings.registries), ("sites", settings.sites)):
        named += [
            (f"{group}[{at}].{key}", getattr(item, key, None))
            for at, item in enumerate(items)
            for key in _FILES
        ]
    for setting, file in named:
        if file is not None and not file.is_file():
            raise SettingsError(setting, f"no such file: {file}", settings.where(setting))
    for at, item in enumerate(settings.registries):
        if isinstance(item, LayoutSettings) and not item.layout.is_dir():
            setting = f"registries[{at}].layout"
            raise SettingsError(setting, f"no such folder: {item.layout}", settings.where(setting))


def _with_listed_repositories(settings: Settings) -> Settings:
    """The settings, with the names and patterns of each ``repositories_file`` read in."""
    registries = []
    for at, item in enumerate(settings.registries):
        if item.repositories_file is not None:
            setting = f"registries[{at}].repositories_file"
            listed = _listed(item.repositories_file, setting, settings.where(setting))
            item = replace(item, repositories=(*item.repositories, *listed))
        registries.append(item)
    return replace(settings, registries=tuple(registries))


_LISTED = re.compile(r"[a-z0-9*][a-z0-9*._/-]{0,254}")


def _listed(file: Path, setting: str, where: str) -> list[str]:
    """A name or pattern a line; what follows a ``#`` is for people."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as err:
        raise SettingsError(setting, f"{file} cannot be read: {type(err).__name__}", where) from err
    if len(data) > MAX_BYTES:
        raise SettingsError(setting, f"{file} is larger than the {MAX_BYTES} bytes allowed", where)
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        name = line.partition("#")[0].strip()
        if name and _LISTED.fullmatch(name) is None:
            raise SettingsError(
                setting, f"{file}:{number}: expected the name or pattern of repositories", where
            )
        if name:
            found.append(name)
    if not found:
        raise SettingsError(setting, f"{file} names no repository", where)
    return found
