"""Judging what was found: Sigstore verification, trust material, and the organisation's policy."""
