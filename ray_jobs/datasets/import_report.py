"""What an import took, what it left out and why: `import_report.json`, a table, and the identities' names."""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from facelib.data import FaceDataset, Folder
from facelib.sources import Skipped, SourceIndex
from facelib.sources.source import count_skipped
from ray_jobs.datasets.importing import account_name, account_uri

REPORT, NAMES, LISTING = "import_report.json", "identities.parquet", "listing.json"
# Examples of each reason in the report; all of them are in the accounts of the parts.
EXAMPLES = 20


def make_report(dataset: FaceDataset, index: SourceIndex) -> dict[str, Any]:
    """Sum up the accounts of all parts; writes `identities.parquet` beside them.

    Counts satisfy listed pictures = imported pictures + Σ left out.
    """
    accounts = Folder(account_uri(dataset.folder.uri))
    trees = [json.loads(accounts.read(account_name(n))) for n in range(len(dataset.manifest.parts))]
    left_out = [Skipped(*row) for tree in trees for row in tree["skipped"]]
    kept = _write_names(dataset, index)
    return {
        "listed": {
            "identities": len(index.names),
            "pictures": len(index),
            "not_listed": count_skipped(index.skipped),
        },
        "imported": {
            "identities": dataset.manifest.identities,
            "pictures": dataset.manifest.images,
            "resized": sum(tree["resized"] for tree in trees),
            "identities_without_a_face": int((kept == 0).sum()),
        },
        "left_out": count_skipped(left_out),
        "examples": _examples([*index.skipped, *left_out]),
        "overlaps": [overlap for tree in trees for overlap in tree["overlaps"]],
        "same_picture_in_two_identities": _shared(index, (row for tree in trees for row in tree["fingerprints"])),
    }


def write_listing(folder: Folder, index: SourceIndex) -> None:
    """Everything that the listing left out, one by one, beside the parts' accounts."""
    rows = [[s.reason, s.place, s.detail, s.damage] for s in index.skipped]
    Folder(account_uri(folder.uri)).create().write(LISTING, json.dumps(rows, indent=0).encode())


def print_report(report: dict[str, Any], name: str) -> None:
    """The report as a table."""
    listed, imported = report["listed"], report["imported"]
    table = Table(title=f"{name}: {imported['pictures']} of {listed['pictures']} pictures imported")
    for column in ("left out because", "pictures", "for instance"):
        table.add_column(column, overflow="fold", justify="right" if column == "pictures" else "left")
    reasons = Counter(listed["not_listed"]) + Counter(report["left_out"])
    for reason, number in sorted(reasons.items()):
        table.add_row(reason, str(number), report["examples"][reason][0])
    if reasons:
        Console(width=None if Console().is_terminal else 160).print(table)
    else:
        print(f"{table.title}, nothing was left out")
    if imported["identities_without_a_face"]:
        print(f"{imported['identities_without_a_face']} of {listed['identities']} identities have no face left")
    for overlap in report["overlaps"][:EXAMPLES]:
        print(f"overlap: {overlap['name']} is {overlap['similarity']:.3f} similar to {overlap['picture']}")
    shared = report["same_picture_in_two_identities"]
    if shared["pictures"]:
        print(f"{shared['pictures']} pictures stand in two identities, e.g. {shared['examples'][0]}")


def _write_names(dataset: FaceDataset, index: SourceIndex) -> np.ndarray:
    """`identities.parquet`: number, name, pictures listed and imported; returns the last, int64 [I]."""
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
    found: dict[str, list[str]] = defaultdict(list)
    for s in skipped:
        if len(found[s.reason]) < EXAMPLES:
            found[s.reason].append(str(s))
    return dict(sorted(found.items()))


def _shared(index: SourceIndex, fingerprints: Iterable[list[Any]]) -> dict[str, Any]:
    """Pictures with the fingerprint of a picture of somebody else: a label is wrong, and nobody knows which."""
    rows = sorted((bits, identity, number) for identity, number, bits in fingerprints)
    again = [(a, b) for a, b in itertools.pairwise(rows) if a[0] == b[0] and a[1] != b[1]]
    examples = [[f"{index.names[row[1]]}, picture {row[2]}" for row in pair] for pair in again[:EXAMPLES]]
    return {"pictures": len(again), "examples": examples}
