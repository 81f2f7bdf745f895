"""Checkpoints: read without running anything in them, judged by their bytes, kept and removed whole."""

from __future__ import annotations

import enum
import json
import os
import pickle
import shutil
import subprocess
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

import tiw_fsm
from tiw_fsm.errors import DiskRefused
from tiw_fsm.storage import checkpoints
from tiw_fsm.storage.checkpoints import FILES, MANIFEST, MODEL, OPTIMIZER, STATE
from tiw_fsm.storage.torch_files import Record, UnreadableFile, read, read_with_globals, tensors

STAGE = "video_tokenizer"
OWNER = "this run"
PROJECT = Path(tiw_fsm.__file__).parents[1]


@dataclass
class Training:
    """A small model in training, with everything a checkpoint saves."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    @classmethod
    def begun(cls) -> Training:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.LayerNorm(16), torch.nn.Linear(16, 2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        return cls(model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 / (i + 1)))

    def train(self, updates: range) -> Training:
        for update in updates:
            torch.manual_seed(update)
            self.optimizer.zero_grad()
            self.model(torch.randn(4, 8)).square().mean().backward()
            self.optimizer.step()
            self.schedule.step()
        return self

    def save(self, folder: Path, config: object) -> None:
        folder.mkdir(parents=True)
        torch.save(self.model.state_dict(), folder / MODEL)
        torch.save(self.optimizer.state_dict(), folder / OPTIMIZER)
        torch.save({"config": config, "scheduler_state_dict": self.schedule.state_dict()}, folder / STATE)

    def load(self, folder: Path) -> Training:
        self.model.load_state_dict(torch.load(folder / MODEL, weights_only=True))
        self.optimizer.load_state_dict(torch.load(folder / OPTIMIZER, weights_only=True))
        self.schedule.load_state_dict(torch.load(folder / STATE, weights_only=True)["scheduler_state_dict"])
        return self

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}


class RunsCode:
    """Unpickling this the usual way would create ``marker`` in the working folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch marker",)


