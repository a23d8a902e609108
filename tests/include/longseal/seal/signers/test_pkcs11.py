import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from tests.doubles import softhsm
from tests.doubles.softhsm import PIN, SoftHsm

from longseal.errors import (
    RetryableError,
    SettingsError,
    SignerError,
    UnsupportedError,
)
from longseal.seal.keys import fingerprint, spki, verify_signature
from longseal.seal.signers import pkcs11 as module
from longseal.seal.signers.checked import sign_checked
from longseal.seal.signers.pkcs11 import Pkcs11Signer, Pkcs11Uri

GOOD = "pkcs11:token=t?module-path=/lib/x.so&pin-source=env:PIN"
ORG = ec.generate_private_key(ec.SECP256R1())
STRANGER = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    with softhsm.softhsm(tmp_path_factory.mktemp("softhsm")) as hsm:
        _fill(hsm)
        yield hsm


def _fill(hsm: SoftHsm) -> None:
    for token in ("longseal", "guarded", "double", "double"):
        hsm.token(token)
    hsm.load("longseal", "org", "0001", ORG)
    hsm.load("longseal", "rsa", "02", RSA)
    hsm.load("longseal", "p384", "04", ec.generate_private_key(ec.SECP384R1()))
    hsm.load("longseal", "p521", "05", ec.generate_private_key(ec.SECP521R1()))
    hsm.load("longseal", "twin", "0a", ec.generate_private_key(ec.SECP256R1()))
    hsm.load("longseal", "twin", "0b", ec.generate_private_key(ec.SECP256R1()))
    hsm.load("guarded", "org", "01", ORG)

    def more(session: object) -> None:
        from pkcs11 import Attribute

        session.create_object(softhsm.private_object(ORG, "bare", b"\x0c"))
        session.create_object(softhsm.private_object(ORG, "certified", b"\x0d"))
        session.create_object(softhsm.certificate_object(ORG, "certified", b"\x0d"))
        session.create_object(softhsm.private_object(ORG, "mismatch", b"\x0e"))
        session.create_object(softhsm.public_object(STRANGER.public_key(), "mismatch", b"\x0e"))
        session.create_object(softhsm.private_object(ORG, "torn", b"\x0f"))
        for key in (ORG, STRANGER):
            session.create_object(softhsm.public_object(key.public_key(), "torn", b"\x0f"))
        always = softhsm.private_object(ORG, "always", b"\x10")
        session.create_object({**always, Attribute.ALWAYS_AUTHENTICATE: True})
        session.create_object(softhsm.public_object(ORG.public_key(), "always", b"\x10"))

    hsm.edit("longseal", more)


def log_out(hsm: SoftHsm) -> None:
    hsm.edit("longseal", lambda session: None)


@pytest.fixture(autouse=True)
def pin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGSEAL_TEST_PIN", PIN)


def test_the_parts_of_a_uri_are_percent_decoded() -> None:
    uri = Pkcs11Uri.parse(
        "pkcs11:token=my%20token;serial=ab12;object=caf%C3%A9%3B;id=%00%01"
        "?module-path=/lib/a%20b.so&pin-source=file:/run/pin"
    )
    assert uri == Pkcs11Uri(
        module="/lib/a b.so",
        pin_source="file:/run/pin",
        token="my token",
        serial="ab12",
        object="café;",
        id=b"\x00\x01",
    )


def test_a_uri_as_tools_print_it_is_taken() -> None:
    uri = Pkcs11Uri.parse(
        "pkcs11:model=SoftHSM%20v2;manufacturer=SoftHSM%20project;serial=ab;token=t;id=%01;"
        "object=org;type=private?module-path=/x.so&pin-source=env:PIN"
    )
    assert uri.of_token == ("t", "ab", "SoftHSM v2", "SoftHSM project")


