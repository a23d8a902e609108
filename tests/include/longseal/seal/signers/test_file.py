import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from longseal.errors import ConflictError, SettingsError, SignerError, UnsupportedError
from longseal.seal.keys import verify_signature
from longseal.seal.signers.file import FileSigner

PLAIN = NoEncryption()


def write(path: Path, key, encryption=PLAIN) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return path


def test_a_new_key_is_its_owner_s_alone_and_signs(tmp_path: Path) -> None:
    signer = FileSigner.create(tmp_path / "org.pem")
    assert stat.S_IMODE((tmp_path / "org.pem").stat().st_mode) == 0o600
    assert isinstance(signer.public_key.curve, ec.SECP256R1)
    verify_signature(signer.public_key, signer.sign(b"m"), b"m")
    verify_signature(FileSigner(tmp_path / "org.pem").public_key, signer.sign(b"m"), b"m")


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    FileSigner.create(tmp_path / "org.pem")
    before = (tmp_path / "org.pem").read_bytes()
    with pytest.raises(ConflictError, match="never overwritten"):
        FileSigner.create(tmp_path / "org.pem")
    assert (tmp_path / "org.pem").read_bytes() == before


def test_every_use_warns(tmp_path: Path) -> None:
    assert "Use a KMS or an HSM in production" in FileSigner.create(tmp_path / "k").warning


def test_an_ed25519_key_signs(tmp_path: Path) -> None:
    signer = FileSigner(write(tmp_path / "k", ed25519.Ed25519PrivateKey.generate()))
    verify_signature(signer.public_key, signer.sign(b"m"), b"m")


def test_a_password_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    path = write(tmp_path / "k", key, BestAvailableEncryption(b"open sesame"))
    monkeypatch.delenv("KEY_PASSWORD", raising=False)
    for signer in (FileSigner(path), FileSigner(path, "KEY_PASSWORD")):
        with pytest.raises(SettingsError, match=r"^signer\.password_env: .* is encrypted"):
            signer.sign(b"m")
    monkeypatch.setenv("KEY_PASSWORD", "wrong-5ecre7")
    with pytest.raises(SignerError, match="KEY_PASSWORD does not unlock it") as caught:
        FileSigner(path, "KEY_PASSWORD").sign(b"m")
    assert "5ecre7" not in str(caught.value)
    monkeypatch.setenv("KEY_PASSWORD", "open sesame")
    verify_signature(key.public_key(), FileSigner(path, "KEY_PASSWORD").sign(b"m"), b"m")


def test_a_password_that_is_set_does_not_disturb_a_plain_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_PASSWORD", "unused")
    FileSigner.create(tmp_path / "k")
    FileSigner(tmp_path / "k", "KEY_PASSWORD").sign(b"m")


def test_a_file_that_is_not_there_is_a_setting_to_correct(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^signer\.path: cannot read the key file"):
        FileSigner(tmp_path / "absent").sign(b"m")


def test_a_file_that_is_no_key_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("5ecre7 notes")
    with pytest.raises(SignerError, match="expected a PEM PKCS #8 key") as caught:
        FileSigner(tmp_path / "k").sign(b"m")
    assert "5ecre7" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "key", [x25519.X25519PrivateKey.generate(), ec.generate_private_key(ec.SECP521R1())]
)
def test_a_key_of_another_kind_is_refused(tmp_path: Path, key) -> None:
    with pytest.raises(UnsupportedError):
        _ = FileSigner(write(tmp_path / "k", key)).public_key
