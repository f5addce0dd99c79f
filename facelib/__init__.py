"""facelib: synthetic faces, alignment, losses and contrast for training, and the field's evaluation protocols.

The package never imports ray; what runs on Ray lives in `ray_jobs`.
"""

__version__ = "0.1.0"
