"""Write images as USynthFace's script does: its latents, its folders, its file names.

    python -m facelib.synthesis.discofacegan.export <folder> <output> --subjects 1000 --images 64

`<folder>` holds the converted weights. Images that are there already are kept, so a stopped run goes on. The `folder`
generator reads them. Bytes of the JPEG files are not those of the script (another encoder, same quality).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from facelib.data import encode_image
from facelib.data.image_tree import usynthface_path
from facelib.synthesis.discofacegan.generator import DiscoFaceGANGenerator
from facelib.synthesis.discofacegan.usynthface import PUBLISHED_SEED
from facelib.synthesis.generator import FaceGenerator

JPEG_QUALITY = 75  # what the script's encoder takes when it is not told


def export(
    generator: FaceGenerator,
    output: str | Path,
    subjects: int,
    images: int,
    seed: int = PUBLISHED_SEED,
    offset: int = 0,
) -> int:
    """Write `images` images of each of the first `subjects` identities; returns how many were written.

    Args:
        generator: one with latents="usynthface" and stream_images=images for the script's own identities.
        offset: added to the numbers in folder and file names; the identities stay the same.

    Raises:
        ValueError: a count or the offset out of range.
    """
    for name, value, least in (("subjects", subjects, 1), ("images", images, 1), ("offset", offset, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}, expected {least} or more")
    written, start = 0, time.monotonic()
    for identity in range(subjects):
        paths = [Path(output) / usynthface_path(identity + offset, index) for index in range(images)]
        indices = np.asarray([i for i, path in enumerate(paths) if not path.exists()], np.int64)
        if not indices.size:
            continue
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        identities = np.full(indices.size, identity)
        codes = generator.identity_codes(seed, identities)
        for index, image in zip(indices, generator.render(codes, generator.image_factors(seed, identities, indices))):
            temporary = paths[index].with_suffix(".part")
            temporary.write_bytes(encode_image(image, JPEG_QUALITY))
            os.replace(temporary, paths[index])
        written += indices.size
        rate = written / (time.monotonic() - start)
        left = (subjects - identity - 1) * images / rate
        print(f"{identity + 1} of {subjects} identities, {rate:.1f} images/s, {left / 60:.0f} minutes left", flush=True)
    return written


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="holds the converted weights")
    parser.add_argument("output", help="where the identity folders go")
    parser.add_argument("--subjects", type=int, default=100_000, help="identities")
    parser.add_argument("--images", type=int, default=128, help="images of each; other numbers make other people")
    parser.add_argument("--factor-mode", type=int, default=0, help="0 all, 1 expression, 2 illumination, 3 rotation")
    parser.add_argument("--seed", type=int, default=PUBLISHED_SEED)
    parser.add_argument("--offset", type=int, default=0, help="added to the numbers in names; the same people")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    given = parser.parse_args(arguments)
    torch.set_num_threads(max(1, given.threads))
    try:
        generator = DiscoFaceGANGenerator(
            given.folder,
            batch_size=given.batch_size,
            device=given.device,
            latents="usynthface",
            stream_images=given.images,
            factor_mode=given.factor_mode,
        )
        written = export(generator, given.output, given.subjects, given.images, given.seed, given.offset)
    except (OSError, ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"wrote {written} pictures to {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
