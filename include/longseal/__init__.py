"""Longseal keeps software attestations provable for years.

The library behind the DAGs: it harvests attestations from OCI registries, reseals them under one
organisation key, prunes what is past retention and mirrors the rest to sites with no internet.
Nothing in this package imports Airflow.
"""

__version__ = "0.1.0"
