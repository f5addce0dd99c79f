"""Published DiscoFaceGAN files -> the one file that later runs read.

    python -m facelib.synthesis.discofacegan.convert <folder>

Reads the network pickle without executing it, four TF1 checkpoints and the average style vector, checks them, and
writes `<folder>/discofacegan.npz` with the SHA-256 of each source. TensorFlow is not needed; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from facelib.data.storage import file_sha256
from facelib.synthesis.discofacegan.network_pickle import NetworkTables, read_network_pickle
from facelib.synthesis.discofacegan.networks import DiscoFaceGAN, check_average
from facelib.synthesis.discofacegan.topology import COEFFICIENT_SIZES
from facelib.synthesis.discofacegan.vae import FACTORS, LATENTS, LatentDecoders, read_decoder_checkpoint
from facelib.synthesis.discofacegan.weights import (
    AVERAGE,
    CHECKPOINT,
    NETWORK,
    describe_files,
    save_weights,
    source_files,
)

Floats = npt.NDArray[np.float32]
AVERAGE_DRAWS = 50_000
_MAX_AVERAGE_BYTES = 16 << 20


def convert(folder: str | Path, average_draws: int = AVERAGE_DRAWS) -> Path:
    """Convert the published files in `folder`; returns the path written.

    Args:
        folder: where the user placed them, see `describe_files`.
        average_draws: identities drawn for the average style vector when its file is missing; 50,000 as published.

    Raises:
        FileNotFoundError: files are missing; the message lists what belongs where.
        ValueError: a file is refused; the message says which and why.
    """
    folder = Path(folder)
    present = source_files(folder)
    if not all(present.values()):
        raise FileNotFoundError(describe_files(folder))
    networks = read_network_pickle(folder / NETWORK)
    decoders = {f: read_decoder_checkpoint(folder / CHECKPOINT.format(factor=f), f) for f in FACTORS}
    names = list(present)
    if (folder / AVERAGE).is_file():
        average = read_average(folder / AVERAGE, networks)
        names.append(AVERAGE)
    else:
        average = compute_average(networks, decoders, average_draws)
    sources = {name: {"sha256": file_sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in names}
    if AVERAGE not in sources:
        sources[AVERAGE] = {"computed": f"mean of {average_draws} draws"}
    return save_weights(folder, networks, average, decoders, sources)


def read_average(path: str | Path, networks: NetworkTables) -> Floats:
    """The average style vectors [L, W] from a text file of numbers, a row a layer.

    Raises:
        ValueError: not such a file.
    """
    path = Path(path)
    if path.stat().st_size > _MAX_AVERAGE_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, expected a table of at most {_MAX_AVERAGE_BYTES}")
    try:
        average = check_average(np.loadtxt(path, dtype=np.float64, ndmin=2), networks.topology)
    except ValueError as error:
        raise ValueError(f"{path}: not the average style vectors of this network ({error})") from error
    return _every_layer(average, networks)


def compute_average(networks: NetworkTables, decoders: Mapping[str, Mapping[str, Floats]], draws: int) -> Floats:
    """The mean style vector [L, W] of identities with zero expression, light and pose, of the published random draws.

    Raises:
        ValueError: draws below 1.
    """
    if draws < 1:
        raise ValueError(f"average_draws is {draws}, expected 1 or more")
    batch = min(draws, 500)
    generator = DiscoFaceGAN(networks, np.zeros(networks.topology.dlatent_size), batch_size=batch, device="cpu")
    latent_decoders = LatentDecoders(decoders, device="cpu")
    identity, noise = COEFFICIENT_SIZES["identity"], COEFFICIENT_SIZES["noise"]
    stream, total = np.random.RandomState(1), np.zeros(networks.topology.dlatent_size)
    for start in range(0, draws, batch):
        # One draw is 179 latents, then 32 noise values, all of them standard normal.
        values = stream.normal(size=(min(batch, draws - start), LATENTS + noise))
        coefficients = latent_decoders.decode(values[:, :LATENTS], values[:, LATENTS:])
        coefficients[:, identity:-noise] = 0
        total += generator.map(coefficients).sum(axis=0, dtype=np.float64)
    return _every_layer((total / draws).astype(np.float32), networks)


def _every_layer(average: Floats, networks: NetworkTables) -> Floats:
    shape = (networks.topology.layers, networks.topology.dlatent_size)
    return np.ascontiguousarray(np.broadcast_to(average, shape), np.float32)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the published files lie")
    folder = parser.parse_args(arguments).folder
    try:
        path = convert(folder)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