@pytest.mark.parametrize("other", ["model=Luna", "manufacturer=Thales", "serial=0"])
def test_all_that_names_the_token_must_match(hsm: SoftHsm, other: str) -> None:
    good = "model=SoftHSM%20v2;manufacturer=SoftHSM%20project;object=org;type=private"
    Pkcs11Signer(hsm.uri("longseal", f";{good}")).sign(b"m")
    with pytest.raises(SignerError, match="expected one token"):
        Pkcs11Signer(hsm.uri("longseal", f";{other};object=org")).sign(b"m")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "file:/x",
        "pkcs11:token=t",
        "pkcs11:token=t?module-path=/x.so",
        "pkcs11:token=t?pin-source=env:PIN",
        "pkcs11:token=t;token=u?module-path=/x.so&pin-source=env:PIN",
        "pkcs11:tokne=t?module-path=/x.so&pin-source=env:PIN",
        "pkcs11:token=t;type=public?module-path=/x.so&pin-source=env:PIN",
        "pkcs11:token?module-path=/x.so&pin-source=env:PIN",
        "pkcs11:token=%ff?module-path=/x.so&pin-source=env:PIN",
        "pkcs11:token=t?module-path=/x.so&pin-source=env:PIN&module-name=x",
        "pkcs11:token=t?module-path=/x.so&pin-source=|cat%20pin",
        "pkcs11:token=t?module-path=/x.so&pin-source=pin.txt",
    ],
)
def test_a_uri_that_cannot_be_used_names_the_setting(uri: str) -> None:
    with pytest.raises(SettingsError, match=r"^signer\.uri: "):
        Pkcs11Signer(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "pkcs11:token=t?module-path=/x.so&pin-value=5ecre7",
        "pkcs11:token=t;pin-value=5ecre7?module-path=/x.so",
        "pkcs11:token=t?module-path=/x.so&pin-source=5ecre7",
        "pkcs11:token=t?module-path=/x.so&pin-source=env:A&5ecre7",
        "pkcs11:token=t?module-path=/x.so&5ecre7=1",
    ],
)
def test_a_pin_in_the_uri_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Pkcs11Signer(uri)
    assert "5ecre7" not in str(caught.value)


def test_nothing_is_loaded_before_first_use() -> None:
    signer = Pkcs11Signer(GOOD)
    assert signer.warning is None
    with pytest.raises(SettingsError, match=r"signer\.uri: module-path /lib/x\.so is not there"):
        _ = signer.public_key


def test_a_module_that_is_no_library_is_a_setting_to_correct(tmp_path: Path) -> None:
    (tmp_path / "x.so").write_text("not a library")
    signer = Pkcs11Signer(f"pkcs11:?module-path={tmp_path}/x.so&pin-source=env:PIN")
    with pytest.raises(SettingsError, match="does not load as a PKCS #11 library"):
        signer.sign(b"m")


def test_a_p256_key_signs_in_der(hsm: SoftHsm) -> None:
    signer = Pkcs11Signer(hsm.uri("longseal", ";object=org"))
    assert spki(signer.public_key) == spki(ORG.public_key())
    for _ in range(20):
        sign_checked(signer, b"message", fingerprint(ORG.public_key()))


def test_a_large_message_is_hashed_here(hsm: SoftHsm) -> None:
    signer = Pkcs11Signer(hsm.uri("longseal", ";id=%00%01"))
    sign_checked(signer, b"m" * 5_000_000, fingerprint(ORG.public_key()))


@pytest.mark.parametrize("name", ["rsa", "p384"])
def test_keys_of_other_kinds_sign_too(hsm: SoftHsm, name: str) -> None:
    signer = Pkcs11Signer(hsm.uri("longseal", f";object={name}"))
    verify_signature(signer.public_key, signer.sign(b"message"), b"message")


def test_an_ed25519_key_that_was_imported_signs(hsm: SoftHsm) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    try:
        hsm.load("guarded", "ed", "03", key)
    except CalledProcessError:
        pytest.skip("this SoftHSM was built without Ed25519")
    hsm.edit("guarded", lambda session: None)
    signer = Pkcs11Signer(hsm.uri("guarded", ";object=ed"))
    sign_checked(signer, b"m", fingerprint(key.public_key()))


def test_an_ed25519_key_that_was_born_in_the_token_signs(hsm: SoftHsm) -> None:
    import pkcs11
    from pkcs11.util.ec import encode_named_curve_parameters

    def generate(session: pkcs11.Session) -> None:
        curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("1.3.101.112")}
        kind = pkcs11.KeyType.EC_EDWARDS
        session.create_domain_parameters(kind, curve, local=True).generate_keypair(
            mechanism=pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN, store=True, label="born"
        )

    try:
        hsm.edit("guarded", generate)
    except pkcs11.MechanismInvalid:
        pytest.skip("this SoftHSM was built without Ed25519")
    signer = Pkcs11Signer(hsm.uri("guarded", ";object=born"))
    verify_signature(signer.public_key, signer.sign(b"m"), b"m")


def test_a_key_that_cosign_would_not_verify_is_refused(hsm: SoftHsm) -> None:
    signer = Pkcs11Signer(hsm.uri("longseal", ";object=p521"))
    with pytest.raises(UnsupportedError, match="found a key on secp521r1"):
        _ = signer.public_key


def test_two_matching_keys_are_listed_with_what_to_add(hsm: SoftHsm) -> None:
    signer = Pkcs11Signer(hsm.uri("longseal", ";object=twin"))
    with pytest.raises(SignerError, match="2 match") as caught:
        signer.sign(b"m")
    assert "add object= or id=" in str(caught.value)
    assert "object=twin;id=%0a" in str(caught.value)
    signer = Pkcs11Signer(hsm.uri("longseal", ";object=twin;id=%0a"))
    verify_signature(signer.public_key, signer.sign(b"m"), b"m")


