"""A protocol by which the cells that searches find are compared with random cells and with simple models."""

from nasframe_papers.quality.protocol import SearchQuality

__all__ = ["SearchQuality"]
