"""A stack machine for the pickle opcodes that a network's tables need; nothing in a file is executed.

Python's unpickler is not used. The machine knows 40 opcodes and a dozen names, and makes plain values: texts, numbers,
tuples, lists, dictionaries with text keys, and the records below. A name is a key of a dictionary, never an import;
numpy's rebuilding functions are stood for by records of (type, shape, place of the bytes in the file).

Compound values are never printed, hashed or compared here: with a memo, a few bytes can describe a value of
astronomic size.
"""

from __future__ import annotations

import math
import mmap
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import IO, Any, cast

import numpy as np

MAX_OPCODES = 1_000_000  # the published file has some 10,000
MAX_TEXT_CHARACTERS = 4 << 20  # the network's source text is the longest
MAX_ARRAY_VALUES = 1 << 28
_DTYPES = ("f2", "f4", "f8", "i4", "i8", "u1", "b1")


class UnsafePickleError(ValueError):
    """The file asks for something that could run code, or is not a DiscoFaceGAN network."""


class _Name(Enum):
    NETWORK = "dnnlib.tflib.network.Network"
    DICT = "a dictionary"
    DTYPE = "numpy.dtype"
    ARRAY = "numpy.ndarray"
    RECONSTRUCT = "_reconstruct"
    SCALAR = "scalar"
    FROMBUFFER = "_frombuffer"


