"""The published pickle's tables, and hostile files: nothing in them runs, each is refused with a reason."""

import os
import pickle
import struct
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from facelib.synthesis.discofacegan import UnsafePickleError, read_network_pickle


@pytest.mark.parametrize("file", ["tiny_r32.pkl", "tiny_r32_proto5_numpy2.pkl"])
def test_smallest_example(golden, file):
    """Python 3.6 with numpy 1 and Python 3.11 with numpy 2 wrote the same tables."""
    networks = read_network_pickle(golden / file)
    assert networks.name == "Gs"
    assert networks.version == 3
    assert networks.static_kwargs["resolution"] == 32
    with np.load(golden / "tiny_r32_variables.npz") as expected:
        assert list(networks.variables) == [name.replace("|", "/") for name in expected]
        for name in expected:
            np.testing.assert_array_equal(networks.variables[name.replace("|", "/")], expected[name], err_msg=name)
    assert all(array.dtype == np.float32 for array in networks.variables.values())


@pytest.mark.slow
def test_neither_tensorflow_nor_pickle_is_needed(golden):
    code = (
        "import sys; from facelib.synthesis.discofacegan import read_network_pickle\n"
        f"assert len(read_network_pickle({str(golden / 'tiny_r32.pkl')!r}).variables) == 75\n"
        "assert 'tensorflow' not in sys.modules and 'dnnlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[4])


def _text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value.encode())]) + value.encode()


