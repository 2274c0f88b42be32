"""MARN and MT-RAM in one file, and `Coder`, the class that every system extends, in `base`."""

from marn.models.base import Coder

__all__ = ["Coder"]
