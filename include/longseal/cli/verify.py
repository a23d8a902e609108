"""Verbs that only look: verify, config."""

from __future__ import annotations

import argparse
from pathlib import Path

from longseal.canonical import digest_of
from longseal.cli.command import (
    DONE,
    Verbs,
    add_timestamp_options,
    timestamp_roots,
    workspace_of,
)
from longseal.cli.output import show, show_report


def add(verbs: Verbs) -> None:
    verify = verbs.verb("verify", _verify, "Verify a bundle, seal, volume, image or known digest.")
    verify.add_argument("target", metavar="TARGET")
    verify.add_argument(
        "--key",
        metavar="FILE|sha256:HEX",
        help="the organisation's key or its fingerprint; of another's bundle, the file of its key",
    )
    verify.add_argument("--trusted-root", type=Path, metavar="FILE", help="for keyless signatures")
    verify.add_argument("--identity", help="who must have signed, exactly")
    verify.add_argument("--issuer", help="who vouched for the identity, exactly")
    verify.add_argument("--artifact", metavar="FILE|sha256:HEX", help="what a bundle must speak of")
    verify.add_argument("--repository", metavar="NAME", help="whose rules count for a file")
    verify.add_argument(
        "--seal-trusted-root", type=Path, metavar="FILE", help="for the organisation's statements"
    )
    add_timestamp_options(verify)

    verbs.verb("config", _config, "Check the settings, and print what they come to.")


def _verify(arguments: argparse.Namespace) -> int:
    from longseal.verify.target import Given, verify

    given = Given(
        target=arguments.target,
        key=arguments.key,
        trusted_root=arguments.trusted_root,
        identity=arguments.identity,
        issuer=arguments.issuer,
        artifact=arguments.artifact,
        repository=arguments.repository,
        seal_trusted_root=arguments.seal_trusted_root,
        timestamp_roots=timestamp_roots(arguments),
        quorum=arguments.quorum,
    )
    report = verify(given, lambda: workspace_of(arguments))
    return show_report(arguments, report)


def _config(arguments: argparse.Namespace) -> int:
    from longseal import trust

    workspace = workspace_of(arguments)
    settings = workspace.settings
    asked = isinstance(settings.trust, Path) or trust.newest(workspace) is not None
    root = digest_of(workspace.trusted_root) if asked else "none yet: longseal trust refresh"
    document = {
        "file": str(settings.path),
        "organisation": settings.organisation,
        "registries": [one.name for one in settings.registries],
        "sites": [one.name for one in settings.sites],
        "policy": digest_of(workspace.policy),
        "trusted_root": root,
        "timestamps": [one.url for one in settings.timestamps],
        "timestamp_quorum": settings.timestamp_quorum,
    }
    show(arguments, "Settings", document, document)
    return DONE