def test_no_matching_key_is_an_error(hsm: SoftHsm) -> None:
    with pytest.raises(SignerError, match="0 match"):
        Pkcs11Signer(hsm.uri("longseal", ";object=absent")).sign(b"m")


def test_a_token_full_of_keys_with_one_label_signs_with_none_and_names_a_few(
    hsm: SoftHsm,
) -> None:
    def fill(session: object) -> None:
        for number in range(60):
            session.create_object(softhsm.private_object(ORG, "crowd", bytes([1, number])))

    hsm.edit("longseal", fill)
    with pytest.raises(SignerError, match="60 match") as caught:
        Pkcs11Signer(hsm.uri("longseal", ";object=crowd")).sign(b"m")
    assert str(caught.value).count("object=crowd") == 8


@pytest.mark.parametrize("token", ["absent", "double"])
def test_one_token_must_match(hsm: SoftHsm, token: str) -> None:
    with pytest.raises(SignerError, match=r"name it by token= or serial=.*; present: .*'longseal'"):
        Pkcs11Signer(hsm.uri(token)).sign(b"m")


def test_a_certificate_stands_in_for_the_public_key(hsm: SoftHsm) -> None:
    signer = Pkcs11Signer(hsm.uri("longseal", ";object=certified"))
    sign_checked(signer, b"m", fingerprint(ORG.public_key()))


def test_a_private_key_with_nothing_beside_it_cannot_sign(hsm: SoftHsm) -> None:
    with pytest.raises(SignerError, match="no public key and no certificate"):
        Pkcs11Signer(hsm.uri("longseal", ";object=bare")).sign(b"m")


def test_two_public_keys_beside_one_private_key_are_an_error(hsm: SoftHsm) -> None:
    with pytest.raises(SignerError, match="2 different public keys"):
        Pkcs11Signer(hsm.uri("longseal", ";object=torn")).sign(b"m")


def test_a_public_object_of_another_key_is_caught_before_anything_is_published(
    hsm: SoftHsm,
) -> None:
    signer = Pkcs11Signer(hsm.uri("longseal", ";object=mismatch"))
    with pytest.raises(SignerError, match="its own public key"):
        sign_checked(signer, b"m", fingerprint(STRANGER.public_key()))


def test_a_key_that_asks_for_the_pin_each_time_gets_it(hsm: SoftHsm) -> None:
    signer = Pkcs11Signer(hsm.uri("longseal", ";object=always"))
    for _ in range(2):
        sign_checked(signer, b"m", fingerprint(ORG.public_key()))


def test_the_pin_may_be_in_a_file(hsm: SoftHsm, tmp_path: Path) -> None:
    (tmp_path / "pin").write_text(f"{PIN}\n")
    signer = Pkcs11Signer(hsm.uri("longseal", ";object=org", f"file:{tmp_path}/pin"))
    verify_signature(signer.public_key, signer.sign(b"m"), b"m")
    assert Pkcs11Uri.parse(GOOD.replace("env:PIN", f"file://{tmp_path}/pin")).pin() == PIN


def test_a_missing_pin_names_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="env:NOWHERE is empty or not set"):
        Pkcs11Uri.parse(GOOD.replace("PIN", "NOWHERE")).pin()
    with pytest.raises(SettingsError, match="cannot read pin-source"):
        Pkcs11Uri.parse(GOOD.replace("env:PIN", f"file:{tmp_path}/pin")).pin()