@dataclass
class ClaimsTensor:
    """Saved as a tensor with one element, repeated, from whatever is given as its storage."""

    storage: object
    shape: tuple[int, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, (self.storage, 0, self.shape, (0,) * len(self.shape), False, None)


def save_checkpoint(checkpoints_dir: Path, completed: int, *, manifest: bool = True) -> Path:
    folder = checkpoints_dir / checkpoints.folder_name(STAGE, completed)
    Training.begun().train(range(2)).save(folder, {"num_blocks": 2})
    if manifest:
        checkpoints.write_manifest(folder, STAGE, completed, OWNER)
    return folder


def rewrite_record(path: Path, record: str, data: bytes, *, compression: int = zipfile.ZIP_STORED) -> None:
    """Replace one record of a torch file, with correct checksums."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    records[f"{path.stem}/{record}"] = data
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


def tear(path: Path, length: int = 2000) -> None:
    with path.open("r+b") as file:
        file.truncate(length)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path, 10)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, bytes]]:
    """A checkpoint to damage again and again: its folder, its digest, and the bytes to restore it from."""
    folder = save_checkpoint(tmp_path_factory.mktemp("intact"), 10)
    return (
        folder,
        checkpoints.digest(folder),
        {name: (folder / name).read_bytes() for name in (*FILES, MANIFEST)},
    )


def put(folder: Path, files: dict[str, bytes]) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


# --- Reading torch files ---

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
    torch.save(ClaimsTensor(torch.zeros(1)._typed_storage(), (10**30,)), tmp_path / "a.pt")
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


# --- Names, manifests, digests ---


def test_a_folder_is_named_by_the_index_of_its_last_update() -> None:
    assert checkpoints.folder_name("dynamics", 500) == "dynamics_step_499"
    assert checkpoints.completed_of(Path("/x/dynamics_step_499")) == 500
    others = ["dynamics", "a_step_", "a_step_1.old", ".tmp-a_step_1", ".discarded-a_step_1"]
    assert {checkpoints.completed_of(Path(name)) for name in others} == {None}


def test_a_resumed_training_is_saved_to_the_same_digest_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, first, resumed = tmp_path / "whole", tmp_path / "first", tmp_path / "resumed"
    Training.begun().train(range(4)).save(whole, {"blocks": 2})
    Training.begun().train(range(2)).save(first, {"blocks": 2})
    Training.begun().load(first).train(range(2, 4)).save(resumed, {"blocks": 2})
    assert checkpoints.digest(resumed) == checkpoints.digest(whole)
    assert checkpoints.digest(first) != checkpoints.digest(whole)


def test_the_manifest_lists_the_files_and_its_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, 10, manifest=False)
    recorded = checkpoints.write_manifest(folder, STAGE, 10, OWNER)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert (manifest["schema"], manifest["stage"], manifest["completed"]) == (2, STAGE, 10)
    assert {name: entry["bytes"] for name, entry in manifest["files"].items()} == {
        name: (folder / name).stat().st_size for name in FILES
    }
    assert recorded == checkpoints.digest(folder)
    assert checkpoints.problems(folder, sha256=recorded) == []


def test_a_digest_of_an_incomplete_checkpoint_is_refused(folder: Path) -> None:
    (folder / OPTIMIZER).unlink()
    with pytest.raises(UnreadableFile, match=OPTIMIZER):
        checkpoints.digest(folder)


# --- Publishing and removing ---


def test_publishing_replaces_a_leftover_of_the_same_name(tmp_path: Path) -> None:
    leftover = save_checkpoint(tmp_path, 10)
    tear(leftover / MODEL)
    temporary = save_checkpoint(tmp_path / "elsewhere", 10).rename(tmp_path / ".tmp-1")
    checkpoints.publish(temporary, leftover, OWNER)
    assert checkpoints.problems(leftover) == []
    assert [path.name for path in tmp_path.iterdir() if path.name != "elsewhere"] == [leftover.name]


def test_publishing_what_is_not_there_is_reported_as_a_refusal_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskRefused):
        checkpoints.publish(tmp_path / ".tmp-1", tmp_path / "a_step_1", OWNER)


def test_a_removal_cut_short_leaves_nothing_that_looks_like_a_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.remove(folder)
    assert checkpoints.newest_valid(folder.parent, STAGE) == (None, [])
    save_checkpoint(folder.parent, 10)
    checkpoints.remove(folder)
    assert list(folder.parent.iterdir()) == []
    checkpoints.remove(folder)  # and once more is fine


def test_a_sweep_removes_what_is_not_kept_and_touches_nothing_foreign(tmp_path: Path) -> None:
    dropped, kept = save_checkpoint(tmp_path, 10), save_checkpoint(tmp_path, 20)
    tinyworlds_own = save_checkpoint(tmp_path, 30, manifest=False)
    other_runs = save_checkpoint(tmp_path, 40, manifest=False)
    checkpoints.write_manifest(other_runs, STAGE, 40, "another run")
    for name in (".tmp-1", ".discarded-x", "notes", "best_step", "a_step_1.bak"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "a_step_5").touch()
    (tmp_path / "b_step_5").symlink_to(tmp_path / "notes")
    checkpoints.sweep(tmp_path, {tmp_path / ".." / tmp_path.name / kept.name}, OWNER)
    foreign = {tinyworlds_own.name, other_runs.name, "notes", "best_step", "a_step_1.bak", "a_step_5", "b_step_5"}
    assert {path.name for path in tmp_path.iterdir()} == {kept.name, *foreign}
    assert dropped.name not in foreign
    assert (tmp_path / "notes" / "file").exists()


def test_publishing_sets_aside_what_somebody_else_put_under_the_name(tmp_path: Path) -> None:
    foreign = save_checkpoint(tmp_path, 10, manifest=False)
    content = (foreign / MODEL).read_bytes()
    temporary = save_checkpoint(tmp_path / "elsewhere", 10).rename(tmp_path / ".tmp-1")
    checkpoints.publish(temporary, foreign, OWNER)
    assert checkpoints.owner_of(foreign) == OWNER
    assert (tmp_path / f"{foreign.name}.set-aside-1" / MODEL).read_bytes() == content
    assert checkpoints.newest_valid(tmp_path, STAGE)[0] == foreign


def test_a_sweep_of_a_directory_not_made_yet_does_nothing(tmp_path: Path) -> None:
    checkpoints.sweep(tmp_path / "none", set(), OWNER)


# --- Readiness ---


def test_an_intact_checkpoint_is_ready_with_and_without_manifest(tmp_path: Path) -> None:
    ours, theirs = save_checkpoint(tmp_path, 10), save_checkpoint(tmp_path, 20, manifest=False)
    expect = Training.begun().shapes()
    assert checkpoints.problems(ours, expect=expect, sha256=checkpoints.digest(ours)) == []
    assert checkpoints.problems(theirs, expect=expect) == []


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert checkpoints.problems(folder) == [f"{folder / name} is missing."]


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER])
def test_a_file_too_small_to_hold_a_model_is_named(folder: Path, name: str) -> None:
    tear(folder / name, 999)
    assert checkpoints.problems(folder) == [f"{folder / name} has only 999 bytes: it was not written to the end."]


def test_the_first_tensor_with_nan_is_named(folder: Path) -> None:
    training = Training.begun()
    training.model.state_dict()["1.bias"][3] = torch.nan
    training.model.state_dict()["2.bias"][0] = torch.inf
    torch.save(training.model.state_dict(), folder / MODEL)
    checkpoints.write_manifest(folder, STAGE, 10, OWNER)
    (problem,) = checkpoints.problems(folder)
    assert problem == f"{folder / MODEL} has values that are NaN or infinite, first in 1.bias."


def test_nan_in_the_optimizer_is_named(folder: Path) -> None:
    training = Training.begun().train(range(1))
    training.optimizer.state[training.model[2].bias]["exp_avg"][0] = torch.inf  # type: ignore[index]
    torch.save(training.optimizer.state_dict(), folder / OPTIMIZER)
    checkpoints.write_manifest(folder, STAGE, 10, OWNER)
    (problem,) = checkpoints.problems(folder)
    assert OPTIMIZER in problem
    assert "first in state.5.exp_avg." in problem


def test_another_architecture_is_told_in_words_with_three_differences(folder: Path) -> None:
    expect = Training.begun().shapes()
    del expect["1.bias"], expect["1.weight"]
    expect |= {"2.weight": (2, 32), "3.weight": (5,)}
    (problem,) = checkpoints.problems(folder, expect=expect)
    assert problem == (
        f"{folder / MODEL} is of another architecture: 1 tensors differ in shape, 1 are missing, 2 unknown "
        "(2.weight is (2, 16) where (2, 32) is expected; 3.weight is missing; 1.weight is not expected)."
    )


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER])
def test_a_checkpoint_that_would_run_code_is_refused_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(folder)
    torch.save({"weights": torch.zeros(300), "evil": RunsCode()}, folder / name)
    checkpoints.write_manifest(folder, STAGE, 10, OWNER)
    (problem,) = checkpoints.problems(folder)
    assert name in problem
    assert f"{os.system.__module__}.system" in problem
    assert not (folder / "marker").exists()


@pytest.mark.parametrize("content", [{}, [torch.zeros(300)], torch.zeros(300)], ids=["empty", "list", "tensor"])
def test_a_file_without_a_state_dict_is_named(folder: Path, content: object) -> None:
    torch.save(content, folder / STATE)
    checkpoints.write_manifest(folder, STAGE, 10, OWNER)
    assert checkpoints.problems(folder) == [f"{folder / STATE} holds nothing to load."]


def test_a_manifest_of_other_files_or_another_update_or_version_is_noticed(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    torch.save({"config": {}}, folder / STATE)
    assert checkpoints.problems(folder) == [
        f"{folder / STATE} was altered or damaged: its hash or size is not the one manifest.json lists."
    ]
    checkpoints.write_manifest(folder, STAGE, 11, OWNER)
    assert "says 11 updates are done" in checkpoints.problems(folder)[0]
    (folder / MANIFEST).write_text(json.dumps(manifest | {"schema": 3}))
    assert "schema 3" in checkpoints.problems(folder)[0]
    (folder / MANIFEST).write_text(json.dumps(manifest | {"owner": "somebody else"}))
    assert "its checksum does not match" in checkpoints.problems(folder)[0]
    for damaged in ("", "[]", "{}", '{"schema": 2, "completed": 10, "files": 3}', "[" * 100_000):
        (folder / MANIFEST).write_text(damaged)
        assert checkpoints.problems(folder) == [f"{folder / MANIFEST} is damaged: it is not a manifest."]


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(FILES), cut=st.floats(0, 1, exclude_max=True), known=st.booleans())
def test_a_truncated_file_is_never_ready(
    intact: tuple[Path, str, dict[str, bytes]], name: str, cut: float, known: bool
) -> None:
    """Even one of TinyWorlds' own, of which neither digest nor manifest exists."""
    folder, digest, files = intact
    files = {**files, name: files[name][: int(cut * len(files[name]))]}
    if not known:
        del files[MANIFEST]
    put(folder, files)
    found = checkpoints.problems(folder, sha256=digest if known else None)
    assert any(name in problem for problem in found)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(FILES), at=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_single_altered_byte_is_detected_when_the_digest_is_known(
    intact: tuple[Path, str, dict[str, bytes]], name: str, at: float, flip: int
) -> None:
    folder, digest, files = intact
    altered = bytearray(files[name])
    altered[int(at * len(altered))] ^= flip
    put(folder, {**files, name: bytes(altered)})
    assert any(name in problem for problem in checkpoints.problems(folder))
    (folder / MANIFEST).unlink()
    assert any("not what was recorded" in problem for problem in checkpoints.problems(folder, sha256=digest))
    checkpoints.problems(folder)  # may see no harm, but raises nothing


# --- Choosing ---


def test_a_torn_newest_checkpoint_is_passed_over_and_named(tmp_path: Path) -> None:
    older, newest = (
        save_checkpoint(tmp_path, 90, manifest=False),
        save_checkpoint(tmp_path, 100, manifest=False),
    )
    tear(newest / MODEL)
    chosen, passed_over = checkpoints.newest_valid(tmp_path, STAGE)
    assert chosen == older
    ((folder, found),) = passed_over
    assert folder == newest
    assert str(newest / MODEL) in found[0]


def test_newest_is_by_update_whatever_the_modification_times_say(tmp_path: Path) -> None:
    older, newer = save_checkpoint(tmp_path, 9), save_checkpoint(tmp_path, 11)  # by name 8 comes after 10
    os.utime(newer, (0, 0))
    os.utime(older)
    assert checkpoints.newest_valid(tmp_path, STAGE) == (newer, [])


def test_checkpoints_of_other_stages_are_not_considered(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 10).rename(tmp_path / "dynamics_step_9")
    assert checkpoints.newest_valid(tmp_path, STAGE) == (None, [])
    assert checkpoints.newest_valid(tmp_path / "none", STAGE) == (None, [])


def test_a_checkpoint_folder_may_be_given_itself(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, 10)
    assert checkpoints.newest_valid(folder, STAGE) == (folder, [])
    renamed = folder.rename(tmp_path / "warm start")
    assert checkpoints.newest_valid(renamed, STAGE) == (renamed, [])
    tear(renamed / MODEL)
    chosen, ((passed_over, _),) = checkpoints.newest_valid(renamed, STAGE)
    assert (chosen, passed_over) == (None, renamed)


# --- The saved config ---


class DeviceType(str, enum.Enum):  # noqa: UP042 - TinyWorlds declares it so
    CUDA = "cuda"


@dataclass
class MixedPrecision:
    param_dtype: str = "bfloat16"


@dataclass
class StageConfig:
    num_blocks: int
    device: DeviceType
    precision: MixedPrecision


CONFIG = {
    "num_blocks": 4,
    "learning_rate": 0.5,
    "compile": True,
    "checkpoint": None,
    "device": DeviceType.CUDA,
}


def test_the_saved_config_is_its_plain_values_and_the_values_of_enums(tmp_path: Path) -> None:
    config = {**CONFIG, "precision": MixedPrecision(), "sizes": [1, 2], "optimizer": torch.optim.AdamW}
    torch.save({"config": config}, tmp_path / STATE)
    assert checkpoints.saved_config(tmp_path) == {**CONFIG, "device": "cuda"}


def test_a_config_saved_as_an_object_reads_like_its_dict(tmp_path: Path) -> None:
    torch.save({"config": StageConfig(4, DeviceType.CUDA, MixedPrecision())}, tmp_path / STATE)
    assert checkpoints.saved_config(tmp_path) == {"num_blocks": 4, "device": "cuda"}


def test_a_state_without_config_has_none_and_one_that_is_no_dict_is_refused(tmp_path: Path) -> None:
    torch.save({"step": 3}, tmp_path / STATE)
    assert checkpoints.saved_config(tmp_path) == {}
    torch.save([1], tmp_path / STATE)
    with pytest.raises(UnreadableFile, match="no dict"):
        checkpoints.saved_config(tmp_path)


# --- Starting fast ---


def imports_torch(statement: str) -> bool:
    code = f"import sys; {statement}; sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 1


def test_inspecting_checkpoints_never_imports_torch() -> None:
    assert not imports_torch("import tiw_fsm.storage.checkpoints")


def test_an_import_of_torch_would_be_noticed() -> None:
    assert imports_torch("import tiw_fsm.storage.checkpoints, torch")
