"""Files of torch.save: read bit for bit as torch reads them, without running anything in them."""

from __future__ import annotations

import os
import pickle
import sys
import types
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.checkpoint_files import RunsCode, Training, rewrite_record
from tiw_fsm.storage.checkpoints import MODEL
from tiw_fsm.storage.torch_files import Record, UnreadableFile, read, read_with_globals, tensors


@dataclass
class ClaimsTensor:
    """Saved as a tensor with one element, repeated, from whatever is given as its storage."""

    storage: object
    shape: tuple[int, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, (self.storage, 0, self.shape, (0,) * len(self.shape), False, None)


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
    torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip
BASE = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
VIEWS = {
    "contiguous": BASE,
    "transposed": BASE.transpose(0, 2),
    "every second": BASE[:, ::2, 1:4:2],
    "with an offset": BASE[1:, 2],
    "scalar": torch.tensor(2.5),
    "scalar within": BASE[2, 3, 4],
    "empty": torch.empty(0, 3),
    "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 7),
    "parameter": torch.nn.Parameter(BASE[0]),
    "bfloat16 view": BASE.bfloat16()[:, 1],
    "bfloat16 scalar": torch.tensor(-3.0, dtype=torch.bfloat16),
    "float8 scalar": torch.tensor(-3.0, dtype=torch.float8_e4m3fn),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_reads_as_torch_holds_it(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.tensor([0, 1, 1.5, 96, 3]).to(dtype)
    torch.save({"a": tensor}, tmp_path / "a.pt")
    stored = read(tmp_path / "a.pt")["a"]
    widened = tensor.float() if tensor.is_floating_point() and stored.array().itemsize > tensor.itemsize else tensor
    expected = tensor.half() if dtype == torch.float8_e5m2 else widened
    assert (stored.dtype, stored.shape) == (str(dtype).removeprefix("torch."), (5,))
    np.testing.assert_array_equal(stored.array(), expected.numpy(), strict=True)


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.float8_e4m3fn, torch.bfloat16], ids=str)
def test_every_bit_pattern_of_a_narrow_float_decodes_as_in_torch(tmp_path: Path, dtype: torch.dtype) -> None:
    bits = torch.arange(256, dtype=torch.uint8) if dtype.itemsize == 1 else torch.arange(2**15).short()
    torch.save([bits.view(dtype)], tmp_path / "a.pt")
    (stored,) = read(tmp_path / "a.pt")
    np.testing.assert_array_equal(stored.array().astype("f4"), bits.view(dtype).float().numpy())
    assert not stored.is_finite()


@pytest.mark.parametrize("view", VIEWS)
def test_views_keep_their_offset_and_strides(tmp_path: Path, view: str) -> None:
    torch.save({view: VIEWS[view]}, tmp_path / "a.pt")
    expected = VIEWS[view].detach()
    stored = read(tmp_path / "a.pt")[view]
    assert stored.shape == tuple(expected.shape)
    np.testing.assert_array_equal(stored.array(), expected.float().numpy(), strict=True)
    assert stored.is_finite()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_an_adamw_state_reads_as_torch_loads_it(tmp_path: Path, protocol: int) -> None:
    state = Training.begun().train(range(3)).optimizer.state_dict()
    torch.save(state, tmp_path / "o.pt", pickle_protocol=protocol)
    stored = read(tmp_path / "o.pt")
    assert stored["param_groups"] == state["param_groups"]
    for index, moments in state["state"].items():
        for name, tensor in moments.items():
            np.testing.assert_array_equal(stored["state"][index][name].array(), tensor.numpy(), strict=True)
    assert read_with_globals(tmp_path / "o.pt")[1] == []


def test_an_expanded_tensor_of_a_trillion_elements_costs_no_memory_to_check(tmp_path: Path) -> None:
    torch.save({"ones": torch.ones(1).expand(10**12), "nan": torch.tensor(np.nan).expand(10**12)}, tmp_path / "a.pt")
    stored = read(tmp_path / "a.pt")
    assert (stored["ones"].is_finite(), stored["nan"].is_finite()) == (True, False)


def test_a_tensor_that_overlaps_itself_into_more_than_is_stored_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(100).as_strided((50, 50), (1, 1)), tmp_path / "a.pt")
    with pytest.raises(UnreadableFile, match="reaches beyond"):
        read(tmp_path / "a.pt")


def test_a_tensor_larger_than_any_memory_is_refused_when_it_is_read(tmp_path: Path) -> None:
    torch.save(ClaimsTensor(torch.zeros(1)._typed_storage(), (10**19,)), tmp_path / "a.pt")
    stored = read(tmp_path / "a.pt")
    assert stored.is_finite()
    with pytest.raises(UnreadableFile, match="impossible shape"):
        stored.array()


def test_a_file_from_a_big_endian_machine_reads_right(tmp_path: Path) -> None:
    torch.save([torch.tensor([1.0, 2.0]), torch.tensor([3.0]).bfloat16()], tmp_path / "a.pt")
    rewrite_record(tmp_path / "a.pt", "byteorder", b"big")
    rewrite_record(tmp_path / "a.pt", "data/0", np.array([1, 2], ">f4").tobytes())
    rewrite_record(tmp_path / "a.pt", "data/1", b"\x40\x40")
    assert [tensor.array().tolist() for tensor in read(tmp_path / "a.pt")] == [[1, 2], [3]]


