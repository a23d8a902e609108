"""The test vectors of docs/formats, made anew and compared."""

import base64
import hashlib
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from longseal.seal.bundle import format_key_bundle, parse_key_bundle, verify_key_bundle
from longseal.seal.checkpoint import Checkpoint, Proof, parse_verifier_key, sign_note, verifier_key
from longseal.seal.keys import fingerprint, load_public_pem, public_pem
from longseal.seal.statement import PAYLOAD_TYPE, Statement, Subject, pae
from longseal.seal.tree import Frontier512, Tree, leaf_hash

FORMATS = Path(__file__).parents[4] / "docs" / "formats"
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = "stella.example/seal/1"
LEAVES = [b'{"n":0}', b'{"n":1}', b'{"n":2}']


def by_sha512(lines: list[bytes]) -> bytes:
    frontier = Frontier512()
    for line in lines:
        frontier.append_line(line)
    return frontier.root


def checkpoint() -> dict[str, str]:
    """By the label before each block of checkpoint.md."""
    hashes = list(map(leaf_hash, LEAVES))
    tree = Tree.of(hashes)
    note = sign_note(Checkpoint(ORIGIN, tree.size, tree.root).format(), ORIGIN, KEY)
    return {
        "leaves": "".join(f"{line.decode()}\n" for line in LEAVES),
        "leaf hashes": "".join(f"{each.hex()}\n" for each in hashes),
        "root": f"{tree.root.hex()}\n",
        "root by SHA-512": f"{by_sha512(LEAVES).hex()}\n",
        "verifier key": f"{verifier_key(ORIGIN, KEY.public_key())}\n",
        "checkpoint": note.decode(),
        "proof": Proof(2, tree.proof(2), note, LEAVES[2]).format().decode(),
    }


def seal_bundle() -> dict[str, str]:
    """By the label before each block of seal-bundle.md."""
    subject = Subject.of(checkpoint()["checkpoint"].encode(), "checkpoint")
    kind = "https://stella.example/longseal/seal/v1"
    payload = Statement((subject,), kind, {"sequence": 1}).format()
    message = pae(PAYLOAD_TYPE, payload)
    bundle = format_key_bundle(payload, KEY.sign(message), KEY.public_key())
    return {
        "public key": public_pem(KEY.public_key()),
        "fingerprint": f"{fingerprint(KEY.public_key())}\n",
        "statement": f"{payload.decode()}\n",
        "message": f"{hashlib.sha256(message).hexdigest()}\n",
        "bundle": f"{bundle.decode()}\n",
        "digest": f"{hashlib.sha256(bundle).hexdigest()}\n",
    }


@pytest.mark.parametrize("made", [checkpoint, seal_bundle])
def test_the_vectors_are_what_the_code_makes(made) -> None:
    name = made.__name__.replace("_", "-") + ".md"
    assert _vectors(name) == made()


def test_the_bundle_in_the_page_verifies_under_the_key_in_the_page() -> None:
    found = _vectors("seal-bundle.md")
    key = load_public_pem(found["public key"].encode(), "page")
    payload = verify_key_bundle(parse_key_bundle(found["bundle"].strip().encode()), key)
    assert payload.decode() == found["statement"].strip()


def test_the_proof_in_the_page_verifies_under_the_key_in_the_page() -> None:
    found = _vectors("checkpoint.md")
    origin, key = parse_verifier_key(found["verifier key"].strip())
    proof = Proof.parse(found["proof"].encode())
    leaf = found["leaves"].splitlines()[proof.index].encode()
    assert proof.extra == leaf
    root = proof.verify(leaf_hash(leaf), origin, key).root
    assert root.hex() == found["root"].strip()
    assert base64.b64encode(root).decode() in found["checkpoint"]


def _vectors(name: str) -> dict[str, str]:
    """The blocks below "Test vector", by the bold label before each."""
    page = (FORMATS / name).read_text().partition("## Test vector")[2]
    return dict(re.findall(r"\*\*([\w -]+)\*\*[^`]*```(?:json|pem)?\n(.*?)```", page, re.DOTALL))
