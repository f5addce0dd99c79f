"""IJB-B/C 1:N."""

import numpy as np
import pytest
from support.releases import write_ijb

from facelib.evaluation import EvaluationOptions
from facelib.evaluation.protocols import open_set
from facelib.evaluation.protocols.ijb_identification import PROBES


def pixels(faces):
    """Embeddings that know whom a pattern shows: small gray images."""
    images = faces.decode().astype(np.float32).mean(axis=3)[:, ::8, ::8].reshape(len(faces), -1)
    return images - images.mean(axis=1, keepdims=True)


def test_ijb_identification(tmp_path):
    write_ijb(tmp_path / "ijb", search=True)
    opened = open_set(f"ijb-1n:{tmp_path}/ijb")
    report = opened.measure(pixels(opened.faces), EvaluationOptions(ranks=(1, 2), fpirs=(0.4,), bootstrap=20)).report
    assert (report.gallery, report.mated, report.nonmated) == ([6], [6], [3])
    assert report.rank[1] > 0.6
    assert report.identities == 9
    expected = np.repeat(np.arange(100, 109), 4)
    expected[[24, 25, 28, 29, 32, 33]] = -1  # the first templates of the last three identities are in no list
    assert opened.identities.tolist() == expected.tolist()
    with (tmp_path / "ijb" / "meta" / "ijbc_1N_probe_mixed.csv").open("a") as file:
        file.write("999,5,x\n")
    with pytest.raises(ValueError, match=r"ijbc_1N_probe_mixed\.csv: line 11: template 999 has no image"):
        open_set(f"ijb-1n:{tmp_path}/ijb")
    (tmp_path / "ijb" / "meta" / "ijbc_1N_gallery_G1.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no ijbc_1N_gallery\*\.csv"):
        open_set(f"ijb-1n:{tmp_path}/ijb")


def test_merged_galleries_are_searched_as_one(tmp_path):
    """insightface: the similarities of all probes and all gallery templates, sorted."""
    write_ijb(tmp_path / "ijb", search=True)
    meta = tmp_path / "ijb" / "meta"
    # The last three subjects are a gallery of their own, by their first templates.
    others = "".join(f"{t},{100 + t // 2},x\n" for t in (13, 15, 17))
    (meta / "ijbc_1N_gallery_G2.csv").write_text("TEMPLATE_ID,SUBJECT_ID,FILENAME\n" + others)
    opened = open_set(f"ijb-1n(galleries=merged):{tmp_path}/ijb")
    embeddings = np.random.default_rng(0).normal(size=(len(opened.faces), 3)).astype(np.float32)
    options = EvaluationOptions(ranks=(1, 5), bootstrap=0)
    assert opened.rules(options)["galleries"] == "merged"
    report = opened.measure(embeddings, options).report
    features, ids = opened.pool(embeddings)
    gallery, subjects = (np.concatenate(column) for column in zip(*opened.galleries, strict=True))
    similarity = features[np.searchsorted(ids, opened.probes[0])] @ features[np.searchsorted(ids, gallery)].T
    order = subjects[np.argsort(-similarity)]
    for k in (1, 5):
        assert report.rank[k] == np.mean(
            [subject in row[:k] for subject, row in zip(opened.probes[1], order, strict=True)]
        )
    assert (report.gallery, report.mated, report.nonmated, report.tpir_at_fpir) == ([9], [9], [0], {})
    assert "FPIR cannot be measured" in report.warnings[0]
    with pytest.raises(ValueError, match="galleries=both: choose separate or merged"):
        open_set(f"ijb-1n(galleries=both):{tmp_path}/ijb")


def test_bytes_of_another_encoding_in_a_list_do_no_harm(tmp_path):
    write_ijb(tmp_path / "ijb", search=True)
    expected = open_set(f"ijb-1n:{tmp_path}/ijb").probes
    probes = tmp_path / "ijb" / "meta" / "ijbc_1N_probe_mixed.csv"
    probes.write_bytes(probes.read_bytes().replace(b"\n", b",J\xf6rg\n"))
    for first, second in zip(open_set(f"ijb-1n:{tmp_path}/ijb").probes, expected, strict=True):
        assert np.array_equal(first, second)


def test_lists_of_probes_are_never_merged(tmp_path):
    write_ijb(tmp_path / "ijb", search=True)
    meta = tmp_path / "ijb" / "meta"
    mixed = (meta / "ijbc_1N_probe_mixed.csv").read_text().splitlines()
    (meta / "ijbc_1N_probe_img.csv").write_text("\n".join(mixed[:4]) + "\n")
    (meta / "ijbc_1N_probe_video.csv").write_text("\n".join([mixed[0], *mixed[4:]]) + "\n")
    with pytest.raises(
        ValueError, match=r"probe_img\.csv, .*probe_mixed\.csv, .*probe_video\.csv: choose one with pro"
    ):
        open_set(f"ijb-1n:{tmp_path}/ijb")
    counts = {kind: len(open_set(f"ijb-1n(probes={kind}):{tmp_path}/ijb").probes[0]) for kind in PROBES}
    assert counts == {"mixed": 9, "image": 3, "video": 6}
    with pytest.raises(ValueError, match="probes=stills: choose one of mixed, image, video"):
        open_set(f"ijb-1n(probes=stills):{tmp_path}/ijb")
    (meta / "ijbc_1N_probe_video.csv").unlink()
    with pytest.raises(FileNotFoundError, match="no list of video probes; there are ijbc_1N_probe_img"):
        open_set(f"ijb-1n(probes=video):{tmp_path}/ijb")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1,100,img/1.jpg\n3,101,img/3.jpg\n", r"gallery_G1\.csv: line 1 is '1,100,img/1\.jpg', expected headings"),
        (
            "TEMPLATE_ID,SUBJECT_ID,FILENAME\n1,100,a\n3,101,b\n1,777,c\n",
            r"gallery_G1\.csv: line 4 says that template 1 is of subject 777, line 2 that it is of 100",
        ),
        ("TEMPLATE_ID,SUBJECT_ID\n1,100\n\nx,101\n", r"line 4 is 'x,101'; expected: template,subject"),
        ("TEMPLATE_ID,SUBJECT_ID\n", r"gallery_G1\.csv: no template"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused_with_its_line(tmp_path, lines, message):
    write_ijb(tmp_path / "ijb", search=True)
    (tmp_path / "ijb" / "meta" / "ijbc_1N_gallery_G1.csv").write_text(lines)
    with pytest.raises(ValueError, match=message):
        open_set(f"ijb-1n:{tmp_path}/ijb")


def test_a_template_with_a_line_for_each_image_and_a_byte_order_mark(tmp_path):
    write_ijb(tmp_path / "ijb", search=True)
    gallery = tmp_path / "ijb" / "meta" / "ijbc_1N_gallery_G1.csv"
    expected = open_set(f"ijb-1n:{tmp_path}/ijb").galleries[0]
    lines = gallery.read_text().splitlines()
    gallery.write_text("\ufeff" + "\r\n".join([lines[0], *(line for line in lines[1:] for _ in range(2))]))
    for found, wanted in zip(open_set(f"ijb-1n:{tmp_path}/ijb").galleries[0], expected, strict=True):
        assert np.array_equal(found, wanted)
