"""The assets that the DAGs update; other DAGs may be scheduled by them."""

from __future__ import annotations

from airflow.sdk import Asset

EVIDENCE = Asset("longseal://evidence")
"""After each harvest: ``verified``, ``rejected``, ``unknown``, ``packs``."""

SEALS = Asset("longseal://seals")
"""After each seal: ``period``, ``sequence``, ``root``, ``size``, ``seal`` (digest)."""

DELIVERIES = Asset("longseal://deliveries")
"""After each delivery: ``site``, ``sequence``, ``images``, ``inventory`` (digest)."""
