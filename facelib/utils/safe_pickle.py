"""Read pickles without running anything that they contain: the one place where files written by others are unpickled.

Python's unpickler is not used: it imports and calls whatever a file names. `read_pickle` interprets the opcodes
itself (protocols 0 to 5, Python 2 strings included) and builds plain values: numbers, texts, bytes, tuples, lists,
dictionaries and sets. A global name is looked up in a table given by the caller, never imported; objects are built,
and their state is set, by the `Name`s and `StatefulObject`s of that table. Anything else is refused:

- plain data (`.bin` verification sets): an empty table;
- torch modules (`facelib.models.checkpoints.torch_archive`): inert stand-ins;
- network tables (`facelib.synthesis.discofacegan.network_pickle`): records of where an array's bytes are in the file;
- arrays of joblib (`facelib.alignment.mtcnn_networks`): values that follow their description.

Memory stays proportional to the size of the file. With a memo, a few bytes can describe a nested tuple with 2^100
leaves, so compound values are never printed, hashed or compared, and keys of dictionaries are scalars.
"""

from __future__ import annotations

import codecs
import io
import mmap
import pickletools
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, NamedTuple, Protocol, cast, runtime_checkable

MAX_OPCODES = 1_000_000
MAX_TEXT_CHARACTERS = 4 << 20
MAX_INTEGER_BITS = 64

_SCALARS = (str, bytes, int, float, type(None))  # bool is an int
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_MARK = object()


class UnsafePickleError(ValueError):
    """The pickle asks for something that could run code, or exhausts a limit.

    `name` is the global name (`module.name`) that it asked for, if that is the reason.
    """

    def __init__(self, message: str, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name


class DamagedPickleError(ValueError):
    """The data is truncated or is not a pickle."""


class Name(NamedTuple):
    """What a global name of the pickle stands for.

    Attributes:
        label: for error messages.
        call: arguments -> value of a REDUCE opcode, a call of the name; None refuses it.
        new: arguments -> value of a NEWOBJ opcode, an instance of the name; None refuses it.
    """

    label: str
    call: Callable[[tuple[Any, ...]], Any] | None = None
    new: Callable[[tuple[Any, ...]], Any] | None = None


@runtime_checkable
class StatefulObject(Protocol):
    """A value whose state a pickle may set (opcode BUILD)."""

    def set_state(self, state: Any) -> None:
        """Take the state over; UnsafePickleError if it is not what such an object has."""
        ...


@runtime_checkable
class InlineContent(Protocol):
    """A value whose bytes follow its state in the stream, outside of the pickle's opcodes (arrays of joblib)."""

    def read_content(self, stream: BinaryIO) -> None:
        """Take the bytes; the stream is left at the next opcode. DamagedPickleError if they are truncated."""
        ...


def read_pickle(
    data: bytes | mmap.mmap,
    names: Callable[[str, str], object | None] = lambda module, name: None,
    *,
    persistent_load: Callable[[Any], Any] | None = None,
    make_bytes: Callable[[bytes, int], Any] = lambda content, start: content,
    max_opcodes: int | None = MAX_OPCODES,
) -> Any:
    """The value of a pickle, built from plain data and the caller's `names` only.

    Args:
        data: the pickle; what follows its end is ignored.
        names: (module, name) -> a `Name`, a plain value, or None to refuse.
        persistent_load: persistent id -> value; None refuses persistent ids.
        make_bytes: (content, offset of its first byte in `data`) -> what stands for a bytes object.
        max_opcodes: refuse longer pickles; None: only the size of `data` bounds them.

    Raises:
        UnsafePickleError: see the class.
        DamagedPickleError: see the class.
    """
    return _Machine(data, names, persistent_load, make_bytes, max_opcodes).run()


def make_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """A dictionary from the arguments of its constructor: none, or one list of (key, value) pairs."""
    if not arguments:
        return {}
    pairs = arguments[0]
    if (
        len(arguments) > 1
        or not isinstance(pairs, list)
        or any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs)
    ):
        raise UnsafePickleError("it makes a dictionary of something other than keys and values")
    result: dict[Any, Any] = {}
    _update(result, (value for pair in pairs for value in pair))
    return result


def make_set(arguments: tuple[Any, ...]) -> set[Any]:
    """A set from the arguments of its constructor: none, or one list of scalars."""
    if not arguments:
        return set()
    if len(arguments) > 1 or not isinstance(arguments[0], list | tuple):
        raise UnsafePickleError("it makes a set of something other than a list")
    return {_scalar(value) for value in arguments[0]}


def describe(value: object) -> str:
    """A value in a word or two, for messages."""
    if isinstance(value, str | int | float | None):
        return repr(value)[:80]
    return f"a {value.label[:80]}" if isinstance(value, Name) else f"a {type(value).__name__.strip('_')}"