def test_a_wrong_pin_is_refused_once_and_never_tried_again(
    hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "99999999"
    log_out(hsm)
    monkeypatch.setenv("LONGSEAL_TEST_PIN", wrong)
    with pytest.raises(SignerError, match="refused the PIN from env:LONGSEAL_TEST_PIN") as caught:
        Pkcs11Signer(hsm.uri("guarded", ";object=org")).sign(b"m")
    assert wrong not in str(caught.value)
    # Were the token asked again, it would take this PIN now.
    hsm.edit("guarded", lambda session: session.set_pin(PIN, wrong))
    try:
        for _ in range(3):
            with pytest.raises(SignerError, match="refused the PIN"):
                Pkcs11Signer(hsm.uri("guarded", ";object=org")).sign(b"m")
    finally:
        hsm.edit("guarded", lambda session: session.set_pin(wrong, PIN), wrong)
    monkeypatch.setenv("LONGSEAL_TEST_PIN", PIN)
    Pkcs11Signer(hsm.uri("guarded", ";object=org")).sign(b"m")


def test_a_process_logs_in_once_whatever_signers_it_opens(
    hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pkcs11Signer(hsm.uri("longseal", ";object=org")).sign(b"m")
    monkeypatch.setenv("LONGSEAL_TEST_PIN", "no longer known")
    for name in ("org", "rsa", "org"):
        signer = Pkcs11Signer(hsm.uri("longseal", f";object={name}"))
        verify_signature(signer.public_key, signer.sign(b"m"), b"m")


def test_a_worker_that_was_killed_leaves_nothing_that_stops_the_next(hsm: SoftHsm) -> None:
    def work(end: int) -> int:
        child = os.fork()
        if child == 0:
            try:
                signer = Pkcs11Signer(hsm.uri("longseal", ";object=org"))
                sign_checked(signer, b"m", fingerprint(ORG.public_key()))
                os.kill(os.getpid(), end)
            finally:
                os._exit(1)
        return os.WTERMSIG(os.waitpid(child, 0)[1])

    for _ in range(3):
        assert work(signal.SIGKILL) == signal.SIGKILL


def test_two_signers_of_one_token_do_not_log_each_other_out(hsm: SoftHsm) -> None:
    first = Pkcs11Signer(hsm.uri("longseal", ";object=org"))
    second = Pkcs11Signer(hsm.uri("longseal", ";object=rsa"))
    for signer in (first, second, first):
        verify_signature(signer.public_key, signer.sign(b"m"), b"m")


def test_a_login_made_elsewhere_in_the_process_is_used(hsm: SoftHsm) -> None:
    import pkcs11

    log_out(hsm)
    signer = Pkcs11Signer(hsm.uri("longseal", ";object=org"))
    with pkcs11.lib(softhsm.MODULE).get_token(token_label="longseal").open(user_pin=PIN):
        signer.sign(b"m")
        signer.sign(b"m")
    signer.sign(b"m")


def test_threads_take_turns(hsm: SoftHsm) -> None:
    signer = Pkcs11Signer(hsm.uri("longseal", ";object=org"))
    made: list[bytes] = []

    def work() -> None:
        made.extend(signer.sign(b"%d" % n) for n in range(25))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(made) == 200


def test_a_forked_task_signs_with_a_session_of_its_own(hsm: SoftHsm) -> None:
    signer = Pkcs11Signer(hsm.uri("longseal", ";object=org"))
    signer.sign(b"parent")
    child = os.fork()
    if child == 0:
        try:
            stale = module._module(softhsm.MODULE).stale
            sign_checked(signer, b"child", fingerprint(ORG.public_key()))
            os._exit(0 if stale else 2)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    sign_checked(signer, b"parent again", fingerprint(ORG.public_key()))


def test_a_fork_while_another_thread_signs_does_not_hang(hsm: SoftHsm) -> None:
    signer = Pkcs11Signer(hsm.uri("longseal", ";object=org"))
    signer.sign(b"parent")
    with module._module(softhsm.MODULE).lock:
        child = os.fork()
        if child == 0:
            try:
                signer.sign(b"child")
                os._exit(0)
            except BaseException:
                os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_token_lost_between_two_calls_is_worth_a_retry_which_then_works(
    hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pkcs11

    signer = Pkcs11Signer(hsm.uri("longseal", ";object=org"))

    def removed(*_: object) -> object:
        raise pkcs11.DeviceRemoved

    with monkeypatch.context() as patch:
        patch.setattr(module, "_private_key", removed)
        with pytest.raises(RetryableError, match="the token was lost, or failed: DeviceRemoved"):
            signer.sign(b"m")
    assert module._module(softhsm.MODULE).stale
    sign_checked(signer, b"m", fingerprint(ORG.public_key()))


def test_a_token_that_was_pulled_between_two_calls_is_found_again_when_it_is_back(
    hsm: SoftHsm,
) -> None:
    signer = Pkcs11Signer(hsm.uri("longseal", ";object=org"))
    pinned = fingerprint(ORG.public_key())
    sign_checked(signer, b"m", pinned)
    (hsm.folder / "tokens").rename(hsm.folder / "pulled")
    (hsm.folder / "tokens").mkdir()
    try:
        for _ in range(2):
            with pytest.raises(SignerError, match=r"expected one token .* 0 match.*connected"):
                sign_checked(signer, b"m", pinned)
    finally:
        (hsm.folder / "tokens").rmdir()
        (hsm.folder / "pulled").rename(hsm.folder / "tokens")
    sign_checked(signer, b"m", pinned)


def test_the_raw_signature_keeps_its_leading_zeroes() -> None:
    r, s = 1, 2**255
    der = module._der(r.to_bytes(32, "big") + s.to_bytes(32, "big"), 32)
    assert decode_dss_signature(der) == (r, s)
    with pytest.raises(SignerError, match="63 bytes, not 64"):
        module._der(b"\1" * 63, 32)