def _global(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + b"\x93"


def _call(module: str, name: str, *arguments: str) -> bytes:
    return b"\x80\x04" + _global(module, name) + b"(" + b"".join(map(_text, arguments)) + b"tR."


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


NETWORK = _global("dnnlib.tflib.network", "Network")
ARRAY = _global("numpy.core.multiarray", "_reconstruct") + _global("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
FLOAT = _global("numpy", "dtype") + _text("f4") + b"\x89\x88\x87R"


# One value: a tuple of 100 memoized tuples, each twice the one before. The last, memo 100, has 2^100 leaves.
DOUBLING = b"()\x94" + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86\x94" for i in range(100)) + b"t"
# Three networks; the first hides the doubling, the third has it among its settings.
SETTINGS_BOMB = (
    NETWORK + b")\x81}(" + _text("name") + _text("G") + _text("junk") + DOUBLING + b"ub"
    + NETWORK + b")\x81}" + _text("name") + _text("D") + b"sb"
    + NETWORK + b")\x81}(" + _text("name") + _text("Gs") + _text("version") + b"K\x03"
    + _text("static_kwargs") + b"}" + _text("resolution") + b"h\x64sub\x87."
)  # fmt: skip


def hostile_pickles(marker: Path) -> dict[str, bytes]:
    command = f"touch {marker}"
    return {
        "os.system": pickle.dumps((Call(os.system, command), 1, 2), 4),
        "os.system by protocol 0": f"cposix\nsystem\n(V{command}\ntR.".encode(),
        "eval": pickle.dumps(Call(eval, f"open({str(marker)!r}, 'w')"), 4),
        "exec": _call("builtins", "exec", f"open({str(marker)!r}, 'w')"),
        "getattr chain": _call("builtins", "getattr", "x", "system"),
        "dotted name through numpy": _call("numpy", "ndarray.__class__", "x"),
        "dotted name through the network": _call("dnnlib.tflib.network", "Network.__init__.__globals__", "x"),
        "numpy.load": _call("numpy", "load", str(marker)),
        "numpy.core.multiarray.fromfile": _call("numpy.core.multiarray", "fromfile", str(marker)),
        "codecs": _call("_codecs", "encode", "x", "latin1"),
        "copyreg": _call("copyreg", "_reconstructor", "x"),
        "this reader": _call("facelib.synthesis.discofacegan", "read_network_pickle", str(marker)),
        "network called": b"\x80\x04" + NETWORK + b")R.",
        "network with arguments": b"\x80\x04" + NETWORK + _text(command) + b"\x85\x81.",
        "array class called": b"\x80\x04" + _global("numpy", "ndarray") + b")R.",
        "opcode INST": f"(V{command}\nios\nsystem\n.".encode(),
        "opcode OBJ": f"(cos\nsystem\nV{command}\no.".encode(),
        "opcode EXT1": b"\x80\x02\x82\x01.",
        "opcode EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
        "opcode PERSID": b"Px\n.",
        "opcode BINPERSID": b"\x80\x02Nq\x00Q.",
        "opcode NEWOBJ_EX": b"\x80\x04" + NETWORK + b")}\x92.",
        "opcode NEXT_BUFFER": b"\x80\x05\x97.",
        "memo that doubles a hundred times": b"\x80\x04" + DOUBLING + b".",
        "memo that doubles, as a dictionary's key": b"\x80\x04(" + DOUBLING + b"}h\x64Nst.",
        "memo that doubles, as settings": b"\x80\x04" + SETTINGS_BOMB,
        "memo never filled": b"\x80\x04h\x05.",
        "memo index of 4 billion": b"\x80\x04Nr\xff\xff\xff\xffj\xfe\xff\xff\xff.",
        "huge integer": b"\x80\x04\x8b" + struct.pack("<i", 1000) + b"\x7f" * 1000 + b".",
        "huge shape": b"\x80\x04" + ARRAY + b"(K\x01(" + b"J\xff\xff\xff\x7f" * 4 + b"t" + FLOAT + b"\x89C\x01xtb.",
        "negative shape": b"\x80\x04" + ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + FLOAT + b"\x89C\x04xxxxtb.",
        "shape of zeros beyond 32 sides": b"\x80\x04"
        + ARRAY
        + b"(K\x01("
        + b"K\x00" * 40
        + b"t"
        + FLOAT
        + b"\x89C\x00tb.",
        "bytes shorter than the shape": b"\x80\x04" + ARRAY + b"(K\x01K\x02\x85" + FLOAT + b"\x89C\x04xxxxtb.",
        "object array": b"\x80\x04" + _global("numpy", "dtype") + _text("O8") + b"\x89\x88\x87R.",
        "structured type": b"\x80\x04" + _global("numpy", "dtype") + b"(" + _text("f4,O") + b"tR.",
        "type from a list": b"\x80\x04" + _global("numpy", "dtype") + b"]\x85R.",
        "announced 2^60 bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
        "state on a name": b"\x80\x04" + NETWORK + b"}" + _text("__setstate__") + NETWORK + b"sb.",
        "state on an array, slots": b"\x80\x04" + ARRAY + b"N}" + _text("shape") + b"Ns\x86b.",
        "endless nesting": b"\x80\x04" + b"(" * 200_000,
        "endless opcodes": b"\x80\x04" + b")" * 1_200_000 + b".",
        "empty stack": b"\x80\x04.",
        "text": b"not a pickle at all",
        "one byte": b"\x80",
        "a list": pickle.dumps([1, 2, 3], 4),
        "a tuple of three numbers": pickle.dumps((1, 2, 3), 4),
        "two values": b"\x80\x04NN.",
    }


@pytest.mark.parametrize("name", list(hostile_pickles(Path("x"))))
def test_hostile_pickles_are_refused_and_do_not_run(tmp_path, name):
    marker, path = tmp_path / "ran", tmp_path / "hostile.pkl"
    path.write_bytes(hostile_pickles(marker)[name])
    with pytest.raises(UnsafePickleError, match=r"hostile\.pkl: refused") as caught:
        read_network_pickle(path)
    assert not marker.exists()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("opcode", "data"),
    [
        ("OBJ", b"\x80\x04(" + NETWORK + b"o."),
        ("EXT1", b"\x80\x04\x82\x01."),
        ("EXT2", b"\x80\x04\x83\x01\x00."),
        ("NEWOBJ_EX", b"\x80\x04" + NETWORK + b")}\x92."),
        ("NEXT_BUFFER", b"\x80\x05\x97."),
        ("READONLY_BUFFER", b"\x80\x05C\x00\x98."),
    ],
)
def test_the_message_names_the_refused_opcode(tmp_path, opcode, data):
    (tmp_path / "opcode.pkl").write_bytes(data)
    with pytest.raises(UnsafePickleError, match=rf"refused, opcode {opcode} at byte \d+ is not allowed"):
        read_network_pickle(tmp_path / "opcode.pkl")


def test_the_hostile_samples_are_dangerous(tmp_path):
    """Python's own unpickler runs them."""
    marker = tmp_path / "ran"
    pickle.loads(hostile_pickles(marker)["os.system"])
    assert marker.exists()


@pytest.mark.parametrize("share", [0.001, 0.3, 0.57, 0.9, 0.99999])
def test_truncated_files(golden, tmp_path, share):
    data = (golden / "tiny_r32.pkl").read_bytes()
    (tmp_path / "cut.pkl").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UnsafePickleError, match="refused"):
        read_network_pickle(tmp_path / "cut.pkl")


