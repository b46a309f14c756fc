"""The part of the pickle format that state dicts are written in, read without running anything.

Pickle is a language, and its ordinary reader calls whatever function a file names. Here a name is
a `Name` and no more, a call of one of three known names builds a plain value, and every other
instruction is an error. Lengths are checked against what is left of the file, and objects that are
mentioned again are shared, not copied, so that memory is in proportion to the pickle, whatever it
claims. An instruction of one byte can take about a hundred (an empty dict, an entry of the memo),
which is why a pickle has at most `MOST_BYTES`.
"""

import pickletools
from io import BytesIO
from typing import Any, NamedTuple


class Name(NamedTuple):
    """A class or function that the file mentions, as `"module name"`; never looked up."""

    name: str


class Storage(NamedTuple):
    """Values stored elsewhere in the file."""

    kind: str
    """As `"torch FloatStorage"`."""
    key: str
    size: int
    """How many values, according to the pickle."""


class Tensor(NamedTuple):
    """A view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In values, as the offset is."""


MOST_BYTES = 2**23
"""Of one pickle: with about 200 for each tensor, a state dict of 40,000."""

_MOST_AXES = 64
"""As NumPy has them."""
_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
}  # fmt: skip


def _index(x: Any) -> bool:
    return type(x) is int and 0 <= x < 2**63


def _indices(x: Any) -> bool:
    if type(x) is not tuple:
        return False
    if len(x) > _MOST_AXES:
        raise ValueError(f"a tensor has {len(x):,} axes")
    return all(map(_index, x))


def _reduce(function: Any, arguments: Any) -> Any:
    match function, arguments:
        case Name("collections OrderedDict"), ():
            return {}
        case (
            Name("torch._utils _rebuild_tensor_v2"),
            (Storage() as storage, offset, shape, strides, *_),
        ) if _index(offset) and _indices(shape) and _indices(strides):
            return Tensor(storage, offset, shape, strides)
        case Name("torch._utils _rebuild_parameter"), (Tensor() as tensor, *_):
            return tensor
        case Name(name), _:
            raise ValueError(f"it calls {name.replace(' ', '.')}, which is not allowed")
    raise ValueError(f"it calls {type(function).__name__}, which is not allowed")


def _storage(identity: Any) -> Storage:
    match identity:
        case ("storage", Name(kind), str() as key, _, size, *_) if _index(size):
            return Storage(kind, key, size)
    raise ValueError(f"it refers to {type(identity).__name__}, which is no storage of a tensor")


def _fill(target: Any, items: list[Any]) -> None:
    if type(target) is list:
        target.extend(items)
        return
    if type(target) is not dict or len(items) % 2:
        raise ValueError("it fills something that is neither list nor dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | int):
            raise ValueError(f"a dict's key is {type(key).__name__}, not a string or a number")
        target[key] = value


def read_pickle(stream: BytesIO) -> Any:
    """The value of the pickle that starts where `stream` stands; `stream` is left behind it.

    Returns:
      dicts, lists, tuples, strings, numbers, and `Tensor`, `Storage` and `Name` in place of what
      only PyTorch knows.

    Raises:
      ValueError: if it is damaged, says anything that a state dict does not, or has more bytes than
        `MOST_BYTES`.
    """
    try:
        return _interpret(stream)
    except (IndexError, KeyError):
        raise ValueError("it is not a sound pickle") from None


def _interpret(stream: BytesIO) -> Any:
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    end = stream.tell() + MOST_BYTES

    def marked() -> list[Any]:
        start = len(stack) - 1
        while stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise IndexError
        items = stack[start + 1 :]
        del stack[start:]
        return items

    for opcode, argument, _ in pickletools.genops(stream):
        if stream.tell() > end:
            raise ValueError(f"it has a pickle of more than {MOST_BYTES:,} bytes")
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                (value,) = stack
                return value
            case "MARK":
                stack.append(_MARK)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "GLOBAL":
                stack.append(Name(str(argument)))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE":
                stack.append(tuple(marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                n = int(name[-1])
                if len(stack) < n:
                    raise IndexError
                stack[-n:] = [tuple(stack[-n:])]
            case "APPENDS" | "SETITEMS":
                items = marked()
                _fill(stack[-1], items)
            case "APPEND":
                item = stack.pop()
                _fill(stack[-1], [item])
            case "SETITEM":
                items = [stack.pop(-2), stack.pop()]
                _fill(stack[-1], items)
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_reduce(stack.pop(), arguments))
            case "BUILD":
                # attributes of a state dict, such as its modules' versions
                stack.pop()
                if type(stack[-1]) is not dict:
                    raise ValueError("it gives attributes to what is no dict")
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _VALUES:
                stack.append(argument)
            case name:
                raise ValueError(f"it has the instruction {name}, which no state dict needs")
    raise ValueError("it does not end")
