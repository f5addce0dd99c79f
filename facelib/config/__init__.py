"""The settings tree: one typed place for everything that a job can be configured with.

A job reads a YAML file and flags that override it; every field has a flag, `--section.field value`. Unknown names,
wrong types and impossible combinations are errors that name the field, before anything starts. This package imports
neither torch nor Ray.
"""

from facelib.config.command_line import parse_command_line, split_logging_flags
from facelib.config.evaluation import EmbedSettings, EvaluateSettings, ExportSettings
from facelib.config.exporting import ExportImagesSettings
from facelib.config.fields import Section, SettingsError
from facelib.config.generation import AlignSettings, GenerateSettings
from facelib.config.help_text import describe_settings
from facelib.config.importing import ImportSettings
from facelib.config.inspection import InspectSettings
from facelib.config.printing import settings_to_yaml
from facelib.config.reading import build_settings, change_settings, find_config, load_settings, shipped_configs
from facelib.config.runtime import RaySettings, StageSettings, TrackingSettings
from facelib.config.training import (
    AugmentSettings,
    DataSettings,
    ModelSettings,
    SslSettings,
    TrainSettings,
    UnpgSettings,
)
from facelib.config.tree import Settings, home_folder
from facelib.config.tuning import TuneSettings

__all__ = [
    "AlignSettings",
    "AugmentSettings",
    "DataSettings",
    "EmbedSettings",
    "EvaluateSettings",
    "ExportImagesSettings",
    "ExportSettings",
    "GenerateSettings",
    "ImportSettings",
    "InspectSettings",
    "ModelSettings",
    "RaySettings",
    "Section",
    "Settings",
    "SettingsError",
    "SslSettings",
    "StageSettings",
    "TrackingSettings",
    "TrainSettings",
    "TuneSettings",
    "UnpgSettings",
    "build_settings",
    "change_settings",
    "describe_settings",
    "find_config",
    "home_folder",
    "load_settings",
    "parse_command_line",
    "settings_to_yaml",
    "shipped_configs",
    "split_logging_flags",
]
