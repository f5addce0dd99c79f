"""What an import kept, what it left out and why: `import_report.json`, a table, and the identities' names."""

import dataclasses
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table
from rich.text import Text

from facelib.data import FaceDataset, Folder
from facelib.sources import Skipped, SourceIndex
from facelib.sources.source import count_skipped
from ray_jobs.datasets.importing import account_name, account_uri
from ray_jobs.progress import console

REPORT, NAMES, LISTING = "import_report.json", "identities.parquet", "listing.json"
EXAMPLES = 20  # Of each reason in the report; the accounts of the parts have all of them.


def make_report(dataset: FaceDataset, index: SourceIndex) -> dict[str, Any]:
    """Sum up the accounts of all parts, and write `identities.parquet` into the dataset.

    The number of listed images is the number of imported ones plus the sum of `left_out`.
    """
    accounts = Folder(account_uri(dataset.folder.uri))
    trees = [json.loads(accounts.read(account_name(n))) for n in range(len(dataset.manifest.parts))]
    left_out = [Skipped(*row) for tree in trees for row in tree["skipped"]]
    kept = _write_names(dataset, index)
    return {
        "listed": {
            "identities": len(index.names),
            "images": len(index),
            "not_listed": count_skipped(index.skipped),
        },
        "imported": {
            "identities": dataset.manifest.identities,
            "images": dataset.manifest.images,
            "resized": sum(tree["resized"] for tree in trees),
            "identities_without_a_face": int((kept == 0).sum()),
        },
        "left_out": count_skipped(left_out),
        "examples": _examples([*index.skipped, *left_out]),
        "overlaps": [overlap for tree in trees for overlap in tree["overlaps"]],
        "same_image_in_two_identities": _shared(index, (row for tree in trees for row in tree["fingerprints"])),
    }


def write_listing(folder: Folder, index: SourceIndex) -> None:
    """Write every entry that the listing left out beside the parts' accounts."""
    rows = [dataclasses.astuple(s) for s in index.skipped]
    Folder(account_uri(folder.uri)).create().write(LISTING, json.dumps(rows, indent=0).encode())


def print_report(report: dict[str, Any], name: str) -> None:
    """Print the report as a table."""
    listed, imported = report["listed"], report["imported"]
    table = Table(title=f"{name}: {imported['images']} of {listed['images']} images imported")
    for column in ("reason", "images", "example"):
        table.add_column(column, overflow="fold", justify="right" if column == "images" else "left")
    reasons = Counter(listed["not_listed"]) + Counter(report["left_out"])
    for reason, number in sorted(reasons.items()):
        table.add_row(reason, str(number), Text(report["examples"][reason][0]))  # brackets in names are no markup
    if reasons:
        console().print(table)
    else:
        print(f"{table.title}, nothing was left out")
    if imported["identities_without_a_face"]:
        print(f"{imported['identities_without_a_face']} of {listed['identities']} identities have no face")
    for overlap in report["overlaps"][:EXAMPLES]:
        print(f"overlap: {overlap['name']} has similarity {overlap['similarity']:.3f} to {overlap['picture']}")
    shared = report["same_image_in_two_identities"]
    if shared["images"]:
        print(f"{shared['images']} images are in two identities, e.g. {shared['examples'][0]}")


def _write_names(dataset: FaceDataset, index: SourceIndex) -> np.ndarray:
    """Write `identities.parquet`: number, name, images listed and imported; returns the last, int64 [identities]."""
    kept = np.zeros(len(index.names), np.int64)
    for table in dataset.tables(["identity"]):
        kept += np.bincount(table["identity"].to_numpy(), minlength=len(kept))
    columns = {
        "identity": pa.array(np.arange(len(kept))),
        "name": pa.array(index.names, pa.string()),
        "listed": pa.array(index.counts),
        "imported": pa.array(kept),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    dataset.folder.write(NAMES, sink.getvalue().to_pybytes())
    return kept


def _examples(skipped: list[Skipped]) -> dict[str, list[str]]:
    examples: dict[str, list[str]] = defaultdict(list)
    for s in skipped:
        if len(examples[s.reason]) < EXAMPLES:
            examples[s.reason].append(str(s))
    return dict(sorted(examples.items()))


def _shared(index: SourceIndex, fingerprints: Iterable[list[Any]]) -> dict[str, Any]:
    """Images whose fingerprint occurs in another identity too: one of the two labels is wrong."""
    rows = sorted((bits, identity, number) for identity, number, bits in fingerprints)
    shared = [(a, b) for a, b in itertools.pairwise(rows) if a[0] == b[0] and a[1] != b[1]]
    examples = [[f"{index.names[row[1]]}, image {row[2]}" for row in pair] for pair in shared[:EXAMPLES]]
    return {"images": len(shared), "examples": examples}