_NAMES: dict[tuple[str, str], _Name] = {
    ("dnnlib.tflib.network", "Network"): _Name.NETWORK,
    ("dnnlib.util", "EasyDict"): _Name.DICT,
    ("dnnlib", "EasyDict"): _Name.DICT,
    ("collections", "OrderedDict"): _Name.DICT,
    ("numpy", "dtype"): _Name.DTYPE,
    ("numpy", "ndarray"): _Name.ARRAY,
    ("numpy.core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,
    ("numpy.core.multiarray", "scalar"): _Name.SCALAR,
    ("numpy._core.multiarray", "scalar"): _Name.SCALAR,
    ("numpy.core.numeric", "_frombuffer"): _Name.FROMBUFFER,
    ("numpy._core.numeric", "_frombuffer"): _Name.FROMBUFFER,
}


@dataclass(frozen=True)
class PickledBytes:
    """Where some bytes lie in the file."""

    start: int
    size: int


@dataclass(eq=False)
class PickledType:
    """A NumPy type, by its code such as "f4"."""

    code: str


@dataclass(eq=False)
class PickledArray:
    """An array as the pickle describes it; its values stay in the file."""

    shape: tuple[int, ...] = ()
    dtype: PickledType | None = None
    order: str = "C"
    content: PickledBytes | None = None


@dataclass(eq=False)
class PickledNetwork:
    """A network object, of which only the state is kept; its class is never looked up."""

    state: dict[str, Any] = field(default_factory=dict)


_MARK = object()
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
_TEXTS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
_BYTES = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Machine:
    """Runs one pickle: `Machine(data).run()` gives its top value.

    Raises:
        UnsafePickleError: the pickle holds anything that this module does not know. Damage can raise other errors.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> object:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(cast(IO[bytes], self._data))):
            if count >= MAX_OPCODES:
                raise UnsafePickleError(f"more than {MAX_OPCODES} opcodes")
            if opcode.name == "STOP":
                result = self._pop()
                if self._stack:
                    raise UnsafePickleError(f"{len(self._stack)} values left over at the end")
                return result
            self._step(opcode.name, argument, position or 0)
        raise UnsafePickleError("no end of the pickle")

    def _step(self, name: str, argument: Any, position: int) -> None:
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _NUMBERS:
            if isinstance(argument, int) and abs(argument) >= 1 << 63:
                raise UnsafePickleError(f"an integer of {argument.bit_length()} bits at byte {position}")
            self._stack.append(argument)
        elif name in _TEXTS:
            if len(argument) > MAX_TEXT_CHARACTERS:
                raise UnsafePickleError(f"a text of {len(argument)} characters at byte {position}")
            self._stack.append(argument)
        elif name in _BYTES:
            self._stack.append(PickledBytes(self._data.tell() - len(argument), len(argument)))
        elif name in _TUPLES:
            self._stack.append(tuple(reversed([self._pop() for _ in range(_TUPLES[name])])))
        elif name in _HANDLERS:
            _HANDLERS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise UnsafePickleError(f"opcode {name} at byte {position} has no place in a network pickle")

    def _pop(self, kind: type | None = None) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise UnsafePickleError("a value is missing on the stack")
        value = self._stack.pop()
        if kind is not None and not isinstance(value, kind):
            raise UnsafePickleError(f"a {kind.__name__.strip('_')} was expected, found {describe(value)}")
        return value

    def _pop_mark(self) -> list[Any]:
        for i in range(len(self._stack) - 1, -1, -1):
            if self._stack[i] is _MARK:
                values = self._stack[i + 1 :]
                del self._stack[i:]
                return values
        raise UnsafePickleError("a mark is missing on the stack")

    def _top(self, kind: type) -> Any:
        value = self._pop(kind)
        self._stack.append(value)
        return value

    def tuple_(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_mark()))

    def append(self, _: Any) -> None:
        value = self._pop()
        self._top(list).append(value)

    def appends(self, _: Any) -> None:
        values = self._pop_mark()
        self._top(list).extend(values)

    def setitem(self, _: Any) -> None:
        value, key = self._pop(), self._pop(str)
        self._top(dict)[key] = value

    def setitems(self, _: Any) -> None:
        pairs = self._pop_mark()
        if len(pairs) % 2 or any(not isinstance(key, str) for key in pairs[::2]):
            raise UnsafePickleError("a dictionary whose keys are not texts")
        self._top(dict).update(zip(pairs[::2], pairs[1::2]))

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top(object)

    def put(self, index: int) -> None:
        self._memo[index] = self._top(object)

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise UnsafePickleError(f"memo {index} is empty")
        self._stack.append(self._memo[index])

    def global_(self, names: str) -> None:
        module, _, name = names.partition(" ")
        self._push_name(module, name)

    def stack_global(self, _: Any) -> None:
        name, module = self._pop(str), self._pop(str)
        self._push_name(module, name)

    def _push_name(self, module: str, name: str) -> None:
        if (module, name) not in _NAMES:
            raise UnsafePickleError(f"its pickle asks for {module[:80]}.{name[:80]}")
        self._stack.append(_NAMES[module, name])

    def newobj(self, _: Any) -> None:
        arguments, name = self._pop(tuple), self._pop(_Name)
        if arguments or name not in (_Name.NETWORK, _Name.DICT):
            raise UnsafePickleError(f"it makes an object of {name.value} with {len(arguments)} arguments")
        self._stack.append(PickledNetwork() if name is _Name.NETWORK else {})

    def reduce(self, _: Any) -> None:
        arguments, name = self._pop(tuple), self._pop(_Name)
        if name not in _CALLS:
            raise UnsafePickleError(f"it calls {name.value}")
        self._stack.append(_CALLS[name](arguments))

    def build(self, _: Any) -> None:
        state, target = self._pop(), self._pop()
        self._stack.append(target)
        if isinstance(target, PickledNetwork) and isinstance(state, dict) and not target.state:
            target.state = state
        elif isinstance(target, PickledType) and fits(state, (int, str), 2) and state[1] in "<|=":
            pass  # little-endian, which is what every file is read as
        elif (
            isinstance(target, PickledArray)
            and target.content is None
            and fits(state, (int, tuple, PickledType, bool, PickledBytes))
        ):
            _, shape, dtype, fortran, content = state
            _fill(target, shape, dtype, "F" if fortran else "C", content)
        else:
            raise UnsafePickleError(f"it sets the state of {describe(target)} to {describe(state)}")


_HANDLERS: dict[str, Callable[[Machine, Any], None]] = {
    "TUPLE": Machine.tuple_,
    "APPEND": Machine.append,
    "APPENDS": Machine.appends,
    "SETITEM": Machine.setitem,
    "SETITEMS": Machine.setitems,
    "MEMOIZE": Machine.memoize,
    "BINPUT": Machine.put,
    "LONG_BINPUT": Machine.put,
    "BINGET": Machine.get,
    "LONG_BINGET": Machine.get,
    "GLOBAL": Machine.global_,
    "STACK_GLOBAL": Machine.stack_global,
    "NEWOBJ": Machine.newobj,
    "REDUCE": Machine.reduce,
    "BUILD": Machine.build,
}


def _make_dtype(arguments: tuple[Any, ...]) -> PickledType:
    if not fits(arguments, (str,), 1) or arguments[0] not in _DTYPES:
        found = describe(arguments[0]) if arguments else "nothing"
        raise UnsafePickleError(f"a numpy type {found}, known are {', '.join(_DTYPES)}")
    return PickledType(arguments[0])


def _make_empty_array(arguments: tuple[Any, ...]) -> PickledArray:
    if not fits(arguments, (_Name, tuple, PickledBytes)) or arguments[0] is not _Name.ARRAY:
        raise UnsafePickleError("an array of an unknown class")
    return PickledArray()


def _make_scalar(arguments: tuple[Any, ...]) -> PickledArray:
    if not fits(arguments, (PickledType, PickledBytes)):
        raise UnsafePickleError("a numpy scalar that is not a type and bytes")
    return _fill(PickledArray(), (), arguments[0], "C", arguments[1])


def _make_array(arguments: tuple[Any, ...]) -> PickledArray:
    if not fits(arguments, (PickledBytes, PickledType, tuple, str)) or arguments[3] not in ("C", "F"):
        raise UnsafePickleError("an array that is not bytes, a type, a shape and an order")
    content, dtype, shape, order = arguments
    return _fill(PickledArray(), shape, dtype, order, content)


_CALLS: dict[_Name, Callable[[tuple[Any, ...]], Any]] = {
    _Name.DTYPE: _make_dtype,
    _Name.RECONSTRUCT: _make_empty_array,
    _Name.SCALAR: _make_scalar,
    _Name.FROMBUFFER: _make_array,
    _Name.DICT: lambda arguments: {} if not arguments else _refuse("a dictionary made from arguments"),
}


def _refuse(reason: str) -> Any:
    raise UnsafePickleError(reason)


def fits(values: object, kinds: tuple[type, ...], at_least: int | None = None) -> bool:
    """Whether `values` is a tuple of these types (with `at_least`, one that starts with them)."""
    if not isinstance(values, tuple):
        return False
    right_length = len(values) == len(kinds) if at_least is None else len(values) >= at_least
    return right_length and all(isinstance(value, kind) for value, kind in zip(values, kinds))


def _fill(
    array: PickledArray, shape: tuple[Any, ...], dtype: PickledType, order: str, content: PickledBytes
) -> PickledArray:
    if len(shape) > 8 or any(type(side) is not int or not 0 <= side <= MAX_ARRAY_VALUES for side in shape):
        raise UnsafePickleError(f"an array with {len(shape)} sides, or sides that are no sizes")
    values = math.prod(shape)
    if values > MAX_ARRAY_VALUES or values * np.dtype(dtype.code).itemsize != content.size:
        raise UnsafePickleError(f"an array of shape {shape} and type {dtype.code} in {content.size} bytes")
    array.shape, array.dtype, array.order, array.content = shape, dtype, order, content
    return array


def describe(value: object) -> str:
    """A value in a word or two, for messages."""
    if isinstance(value, str | int | float | None):
        return repr(value)[:80]
    return f"a {type(value).__name__.strip('_')}"
