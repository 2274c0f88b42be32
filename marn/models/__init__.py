"""MARN and MT-RAM, one file; the contract that every system keeps is in `base`."""

from marn.models.base import Coder

__all__ = ["Coder"]
