"""A person's own pictures: adapt to a folder of them, and a sheet of the answers."""

from .adapt import AdaptReport, adapt_images, load_adapted
from .sheet import Prediction, contact_sheet

__all__ = ["AdaptReport", "Prediction", "adapt_images", "contact_sheet", "load_adapted"]
