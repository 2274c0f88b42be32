"""Systems without released code, rebuilt from their papers, one file each."""

from typing import Any

ASSUMED: dict[str, Any] = {"loss": "bce", "learning_rate": 1e-3, "clip_norm": None}
"""Training settings of systems whose papers, as far as they were read, name none."""
