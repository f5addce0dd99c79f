"""Writing one part of an image tree."""

import json

from support.datasets import write_dataset

from facelib.sources import Skipped
from facelib.sources.image_export import DatasetImages
from ray_jobs.datasets.image_export import export_part


def test_a_part_is_marked_when_its_identities_are_written(tmp_path):
    write_dataset(tmp_path / "faces", identities=3, images=2)
    images = DatasetImages(str(tmp_path / "faces"))
    read = images.read

    class WithDamage:
        def read(self, part):
            assert not (tmp_path / "tree/parts/part-0000000.json").exists()
            yield Skipped("damaged_record", "record 9", "why", True)
            yield from read(part)

    (tmp_path / "tree/parts").mkdir(parents=True)
    export_part(str(tmp_path / "tree"), "insightface", WithDamage(), 0)
    identities, count, size, skipped = json.loads((tmp_path / "tree/parts/part-0000000.json").read_text())
    written = sorted((tmp_path / "tree/images").rglob("*.jpg"))
    assert (identities, count) == (3, len(written)) == (3, 6)
    assert size == sum(path.stat().st_size for path in written)
    assert Skipped(*skipped[0]) == Skipped("damaged_record", "record 9", "why", True)
