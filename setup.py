"""What pyproject.toml cannot say: found packages, plus the recipes of configs/ as the package `facelib_configs`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["facelib", "facelib.*", "ray_jobs", "ray_jobs.*"]), "facelib_configs"],
    package_dir={"facelib_configs": "configs"},
)
