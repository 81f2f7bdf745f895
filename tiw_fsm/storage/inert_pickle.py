"""The objects that a pickle describes, rebuilt without executing anything in it.

Python's own unpickler calls whatever a pickle names, so here a small machine walks the pickle's instructions
instead, and knows no way to import or call: it rebuilds plain values and tensors, and turns every other
object into an inert `Record`.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tiw_fsm.storage.stored_tensors import DTYPES, STORAGES, Storage, StoredTensor, view_of, width
from tiw_fsm.storage.torch_archive import Archive, UnreadableFile, damage_as

_LARGEST_PICKLE = 8 * 2**20  # a state_dict's is some hundred bytes per tensor
_MOST_INSTRUCTIONS = 2**20  # some thirty per tensor
_LONGEST_NAME = 200  # letters of a class's, a function's or a record's: what is put together of them stays small
_MOST_ARGUMENTS = 16
_LONGEST_INTEGER = 64  # bits
# Python's dicts take time beyond all bounds to keep integers or tuples that were chosen for it apart.
_LARGEST_KEY = 2**16


@dataclass(eq=False)
class Record:
    """An object or function the file names, kept as a description.

    Attributes:
        args: what it would have been called with; None where it is only referred to.
        state: what its attributes would have been set from.
        items: what would have been appended, or set as (key, value) pairs.
    """

    module: str
    name: str
    # Not shown: a hostile file can nest these so that showing them takes for ever.
    args: tuple[Any, ...] | None = field(default=None, repr=False)
    state: Any = field(default=None, repr=False)
    items: list[Any] = field(default_factory=list, repr=False)

    @property
    def qualified(self) -> str:
        return f"{self.module}.{self.name}"


class PickleMachine:
    """Walks the instructions of a pickle, protocols 2 to 5 as far as torch.save uses them.

    Attributes:
        named: every class and function the pickle named so far.
    """

    def __init__(self, archive: Archive) -> None:
        self.named: list[str] = []
        self._archive = archive
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: list[Any] = []

    def run(self) -> Any:
        """The object the pickle describes.

        Raises:
            UnreadableFile: the pickle is malformed, or larger than any checkpoint's.
        """
        path = self._archive.path
        if self._archive.size("data.pkl") > _LARGEST_PICKLE:
            raise UnreadableFile(f"{path} has a data.pkl too large for a checkpoint's.")
        data = self._archive.read("data.pkl")
        with damage_as(path, "has a malformed data.pkl"):
            for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
                if number == _MOST_INSTRUCTIONS:
                    raise ValueError(f"it has more than {_MOST_INSTRUCTIONS} instructions")
                self._do(opcode.name, argument)
            return self._stack.pop()

    def _do(self, instruction: str, argument: Any) -> None:
        stack = self._stack
        match instruction:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case (
                "BININT" | "BININT1" | "BININT2" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8"
                | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8"
            ):  # fmt: skip
                stack.append(argument)
            case "LONG1" | "LONG4":
                if argument.bit_length() > _LONGEST_INTEGER:
                    raise ValueError(f"it has an integer of {argument.bit_length()} bits")
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(instruction == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._fold(len(stack) - int(instruction[-1]))
            case "TUPLE":
                self._fold(self._marks.pop())
            case "MARK":
                self._marks.append(len(stack))
            case "APPEND":
                self._extend(len(stack) - 1)
            case "APPENDS":
                self._extend(self._marks.pop())
            case "SETITEM":
                self._set_items(len(stack) - 2)
            case "SETITEMS":
                self._set_items(self._marks.pop())
            case "BINPUT" | "LONG_BINPUT":
                if argument != len(self._memo):
                    raise ValueError("it numbers what it remembers otherwise than pickle does")
                self._memo.append(stack[-1])
            case "MEMOIZE":
                self._memo.append(stack[-1])
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                self._name(*argument.split(" ", 1))
            case "STACK_GLOBAL":
                self._name(*self._take(len(stack) - 2))
            case "REDUCE" | "NEWOBJ":
                self._call(*self._take(len(stack) - 2))
            case "BUILD":
                self._build(stack.pop())
            case "BINPERSID":
                stack.append(self._storage(*stack.pop()))
            case _:
                raise ValueError(f"its instruction {instruction} is none that torch.save writes")

    def _take(self, start: int) -> list[Any]:
        """Everything on the stack from ``start`` on."""
        if start < 0:
            raise IndexError("an instruction finds too few operands")
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def _fold(self, start: int) -> None:
        self._stack.append(tuple(self._take(start)))

    def _extend(self, start: int) -> None:
        items, target = self._take(start), self._stack[-1]
        if isinstance(target, Record):
            target.items += items
        elif isinstance(target, list):
            target += items
        else:
            raise TypeError(f"items are appended to a {type(target).__name__}")

    def _set_items(self, start: int) -> None:
        flat, target = self._take(start), self._stack[-1]
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        if isinstance(target, Record):
            target.items += pairs
        elif isinstance(target, dict) and all(_is_key(key) for key, _ in pairs):
            target.update(pairs)
        else:
            plain = "a key that is not plain: no word and no small number"
            raise TypeError(f"items are set in a {type(target).__name__}, or under {plain}")

    def _name(self, module: Any, name: Any) -> None:
        if not (_is_name(module) and _is_name(name)):
            raise ValueError("it names something by no word, or by a word longer than any")
        reference = Record(module, name)
        self.named.append(reference.qualified)
        self._stack.append(reference)

    def _call(self, function: Any, arguments: Any) -> None:
        """Rebuild what this module knows; describe everything else."""
        if not isinstance(function, Record) or not isinstance(arguments, tuple):
            raise TypeError("something that is no function is called")
        if len(arguments) > _MOST_ARGUMENTS:
            raise ValueError(f"it calls something with {len(arguments)} arguments")
        if rebuild := _REBUILD.get(function.qualified):
            self._stack.append(rebuild(*arguments))
        else:
            self._stack.append(Record(function.module, function.name, arguments))

    def _build(self, state: Any) -> None:
        target = self._stack[-1]
        if isinstance(target, Record):
            target.state = state
        # The only attribute of a state_dict is `_metadata`, which nobody here needs.
        elif not isinstance(target, dict):
            raise TypeError(f"attributes are set on a {type(target).__name__}")

    def _storage(self, tag: Any, kind: Any, key: Any, _location: Any, length: Any) -> Storage:
        if tag != "storage" or not isinstance(kind, Record) or not _is_name(key):
            raise TypeError("a storage is described otherwise than torch.save does")
        return Storage(self._archive, f"data/{key}", kind.qualified, length)


def _is_name(word: Any) -> bool:
    return isinstance(word, str) and len(word) <= _LONGEST_NAME


def _is_key(key: Any) -> bool:
    """Whether a dict keeps ``key`` apart from others in little time, whoever chose them."""
    if isinstance(key, int):
        return -_LARGEST_KEY < key < _LARGEST_KEY
    return isinstance(key, str | bytes | Record | None)


def _rebuild_tensor_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, _requires_grad: Any, _hooks: Any, *_metadata: Any
) -> StoredTensor:
    dtype = STORAGES.get(storage.kind, storage.kind)
    return view_of(storage, offset, shape, strides, dtype, storage.length)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, _requires_grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> StoredTensor:
    return view_of(storage, offset, shape, strides, dtype.name, storage.length // width(dtype.name))


def _rebuild_parameter(data: Any, _requires_grad: Any, _hooks: Any) -> Any:
    return data


def _rebuild_ordered_dict() -> OrderedDict[Any, Any]:
    return OrderedDict()


_REBUILD: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _rebuild_ordered_dict,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
}

HARMLESS = {
    *_REBUILD,
    *STORAGES,
    *(f"torch.{dtype}" for dtype in DTYPES),
    "torch.storage.UntypedStorage",
    "torch.Size",
    "torch.device",
}
"""What a file must name for plain values and tensors; none of it runs anything."""
