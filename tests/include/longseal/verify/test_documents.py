import json
from pathlib import Path

import pytest

from longseal.errors import MalformedError
from longseal.verify.documents import pieces
from longseal.verify.formats import intake_manifest, readings

BUNDLE = b'{ "mediaType" : "application/vnd.dev.sigstore.bundle.v0.3+json", "n":[1, {"a":"}]"}]\n}'
UNNAMED = b'{"verificationMaterial":{},"dsseEnvelope":{}}'
PEP_740 = b'{"version":1,"envelope":{},"verification_material":{}}'
ENVELOPE = '{"payload":"é\\u00e9","signatures":[]}'.encode()


def found(data: bytes) -> list[tuple[str, bytes]]:
    return [(piece.format, piece.data) for piece in pieces(data)]


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (BUNDLE, "sigstore-bundle"),
        (UNNAMED, "sigstore-bundle"),
        (PEP_740, "pep-740"),
        (ENVELOPE, "dsse-envelope"),
    ],
)
def test_what_stands_alone_is_kept_without_the_space_around_it(data: bytes, form: str) -> None:
    assert found(b"\r\n\t " + data + b" \n") == [(form, data)]


def test_the_pieces_of_an_array_are_its_exact_text() -> None:
    data = b" [ " + BUNDLE + b" ,\n" + PEP_740 + b"," + ENVELOPE + b" ] "
    assert found(data) == [
        ("sigstore-bundle", BUNDLE),
        ("pep-740", PEP_740),
        ("dsse-envelope", ENVELOPE),
    ]


def test_what_is_unknown_among_evidence_is_unreadable_and_not_dropped() -> None:
    assert found(b"[1, " + BUNDLE + b', {"a": [2]}]') == [
        ("unreadable", b"1"),
        ("sigstore-bundle", BUNDLE),
        ("unreadable", b'{"a": [2]}'),
    ]


def test_answers_of_github_and_npm_hold_bundles() -> None:
    entries = b'{"predicateType":"x", "bundle": ' + BUNDLE + b'}, {"bundle":' + UNNAMED + b"}"
    answer = b'{"more": {"bundle": 1}, "attestations" : [ ' + entries + b" ] }"
    assert found(answer) == [("sigstore-bundle", BUNDLE), ("sigstore-bundle", UNNAMED)]


def test_a_bundle_that_lies_elsewhere_is_unreadable() -> None:
    entry = b'{"bundle": null, "bundle_url": "https://blobs.example/1"}'
    (piece,) = pieces(b'{"attestations":[' + entry + b"]}")
    assert (piece.format, piece.data) == ("unreadable", entry)
    assert piece.reason == "its bundle is not in the document"


def test_answers_of_pypi_hold_attestations_by_publisher() -> None:
    publisher = b'{"publisher":{"kind":"x"},"attestations":[' + PEP_740 + b"," + PEP_740 + b"]}"
    answer = b'{"version":1,"attestation_bundles":[' + publisher + b"," + publisher + b"]}"
    assert found(answer) == [("pep-740", PEP_740)] * 4


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"[]",
        b"[[]]",
        b'"text"',
        b"1",
        b"null",
        b'{"attestations":{}}',
        b'{"attestations":[1,[],{}]}',
        b'{"attestation_bundles":[1,{},{"attestations":"x"}]}',
        b'[{"attestations":[{"bundle":{"verificationMaterial":1}}]}]',
    ],
)
def test_other_documents_hold_nothing(data: bytes) -> None:
    assert pieces(data) == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        BUNDLE[:-3],
        BUNDLE + BUNDLE,
        b"\xef\xbb\xbf" + BUNDLE,
        b"\xff",
        b"[" * 200_000,
        b"[" * 200_000 + b"]" * 200_000,
        b'{"payload":1,"payload":2,"signatures":[]}',
        b"[" + b"{}," * 6_000_000 + b"{}]",
    ],
)
def test_what_is_no_document_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        pieces(data)


REAL = {
    "npm-cli/test/fixtures/sigstore/valid-tuf-js-attestations.json": [
        "npm-cli/test/fixtures/sigstore/valid-tuf-js-attestations.derived.0.provenance",
        "npm-cli/test/fixtures/sigstore/valid-tuf-js-attestations.derived.1.publish",
    ],
    "warehouse/tests/_fixtures/sampleproject-4.0.0.tar.gz.provenance": [
        "warehouse/tests/_fixtures/sampleproject-4.0.0.tar.gz.provenance.0.0.derived"
    ],
    "pypi-attestations/test/assets/rfc8785-0.1.2-py3-none-any.whl.attestation": [
        "pypi-attestations/test/assets/rfc8785-0.1.2-py3-none-any.whl.attestation.derived"
    ],
    "carabiner-pypi-attestations/testdata/pypi.attestation.json": [
        "carabiner-pypi-attestations/testdata/pypi.attestation.json.derived"
    ],
}


@pytest.mark.parametrize("name", REAL)
def test_real_documents_hold_the_bundles_that_were_derived_from_them(
    name: str, sigstore_bundles: Path
) -> None:
    data = (sigstore_bundles / name).read_bytes()
    expected = []
    for derived in REAL[name]:
        (path,) = (sigstore_bundles / derived).parent.glob(f"{Path(derived).name}*.sigstore.json")
        expected.append(json.loads(path.read_bytes()))
    read = []
    for piece in pieces(data):
        assert piece.data in data
        (reading,) = readings(piece.data, intake_manifest(piece.data, piece.format))
        read.append(json.loads(reading.bundle))
    assert read == expected
