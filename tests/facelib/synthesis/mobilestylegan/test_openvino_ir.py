import numpy as np
import pytest

from facelib.synthesis.mobilestylegan.openvino_ir import Graph, read_graph

LAYERS = """
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="1, 3" element_type="f32"/></layer>
<layer id="1" name="weight" type="Const"><data element_type="f32" shape="2, 3" offset="4" size="24"/></layer>
<layer id="2" name="product" type="MatMul"><data transpose_b="true"/></layer>
<layer id="3" name="axis" type="Const"><data element_type="i64" shape="" offset="32" size="8"/></layer>
"""
EDGES = """
<edge from-layer="1" from-port="0" to-layer="2" to-port="1"/>
<edge from-layer="0" from-port="0" to-layer="2" to-port="0"/>
"""
DATA = np.arange(7, dtype="<f4").tobytes() + bytes(4) + np.array([5], "<i8").tobytes()


def graph(layers: str = LAYERS, edges: str = EDGES, head: str = "", data: bytes = DATA) -> Graph:
    xml = f'<?xml version="1.0"?>{head}<net name="n"><layers>{layers}</layers><edges>{edges}</edges></net>'
    return Graph(xml.encode(), data, "n.xml")


def test_nodes_edges_and_constants_are_read() -> None:
    read = graph()
    product = read.user(read.id_of("weight"), "MatMul")
    assert read.nodes[product].name == "product"
    assert read.nodes[product].inputs == ("0", "1")  # in the order of the ports, not of the file
    np.testing.assert_array_equal(read.constant(read.input(product, "Const")), [[1, 2, 3], [4, 5, 6]])
    assert read.constant(read.id_of("axis")) == 5


def test_files_are_read(tmp_path) -> None:
    (tmp_path / "n.xml").write_text(f"<net><layers>{LAYERS}</layers><edges>{EDGES}</edges></net>")
    (tmp_path / "n.bin").write_bytes(DATA)
    assert read_graph(tmp_path / "n.xml", tmp_path / "n.bin").id_of("product") == "2"


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>',
        '<!DOCTYPE net SYSTEM "file:///etc/passwd">',
    ],
)
def test_document_types_and_entities_are_refused(head: str) -> None:
    with pytest.raises(ValueError, match="document type or an entity"):
        graph(head=head)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('offset="4"', 'offset="20"'),
        ('offset="4"', 'offset="-4"'),
        ('size="24"', 'size="12"'),
        ('shape="2, 3"', 'shape="-2, -3"'),
        ('shape="2, 3"', 'shape="2, 3, 99999999999"'),
    ],
)
def test_a_constant_beyond_the_file_is_refused(old: str, new: str) -> None:
    read = graph(LAYERS.replace(old, new, 1))
    with pytest.raises(ValueError, match=r"n\.xml: 'weight' .*does not fit"):
        read.constant(read.id_of("weight"))


def test_what_is_not_a_graph_is_refused() -> None:
    with pytest.raises(ValueError, match=r"n\.xml: not a readable OpenVINO graph"):
        graph("<layer>")
    with pytest.raises(ValueError, match="layer 9, which does not exist"):
        graph(edges='<edge from-layer="9" from-port="0" to-layer="2" to-port="0"/>')
    with pytest.raises(ValueError, match="has no 'bias'"):
        graph().id_of("bias")
    with pytest.raises(ValueError, match="not a constant of a known type"):
        graph().constant("2")
    with pytest.raises(ValueError, match="'weight' has 0 users of type Add, not one"):
        graph().user("1", "Add")
    with pytest.raises(ValueError, match="'product' has 0 inputs of type Add, not one"):
        graph().input("2", "Add")


def test_sizes_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr("facelib.synthesis.mobilestylegan.openvino_ir._MAX_LAYERS", 2)
    with pytest.raises(ValueError, match="more than 2 layers"):
        graph()
    monkeypatch.setattr("facelib.synthesis.mobilestylegan.openvino_ir._MAX_XML_BYTES", 20)
    with pytest.raises(ValueError, match="at most 20 are read"):
        graph()