def test_random_damage_is_refused_or_harmless(golden, tmp_path):
    """Half of the hits are in the structure, where bytes are opcodes and names; only the reader's own error comes."""
    data, rng = (golden / "tiny_r32.pkl").read_bytes(), np.random.default_rng(0)
    structure = data.index(b"noise0")
    refused, path = 0, tmp_path / "flipped.pkl"
    for trial in range(150):
        damaged = bytearray(data)
        for place in rng.integers(0, structure if trial % 2 else len(data), size=rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            networks = read_network_pickle(path)
        except UnsafePickleError:
            refused += 1
        else:
            assert len(networks.variables) == 75
            assert all(np.isfinite(array).all() for array in networks.variables.values())
    assert 50 < refused < 150


def test_empty_and_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_network_pickle(tmp_path / "none.pkl")
    (tmp_path / "empty.pkl").touch()
    with pytest.raises(UnsafePickleError, match="0 bytes"):
        read_network_pickle(tmp_path / "empty.pkl")


@pytest.fixture
def network_class(monkeypatch):
    """A class under the original's name, to pickle what a stranger might."""
    modules = {name: types.ModuleType(name) for name in ("dnnlib", "dnnlib.tflib", "dnnlib.tflib.network")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)

    class Network:
        def __init__(self, **state):
            self.__dict__.update(state)

    Network.__module__, Network.__qualname__ = "dnnlib.tflib.network", "Network"
    modules["dnnlib.tflib.network"].Network = Network
    return Network


def _networks(network, golden):
    """Gs of the small file, as an object to change."""
    tables = read_network_pickle(golden / "tiny_r32.pkl")
    split = {"": [], "G_synthesis": [], "G_mapping": []}
    for name, array in tables.variables.items():
        part = name.split("/")[0] if name.startswith("G_") else ""
        split[part].append((name.removeprefix(part + "/"), array if array.ndim else np.float32(array)))
    common = {"version": 3, "static_kwargs": dict(tables.static_kwargs), "build_module_src": "raise SystemExit"}
    parts = {
        name: network(name=f"G_{name}", components={}, variables=split[f"G_{name}"], **common)
        for name in ("synthesis", "mapping")
    }
    return network(name="Gs", components=parts, variables=split[""], **common)


def _write(path: Path, gs, names=("G", "D")) -> Path:
    others = [type(gs)(name=name) for name in names]
    path.write_bytes(pickle.dumps((*others, gs), 4))
    return path


def test_python_wrote_it_and_the_source_text_is_inert(network_class, golden, tmp_path):
    networks = read_network_pickle(_write(tmp_path / "good.pkl", _networks(network_class, golden)))
    expected = read_network_pickle(golden / "tiny_r32.pkl")
    assert all((networks.variables[n] == expected.variables[n]).all() for n in expected.variables)


def _set(array_name, change):
    def damage(gs):
        part, name = array_name.split("/", 1)
        variables = gs.components[part].variables
        index = [n for n, _ in variables].index(name)
        variables[index] = (name, change(np.array(variables[index][1])))

    return damage


def _poke(value):
    def change(array):
        array.flat[0] = value
        return array

    return change


def _settings(**settings):
    return lambda gs: gs.static_kwargs.update(settings)


DAMAGE = {
    "not a number": (_set("mapping/Dense0/weight", _poke(np.nan)), "G_mapping/Dense0/weight .*not finite"),
    "infinite": (_set("synthesis/4x4/Const/bias", _poke(np.inf)), "G_synthesis/4x4/Const/bias .*not finite"),
    "too large for float32": (
        _set("mapping/Dense0/bias", lambda a: a.astype("f8") + 1e300),
        "Dense0/bias .*not finite",
    ),
    "wrong shape": (_set("mapping/Dense1/bias", lambda a: a[:-1]), r"Dense1/bias has shape \(15,\).*expected \(16,\)"),
    "transposed": (_set("mapping/Dense0/weight", lambda a: a.T), r"Dense0/weight has shape \(16, 286\)"),
    "integers": (_set("mapping/Dense1/bias", lambda a: a.astype("i4")), "Dense1/bias has .* i4"),
    "big-endian": (_set("mapping/Dense1/bias", lambda a: a.astype(">f4")), "refused"),
    "missing variable": (
        lambda gs: gs.components["mapping"].variables.pop(),
        "missing or unknown: G_mapping/Dense7/bias",
    ),
    "unknown variable": (lambda gs: gs.variables.append(("extra", np.float32(0))), "missing or unknown: extra"),
    "variable named twice": (lambda gs: gs.variables.append(gs.variables[0]), "name one twice"),
    "no mapping network": (lambda gs: gs.components.pop("mapping"), "mapping and a synthesis"),
    "components swapped": (lambda gs: setattr(gs.components["mapping"], "name", "D"), "component mapping is not"),
    "version": (lambda gs: setattr(gs, "version", 7), "version 7"),
    "other latents": (_settings(latent_size=512), "latent_size is 512, only 286"),
    "pixel norm": (_settings(use_pixel_norm=True), "use_pixel_norm is True"),
    "unknown setting": (_settings(attention=True), "attention is not known"),
    "resolution": (_settings(resolution=48), "resolution is 48, expected a power of two"),
    "enormous resolution": (_settings(resolution=1 << 40), "resolution is"),
    "settings deep inside": (_settings(blur_filter=[[1, 2, 1]]), "blur_filter is"),
}


@pytest.mark.parametrize("name", list(DAMAGE))
def test_wrong_tables_are_named(network_class, golden, tmp_path, name):
    damage, message = DAMAGE[name]
    gs = _networks(network_class, golden)
    damage(gs)
    with pytest.raises(UnsafePickleError, match=message):
        read_network_pickle(_write(tmp_path / "wrong.pkl", gs))


def test_third_network_must_be_the_average(network_class, golden, tmp_path):
    gs = _networks(network_class, golden)
    gs.name = "G"
    with pytest.raises(UnsafePickleError, match="third must be 'Gs'"):
        read_network_pickle(_write(tmp_path / "order.pkl", gs))


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_protocols_orders_and_types(network_class, golden, tmp_path, protocol):
    """Column-major arrays and other float sizes come out as the same float32 tables."""
    gs = _networks(network_class, golden)
    _set("mapping/Dense0/weight", np.asfortranarray)(gs)
    _set("mapping/Dense1/weight", lambda a: a.astype("f8"))(gs)
    path = tmp_path / "other.pkl"
    path.write_bytes(pickle.dumps((network_class(name="G"), network_class(name="D"), gs), protocol))
    networks, expected = read_network_pickle(path), read_network_pickle(golden / "tiny_r32.pkl")
    for name in ("G_mapping/Dense0/weight", "G_mapping/Dense1/weight"):
        np.testing.assert_array_equal(networks.variables[name], expected.variables[name])
