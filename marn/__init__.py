"""MARN and the systems it is compared with."""
