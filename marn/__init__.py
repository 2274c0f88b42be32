"""MARN and the systems it is compared with: understand, run, check and extend them."""

from importlib.metadata import version as _version

from marn import losses, metrics
from marn.corpus import Corpus
from marn.errors import MarnError
from marn.evaluation import Predictions, evaluate, predict
from marn.losses import bce_loss, focal_loss
from marn.models import Coder, available, build
from marn.saving import load_model
from marn.training import Run, TrainConfig, fit

__version__ = _version("marn")

__all__ = [
    "Coder",
    "Corpus",
    "MarnError",
    "Predictions",
    "Run",
    "TrainConfig",
    "available",
    "bce_loss",
    "build",
    "evaluate",
    "fit",
    "focal_loss",
    "load_model",
    "losses",
    "metrics",
    "predict",
]
