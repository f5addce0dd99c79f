"""The generator `auto`: photographs where their weights are installed, drawings elsewhere.

It is replaced by a name once, in the driver, before anything starts, so that actors and manifests know only names; an
output folder that was begun with one of the two stays with it.
"""

from __future__ import annotations

from facelib.config import Settings
from facelib.data import SPEC_NAME, Folder
from facelib.data.fingerprint import read_spec

AUTO = "auto"
PHOTOGRAPHS, DRAWINGS = "mobilestylegan", "morphable"


def choose_generator(settings: Settings) -> Settings:
    """The settings with the name of a generator in place of `auto`; a line says when weights are missing for it.

    A generator that the settings name is never replaced: without its weights the job fails.
    """
    if settings.generate.generator != AUTO:
        return settings
    name = _begun_with(settings)
    if not name:
        missing = _missing_weights(settings)
        name = DRAWINGS if missing else PHOTOGRAPHS
        if missing:
            print(f"generate.generator: auto draws with {DRAWINGS}, because {missing}", flush=True)
    return settings.model_copy(update={"generate": settings.generate.model_copy(update={"generator": name})})


def _begun_with(settings: Settings) -> str:
    """The generator of a dataset, or of a training's or sweep's own faces, in the output; empty: there is none."""
    streamed = dict.fromkeys(("ssl", "unpg", settings.tune.folder), "data.stream generator")
    stored = dict.fromkeys((settings.data.dataset, settings.data.heldout), "generator")
    for name, key in (streamed | stored).items():
        folder = Folder(settings.path(name))
        if name and folder.exists(SPEC_NAME):
            generator = read_spec(folder).get(key)
            if generator in (PHOTOGRAPHS, DRAWINGS):
                return str(generator)
    return ""


def _missing_weights(settings: Settings) -> str:
    """What the generator of photographs lacks, in its own words; empty: nothing."""
    from facelib.synthesis.mobilestylegan.weights import read_files

    try:
        read_files(settings.generate.options.get("folder"))
    except FileNotFoundError as error:
        return str(error)
    return ""
