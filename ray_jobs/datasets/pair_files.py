"""Pair lists of an imported source as `.bin` verification sets of the aligned faces."""

import tempfile
from pathlib import Path
from typing import Any

from facelib.data import FaceDataset
from facelib.sources import PairList, write_bin
from facelib.sources.pair_sets import IDENTITIES

EXAMPLES = 20  # Incomplete pairs named in the report.


def write_pair_file(dataset: FaceDataset, pairs: PairList, source_name: str) -> dict[str, Any]:
    """Write `<dataset>/<name>.bin` of the pairs that have a face on both sides, and their identities beside it.

    Returns:
        Its `name`, `file`, number of `pairs`, number of `missing` pairs (an image has no face) and `examples` of those.
    """
    rows = {f"{source_name}:{key}": -1 for key in (*pairs.first, *pairs.second)}
    faces: list[bytes] = []
    identities: list[int] = []
    for table in dataset.tables(["image", "source", "identity"]):
        columns = (table[name] for name in ("source", "identity", "image"))
        for key, identity, image in zip(*columns, strict=True):
            if key.as_py() in rows:
                rows[key.as_py()] = len(faces)
                faces.append(image.as_py())
                identities.append(identity.as_py())
    sides = [
        (rows[f"{source_name}:{first}"], rows[f"{source_name}:{second}"], bool(same), f"{first} {second}")
        for first, second, same in zip(pairs.first, pairs.second, pairs.issame.tolist(), strict=True)
    ]
    complete = [pair for pair in sides if pair[0] >= 0 and pair[1] >= 0]
    missing = [pair[3] for pair in sides if pair[0] < 0 or pair[1] < 0]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "pairs.bin"
        write_bin(path, [faces[row] for pair in complete for row in pair[:2]], [pair[2] for pair in complete])
        dataset.folder.write(f"{pairs.name}.bin", path.read_bytes())
    lines = [f"{identities[first]} {identities[second]}\n" for first, second, *_ in complete]
    dataset.folder.write(f"{pairs.name}{IDENTITIES}", "".join(lines).encode())
    if missing:
        print(
            f"warning: {len(missing)} of {len(sides)} pairs of {pairs.name} lack a face on a side, e.g. {missing[0]}",
            flush=True,
        )
    return {
        "name": pairs.name,
        "file": f"{dataset.folder.uri}/{pairs.name}.bin",
        "pairs": len(complete),
        "missing": len(missing),
        "examples": missing[:EXAMPLES],
    }
