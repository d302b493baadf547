"""Reads the pickles of the CIFAR archives (protocol 2, as Python 2 wrote them) without executing them.

A pickle is a program that may call anything. The interpreter here knows the few instructions that dictionaries, lists,
strings, integers and arrays of bytes need. Names are compared, never imported; what it does not know, it refuses."""

import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np

from sppim_core.errors import DataError

_MARK = object()
_ARGUMENTS = {"BININT", "BININT1", "BININT2", "LONG1", "SHORT_BINSTRING", "BINSTRING", "BINUNICODE"}
_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK}
_EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}


@dataclass(frozen=True)
class _Name:
    """A name in a pickle, "module attribute"."""

    name: str


class _Bytes:
    """The dtype uint8 in the making."""


@dataclass
class _Array:
    """An array of bytes in the making."""

    value: np.ndarray | None = None


def read_pickle(raw: bytes, path) -> dict[str, Any]:
    """The dictionary that a pickle describes, its arrays as uint8 arrays; DataError names path."""
    try:
        content = _Machine().run(raw)
        if not isinstance(content, dict):
            raise ValueError("it holds no dictionary")
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: not a pickle of strings, integers and bytes ({error})") from error
    return {key: value.value if isinstance(value, _Array) else value for key, value in content.items()}


class _Machine:
    """The stack and the memo of a pickle; every instruction is a method or an entry of a table above."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, raw: bytes):
        end = 0
        for opcode, argument, position in pickletools.genops(raw):
            self._step(opcode.name, argument)
            end = (position or 0) + 1
        if end != len(raw):
            raise ValueError(f"{len(raw) - end} bytes follow its end")
        return self.stack[-1]

    def _step(self, opcode: str, argument) -> None:
        if opcode in _ARGUMENTS:
            self.stack.append(argument)
        elif opcode in _LITERALS:
            self.stack.append(_LITERALS[opcode])
        elif opcode in _EMPTY:
            self.stack.append(_EMPTY[opcode]())
        elif opcode == "GLOBAL":
            self.stack.append(_Name(argument))
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        else:
            self._combine(opcode)

    def _combine(self, opcode: str) -> None:
        """An instruction that makes one value of those on the stack."""
        match opcode:
            case "PROTO" | "STOP":
                pass
            case "TUPLE":
                self.stack.append(tuple(self._to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self._pop(int(opcode[-1]))))
            case "APPEND" | "APPENDS":
                items = self._pop(1) if opcode == "APPEND" else self._to_mark()
                self._top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if opcode == "SETITEM" else self._to_mark()
                self._top(dict).update(zip(map(_key, items[::2]), items[1::2], strict=True))
            case "REDUCE":
                self.stack.append(_call(*self._pop(2)))
            case "BUILD":
                [state] = self._pop(1)
                _set_state(self.stack[-1], state)
            case _:
                raise ValueError(f"instruction {opcode}")

    def _top(self, kind: type):
        if not isinstance(self.stack[-1], kind):
            raise TypeError(f"a {kind.__name__} is missing")
        return self.stack[-1]

    def _pop(self, count: int) -> list:
        if len(self.stack) < count:
            raise IndexError("values are missing")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _to_mark(self) -> list:
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]


def _key(value) -> str:
    if not isinstance(value, str):
        raise TypeError("a key is not a string")
    return value


def _call(name, arguments) -> _Bytes | _Array:
    """What the two calls that NumPy's arrays of bytes consist of would make."""
    if name == _Name("numpy dtype") and arguments == ("u1", 0, 1):
        return _Bytes()
    if name == _Name("numpy.core.multiarray _reconstruct") and arguments == (_Name("numpy ndarray"), (0,), "b"):
        return _Array()
    raise ValueError(f"a call of {name.name if isinstance(name, _Name) else 'no name'}")


def _set_state(target, state) -> None:
    """(version, byte order, three that only other types have, ...) of a dtype; shape, order and bytes of an array."""
    if isinstance(target, _Bytes) and state[1:5] == ("|", None, None, None):
        return
    if not isinstance(target, _Array):
        raise ValueError("an object with a state of its own")
    _, shape, dtype, columns_first, text = state
    if not isinstance(dtype, _Bytes):
        raise ValueError("an array that holds no bytes")
    values = np.frombuffer(text.encode("latin-1"), np.uint8)
    target.value = values.reshape(shape, order="F" if columns_first else "C")
