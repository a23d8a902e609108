import hashlib
from types import SimpleNamespace

import pytest
from sigstore._internal.merkle import verify_merkle_inclusion

from longseal.errors import MalformedError, VerificationError
from longseal.seal.tree import Frontier512, Tree, leaf_hash, node_hash, verify_inclusion

# The inputs and heads of the RFC 6962 reference implementation's test (certificate-transparency).
LEAVES = [
    bytes.fromhex(each)
    for each in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
HEADS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def tree_of(lines: list[bytes]) -> Tree:
    return Tree.of(map(leaf_hash, lines))


def by_definition(hashes: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, as it is written there."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return node_hash(by_definition(hashes[:split]), by_definition(hashes[split:]))


@pytest.mark.parametrize("size", range(1, 9))
def test_heads_are_those_of_the_reference_implementation(size: int) -> None:
    assert tree_of(LEAVES[:size]).root.hex() == HEADS[size - 1]


def test_an_empty_tree_has_the_hash_of_nothing() -> None:
    tree = Tree.of([])
    assert tree.size == 0
    assert tree.root == hashlib.sha256().digest()
    with pytest.raises(MalformedError, match="no leaf 0"):
        tree.proof(0)


@pytest.mark.parametrize("size", [*range(1, 40), 127, 128, 129, 1000])
def test_every_proof_verifies_here_and_in_sigstore(size: int) -> None:
    lines = [b"leaf %d" % n for n in range(size)]
    hashes = list(map(leaf_hash, lines))
    tree = Tree.of(hashes)
    assert tree.root == by_definition(hashes)
    for index in {*range(min(size, 40)), size // 2, size - 1}:
        proof = tree.proof(index)
        verify_inclusion(hashes[index], index, size, proof, tree.root)
        _verify_by_sigstore(lines[index], index, size, proof, tree.root)


def _verify_by_sigstore(
    line: bytes, index: int, size: int, proof: tuple[bytes, ...], root: bytes
) -> None:
    inner = SimpleNamespace(
        canonicalized_body=line,
        inclusion_proof=SimpleNamespace(
            log_index=index, tree_size=size, hashes=list(proof), root_hash=root
        ),
    )
    verify_merkle_inclusion(SimpleNamespace(_inner=inner))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 21])
def test_a_proof_holds_for_its_own_leaf_place_size_and_root_only(size: int) -> None:
    hashes = [leaf_hash(b"%d" % n) for n in range(size)]
    tree = Tree.of(hashes)
    for index in range(size):
        proof = tree.proof(index)
        wrong = [
            (leaf_hash(b"other"), index, size, proof, tree.root),
            (hashes[index], index, size, proof, bytes(32)),
            (hashes[index], -1, size, proof, tree.root),
            (hashes[index], size, size, proof, tree.root),
            (hashes[index], index, size, (*proof, bytes(32)), tree.root),
            (hashes[index], index, size, (bytes(31), *proof[1:]), tree.root),
        ]
        if proof:
            wrong.append((hashes[index], index, size, proof[:-1], tree.root))
            wrong.append((hashes[index], index, size, (bytes(32), *proof[1:]), tree.root))
        wrong += [
            (hashes[index], other, size, proof, tree.root)
            for other in range(size)
            if other != index
        ]
        for arguments in wrong:
            with pytest.raises(VerificationError):
                verify_inclusion(*arguments)


def test_a_root_does_not_pass_for_that_of_a_smaller_tree() -> None:
    first, second = leaf_hash(b"0"), leaf_hash(b"1")
    with pytest.raises(VerificationError, match="longer than the tree is high"):
        verify_inclusion(second, 0, 1, (first,), Tree.of([first, second]).root)


def test_a_hash_of_another_length_is_named() -> None:
    with pytest.raises(VerificationError, match="31 bytes, not 32"):
        verify_inclusion(leaf_hash(b"0"), 0, 2, (bytes(31),), bytes(32))


def test_an_inner_node_does_not_pass_for_a_leaf() -> None:
    tree = tree_of([b"a", b"b", b"c", b"d"])
    inner = tree.levels[1]
    with pytest.raises(VerificationError):
        verify_inclusion(leaf_hash(inner), 0, 1, (), tree.root)


def test_hashes_of_another_length_are_refused() -> None:
    with pytest.raises(MalformedError, match="32 bytes each"):
        Tree.of([b"short"])


def head_512(lines: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, as it is written there, with SHA-512."""
    if len(lines) <= 1:
        return hashlib.sha512(b"".join([b"\0" + line for line in lines])).digest()
    split = 1 << (len(lines) - 1).bit_length() - 1
    return hashlib.sha512(b"\1" + head_512(lines[:split]) + head_512(lines[split:])).digest()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 33, 100])
def test_the_head_by_sha512_is_that_of_the_definition(size: int) -> None:
    lines = [b"%d" % n for n in range(size)]
    frontier = Frontier512()
    for line in lines:
        frontier.append_line(line)
    assert frontier.root == head_512(lines)
    assert frontier.size == size


def test_a_frontier_takes_hashes_of_its_own_length_alone() -> None:
    with pytest.raises(MalformedError, match="64 bytes each"):
        Frontier512(1, [bytes(32)])
