import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256

from longseal.errors import MalformedError, VerificationError
from longseal.seal.checkpoint import (
    Checkpoint,
    Proof,
    key_id,
    parse_verifier_key,
    sign_note,
    verifier_key,
    verify_checkpoint,
    verify_note,
)
from longseal.seal.tree import Tree, leaf_hash

KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
ORIGIN = "stella.example/seal/7"
LINES = [b'{"n":%d}' % n for n in range(11)]
TREE = Tree.of(map(leaf_hash, LINES))
CHECKPOINT = Checkpoint(ORIGIN, TREE.size, TREE.root)
NOTE = sign_note(CHECKPOINT.format(), ORIGIN, KEY)

# The example of c2sp.org/signed-note.
SPEC_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = (
    "This is an example message.\n\n\N{EM DASH} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6Tf"
    "Xppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()


def test_the_specification_s_example_verifies() -> None:
    name, key = parse_verifier_key(SPEC_KEY)
    assert verify_note(SPEC_NOTE, name, key) == b"This is an example message.\n"
    assert verifier_key(name, key) == SPEC_KEY


def test_a_checkpoint_is_three_lines() -> None:
    text = CHECKPOINT.format()
    assert text == b"stella.example/seal/7\n11\n%b\n" % base64.b64encode(TREE.root)
    assert Checkpoint.parse(text) == CHECKPOINT


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n\n\n",
        CHECKPOINT.format()[:-1],
        CHECKPOINT.format() + b"extension\n",
        CHECKPOINT.format().replace(b"\n11\n", b"\n011\n"),
        CHECKPOINT.format().replace(b"\n11\n", b"\n+11\n"),
        CHECKPOINT.format().replace(b"\n11\n", b"\n-1\n"),
        CHECKPOINT.format().replace(b"\n11\n", b"\n1_1\n"),
        CHECKPOINT.format().replace(b"\n11\n", b"\n11 \n"),
        CHECKPOINT.format().replace(b"\n11\n", b"\n" + b"1" * 40 + b"\n"),
        CHECKPOINT.format().replace(b"=\n", b"\n"),
        b"o\n1\n" + base64.b64encode(bytes(31)) + b"\n",
        b"o\r\n1\n" + base64.b64encode(bytes(32)) + b"\n",
        b"\xff\n1\n" + base64.b64encode(bytes(32)) + b"\n",
        b"x" * 100_000 + b"\n1\n" + base64.b64encode(bytes(32)) + b"\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedError):
        Checkpoint.parse(text)


def test_a_second_spelling_of_the_root_is_refused() -> None:
    text = Checkpoint("o", 1, bytes(32)).format().replace(b"A=\n", b"B=\n")
    with pytest.raises(MalformedError, match="second spelling"):
        Checkpoint.parse(text)


def test_a_note_verifies_under_its_own_key_and_name_only() -> None:
    assert verify_note(NOTE, ORIGIN, KEY.public_key()) == CHECKPOINT.format()
    with pytest.raises(VerificationError, match="not signed by"):
        verify_note(NOTE, ORIGIN, OTHER.public_key())
    with pytest.raises(VerificationError, match="not signed by"):
        verify_note(NOTE, "stella.example/seal/8", KEY.public_key())


@pytest.mark.parametrize("place", range(len(CHECKPOINT.format())))
def test_no_byte_of_a_signed_text_can_change(place: int) -> None:
    changed = bytearray(NOTE)
    changed[place] ^= 1
    with pytest.raises((VerificationError, MalformedError)):
        verify_note(bytes(changed), ORIGIN, KEY.public_key())


def test_signatures_by_others_are_ignored() -> None:
    theirs = sign_note(CHECKPOINT.format(), "witness.example", OTHER).rpartition(b"\n\n")[2]
    text = verify_note(NOTE + theirs, ORIGIN, KEY.public_key())
    assert text == CHECKPOINT.format()


def test_a_bad_signature_under_the_right_name_is_not_ignored() -> None:
    bad = key_id(ORIGIN, KEY.public_key())[:4] + bytes(64)
    line = f"\N{EM DASH} {ORIGIN} {base64.b64encode(bad).decode()}\n".encode()
    with pytest.raises(VerificationError, match="was not made by"):
        verify_note(NOTE + line, ORIGIN, KEY.public_key())


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\n\n",
        CHECKPOINT.format(),
        CHECKPOINT.format() + b"\n",
        NOTE[:-1],
        NOTE.replace("\N{EM DASH}".encode(), b"-"),
        NOTE.replace(b"seal/7 ", b"seal/7  "),
        NOTE + b"junk\n",
        NOTE + "\N{EM DASH} w AAAA\n".encode(),
        NOTE + "\N{EM DASH} w !!!!\n".encode(),
        NOTE.replace(b"stella", b"st\tella"),
        NOTE.replace(b"stella", b"st\xffella"),
        NOTE + "\N{EM DASH} w AAAAAAA=\n".encode() * 10_000,
    ],
)
def test_what_is_no_note_is_refused(note: bytes) -> None:
    with pytest.raises(MalformedError):
        verify_note(note, ORIGIN, KEY.public_key())


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\N{NO-BREAK SPACE}b"])
def test_a_name_that_cannot_stand_in_a_note_is_refused(name: str) -> None:
    with pytest.raises(MalformedError):
        sign_note(b"text\n", name, KEY)


