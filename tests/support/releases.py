"""Small benchmark releases in their published file layouts, of the patterns that stand for people."""

from pathlib import Path

import numpy as np

from facelib.alignment import TEMPLATES
from facelib.data import encode_image
from support.datasets import pattern


def write_ijb(
    folder: Path, people: int = 9, templates: int = 2, images: int = 2, search: bool = False, subset: str = "ijbc"
) -> None:
    """IJB-C's layout: every person has `templates` templates of `images` images; all pairs of templates.

    Args:
        search: also the lists of 1:N; the last third of the people is in no gallery.
    """
    meta = folder / "meta"
    meta.mkdir(parents=True)
    (folder / "loose_crop").mkdir()
    # Shown larger than a crop: the landmarks say where the crop is.
    points = " ".join(f"{v:.3f}" for v in (TEMPLATES["arcface"] * 1.5 + 10).ravel())
    rows, landmarks, owner = [], [], {}
    for person in range(people):
        for t in range(templates):
            template = person * templates + t + 1
            owner[template] = person
            for i in range(images):
                name = f"{template}_{i}.jpg"
                picture = np.zeros((190, 190, 3), np.uint8)
                picture[10:178, 10:178] = pattern(person, t * images + i, 168)
                (folder / "loose_crop" / name).write_bytes(encode_image(picture))
                rows.append(f"{name} {template} {template * 10 + i}")
                landmarks.append(f"{name} {points} {0.8 + 0.02 * i:.3f}")
    pairs = [f"{a} {b} {int(owner[a] == owner[b])}" for a in owner for b in owner if a < b]
    for suffix, lines in (("face_tid_mid", rows), ("template_pair_label", pairs), ("name_5pts_score", landmarks)):
        (meta / f"{subset}_{suffix}.txt").write_text("\n".join(lines) + "\n")
    if search:
        gallery = [t for t in owner if t % templates == 1 and owner[t] < people - people // 3]
        probes = [t for t in owner if t % templates != 1]
        for name, members in (("gallery_G1", gallery), ("probe_mixed", probes)):
            lines = ["TEMPLATE_ID,SUBJECT_ID,FILENAME", *(f"{t},{owner[t] + 100},x/{t}.jpg" for t in members)]
            (meta / f"{subset}_1N_{name}.csv").write_text("\n".join(lines) + "\n")
