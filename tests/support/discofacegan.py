"""DiscoFaceGAN's published folder layout, with small networks of random weights."""

import shutil
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "discofacegan"


def place_published_files(folder: Path, average: bool = True) -> Path:
    """The files as a user places them."""
    shutil.copytree(GOLDEN / "vae_tiny", folder / "vae" / "weights")
    shutil.copy(GOLDEN / "tiny_r32.pkl", folder / "network-snapshot-020126.pkl")
    if average:
        row = np.load(GOLDEN / "tiny_r32.npz")["average_w_id"]
        np.savetxt(folder / "network-snapshot-020126-average_w_id.txt", np.tile(row, (8, 1)))
    return folder


def converted_folder(folder: Path) -> Path:
    """The converted weights, without what they were made from."""
    from facelib.synthesis.discofacegan.convert import convert

    place_published_files(folder)
    convert(folder)
    shutil.rmtree(folder / "vae")
    (folder / "network-snapshot-020126.pkl").unlink()
    return folder
