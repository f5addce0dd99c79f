"""Recipes that ship with the package, importable as `facelib_configs`."""
