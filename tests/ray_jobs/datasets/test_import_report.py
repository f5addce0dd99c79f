"""The table of an import."""

from ray_jobs.datasets.import_report import print_report


def report(**left_out):
    return {
        "listed": {"identities": 3, "images": 9, "not_listed": {"outside_folder": 1}},
        "imported": {"identities": 2, "images": 6, "resized": 0, "identities_without_a_face": 1},
        "left_out": left_out,
        "examples": {reason: [f"p1/0.jpg: {reason}"] for reason in ("outside_folder", *left_out)},
        "overlaps": [{"name": "p2", "similarity": 0.91, "picture": "lfw.bin, image 3"}],
        "same_image_in_two_identities": {"images": 1, "examples": [["p0, image 0", "p1, image 0"]]},
    }


def test_reasons_overlaps_and_shared_images_are_printed(capsys):
    print_report(report(few_images=3), "faces")
    printed = capsys.readouterr().out
    assert "faces: 6 of 9 images imported" in printed
    assert "p1/0.jpg: few_images" in printed
    assert "1 of 3 identities have no face" in printed
    assert "overlap: p2 has similarity 0.910 to lfw.bin, image 3" in printed
    assert "1 images are in two identities, e.g. ['p0, image 0', 'p1, image 0']" in printed


def test_brackets_in_names_are_no_markup(capsys):
    found = report(few_images=1, duplicate=1)
    found["examples"] |= {"few_images": ["p5[/red]/x.jpg: few_images"], "duplicate": ["[bold]a.jpg: duplicate"]}
    print_report(found, "faces")
    printed = capsys.readouterr().out
    assert "p5[/red]/x.jpg" in printed
    assert "[bold]a.jpg" in printed
