"""The teaching hospital: a seeded writer of tables in the shape of MIMIC-III."""

from data_prep.hospital.build import write
from data_prep.hospital.presets import PRESETS

__all__ = ["PRESETS", "write"]
