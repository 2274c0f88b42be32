"""The teaching hospital: a seeded writer of MIMIC-III-shaped tables."""
