"""Checkpoints: named, judged by their bytes, published and removed whole, chosen by their update."""

from __future__ import annotations

import enum
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiw_fsm
from tests.support.checkpoint_files import OWNER, STAGE, RunsCode, Training, save_checkpoint, tear
from tests.support.models import dynamics
from tiw_fsm.errors import DiskRefused
from tiw_fsm.storage import checkpoint_checks, checkpoints
from tiw_fsm.storage.checkpoints import FILES, MANIFEST, MODEL, OPTIMIZER, STATE
from tiw_fsm.storage.torch_files import UnreadableFile, read_with_globals
from tiw_fsm.tinyworlds.config import OptimizerKeys
from tiw_fsm.tinyworlds.optimizer import make_optimizer

PROJECT = Path(tiw_fsm.__file__).parents[1]


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
    assert checkpoint_checks.problems(folder, sha256=recorded) == []


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
    assert checkpoint_checks.problems(leftover) == []
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
    assert checkpoint_checks.newest_valid(folder.parent, STAGE) == (None, [])
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
    assert checkpoint_checks.newest_valid(tmp_path, STAGE)[0] == foreign


def test_a_sweep_of_a_directory_not_made_yet_does_nothing(tmp_path: Path) -> None:
    checkpoints.sweep(tmp_path / "none", set(), OWNER)


# --- Readiness ---


def test_an_intact_checkpoint_is_ready_with_and_without_manifest(tmp_path: Path) -> None:
    ours, theirs = save_checkpoint(tmp_path, 10), save_checkpoint(tmp_path, 20, manifest=False)
    expect = Training.begun().shapes()
    assert checkpoint_checks.problems(ours, expect=expect, sha256=checkpoints.digest(ours)) == []
    assert checkpoint_checks.problems(theirs, expect=expect) == []


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert checkpoint_checks.problems(folder) == [f"{folder / name} is missing."]


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER])
def test_a_file_too_small_to_hold_a_model_is_named(folder: Path, name: str) -> None:
    tear(folder / name, 499)
    assert checkpoint_checks.problems(folder) == [f"{folder / name} has only 499 bytes: it was not written to the end."]


def test_the_first_tensor_with_nan_is_named(folder: Path) -> None:
    training = Training.begun()
    training.model.state_dict()["1.bias"][3] = torch.nan
    training.model.state_dict()["2.bias"][0] = torch.inf
    torch.save(training.model.state_dict(), folder / MODEL)
    checkpoints.write_manifest(folder, STAGE, 10, OWNER)
    (problem,) = checkpoint_checks.problems(folder)
    assert problem == f"{folder / MODEL} has values that are NaN or infinite, first in 1.bias."


def test_nan_in_the_optimizer_is_named(folder: Path) -> None:
    training = Training.begun().train(range(1))
    training.optimizer.state[training.model[2].bias]["exp_avg"][0] = torch.inf  # type: ignore[index]
    torch.save(training.optimizer.state_dict(), folder / OPTIMIZER)
    checkpoints.write_manifest(folder, STAGE, 10, OWNER)
    (problem,) = checkpoint_checks.problems(folder)
    assert OPTIMIZER in problem
    assert "first in state.5.exp_avg." in problem


def test_another_architecture_is_told_in_words_with_three_differences(folder: Path) -> None:
    expect = Training.begun().shapes()
    del expect["1.bias"], expect["1.weight"]
    expect |= {"2.weight": (2, 32), "3.weight": (5,)}
    (problem,) = checkpoint_checks.problems(folder, expect=expect)
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
    (problem,) = checkpoint_checks.problems(folder)
    assert name in problem
    assert f"{os.system.__module__}.system" in problem
    assert not (folder / "marker").exists()