@pytest.mark.parametrize("text", [b"no newline", b"tab\t\n", b"\xff\n"])
def test_a_text_that_cannot_stand_in_a_note_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedError):
        sign_note(text, ORIGIN, KEY)


def test_an_ecdsa_log_s_note_verifies() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    text = CHECKPOINT.format()
    signature = key_id(ORIGIN, key.public_key())[:4] + key.sign(text, ec.ECDSA(SHA256()))
    line = f"\n\N{EM DASH} {ORIGIN} {base64.b64encode(signature).decode()}\n"
    assert verify_note(text + line.encode(), ORIGIN, key.public_key()) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name+530d903a",
        SPEC_KEY.replace("530d", "530e"),
        SPEC_KEY.replace("example.com/foo", "example.com/bar"),
        SPEC_KEY.replace("+Ae", "+Be"),
        SPEC_KEY[:-4],
        "x" * 5000,
    ],
)
def test_what_is_no_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_verifier_key(text)


@pytest.mark.parametrize("index", range(TREE.size))
def test_a_proof_verifies_with_nothing_but_the_key(index: int) -> None:
    proof = Proof(index, TREE.proof(index), NOTE, LINES[index])
    again = Proof.parse(proof.format())
    assert again == proof
    assert again.verify(leaf_hash(LINES[index]), ORIGIN, KEY.public_key()) == CHECKPOINT


def test_a_tree_of_one_leaf_has_a_proof_without_hashes() -> None:
    tree = Tree.of([leaf_hash(b"only")])
    note = sign_note(Checkpoint("o", 1, tree.root).format(), "o", KEY)
    proof = Proof.parse(Proof(0, (), note).format())
    assert proof.extra is None
    assert proof.verify(leaf_hash(b"only"), "o", KEY.public_key()).size == 1


def test_a_proof_of_a_million_leaves_is_small() -> None:
    proof = Proof(999_999, (bytes(32),) * 20, NOTE)
    assert len(proof.format()) < 1300


def test_a_proof_for_another_leaf_origin_or_key_does_not_verify() -> None:
    proof = Proof(3, TREE.proof(3), NOTE)
    with pytest.raises(VerificationError, match="is not in the tree"):
        proof.verify(leaf_hash(LINES[4]), ORIGIN, KEY.public_key())
    with pytest.raises(VerificationError):
        proof.verify(leaf_hash(LINES[3]), "stella.example/seal/8", KEY.public_key())
    with pytest.raises(VerificationError):
        proof.verify(leaf_hash(LINES[3]), ORIGIN, OTHER.public_key())


def test_a_checkpoint_of_another_origin_under_the_right_key_name_is_refused() -> None:
    note = sign_note(Checkpoint("elsewhere", 11, TREE.root).format(), ORIGIN, KEY)
    with pytest.raises(VerificationError, match="found one of elsewhere"):
        verify_checkpoint(note, ORIGIN, KEY.public_key())


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data.replace(b"@v1", b"@v2"),
        lambda data: data.replace(b"index 3", b"index 03"),
        lambda data: data.replace(b"index 3", b"index -3"),
        lambda data: data.replace(b"index 3\n", b""),
        lambda data: data.replace(b"extra ", b"extra  "),
        lambda data: data.replace(b"index 3\n", b"index 3\nnot base64!\n"),
        lambda data: data.replace(b"index 3\n", b"index 3\n" + b"AAAA\n" * 65),
        lambda data: data.partition(b"\n\n")[0],
        lambda data: data + b"x" * 2_000_000,
    ],
)
def test_what_is_no_proof_is_refused(change) -> None:
    with pytest.raises(MalformedError):
        Proof.parse(change(Proof(3, TREE.proof(3), NOTE, LINES[3]).format()))
