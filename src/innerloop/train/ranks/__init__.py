"""Tasks over several processes."""

from .ranks import ENVIRONMENT, LostRank, Ranks, joined, launched, restarted
from .workers import spawn

__all__ = ["ENVIRONMENT", "LostRank", "Ranks", "joined", "launched", "restarted", "spawn"]