class _Machine:
    """Runs the opcodes of one pickle on a stack and a memo."""

    def __init__(
        self,
        data: bytes | mmap.mmap,
        names: Callable[[str, str], object | None],
        persistent_load: Callable[[Any], Any] | None,
        make_bytes: Callable[[bytes, int], Any],
        max_opcodes: int | None,
    ) -> None:
        self._stream = io.BytesIO(data) if isinstance(data, bytes) else data
        self._names, self._persistent_load, self._make_bytes = names, persistent_load, make_bytes
        self._max_opcodes = max_opcodes
        self._count = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        read, tell = self._stream.read, self._stream.tell
        while True:
            position, code = tell(), read(1)
            opcode = _OPCODES.get(code)
            if opcode is None:
                raise DamagedPickleError(
                    f"byte {position:,} is not a pickle opcode" if code else f"truncated after {position:,} bytes"
                )
            self._count += 1
            if self._max_opcodes is not None and self._count > self._max_opcodes:
                raise UnsafePickleError(f"more than {self._max_opcodes} opcodes")
            argument = self._argument(opcode, position)
            if opcode.name == "STOP":
                break
            handler = _HANDLERS.get(opcode.name)
            if handler is None:
                raise UnsafePickleError(f"opcode {opcode.name} at byte {position:,} is not allowed")
            handler(self, argument)
        result = self._pop()
        if self._stack:
            raise UnsafePickleError(f"{len(self._stack)} values left over at the end")
        return result

    def _argument(self, opcode: pickletools.OpcodeInfo, position: int) -> Any:
        if opcode.arg is None:
            return None
        if opcode.name == "STRING":
            return self._stream.readline()  # pickletools reads ASCII only
        try:
            return opcode.arg.reader(cast(Any, self._stream))
        except Exception as error:
            raise DamagedPickleError(f"truncated or damaged at byte {position:,} ({opcode.name}: {error})") from None

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self, kind: Any = None) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise UnsafePickleError("a value is missing on the stack")
        value = self._stack.pop()
        if kind is not None and not isinstance(value, kind):
            raise UnsafePickleError(f"a {kind.__name__} was expected, found {describe(value)}")
        return value

    def _pop_mark(self) -> list[Any]:
        for i in range(len(self._stack) - 1, -1, -1):
            if self._stack[i] is _MARK:
                values = self._stack[i + 1 :]
                del self._stack[i:]
                return values
        raise UnsafePickleError("a mark is missing on the stack")

    def _top(self, kind: Any = None) -> Any:
        value = self._pop(kind)
        self._stack.append(value)
        return value

    def ignore(self, _: Any) -> None:
        """PROTO and FRAME: nothing to do."""

    def integer(self, value: int) -> None:
        if value.bit_length() > MAX_INTEGER_BITS:
            raise UnsafePickleError(f"an integer of {value.bit_length()} bits")
        self.push(value)

    def text(self, value: str) -> None:
        if len(value) > MAX_TEXT_CHARACTERS:
            raise UnsafePickleError(f"a text of {len(value)} characters")
        self.push(value)

    def bytes_(self, content: bytes) -> None:
        self.push(self._make_bytes(bytes(content), self._stream.tell() - len(content)))

    def python2_string(self, content: str) -> None:
        """A `str` of Python 2 is bytes; pickletools has read them as Latin-1."""
        self.bytes_(content.encode("latin-1"))

    def python2_text_string(self, line: bytes) -> None:
        """A quoted and escaped `str` of Python 2, protocol 0."""
        quoted = line.rstrip(b"\r\n")
        if not line.endswith(b"\n") or len(quoted) < 2 or quoted[:1] not in (b"'", b'"') or quoted[-1:] != quoted[:1]:
            raise DamagedPickleError("a string of protocol 0 without quotes")
        try:
            content, _ = codecs.escape_decode(quoted[1:-1])
        except ValueError as error:
            raise DamagedPickleError(f"a string of protocol 0 is damaged ({error})") from None
        self.push(cast(bytes, content))  # its bytes are not in the file as they are

    def pop(self, _: Any) -> None:
        if not self._stack:
            raise UnsafePickleError("a value is missing on the stack")
        self._stack.pop()

    def pop_mark(self, _: Any) -> None:
        self._pop_mark()

    def dup(self, _: Any) -> None:
        self.push(self._top())

    def tuple_(self, _: Any) -> None:
        self.push(tuple(self._pop_mark()))

    def short_tuple(self, length: int) -> None:
        self.push(tuple(reversed([self._pop() for _ in range(length)])))

    def list_(self, _: Any) -> None:
        self.push(self._pop_mark())

    def append(self, _: Any) -> None:
        value = self._pop()
        self._top(list).append(value)

    def appends(self, _: Any) -> None:
        values = self._pop_mark()
        self._top(list).extend(values)

    def dict_(self, _: Any) -> None:
        values = self._pop_mark()
        self.push({})
        _update(self._top(dict), values)

    def setitem(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        _update(self._top(dict), (key, value))

    def setitems(self, _: Any) -> None:
        values = self._pop_mark()
        _update(self._top(dict), values)

    def additems(self, _: Any) -> None:
        values = self._pop_mark()
        self._top(set).update(map(_scalar, values))

    def frozenset_(self, _: Any) -> None:
        self.push(frozenset(map(_scalar, self._pop_mark())))

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def put(self, index: int) -> None:
        if not 0 <= index <= self._count:
            raise UnsafePickleError(f"memo slot {index:,} after {self._count:,} opcodes")
        self._memo[index] = self._top()

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise UnsafePickleError(f"memo slot {index:,} is empty")
        self.push(self._memo[index])

    def global_(self, words: str) -> None:
        module, _, name = words.partition(" ")
        self.push(self._find(module, name))

    def stack_global(self, _: Any) -> None:
        name, module = self._pop(str), self._pop(str)
        self.push(self._find(module, name))

    def inst(self, words: str) -> None:
        """INST, a name and a call in one opcode of Python 2, is refused, with the name in the message."""
        self.global_(words)
        raise UnsafePickleError(f"it makes an instance of {words.replace(' ', '.')[:160]} by the opcode INST")

    def _find(self, module: str, name: str) -> Any:
        value = self._names(module, name)
        if value is None:
            full = f"{module[:80]}.{name[:80]}"
            raise UnsafePickleError(f"its pickle asks for {full}", full)
        return value

    def newobj(self, _: Any) -> None:
        arguments, name = self._pop(tuple), self._pop(Name)
        if name.new is None:
            raise UnsafePickleError(f"it makes an instance of {name.label[:80]}")
        self.push(name.new(arguments))

    def reduce(self, _: Any) -> None:
        arguments, name = self._pop(tuple), self._pop(Name)
        if name.call is None:
            raise UnsafePickleError(f"it calls {name.label[:80]}")
        self.push(name.call(arguments))

    def build(self, _: Any) -> None:
        state = self._pop()
        target = self._top()
        if isinstance(target, StatefulObject):
            target.set_state(state)
            if isinstance(target, InlineContent):
                target.read_content(cast(BinaryIO, self._stream))
        elif type(target) is not dict or not isinstance(state, dict):  # attributes of a dict's subclass are dropped
            raise UnsafePickleError(f"it sets the state of {describe(target)} to {describe(state)}")

    def persistent_text(self, identifier: str) -> None:
        self._persistent(identifier)

    def persistent(self, _: Any) -> None:
        self._persistent(self._pop())

    def _persistent(self, identifier: Any) -> None:
        if self._persistent_load is None:
            raise UnsafePickleError("it refers to an object outside itself (a persistent id)")
        self.push(self._persistent_load(identifier))


def _scalar(value: Any) -> Any:
    if not isinstance(value, _SCALARS):
        raise UnsafePickleError(f"{describe(value)} as a key of a dictionary or set; only scalars are allowed")
    return value


def _update(target: dict[Any, Any], keys_and_values: Iterable[Any]) -> None:
    items = list(keys_and_values)
    if len(items) % 2:
        raise UnsafePickleError("a dictionary with a key but no value")
    target.update(zip(map(_scalar, items[::2]), items[1::2], strict=True))


_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), _Machine.ignore),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "MARK": lambda machine, _: machine.push(_MARK),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _Machine.integer),
    **dict.fromkeys(("FLOAT", "BINFLOAT"), _Machine.push),
    **dict.fromkeys(("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), _Machine.text),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), _Machine.bytes_),
    **dict.fromkeys(("SHORT_BINSTRING", "BINSTRING"), _Machine.python2_string),
    "STRING": _Machine.python2_text_string,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.dup,
    "TUPLE": _Machine.tuple_,
    "TUPLE1": lambda machine, _: machine.short_tuple(1),
    "TUPLE2": lambda machine, _: machine.short_tuple(2),
    "TUPLE3": lambda machine, _: machine.short_tuple(3),
    "LIST": _Machine.list_,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "DICT": _Machine.dict_,
    "SETITEM": _Machine.setitem,
    "SETITEMS": _Machine.setitems,
    "ADDITEMS": _Machine.additems,
    "FROZENSET": _Machine.frozenset_,
    "MEMOIZE": _Machine.memoize,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "INST": _Machine.inst,
    "NEWOBJ": _Machine.newobj,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "PERSID": _Machine.persistent_text,
    "BINPERSID": _Machine.persistent,
}
