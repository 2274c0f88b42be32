"""MARN and the systems it is compared with: train, score, explain and extend them.

Public names are loaded on first use, so that preparing data does not wait for torch.
"""

import os
import sys
from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from marn import lifeline

if TYPE_CHECKING:
    from marn import losses as losses
    from marn import metrics as metrics
    from marn.averages import average as average
    from marn.corpus import Corpus as Corpus
    from marn.errors import MarnError as MarnError
    from marn.evaluation import Predictions as Predictions
    from marn.evaluation import evaluate as evaluate
    from marn.evaluation import predict as predict
    from marn.experiments.presets import preset as preset
    from marn.losses import bce_loss as bce_loss
    from marn.losses import focal_loss as focal_loss
    from marn.models import Coder as Coder
    from marn.registry import available as available
    from marn.registry import build as build
    from marn.saving import load as load
    from marn.saving import load_model as load_model
    from marn.train.config import TrainConfig as TrainConfig
    from marn.train.loop import Run as Run
    from marn.train.loop import fit as fit

# Before anything that takes long: what trains on several devices may be killed as it begins.
if os.environ.get("LOCAL_RANK", "0") != "0" and lifeline.PARENT in os.environ:
    lifeline.end_with_parent(int(os.environ.pop(lifeline.PARENT)))

__version__ = _version("marn")

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
__all__ = ["losses", "metrics", *_HOMES]


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
