"""The audit: does everything that Longseal says it did still hold together?"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from longseal.archive.holds import Holds
from longseal.archive.pack import load_pack, pack_key
from longseal.canonical import sha256_hex, timestamp
from longseal.errors import VerificationError
from longseal.mirror.receipt import standing
from longseal.seal.ceremony import authorities
from longseal.seal.organisation import anchors_of, key_set
from longseal.seal.proof import verify_chain, verify_seal
from longseal.seal.published import SEAL, TRUSTED_ROOT, Published, published, seal_folder
from longseal.seal.renewal import forecasts, require_time
from longseal.seal.reseal import check_renewals
from longseal.settings import SiteSettings
from longseal.verify.report import Report
from longseal.workspace import Workspace

MONTH: Final = re.compile(r"\d{4}-\d{2}")
MONTH_DEADLINE: Final = timedelta(days=5)
"""How long after its end a month may be without its seal."""


def audit(workspace: Workspace, share: float = 1.0) -> Report:
    """Walk the ledger, verify every seal and the chain of them, and read packs back.

    :param share: of the packs, which are read whole and hashed; the others are only looked for
    """
    report = Report(f"archive of {workspace.settings.organisation}")
    report.attempt("ledger", lambda: _ledger(workspace))
    report.attempt("holds", lambda: _holds(workspace))
    seals = published(workspace)
    for seal in seals:
        report.attempt(f"seal {seal.sequence}", _seal_check(workspace, seal))
    report.attempt("chain", lambda: _chain(seals))
    report.attempt("lists", lambda: _lists(workspace, seals))
    report.attempt("month", lambda: _month(seals, workspace.now()))
    report.attempt("renewal", lambda: require_time(forecasts(workspace), workspace.now()))
    for site in workspace.settings.sites:
        report.attempt(f"site {site.name}", partial(_receipts, workspace, site))
    report.attempt("packs", lambda: _packs(workspace, share))
    return report


def _ledger(workspace: Workspace) -> str:
    entries, begun, ended = 0, set(), {}
    for entry in workspace.ledger.walk():
        entries += 1
        if entry.action == "key.operation.begun":
            begun.add(entry.details["operation"])
        elif entry.action == "key.operation.ended":
            ended[entry.details["operation"]] = int(entry.details["operations"])
    lost = len(begun - ended.keys())
    return (
        f"{entries} entries, each naming the one before; {sum(ended.values())} key operations"
        + (f", and {lost} begun whose end was lost in a crash" if lost else "")
    )


def _holds(workspace: Workspace) -> str:
    register = Holds(workspace)
    return f"{len(register.all())} legal holds on record, {len(register.in_force())} in force"


def _seal_check(workspace: Workspace, seal: Published) -> Callable[[], str]:
    folder = seal_folder(seal.sequence)
    files = seal.files()

    def read(name: str) -> bytes:
        if name in (SEAL, TRUSTED_ROOT):
            return workspace.archive.get(f"{folder}/{name}")
        return workspace.kept(files[name])

    def check() -> str:
        if key_set(workspace) is None:
            raise VerificationError("there is no key set in the archive")
        # The settings' authorities alone: whoever can write the archive can list others.
        known = authorities(workspace, retired=True)
        roots = frozenset(one.root_fingerprint for one in known)
        verify_seal(read, replace(anchors_of(workspace), timestamp_roots=roots))
        return f"{seal.period}: {seal.size} attestations, {len(files)} files"

    return check


def _chain(seals: list[Published]) -> str:
    verify_chain(seals)
    return f"{len(seals)} seals follow each other"


def _month(seals: Sequence[Published], now: datetime) -> str:
    """The last month has to be sealed by its deadline, once months are sealed at all."""
    this = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last = f"{this - timedelta(days=1):%Y-%m}"
    periods = {seal.period for seal in seals}
    if last in periods:
        return f"{last} is sealed"
    if not any(MONTH.fullmatch(period) for period in periods):
        return "no month was ever sealed here"
    if now < this + MONTH_DEADLINE:
        return f"{last} has until {timestamp(this + MONTH_DEADLINE)}"
    raise VerificationError(
        f"{last} is not sealed, and its fifth day is over: look at its run of longseal_reseal, or"
        f" longseal reseal --period {last}"
    )


def _receipts(workspace: Workspace, site: SiteSettings) -> str:
    """A site's receipt has to come in time."""
    found, now = standing(workspace, site), workspace.now()
    if found.overdue(now):
        said = found.to_json(now)
        raise VerificationError(
            f"no receipt since the delivery of {said['waiting_since']}, and it was due by"
            f" {said['due']}: ask the site; longseal sites"
        )
    if found.confirmed is None:
        return "no receipt yet"
    return f"has {found.confirmed.sequence} of {found.sequence}"


def _lists(workspace: Workspace, seals: list[Published]) -> str:
    check_renewals(workspace, seals)
    return f"{len(seals)} key-free lists, each timestamped by the quorum"


def _packs(workspace: Workspace, share: float) -> str:
    digests = workspace.catalog.packs()
    whole = sample(digests, share, workspace.now())
    for digest in digests:
        if digest in whole:
            load_pack(workspace.archive, digest)
        elif not any(True for _ in workspace.archive.keys(pack_key(digest))):
            raise VerificationError(f"the pack {digest} is not in the archive: sound the alarm")
    return f"{len(digests)} packs, {len(whole)} of them read whole"


def sample(digests: Sequence[str], share: float, at: datetime) -> set[str]:
    """A share of the packs, another one on another day."""
    salt = f"{at:%Y-%m-%d}"
    ranked = sorted(digests, key=lambda digest: sha256_hex(f"{salt}{digest}".encode()))
    return set(ranked[: math.ceil(share * len(ranked))])


def summary(workspace: Workspace) -> dict[str, Any]:
    """Counts for a report's head: evidence by verdict, images, seals."""
    return {
        "evidence": workspace.catalog.counts(),
        "images": len(workspace.catalog.images()),
        "seals": len(published(workspace)),
    }
