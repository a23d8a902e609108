import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from sigstore.models import TrustedRoot
from tests.doubles.timestamp_authority import TimestampAuthorityDouble

from longseal.errors import MalformedError, UnsupportedError
from longseal.seal.timestamps import Authority
from longseal.seal.trusted_root import Log, format_trusted_root, parse_trusted_root

LOG = Log(
    "https://rekor.example", ed25519.Ed25519PrivateKey.generate().public_key(), "rekor.example"
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    with TimestampAuthorityDouble(tmp_path_factory.mktemp("tsa")) as double:
        yield Authority.load(double.url, double.pem, "tsa.pem")


def test_a_trusted_root_is_read_back_as_itself(authority: Authority) -> None:
    data = format_trusted_root([authority], LOG)
    assert parse_trusted_root(data) == ((authority,), LOG)
    assert format_trusted_root([authority], LOG) == data
    assert parse_trusted_root(format_trusted_root([authority])) == ((authority,), None)
    assert parse_trusted_root(format_trusted_root([], LOG)) == ((), LOG)


def test_sigstore_python_reads_it(authority: Authority, tmp_path: Path) -> None:
    path = tmp_path / "seal-trusted-root.json"
    path.write_bytes(format_trusted_root([authority], LOG))
    root = TrustedRoot.from_file(str(path))
    [found] = root.get_timestamp_authorities()
    assert tuple(found.certificates(allow_expired=True)) == authority.certificates


def test_a_log_on_p256_is_written_too(authority: Authority) -> None:
    log = LOG._replace(public_key=ec.generate_private_key(ec.SECP256R1()).public_key())
    assert parse_trusted_root(format_trusted_root([authority], log))[1] == log


@pytest.mark.parametrize(
    "key",
    [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())],
)
def test_a_log_with_another_kind_of_key_is_refused(key) -> None:
    with pytest.raises(UnsupportedError):
        format_trusted_root([], LOG._replace(public_key=key.public_key()))


@pytest.mark.parametrize(
    "change",
    [
        {"mediaType": "application/json"},
        {"certificateAuthorities": [{}]},
        {"ctlogs": [{}]},
        {"tlogs": [{}, {}]},
        {"tlogs": [{}]},
        {"tlogs": [{"baseUrl": "https://x", "publicKey": {"rawBytes": "AAAA"}}]},
        {"tlogs": [{"baseUrl": "https://x", "publicKey": {"rawBytes": 5}}]},
        {"timestampAuthorities": {}},
        {"timestampAuthorities": [1]},
        {"timestampAuthorities": [{}] * 33},
        {"timestampAuthorities": [{}]},
        {"timestampAuthorities": [{"uri": "u", "certChain": {"certificates": []}}]},
        {"timestampAuthorities": [{"uri": "u", "certChain": {"certificates": [{}]}}]},
        {"timestampAuthorities": [{"uri": "u", "certChain": {"certificates": [{}] * 11}}]},
        {
            "timestampAuthorities": [
                {"uri": "u", "certChain": {"certificates": [{"rawBytes": "!"}]}}
            ]
        },
    ],
)
def test_another_kind_of_file_is_refused(authority: Authority, change: dict) -> None:
    document = json.loads(format_trusted_root([authority], LOG)) | change
    with pytest.raises(MalformedError):
        parse_trusted_root(json.dumps(document).encode())
