"""Readings of the papers and their published scores, as data."""
