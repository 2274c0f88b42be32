"""Sweeps and their results, with the papers' readings and published scores as data."""
