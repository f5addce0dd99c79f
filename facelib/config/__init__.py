"""The settings tree: one typed place for everything a job can be told.

A job reads a YAML file and flags over it; every field has a flag, `--section.field value`. Unknown names, wrong types
and impossible combinations are errors that name the field, before anything starts.
"""

from facelib.config.evaluation import EmbedSettings, EvaluateSettings, ExportSettings
from facelib.config.faces import AlignSettings, GenerateSettings
from facelib.config.fields import Section, SettingsError
from facelib.config.inspection import InspectSettings
from facelib.config.reading import (
    build_settings,
    change_settings,
    describe_settings,
    load_settings,
    parse_command_line,
)
from facelib.config.running import RaySettings, StageSettings, TrackingSettings
from facelib.config.sources import ImportSettings
from facelib.config.training import (
    AugmentSettings,
    DataSettings,
    ModelSettings,
    SslSettings,
    TrainSettings,
    UnpgSettings,
)
from facelib.config.tree import Settings
from facelib.config.tuning import TuneSettings

__all__ = [
    "AlignSettings",
    "AugmentSettings",
    "DataSettings",
    "EmbedSettings",
    "EvaluateSettings",
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
    "load_settings",
    "parse_command_line",
]
