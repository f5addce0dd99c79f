"""The built-in generator: a procedural 3D head, numpy and OpenCV only."""

from facelib.synthesis.morphable.renderer import MorphableGenerator

__all__ = ["MorphableGenerator"]
