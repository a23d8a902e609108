"""A key in a PKCS #11 token: an HSM, a smart card, SoftHSM."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from longseal.errors import MalformedError, RetryableError, SettingsError, SignerError
from longseal.seal.keys import load_spki, spki, supported
from longseal.seal.signers.interface import PublicKey

_SETTING: Final = "signer.uri"
_PATH: Final = ("token", "serial", "model", "manufacturer", "object", "id", "type")
_QUERY: Final = ("module-path", "pin-source")

# DER of DigestInfo up to the digest itself, for SHA-256 (RFC 8017 section 9.2, note 1).
_SHA256_INFO: Final = bytes.fromhex("3031300d060960864801650304020105000420")


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """What an RFC 7512 URI says, as far as one private key needs it.

    :param module: file of the PKCS #11 library
    :param pin_source: ``file:/path`` or ``env:NAME``
    """

    module: str
    pin_source: str
    token: str | None = None
    serial: str | None = None
    model: str | None = None
    manufacturer: str | None = None
    object: str | None = None
    id: bytes | None = None

    @classmethod
    def parse(cls, uri: str) -> Pkcs11Uri:
        """:raises SettingsError: not such a URI; the message never repeats it"""
        scheme, _, rest = uri.partition(":")
        if scheme != "pkcs11":
            raise SettingsError(_SETTING, "expected pkcs11:token=...;object=...?module-path=...")
        path_text, _, query_text = rest.partition("?")
        path = _attributes(path_text, ";", _PATH)
        query = _attributes(query_text, "&", _QUERY)
        for needed in _QUERY:
            if needed not in query:
                raise SettingsError(
                    _SETTING, f"{needed} is missing: add it after the question mark"
                )
        pin_source = _text(query["pin-source"], "pin-source")
        if not pin_source.startswith(("file:/", "env:")):
            raise SettingsError(_SETTING, "pin-source is file:/path or env:NAME")
        if path.pop("type", b"private") != b"private":
            raise SettingsError(_SETTING, "type= is another one than private: name the key")
        names = {name: _text(path[name], name) for name in path if name != "id"}
        module = _text(query["module-path"], "module-path")
        return cls(module, pin_source, **names, id=path.get("id"))

    @property
    def of_token(self) -> tuple[str | None, ...]:
        """What names the token."""
        return self.token, self.serial, self.model, self.manufacturer

    def pin(self) -> str:
        """The PIN, read now.

        :raises SettingsError: the file or variable is not there, or empty
        """
        kind, _, where = self.pin_source.partition(":")
        if kind == "env":
            pin = os.environ.get(where, "")
        else:
            try:
                pin = Path(where.removeprefix("//")).read_text().rstrip("\r\n")
            except (OSError, UnicodeDecodeError):
                # Not chained: a decoding error quotes the file's bytes.
                raise SettingsError(_SETTING, f"cannot read pin-source {where}") from None
        if not pin:
            raise SettingsError(_SETTING, f"pin-source {self.pin_source} is empty or not set")
        return pin


def _attributes(text: str, separator: str, known: tuple[str, ...]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in text.split(separator) if text else []:
        name, equals, value = part.partition("=")
        if name in ("pin-value", "pin"):
            raise SettingsError(
                _SETTING, "a PIN does not belong in the settings: use pin-source=env:NAME or file:"
            )
        if not equals or name not in known:
            raise SettingsError(
                _SETTING, f"unknown attribute; those known here: {', '.join(known)}"
            )
        if name in found:
            raise SettingsError(_SETTING, f"{name} is given twice")
        found[name] = unquote_to_bytes(value)
    return found


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise SettingsError(_SETTING, f"{name} is not UTF-8") from None


class _Module:
    """A loaded library, and the sessions that this process has through it, one for each token.

    A login belongs to the process, not to the session (PKCS #11 v2.40 section 2.6): were a session
    closed that somebody opened with a PIN, all others of the token would be logged out. So sessions
    stay open as long as the process; who uses one holds the lock.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.stale = False
        self.sessions: dict[tuple[str | None, ...], Any] = {}
        # What a token said to a PIN, by their hash: asked again with the same one, it might lock.
        self.refused: dict[int, str] = {}

    def library(self) -> Any:
        import pkcs11

        if not Path(self.path).is_file():
            raise SettingsError(_SETTING, f"module-path {self.path} is not there")
        try:
            library = pkcs11.lib(self.path)
        except (pkcs11.PKCS11Error, OSError) as err:
            raise SettingsError(
                _SETTING, f"module-path {self.path} does not load as a PKCS #11 library"
            ) from err
        if self.stale:
            library.reinitialize()
            self.stale = False
        return library

    def session(self, uri: Pkcs11Uri) -> Any:
        """The session with the token that ``uri`` names, logged in at its first use."""
        library = self.library()
        if uri.of_token not in self.sessions:
            self.sessions[uri.of_token] = self._open(_token(library, uri), uri)
        return self.sessions[uri.of_token]

    def forget(self) -> None:
        """Begin anew with the next use: some libraries find a device again only then."""
        self.sessions = {}
        self.stale = True

    def _open(self, token: Any, uri: Pkcs11Uri) -> Any:
        import pkcs11

        pin = uri.pin()
        tried = hash((token.serial, pin))
        if tried in self.refused:
            raise SignerError(self.refused[tried])
        try:
            # Read-write, because CloudHSM has no other sessions.
            return token.open(rw=True, user_pin=pin)
        except pkcs11.UserAlreadyLoggedIn:
            return token.open(rw=True)
        except _pin_refused() as err:
            self.refused[tried] = (
                f"token {token.label!r} refused the PIN from {uri.pin_source}: {_name(err)}; it is "
                "not tried again, for tokens lock themselves"
            )
            raise SignerError(self.refused[tried]) from err


_modules: dict[str, _Module] = {}
_modules_lock = threading.Lock()


def _module(path: str) -> _Module:
    with _modules_lock:
        return _modules.setdefault(path, _Module(path))


def _after_fork() -> None:
    # A child must initialise the library anew (section 2.5.1 there). Another thread of the parent
    # may have held a lock at the fork, so the locks are new too.
    global _modules_lock
    _modules_lock = threading.Lock()
    for module in _modules.values():
        module.lock = threading.Lock()
        module.forget()


os.register_at_fork(after_in_child=_after_fork)


class Pkcs11Signer:
    """Signs with the one private key that a URI names. Nothing is loaded before first use.

    :param uri: RFC 7512, as in
        ``pkcs11:token=longseal;object=org?module-path=/usr/lib/x.so&pin-source=env:PIN``
    :raises SettingsError: the URI cannot be used
    """

    def __init__(self, uri: str) -> None:
        self.uri = Pkcs11Uri.parse(uri)
        self._public: PublicKey | None = None

    @property
    def warning(self) -> str | None:
        return None

    @property
    def public_key(self) -> PublicKey:
        if self._public is None:
            with self._key() as (session, key):
                self._public = _public_key(session, key)
        return self._public

    def sign(self, message: bytes) -> bytes:
        public = self.public_key
        with self._key() as (_, key):
            return _sign(key, public, message, self.uri.pin)

    @contextmanager
    def _key(self) -> Iterator[tuple[Any, Any]]:
        """A session and the private key in it, for the time that the module is held."""
        import pkcs11

        module = _module(self.uri.module)
        with module.lock:
            try:
                yield self._found(module)
            except Exception as err:
                module.forget()
                if isinstance(err, _lost()):
                    raise RetryableError(
                        f"the token was lost, or failed: {_name(err)}; is it connected?"
                    ) from err
                if isinstance(err, pkcs11.PKCS11Error):
                    raise SignerError(f"the token refused: {_name(err)}") from err
                raise

    def _found(self, module: _Module) -> tuple[Any, Any]:
        import pkcs11

        kept = self.uri.of_token in module.sessions
        try:
            session = module.session(self.uri)
            return session, _private_key(session, self.uri)
        except (SignerError, pkcs11.PKCS11Error):
            if not kept:
                raise
        # The kept session timed out, was logged out by another user of the library, or its token
        # was pulled and put back. Nothing is signed yet: begin anew, once.
        module.forget()
        session = module.session(self.uri)
        return session, _private_key(session, self.uri)


def _lost() -> tuple[type[Exception], ...]:
    import pkcs11

    return (
        pkcs11.DeviceError,
        pkcs11.DeviceMemory,
        pkcs11.DeviceRemoved,
        # What network HSMs say when they cannot be reached, and drivers of cards that were pulled.
        pkcs11.FunctionFailed,
        pkcs11.GeneralError,
        pkcs11.KeyHandleInvalid,
        pkcs11.ObjectHandleInvalid,
        pkcs11.SessionClosed,
        pkcs11.SessionCount,
        pkcs11.SessionHandleInvalid,
        pkcs11.TokenNotPresent,
        pkcs11.TokenNotRecognised,
        pkcs11.UserNotLoggedIn,
    )


def _pin_refused() -> tuple[type[Exception], ...]:
    import pkcs11

    return (
        pkcs11.PinIncorrect,
        pkcs11.PinInvalid,
        pkcs11.PinLenRange,
        pkcs11.PinLocked,
        pkcs11.PinExpired,
        pkcs11.UserPinNotInitialized,
    )


def _name(err: BaseException) -> str:
    return type(err).__name__


def _token(library: Any, uri: Pkcs11Uri) -> Any:
    from pkcs11 import TokenFlag

    present = list(library.get_tokens(token_flags=TokenFlag.TOKEN_INITIALIZED))
    tokens = [
        token
        for token in present
        if all(
            wanted in (None, found)
            for wanted, found in zip(uri.of_token, _of_token(token), strict=True)
        )
    ]
    if len(tokens) != 1:
        found = ", ".join(f"{each.label!r} ({each.serial.decode()})" for each in present[:8])
        raise SignerError(
            f"expected one token for {_SETTING}, {len(tokens)} match; name it by token= or "
            f"serial=, and see that it is connected; present: {found or 'none'}"
        )
    return tokens[0]


def _of_token(token: Any) -> tuple[str, ...]:
    return token.label, token.serial.decode(), token.model, token.manufacturer_id


def _private_key(session: Any, uri: Pkcs11Uri) -> Any:
    from pkcs11 import Attribute, ObjectClass

    wanted: dict[Any, Any] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
    if uri.object is not None:
        wanted[Attribute.LABEL] = uri.object
    if uri.id is not None:
        wanted[Attribute.ID] = uri.id
    keys: list[Any] = list(session.get_objects(wanted))
    if len(keys) != 1:
        found = ", ".join(f"object={each.label};id={_percent(each.id)}" for each in keys[:8])
        say = "add object= or id=" if keys else "check object=, id= and the token"
        raise SignerError(
            f"expected one private key for {_SETTING}, {len(keys)} match; {say}"
            + (f": {found}" if found else "")
        )
    return keys[0]


def _percent(data: bytes) -> str:
    return "".join(f"%{byte:02x}" for byte in data)


def _public_key(session: Any, private: Any) -> PublicKey:
    from pkcs11 import Attribute, ObjectClass

    what = "the token's public key"
    beside: tuple[Any, Any] = (
        (Attribute.ID, private.id) if private.id else (Attribute.LABEL, private.label)
    )
    readers: list[tuple[Any, Callable[[Any], PublicKey]]] = [
        (ObjectClass.PUBLIC_KEY, lambda each: load_spki(_spki(each), what)),
        (ObjectClass.CERTIFICATE, lambda each: _certified(each[Attribute.VALUE], what)),
    ]
    for kind, read in readers:
        # The search ends before the objects are read: a token has one operation at a time.
        objects = list(session.get_objects({Attribute.CLASS: kind, beside[0]: beside[1]}))
        found = {spki(key): key for key in map(read, objects)}
        if len(found) > 1:
            raise SignerError(f"{len(found)} different public keys stand beside the private key")
        if found:
            return next(iter(found.values()))
    raise SignerError(
        "the token has no public key and no certificate with the private key's id or label: "
        "import one of them"
    )


def _spki(public: Any) -> bytes:
    from pkcs11 import Attribute, KeyType
    from pkcs11.util.ec import encode_ec_public_key
    from pkcs11.util.rsa import encode_rsa_public_key

    match public.key_type:
        case KeyType.EC:
            return encode_ec_public_key(public)
        case KeyType.RSA:
            return spki(supported(load_der_public_key(encode_rsa_public_key(public)), "RSA key"))
        case KeyType.EC_EDWARDS:
            # PKCS #11 v3.0 wraps the point in an OCTET STRING, v3.1 does not; tokens do both.
            point = public[Attribute.EC_POINT]
            if len(point) == 34:
                point = point.removeprefix(b"\x04\x20")
            if len(point) == 32:
                return spki(ed25519.Ed25519PublicKey.from_public_bytes(point))
    raise SignerError(f"the token's key is of kind {public.key_type!r}: use P-256, RSA or Ed25519")


def _certified(der: bytes, what: str) -> PublicKey:
    try:
        return supported(x509.load_der_x509_certificate(der).public_key(), what)
    except ValueError as err:
        raise MalformedError("the certificate beside the token's key cannot be read") from err


def _sign(key: Any, public: PublicKey, message: bytes, pin: Callable[[], str]) -> bytes:
    from pkcs11 import Attribute, AttributeTypeInvalid, Mechanism

    try:
        always = bool(key[Attribute.ALWAYS_AUTHENTICATE])
    except AttributeTypeInvalid:
        always = False
    again = {"pin": pin()} if always else {}
    # Tokens hash too, but not all: SoftHSM has no CKM_ECDSA_SHA256, CloudHSM no multi-part signing.
    digest = hashlib.sha256(message).digest()
    match public:
        case ec.EllipticCurvePublicKey():
            raw: bytes = key.sign(digest, mechanism=Mechanism.ECDSA, **again)
            return _der(raw, (public.key_size + 7) // 8)
        case rsa.RSAPublicKey():
            signature: bytes = key.sign(
                _SHA256_INFO + digest, mechanism=Mechanism.RSA_PKCS, **again
            )
            return signature
        case ed25519.Ed25519PublicKey():
            signature = key.sign(message, mechanism=Mechanism.EDDSA, **again)
            return signature


def _der(raw: bytes, width: int) -> bytes:
    """ECDSA's r and s, each of ``width`` bytes, as the DER that X.509 and DSSE use."""
    if len(raw) != 2 * width:
        raise SignerError(f"the token's signature has {len(raw)} bytes, not {2 * width}")
    return encode_dss_signature(
        int.from_bytes(raw[:width], "big"), int.from_bytes(raw[width:], "big")
    )
