"""What a site gives to its other verifiers: cosign's exact commands for every image that came.

Each names the identity, its issuer, the trusted root, the key, the predicate type and the date up
to which it may be relied on: never a bare ``cosign verify --key``.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable

from longseal.archive.leaf import Leaf
from longseal.canonical import timestamp
from longseal.mirror.inventory import Inventory, Item

_HEAD = """\
#!/bin/sh
# Inventory {sequence} for {site}: cosign (3.1.3 and later) verifies each image in a registry.
# usage: sh cosign.sh HOST[:PORT] [REPOSITORY@sha256:...]
# exit code 0: all of them verify; 1: one does not; 2: could not check
set -u
registry=${{1:?say where the images are: HOST:PORT}}
only=${{2:-}}
site=$(cd "$(dirname "$0")/../site" && pwd) || exit 2
if [ "$(date -u +%Y-%m-%dT%H:%M:%SZ)" \\> {refresh} ]; then
  echo "the site had to be refreshed by {refresh}" >&2
  exit 1
fi
bad=0
verify() {{
  image=$1
  shift
  [ -z "$only" ] || [ "$only" = "$image" ] || return 0
  ${{COSIGN:-cosign}} verify-attestation "$@" "$registry/$image" > /dev/null || bad=1
}}
"""


def cosign_script(
    inventory: Inventory, leaves: Iterable[Leaf], lacking: Collection[str], logged: bool
) -> str:
    """A shell script that has cosign verify each image keyless and by the organisation's key.

    :param leaves: of the seals that came
    :param lacking: images that are not let be seen
    :param logged: whether the organisation's statements are in a transparency log
    """
    by_place: dict[tuple[str, str], set[tuple[str, str, str]]] = {}
    for leaf in leaves:
        signer, kind = leaf.signer, leaf.predicate_type
        if leaf.verdict == "verified" and signer and signer.identity and signer.issuer and kind:
            place = (leaf.repository, leaf.image)
            by_place.setdefault(place, set()).add((kind, signer.identity, signer.issuer))
    lines = [
        _HEAD.format(
            sequence=inventory.sequence,
            site=inventory.site,
            refresh=timestamp(inventory.refresh_by),
        )
    ]
    for item in inventory.images:
        if item.name not in lacking:
            lines += _commands(item, sorted(by_place.get((item.repository, item.image), ())))
            lines.append(_by_key(item, inventory.organisation, logged))
    return "".join([*lines, "exit $bad\n"])


def _commands(item: Item, signed: Iterable[tuple[str, str, str]]) -> list[str]:
    return [
        f"verify {item.name} --type {shlex.quote(kind)}"
        f" --certificate-identity {shlex.quote(identity)}"
        f" --certificate-oidc-issuer {shlex.quote(issuer)}"
        ' --trusted-root "$site/trusted_root.json"\n'
        for kind, identity, issuer in signed
    ]


def _by_key(item: Item, organisation: str, logged: bool) -> str:
    flags = "" if logged else " --use-signed-timestamps --insecure-ignore-tlog=true"
    kind = shlex.quote(f"https://{organisation}/longseal/image/v1")
    return (
        f'verify {item.name} --type {kind} --key "$site/org.pub"'
        f' --trusted-root "$site/seal-trusted-root.json"{flags}\n'
    )
