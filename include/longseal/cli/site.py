"""Verbs of an offline site: no settings, no catalog, no network."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from longseal.cli.command import DONE, FINDINGS, Verbs, add_timestamp_options, timestamp_roots
from longseal.cli.output import show, show_report
from longseal.errors import SettingsError
from longseal.verify.report import Report
from longseal.workspace import utc_now


def add(verbs: Verbs) -> None:
    site = verbs.group("site", "At an offline site: import volumes, verify, answer.")

    init = _verb(site, "init", _init, "Make a site, before the first volume comes.")
    init.add_argument("--name", required=True, help="what the organisation calls the site")
    init.add_argument(
        "--org-key", required=True, metavar="sha256:HEX", help="told by other means than a volume"
    )
    add_timestamp_options(init)
    init.add_argument("--age", action="store_true", help="also a key for encrypted volumes")

    take = _verb(site, "import", _import, "Import a volume: verified first, seen then.")
    take.add_argument("volume", type=Path, metavar="VOLUME")

    _verb(site, "verify", _verify, "Verify everything that was imported.")

    push = _verb(site, "push", _push, "Bring what was imported into a registry of the site.")
    push.add_argument("--to", required=True, metavar="URL", help="http://… or https://…")
    push.add_argument("--username-env", metavar="NAME")
    push.add_argument("--password-env", metavar="NAME")
    push.add_argument("--ca-file", type=Path, metavar="FILE")

    receipt = _verb(site, "receipt", _receipt, "Sign the answer that goes back: what is here.")
    receipt.add_argument("--to", type=Path, metavar="FILE", help="as VOLUME/receipt.sigstore.json")

    _verb(site, "status", _status, "What the site has, and until when that will do.")

    volume = verbs.group("volume", "A volume in parts, for small disks and one-way links.")
    cut = volume.verb("cut", _cut, "Cut a volume into parts; cut again, only bad ones are written.")
    cut.add_argument("volume", type=Path, metavar="VOLUME")
    cut.add_argument("--to", type=Path, required=True, metavar="DIR")
    cut.add_argument("--size", metavar="SIZE", help="as 4095 MiB, which FAT32 takes")
    cut.add_argument(
        "--recipient",
        action="append",
        default=[],
        metavar="age1…",
        help="encrypt the parts to the site; may be repeated",
    )
    look = volume.verb("check", _check, "Check each part on its own.")
    look.add_argument("folder", type=Path, metavar="DIR")


def _verb(
    site: Verbs, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    found = site.verb(name, run, text)
    found.add_argument("folder", type=Path, metavar="DIR", help="the site's folder")
    return found


def _cut(arguments: argparse.Namespace) -> int:
    from longseal.mirror.parts import SIZE, cut
    from longseal.settings import size_of

    size = SIZE if arguments.size is None else size_of(arguments.size)
    found, written = cut(arguments.volume, arguments.to, size, arguments.recipient)
    document = {
        "site": found.site,
        "sequence": found.sequence,
        "parts": len(found.parts),
        "bytes": sum(part.size for part in found.parts),
        "written": written,
    }
    show(arguments, "Parts", document, document)
    return DONE


def _check(arguments: argparse.Namespace) -> int:
    from longseal.mirror.parts import check

    report = Report(str(arguments.folder))
    check(report, arguments.folder)
    return show_report(arguments, report)


def _init(arguments: argparse.Namespace) -> int:
    from longseal.mirror.site import Site

    site = Site.create(
        arguments.folder,
        arguments.name,
        arguments.org_key,
        timestamp_roots(arguments),
        arguments.quorum,
    )
    document = site.status(utc_now())
    if arguments.age:
        document["age_recipient"] = site.make_identity()
    show(arguments, "Site", document, document)
    return DONE


def _import(arguments: argparse.Namespace) -> int:
    from longseal.mirror.site import Site

    report = Report(str(arguments.volume))
    site = Site(arguments.folder)
    imported = site.take(arguments.volume, report, utc_now())
    return show_report(arguments, report, {"imported": imported is not None})


def _verify(arguments: argparse.Namespace) -> int:
    from longseal.mirror.site import Site

    report = Report(str(arguments.folder))
    Site(arguments.folder).verify(report, utc_now())
    return show_report(arguments, report)


def _push(arguments: argparse.Namespace) -> int:
    import os

    from longseal.mirror.site import Site
    from longseal.registry.auth import Credentials
    from longseal.registry.distribution import DistributionRegistry
    from longseal.settings import secret

    if (arguments.username_env is None) != (arguments.password_env is None):
        raise SettingsError("--username-env", "give --username-env and --password-env together")

    def told(option: str, name: str | None) -> str | None:
        return secret(os.environ, name, option) if name else None

    login = Credentials(
        told("--username-env", arguments.username_env),
        told("--password-env", arguments.password_env),
    )
    target = DistributionRegistry(
        "the site's registry",
        arguments.to,
        credentials=login,
        ca_file=arguments.ca_file,
    )
    document = Site(arguments.folder).push(target)
    show(arguments, f"Pushed to {arguments.to}", document, document)
    return FINDINGS if document["failed"] else DONE


def _receipt(arguments: argparse.Namespace) -> int:
    from longseal.canonical import digest_of
    from longseal.mirror.folder import write_file
    from longseal.mirror.site import Site

    site = Site(arguments.folder)
    data = site.receipt(utc_now())
    if arguments.to:
        write_file(arguments.to, data)
    imported = site.imported
    assert imported is not None
    document = {
        "site": site.name,
        "sequence": imported.sequence,
        "lacking": dict(imported.lacking),
        "receipt": digest_of(data),
        "file": str(arguments.to or site.root / f"receipts/{imported.sequence:06}.sigstore.json"),
    }
    show(arguments, "Receipt", document, document)
    return FINDINGS if imported.lacking else DONE


def _status(arguments: argparse.Namespace) -> int:
    from longseal.mirror.site import Site

    document = Site(arguments.folder).status(utc_now())
    show(arguments, "Site", document, document)
    bad = document["sequence"] is None or document["overdue"] or document["lacking"]
    return FINDINGS if bad else DONE