def test_an_unknown_class_becomes_an_inert_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("not_importable")
    thing = type("Thing", (), {"__module__": "not_importable"})
    module.Thing = thing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "not_importable", module)
    instance = thing()
    instance.size = 3
    torch.save({"instance": instance, "class": thing, "shape": torch.Size([2])}, tmp_path / "a.pt")
    monkeypatch.delitem(sys.modules, "not_importable")

    stored = read(tmp_path / "a.pt")

    assert isinstance(stored["instance"], Record)
    assert (stored["instance"].qualified, stored["instance"].args) == ("not_importable.Thing", ())
    assert stored["instance"].state == {"size": 3}
    assert (stored["class"].qualified, stored["class"].args) == ("not_importable.Thing", None)
    assert stored["shape"].args == ((2,),)
    assert read_with_globals(tmp_path / "a.pt")[1] == ["not_importable.Thing"]
    assert "not_importable" not in sys.modules


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_code_is_named_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": torch.zeros(300), "evil": RunsCode()}, tmp_path / MODEL, pickle_protocol=protocol)
    assert read(tmp_path / MODEL)["evil"].args == ("touch marker",)
    assert read_with_globals(tmp_path / MODEL)[1] == [f"{os.system.__module__}.system"]
    assert not (tmp_path / "marker").exists()
    torch.load(tmp_path / MODEL, weights_only=False)
    assert (tmp_path / "marker").exists(), "the usual way would have run it"


def test_torch_accepts_as_weights_what_has_no_unsafe_globals(tmp_path: Path) -> None:
    """Our list of harmless names is no wider than torch's own."""
    everything = (
        [torch.zeros(2).to(dtype) for dtype in DTYPES],
        [*DTYPES, torch.Size([1]), torch.device("cpu")],
        VIEWS,
    )
    torch.save(everything, tmp_path / "a.pt")
    assert read_with_globals(tmp_path / "a.pt")[1] == []
    torch.load(tmp_path / "a.pt", weights_only=True)


def write_legacy(path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)


def write_compressed(path: Path) -> None:
    torch.save({"a": torch.zeros(300)}, path)
    rewrite_record(path, "byteorder", b"little", compression=zipfile.ZIP_DEFLATED)


def write_other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def write_exponential_key(path: Path) -> None:
    """A dict key that is a tuple of itself twice, a hundred times over: hashing it would never end."""
    torch.save({}, path)
    doubled = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(100))
    rewrite_record(path, "data.pkl", b"\x80\x02})" + doubled + b"Ns.")


def write_old_instruction(path: Path) -> None:
    torch.save({}, path)
    rewrite_record(path, "data.pkl", b"(S'touch marker'\nios\nsystem\n.")


def write_short_storage(path: Path) -> None:
    torch.save({"a": torch.zeros(300)[:10]}, path)
    rewrite_record(path, "data/0", bytes(600))


def write_tensor_of_no_storage(path: Path) -> None:
    torch.save(ClaimsTensor(5, (3,)), path)


def write_duplicate(path: Path) -> None:
    torch.save({}, path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(f"{path.stem}/data.pkl", pickle.dumps({"other": 1}, 2))


UNREADABLE = {
    "format from before 1.6": write_legacy,
    "is compressed": write_compressed,
    "without the data.pkl": write_other_zip,
    "key that is not plain": write_exponential_key,
    "instruction": write_old_instruction,
    "storage is incomplete": write_short_storage,
    "malformed data.pkl": write_tensor_of_no_storage,
    "two records of one name": write_duplicate,
    "no complete zip archive": lambda path: path.write_bytes(b"hello"),
    "Is a directory": lambda path: path.mkdir(),
    "No such file": lambda path: None,
}


@pytest.mark.parametrize("reason", UNREADABLE)
def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path: Path, reason: str) -> None:
    path = tmp_path / "a.pt"
    UNREADABLE[reason](path)
    with pytest.raises(UnreadableFile, match=reason) as refusal:
        read(path)
    assert str(path) in str(refusal.value)


def test_a_wrong_checksum_is_noticed_when_the_tensor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.full((100,), 7.0)}, path)
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(np.float32(7).tobytes()) + 40] ^= 1
    path.write_bytes(damaged)
    stored = read(path)["a"]
    with pytest.raises(UnreadableFile, match=r"damaged at its record data/0 .*CRC"):
        stored.array()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_pickle_however_mangled_does_anything_but_read_or_be_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": BASE, "b": torch.zeros(2).bfloat16(), "c": {1: torch.Size([1])}, "u": DTYPES}, path)
    with zipfile.ZipFile(path) as archive:
        pickled = bytearray(archive.read("a/data.pkl"))
    for _ in range(data.draw(st.integers(1, 4))):
        pickled[data.draw(st.integers(0, len(pickled) - 1))] = data.draw(st.integers(0, 255))
    rewrite_record(path, "data.pkl", bytes(pickled))
    try:
        for _, tensor in tensors(read(path)):
            tensor.is_finite()
            tensor.array()
    except UnreadableFile:
        pass
