"""The laboratory of real services: its fixtures, `open_lab`, and `python -m tests.lab up`."""

from tests.lab.lab import PREDICATE_TYPES, Lab, SignedImage, open_lab
from tests.lab.processes import LabError

__all__ = ["PREDICATE_TYPES", "Lab", "LabError", "SignedImage", "open_lab"]
