import numpy as np
import pytest
from support.datasets import write_dataset

from facelib.data import ImageSpec
from facelib.evaluation import evaluate_scores
from facelib.evaluation.protocols import (
    EncodedImages,
    EvaluationResult,
    EvaluationSet,
    open_set,
    parse_spec,
    register_protocol,
)
from facelib.evaluation.protocols.registry import PROTOCOLS


def test_a_protocol_of_ones_own(tmp_path):
    """One class: faces, image spec, measure."""

    @register_protocol("brightness")
    class Brightness(EvaluationSet):
        def __init__(self, name, path, level=3, strict=False):
            self.name, self.image_spec = name, ImageSpec(template="arcface", size=112)
            self.faces = EncodedImages([path.encode()] * level)

        def measure(self, embeddings, measures):
            return EvaluationResult(evaluate_scores(embeddings[:, 0], [1, 0, 1], measures.fars, 0))

    try:
        opened = open_set("mine=brightness(strict=true):/x", defaults={"level": 3, "unknown": 1})
        assert (opened.name, len(opened.faces)) == ("mine", 3)
        from facelib.evaluation import EvaluationOptions

        assert opened.measure(np.array([[3.0], [1.0], [2.0]]), EvaluationOptions()).report.auc == 1
        with pytest.raises(ValueError, match="has no option 'color'; it has level, strict, flip"):
            open_set("brightness(color=1):/x")
        assert opened.flip is None
        assert open_set("brightness(flip=concat):/x", {"flip": "none"}).flip == "concat"
        assert open_set("brightness(flip=false):/x").flip == "none"
        assert open_set("brightness:/x", {"flip": "none"}).flip == "none"
        with pytest.raises(ValueError, match=r"set 'brightness\(flip=mean\):/x': flip=mean: choose one of sum"):
            parse_spec("brightness(flip=mean):/x")

        @register_protocol("shade")
        class Shade(Brightness):
            def __init__(self, name, path, own=1, **options):
                super().__init__(name, path, **options)

        assert len(open_set("shade(own=2,level=4):/x").faces) == 4
        with pytest.raises(ValueError, match="it has own, level, strict, flip"):
            parse_spec("shade(color=1):/x")
    finally:
        for name in ("brightness", "shade"):
            PROTOCOLS._registered.pop(name, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/lfw.bin", ("lfw", "pairs", {}, "/data/lfw.bin")),
        ("lfw=/data/lfw.bin", ("lfw", "pairs", {}, "/data/lfw.bin")),
        ("a.bin+b.bin", ("a-b", "pairs", {}, "a.bin+b.bin")),
        ("s3://bucket/faces", ("faces", "pairs", {}, "s3://bucket/faces")),
        ("x=s3://bucket/faces?region=y", ("x", "pairs", {}, "s3://bucket/faces?region=y")),
        ("rfw=groups:s3://bucket/rfw", ("rfw", "groups", {}, "s3://bucket/rfw")),
        ("ijb(weighted=true,size=96):/d", ("d", "ijb", {"weighted": True, "size": 96}, "/d")),
        ("c=pairs(template=arcface-96):/c.bin", ("c", "pairs", {"template": "arcface-96"}, "/c.bin")),
        ("/data/k=v/faces", ("faces", "pairs", {}, "/data/k=v/faces")),
        ("kface-q4:/data/kface", ("kface", "kface-q4", {}, "/data/kface")),
        ("/data/held_10:30", ("held_10-30", "pairs", {}, "/data/held_10:30")),
        ("x=/data/held_10:30", ("x", "pairs", {}, "/data/held_10:30")),
        ("groups:/data/a b:c", ("a-b-c", "groups", {}, "/data/a b:c")),
        ("/data/lfw (1).bin", ("lfw-1", "pairs", {}, "/data/lfw (1).bin")),
        ("/data/LFW.BIN+/data/my.bin", ("LFW-my", "pairs", {}, "/data/LFW.BIN+/data/my.bin")),
    ],
)
def test_specifications(text, expected):
    spec = parse_spec(text)
    assert (spec.name, spec.protocol, spec.options, spec.path) == expected
    again = parse_spec(spec.absolute())
    assert (again.name, again.protocol, again.options) == expected[:3]


def test_files_that_options_name_become_absolute_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = parse_spec(parse_spec("q=kface-q1(pair_list=lists/q1.txt,size=96):faces").absolute())
    assert spec.options == {"pair_list": f"{tmp_path}/lists/q1.txt", "size": 96}
    spec = parse_spec(parse_spec("x=pairs(names=a.txt+/b.txt):a.bin+b.bin").absolute())
    assert spec.options == {"names": f"{tmp_path}/a.txt+/b.txt"}


def test_a_path_that_exists_is_that_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("held_10:30", "my set=x", "a=b"):
        write_dataset(tmp_path / name / "faces", identities=8, images=3)
        spec = parse_spec(f"{name}/faces")
        assert (spec.protocol, spec.path) == ("pairs", f"{name}/faces")
        assert parse_spec(spec.absolute()).path == f"{tmp_path}/{name}/faces"
    assert len(open_set("held_10:30/faces", {"pairs": 6}).issame) == 12
    # A name wins where both exist.
    write_dataset(tmp_path / "b" / "faces", identities=8, images=3)
    assert (parse_spec("a=b/faces").name, parse_spec("a=b/faces").path) == ("a", "b/faces")


def test_files_whose_names_end_alike(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_spec("x=xa.bin+a.bin").absolute() == f"x=pairs():{tmp_path}/xa.bin+{tmp_path}/a.bin"
    assert parse_spec("x=a.bin+a.bin").absolute() == f"x=pairs():{tmp_path}/a.bin+{tmp_path}/a.bin"


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_spec("x=a.bin+b.bin").absolute() == f"x=pairs():{tmp_path}/a.bin+{tmp_path}/b.bin"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nose=ears:/x", "unknown protocol 'ears': choose one of groups, ijb, ijb-1n, kface-q1"),
        ("ijb(flip):/x", "option 'flip' has no value"),
        ("ijb(flop=1):/x", "protocol ijb has no option 'flop'; it has subset, template, size, .*, flip"),
        ("", "write name=path"),
        ("my set=/x", r"set 'my set=/x': the name 'my set' may have letters, digits and _ \. @ - only"),
        ("held_10:30", "unknown protocol 'held_10'"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_spec(text)


def test_defaults_reach_protocols_that_have_them(tmp_path):
    write_dataset(tmp_path / "faces", identities=8, images=3)
    assert len(open_set(f"{tmp_path}/faces", {"pairs": 6, "seed": 1}).issame) == 12
    assert len(open_set(f"pairs(pairs=7):{tmp_path}/faces", {"pairs": 6}).issame) == 14
