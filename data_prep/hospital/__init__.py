"""The teaching hospital: a seeded writer of MIMIC-III-shaped tables."""

from data_prep.hospital.build import HospitalReport, write
from data_prep.hospital.presets import PRESETS

__all__ = ["PRESETS", "HospitalReport", "write"]
