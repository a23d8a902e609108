"""The whole of a site's mirror run, as the command and the tests take it."""

from __future__ import annotations

from typing import Any

from longseal.canonical import digest_of
from longseal.mirror.delivery import Delivered, deliver, put_kit
from longseal.mirror.kit import INVENTORY, make_kit, note_delivery
from longseal.mirror.plan import Plan, plan
from longseal.mirror.receipt import collect
from longseal.settings import SiteSettings, VolumeSiteSettings
from longseal.workspace import Workspace


def mirror(
    workspace: Workspace,
    site: SiteSettings,
    repository: str | None = None,
    image: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Bring ``site`` up to date; a second run with nothing new writes nothing.

    :param repository: pattern of the only repositories to bring; then without an inventory
    :param image: digest of the only image to bring; likewise
    :param dry_run: tell what the site lacks, and send nothing
    """
    refused = collect(workspace, site)
    planned = plan(workspace, site, repository, image)
    delivered = deliver(workspace, site, planned.shipments, dry_run)
    planned.part |= dry_run
    done = finish(workspace, site, planned, delivered)
    return {**delivered.to_json(), **done, "receipt_refused": refused}


def finish(
    workspace: Workspace, site: SiteSettings, planned: Plan, delivered: Delivered
) -> dict[str, Any]:
    """Bring the kit, once all images arrived: its inventory must not promise what is missing."""
    planned = planned.without(delivered.refused)
    shown = {
        "site": site.name,
        "withheld": planned.withheld,
        "volume": str(site.path) if isinstance(site, VolumeSiteSettings) else None,
    }
    if delivered.failed or planned.part:
        return {
            **shown,
            "sequence": None,
            "inventory": None,
            "kit_files": 0,
            "key_operations": 0,
        }
    kit = make_kit(workspace, site, planned)
    written = put_kit(workspace, site, kit)
    note_delivery(workspace, site, kit, len(planned.shipments))
    return {
        **shown,
        "sequence": kit.sequence,
        "inventory": digest_of(kit.files[INVENTORY]),
        "kit_files": written,
        "key_operations": kit.key_operations,
    }
