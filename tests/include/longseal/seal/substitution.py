"""ECDSA key substitution: a public key computed to fit an old signature and other content.

Given r, s and the digest e' of other content, Q' = (s·R - e'·G) / r for a point R whose x is r
verifies both. So a signature alone does not say which content its key stands for.
"""

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
A = P - 3
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)

Point = tuple[int, int] | None


def key_that_fits(signature: bytes, digest: bytes) -> ec.EllipticCurvePublicKey:
    """A P-256 key under which ``signature`` is one of what has this SHA-256."""
    r, s = decode_dss_signature(signature)
    nonce_point = (r, _root(r**3 + A * r + B))
    inverse = pow(r, -1, N)
    e = int.from_bytes(digest, "big")
    point = _add(_times(s * inverse, nonce_point), _times(-e * inverse, G))
    assert point is not None
    return ec.EllipticCurvePublicNumbers(*point, ec.SECP256R1()).public_key()


def _root(square: int) -> int:
    return pow(square % P, (P + 1) // 4, P)


def _add(one: Point, two: Point) -> Point:
    if one is None or two is None:
        return one or two
    if one[0] == two[0]:
        if (one[1] + two[1]) % P == 0:
            return None
        slope = (3 * one[0] ** 2 + A) * pow(2 * one[1], -1, P) % P
    else:
        slope = (two[1] - one[1]) * pow(two[0] - one[0], -1, P) % P
    x = (slope**2 - one[0] - two[0]) % P
    return x, (slope * (one[0] - x) - one[1]) % P


def _times(factor: int, point: Point) -> Point:
    total: Point = None
    for bit in bin(factor % N)[2:]:
        total = _add(total, total)
        if bit == "1":
            total = _add(total, point)
    return total
