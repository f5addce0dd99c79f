"""Importing crops from a RecordIO set, against copying the same bytes.

    python benchmarks/importing.py --images 20000

One process, without Ray: listing (by identity records, by streaming), then parts read, checked and written, with the
crops decoded or only their headers checked. Baseline: read the file and write it again. Prints images and megabytes per
CPU second, which other work on the machine affects less than wall-clock time.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facelib.config import AlignSettings, ImportSettings
from facelib.data import Folder, encode_image, faces_to_table, write_part
from facelib.sources import SourceIndex, build_source, write_recordio
from facelib.sources.importing import PartImporter

PER_IDENTITY = 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_set(root, arguments.images)
        rec = root / "train.rec"
        megabytes = rec.stat().st_size / 1e6
        print(f"{arguments.images} crops, {megabytes:.0f} MB")
        _, seconds = _timed(lambda: (root / "copy.rec").write_bytes(rec.read_bytes()))
        _report("copy of the file", arguments.images, megabytes, seconds)
        source = build_source("recordio", str(rec))
        index, seconds = _timed(source.index)
        _report("listing by identity records", arguments.images, megabytes, seconds)
        _, seconds = _timed(build_source("recordio", str(rec), use_index=False).index)
        _report("listing by streaming", arguments.images, megabytes, seconds)
        for verify in ("header", "decode"):
            cfg = ImportSettings(alignment="none", verify=verify)  # type: ignore[arg-type]
            importer = PartImporter(source, "recordio", cfg, AlignSettings())
            out = Folder(str(root / verify)).create()
            _, seconds = _timed(lambda: _import(importer, index, out, cfg.images_per_part))  # noqa: B023
            _report(f"import, verify {verify}", arguments.images, megabytes, seconds)


def _write_set(root: Path, images: int) -> None:
    """Smooth noise: a crop takes about the bytes of a face's."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (64, 28, 28, 3)).astype(np.float32)
    crops = [
        encode_image(cv2.resize(c, (112, 112), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8))
        for c in coarse
    ]
    identities = ((n, [crops[(n + i) % 64] for i in range(PER_IDENTITY)]) for n in range(images // PER_IDENTITY))
    write_recordio(root / "train.rec", root / "train.idx", identities)


def _import(importer: PartImporter, index: SourceIndex, out: Folder, images_per_part: int) -> None:
    for number, (begin, end) in enumerate(index.split(images_per_part)):
        part = importer.run(index.entries(begin, end))
        assert len(part.faces) == end - begin
        write_part(out, f"part-{number:07d}.parquet", faces_to_table(part.faces), end - begin, {}, "benchmark")


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


def _report(what: str, images: int, megabytes: float, seconds: float) -> None:
    print(f"{what:<30} {images / seconds:>10,.0f} images/s {megabytes / seconds:>8,.0f} MB/s")


if __name__ == "__main__":
    main()
