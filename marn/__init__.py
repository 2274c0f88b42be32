"""MARN and the systems it is compared with: understand, run, check and extend them.

The public names load on first use, so that preparing data does not wait for torch.
"""

import sys
from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marn import losses, metrics
    from marn.averages import average
    from marn.corpus import Corpus
    from marn.errors import MarnError
    from marn.evaluation import Predictions, evaluate, predict
    from marn.experiments.presets import preset
    from marn.losses import bce_loss, focal_loss
    from marn.models import Coder
    from marn.registry import available, build
    from marn.saving import load, load_model
    from marn.train.config import TrainConfig
    from marn.train.loop import Run, fit

__version__ = _version("marn")

__all__ = [
    "Coder",
    "Corpus",
    "MarnError",
    "Predictions",
    "Run",
    "TrainConfig",
    "available",
    "average",
    "bce_loss",
    "build",
    "evaluate",
    "fit",
    "focal_loss",
    "load",
    "load_model",
    "losses",
    "metrics",
    "predict",
    "preset",
]

_HOMES = {
    "Coder": "models.base",
    "Corpus": "corpus",
    "MarnError": "errors",
    "Predictions": "evaluation",
    "Run": "train.loop",
    "TrainConfig": "train.config",
    "available": "registry",
    "average": "averages",
    "bce_loss": "losses",
    "build": "registry",
    "evaluate": "evaluation",
    "fit": "train.loop",
    "focal_loss": "losses",
    "load": "saving",
    "load_model": "saving",
    "predict": "evaluation",
    "preset": "experiments.presets",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"marn.{_HOMES[name]}"), name)
    if not name.startswith("_"):
        try:
            return import_module(f"marn.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"marn.{name}":
                raise
    raise AttributeError(f"module 'marn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


if "ipykernel" in sys.modules:  # no figure of a notebook may offer to upload itself
    import_module("marn.figures.style")
