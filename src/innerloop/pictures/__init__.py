"""A person's own pictures: adapt to them, see the answers on a sheet, load the model again."""

from .adapt import AdaptReport, adapt_images
from .load import AdaptedModel, Preprocess, load_adapted
from .sheet import Prediction, contact_sheet

__all__ = [
    "AdaptReport",
    "AdaptedModel",
    "Prediction",
    "Preprocess",
    "adapt_images",
    "contact_sheet",
    "load_adapted",
]