@pytest.mark.parametrize("content", [{}, [torch.zeros(300)], torch.zeros(300)], ids=["empty", "list", "tensor"])
def test_a_file_without_a_state_dict_is_named(folder: Path, content: object) -> None:
    torch.save(content, folder / STATE)
    checkpoints.write_manifest(folder, STAGE, 10, OWNER)
    assert checkpoint_checks.problems(folder) == [f"{folder / STATE} holds nothing to load."]


def test_a_manifest_of_other_files_or_another_update_or_version_is_noticed(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    torch.save({"config": {}}, folder / STATE)
    assert checkpoint_checks.problems(folder) == [
        f"{folder / STATE} was altered or damaged: its hash or size is not the one manifest.json lists."
    ]
    checkpoints.write_manifest(folder, STAGE, 11, OWNER)
    assert "says 11 updates are done" in checkpoint_checks.problems(folder)[0]
    (folder / MANIFEST).write_text(json.dumps(manifest | {"schema": 3}))
    assert "schema 3" in checkpoint_checks.problems(folder)[0]
    (folder / MANIFEST).write_text(json.dumps(manifest | {"owner": "somebody else"}))
    assert "its checksum does not match" in checkpoint_checks.problems(folder)[0]
    for damaged in ("", "[]", "{}", '{"schema": 2, "completed": 10, "files": 3}', "[" * 100_000):
        (folder / MANIFEST).write_text(damaged)
        assert checkpoint_checks.problems(folder) == [f"{folder / MANIFEST} is damaged: it is not a manifest."]


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
    found = checkpoint_checks.problems(folder, sha256=digest if known else None)
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
    assert any(name in problem for problem in checkpoint_checks.problems(folder))
    (folder / MANIFEST).unlink()
    assert any("not what was recorded" in problem for problem in checkpoint_checks.problems(folder, sha256=digest))
    checkpoint_checks.problems(folder)  # may see no harm, but raises nothing


# --- Choosing ---


def test_a_torn_newest_checkpoint_is_passed_over_and_named(tmp_path: Path) -> None:
    older, newest = (
        save_checkpoint(tmp_path, 90, manifest=False),
        save_checkpoint(tmp_path, 100, manifest=False),
    )
    tear(newest / MODEL)
    chosen, passed_over = checkpoint_checks.newest_valid(tmp_path, STAGE)
    assert chosen == older
    ((folder, found),) = passed_over
    assert folder == newest
    assert str(newest / MODEL) in found[0]


def test_newest_is_by_update_whatever_the_modification_times_say(tmp_path: Path) -> None:
    older, newer = save_checkpoint(tmp_path, 9), save_checkpoint(tmp_path, 11)  # by name 8 comes after 10
    os.utime(newer, (0, 0))
    os.utime(older)
    assert checkpoint_checks.newest_valid(tmp_path, STAGE) == (newer, [])


def test_checkpoints_of_other_stages_are_not_considered(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 10).rename(tmp_path / "dynamics_step_9")
    assert checkpoint_checks.newest_valid(tmp_path, STAGE) == (None, [])
    assert checkpoint_checks.newest_valid(tmp_path / "none", STAGE) == (None, [])


def test_a_checkpoint_folder_may_be_given_itself(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, 10)
    assert checkpoint_checks.newest_valid(folder, STAGE) == (folder, [])
    renamed = folder.rename(tmp_path / "warm start")
    assert checkpoint_checks.newest_valid(renamed, STAGE) == (renamed, [])
    tear(renamed / MODEL)
    chosen, ((passed_over, _),) = checkpoint_checks.newest_valid(renamed, STAGE)
    assert (chosen, passed_over) == (None, renamed)


# --- The state of two optimizers ---


@pytest.fixture
def of_muon(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint whose optimizer file is Muon's and AdamW's, without a manifest; and what that file holds."""
    model = dynamics()
    optimizer = make_optimizer(model, OptimizerKeys(optimizer="muon"))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.save(model.state_dict(), folder / MODEL)
    torch.save(optimizer.state_dict(), folder / OPTIMIZER)
    (folder / MANIFEST).unlink()
    return folder, optimizer.state_dict()


def test_a_checkpoint_of_muon_is_ready_and_holds_nothing_that_runs(of_muon: tuple[Path, dict[str, Any]]) -> None:
    folder, state = of_muon
    assert checkpoint_checks.problems(folder) == []
    assert read_with_globals(folder / OPTIMIZER)[1] == []
    assert torch.load(folder / OPTIMIZER, weights_only=True).keys() == state.keys() == {"muon", "adamw"}


@pytest.mark.parametrize("part", ["muon", "adamw"])
def test_damage_in_a_checkpoint_of_muon_is_noticed(of_muon: tuple[Path, dict[str, Any]], part: str) -> None:
    folder, state = of_muon
    next(iter(state[part]["state"][0].values())).view(-1)[0] = float("nan")
    torch.save(state, folder / OPTIMIZER)
    (told,) = checkpoint_checks.problems(folder)
    assert f"NaN or infinite, first in {part}.state.0" in told
    torch.save({**state, part: RunsCode()}, folder / OPTIMIZER)
    (told,) = checkpoint_checks.problems(folder)
    assert "refers to code that loading it could run" in told


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
    assert checkpoint_checks.saved_config(tmp_path) == {**CONFIG, "device": "cuda"}


def test_a_config_saved_as_an_object_reads_like_its_dict(tmp_path: Path) -> None:
    torch.save({"config": StageConfig(4, DeviceType.CUDA, MixedPrecision())}, tmp_path / STATE)
    assert checkpoint_checks.saved_config(tmp_path) == {"num_blocks": 4, "device": "cuda"}


def test_a_state_without_config_has_none_and_one_that_is_no_dict_is_refused(tmp_path: Path) -> None:
    torch.save({"step": 3}, tmp_path / STATE)
    assert checkpoint_checks.saved_config(tmp_path) == {}
    torch.save([1], tmp_path / STATE)
    with pytest.raises(UnreadableFile, match="no dict"):
        checkpoint_checks.saved_config(tmp_path)


# --- Starting fast ---


def imports_torch(statement: str) -> bool:
    code = f"import sys; {statement}; sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 1


def test_inspecting_checkpoints_never_imports_torch() -> None:
    assert not imports_torch("import tiw_fsm.storage.checkpoint_checks")


def test_an_import_of_torch_would_be_noticed() -> None:
    assert imports_torch("import tiw_fsm.storage.checkpoint_checks, torch")


# --- Manifests made to do harm ---


MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "files without their sizes": lambda manifest: manifest["files"].update({name: {"sha256": "0"} for name in FILES}),
    "files that are numbers": lambda manifest: manifest["files"].update(dict.fromkeys(FILES, 7)),
    "a schema of a million letters": lambda manifest: manifest.update(schema="\x1b" * 100_000),
    "updates of 4,000 digits": lambda manifest: manifest.update(completed=10**4000),
    "updates that are a list": lambda manifest: manifest.update(completed=[[]] * 1000),
    "no files": lambda manifest: manifest.update(files=[]),
}
"""Changes of a manifest, whose checksum is right."""


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_hostile_manifest_is_refused_in_a_sentence(folder: Path, what: str) -> None:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    del manifest["checksum"]
    MANIFESTS[what](manifest)
    (folder / MANIFEST).write_bytes(checkpoints.manifest_bytes(manifest))
    (problem,) = checkpoint_checks.problems(folder)
    assert MANIFEST in problem
    assert len(problem) < 1000


@pytest.mark.parametrize("text", ["[" * 100_000, '{"completed": ' + "9" * 5000 + "}", "NaN", "[]", '"', "{}", "\x00"])
def test_a_manifest_that_is_none_is_refused_in_a_sentence(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    assert checkpoint_checks.problems(folder) == [f"{folder / MANIFEST} is damaged: it is not a manifest."]
    assert checkpoints.owner_of(folder) is None
