"""Files made to do harm: nothing in them runs, nothing outside the run's folders is touched, and whatever size or depth
they claim, the command ends within seconds, with a documented exit code and a sentence that names the file."""

from __future__ import annotations

import io
import os
import pickle
import resource
import shutil
import struct
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from tests.support.configs import LENIENT, write_configs, write_frames
from tests.support.torture.disk import Tree
from tests.support.torture.launch import Ended, Fault, Launcher
from tiw_fsm.errors import ExitCode
from tiw_fsm.fsm.run_state import RunState
from tiw_fsm.fsm.states import State
from tiw_fsm.stages import Stage
from tiw_fsm.storage import checkpoints
from tiw_fsm.storage.checkpoints import FILES, MANIFEST, MODEL, OPTIMIZER, STATE
from tiw_fsm.storage.store import Store
from tiw_fsm.system import durable
from tiw_fsm.values.frozen import CheckpointRef, FileRef

RUN = ("run", "--engine", "simulated")
READERS = (("status",), ("verify",))
FRESH = ("check", "--run", "fresh")
"""A look at configs and frames, without a run that has its own engine."""
IN_ITS_WORK = 180
"""The operation on its files at which the run was killed: it has committed some checkpoints, and others are to come."""
SECONDS, MEMORY = 20, 4 << 30
"""What a command may take; that much memory is not its use, but the address space of Python with its libraries."""
ABSURD = 1 << 40
"""Bytes of a file that has holes only."""
GONE_WELL = (ExitCode.PASSED, ExitCode.USAGE, ExitCode.DAMAGED)
REFUSED = (ExitCode.USAGE,)


class Scene:
    """A run killed in the middle of its work, and files beside it that are none of its business."""

    def __init__(self, launcher: Launcher, folder: Path, command: tuple[str, ...] = RUN) -> None:
        self.root = folder / "root"
        self.outside = folder / "outside"
        self.canary = self.outside / "something ran"
        self._launcher = launcher
        write_configs(self.root / "configs", {"loop": LENIENT})
        write_frames(self.root / "frames.h5")
        launcher.start(self.root, *command, fault=Fault("before", IN_ITS_WORK)).wait()
        self._beginning = Tree.read(self.root)
        committed = self.state().stages[Stage.VIDEO].checkpoint
        assert committed is not None
        self.committed = Path(committed.path)
        """The newest checkpoint."""
        self.coming = self.committed.with_name(checkpoints.folder_name(Stage.VIDEO, committed.completed + 5))
        """The one that comes next."""

    @property
    def store(self) -> Store:
        return Store(self.root / "state" / "default")

    def state(self) -> RunState:
        run = self.store.load()
        assert run is not None
        return run

    def begin(self) -> None:
        """Have everything as it was."""
        self._beginning.materialize(self.root)
        shutil.rmtree(self.outside, ignore_errors=True)
        self.outside.mkdir()
        (self.outside / "precious").write_text("precious")

    def run(self, command: tuple[str, ...], broken: str | None = None) -> Ended:
        """A command that gets little time and memory. Raises TimeoutError."""
        started = self._launcher.start(self.root, *command, broken=broken)
        if command[0] != "run" or "simulated" in command:  # torch asks for more address space than it uses
            resource.prlimit(started.pid, resource.RLIMIT_AS, (MEMORY, MEMORY))
        return started.wait(SECONDS)


Lay = Callable[[Scene], None]


@dataclass(frozen=True)
class Hostile:
    """Something laid into a run's way."""

    lay: Lay
    name: str
    """The file of which a command that does not end well must speak."""
    commands: tuple[tuple[str, ...], ...] = (*READERS, RUN)
    ends: tuple[ExitCode, ...] = GONE_WELL


def harm(scene: Scene, hostile: Hostile, broken: str | None = None) -> list[str]:
    """What is not as it should be after commands that met something hostile."""
    scene.begin()
    hostile.lay(scene)
    before = Tree.read(scene.outside)
    troubles = []
    for command in hostile.commands:
        try:
            ended = scene.run(command, broken)
        except TimeoutError as exc:
            troubles.append(f"{command}: {exc}")
            continue
        said = ended.stdout + ended.stderr
        if ended.code not in hostile.ends or "Traceback" in said:
            how = ended.signal if ended.code is None else int(ended.code)
            troubles.append(f"{command}: ended with {how}, saying {said[-500:]}")
        elif ended.code != ExitCode.PASSED and hostile.name not in said:
            troubles.append(f"{command}: says nothing of {hostile.name}, but {said[-500:]}")
    return troubles + [f"outside: {change}" for change in before.differences(Tree.read(scene.outside))]


@pytest.fixture(scope="module")
def scene(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(launcher, tmp_path_factory.mktemp("scene"))


@pytest.fixture(autouse=True)
def _counted(figures: Counter[str], request: pytest.FixtureRequest) -> None:
    if "scene" in request.fixturenames:
        figures["hostile files"] += 1


# --- links ------------------------------------------------------------------------------------------------------

STATE_FILES = (
    "on_finish", "on_finish.tmp",
    "state.json", "state.prev.json", "journal.jsonl", "lock", "log.jsonl", "config.json", "refused.json", "report.html",
    "state.json.tmp", "state.prev.json.tmp", "config.json.tmp", "refused.json.tmp", "report.html.tmp",
)  # fmt: skip
RESULTS = {
    "the run root's owner": "owner.json",
    "the run root's lock": "lock",
    "metrics": "video_tokenizer/metrics.jsonl",
    "the newest checkpoint": "video_tokenizer/checkpoints/{committed}",
    "the next checkpoint": "video_tokenizer/checkpoints/{coming}",
    "the next checkpoint in the making": "video_tokenizer/checkpoints/.tmp-{coming}",
    "a checkpoint being removed": "video_tokenizer/checkpoints/.discarded-{committed}",
    "a chunk's picture": "video_tokenizer/visualizations/video_tokenizer_step_19_attempt_1.png",
    "a chunk's picture in the making": "video_tokenizer/visualizations/video_tokenizer_step_19_attempt_1.png.tmp",
    "an attempt's figures": "inference/attempt_1.json",
    "an attempt's figures in the making": "inference/attempt_1.json.tmp",
    "an attempt's log": "inference/attempt_1.log",
}
LINKED = {name: f"state/default/{name}" for name in STATE_FILES} | {
    name: f"results/default/{path}" for name, path in RESULTS.items()
}


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def linked(scene: Scene, path: str) -> Path:
    return scene.root / path.format(committed=scene.committed.name, coming=scene.coming.name)


def to_what_was_there(path: str) -> Hostile:
    """A link to what was in its place; where nothing was, to somebody's file."""

    def lay(scene: Scene) -> None:
        there, moved = linked(scene, path), scene.outside / "moved"
        if there.exists():
            there.rename(moved)
        link(there, moved if moved.exists() else scene.outside / "precious")

    return Hostile(lay, Path(path).name.partition("{")[0])


def to_nothing(path: str) -> Hostile:
    """A link to where nothing is: what writes through it makes a file there."""

    def lay(scene: Scene) -> None:
        there = linked(scene, path)
        if there.exists():
            there.rename(there.with_name("moved away"))
        link(there, scene.outside / "made")

    return Hostile(lay, Path(path).name.partition("{")[0])


def to_ones_own(scene: Scene) -> None:
    """A link to a folder that looks like a leftover of this very run."""
    shutil.copytree(scene.committed, scene.outside / "own")
    scene.coming.symlink_to(scene.outside / "own")


@pytest.mark.parametrize("kind", [to_what_was_there, to_nothing])
@pytest.mark.parametrize("place", LINKED)
def test_what_a_link_in_the_place_of_a_file_points_to_stays_as_it_is(
    scene: Scene, place: str, kind: Callable[[str], Hostile]
) -> None:
    assert harm(scene, kind(LINKED[place])) == []


def test_a_link_to_what_looks_like_the_runs_own_checkpoint_is_not_followed(scene: Scene) -> None:
    assert harm(scene, Hostile(to_ones_own, "video_tokenizer_step")) == []


def test_links_in_the_place_of_reports_are_replaced(scene: Scene) -> None:
    def lay(scene: Scene) -> None:
        scene.run(RUN)
        shutil.copy(scene.store.paths.previous, scene.store.paths.state)  # back in REPORT, which the journal dates
        for n, path in enumerate(sorted((scene.root / "docs/action").iterdir())):
            path.rename(scene.outside / f"{n}")
            link(path, scene.outside / f"{n}")
            link(path.with_name(f"{path.name}.tmp"), scene.outside / f"{n}.tmp")

    assert harm(scene, Hostile(lay, "docs/action", ends=(ExitCode.PASSED,), commands=(RUN,))) == []
    assert not any(path.is_symlink() for path in (scene.root / "docs/action").glob("*.md"))


# --- paths that climb out ---------------------------------------------------------------------------------------


def elsewhere(scene: Scene, run: RunState, *, whole: bool) -> CheckpointRef:
    """A checkpoint outside that bears this run's id, named by a path that seems to begin in its folder."""
    folder = scene.outside / scene.committed.name
    shutil.copytree(scene.committed, folder)
    ref = run.stages[Stage.VIDEO].checkpoint
    assert ref is not None
    if not whole:
        (folder / MODEL).write_bytes(b"other weights")
    return ref.evolve(path=str(scene.committed.parent / os.path.relpath(folder, scene.committed.parent)))


def pending(scene: Scene, run: RunState) -> RunState:
    path = scene.outside / "attempt_1.json"
    path.write_text("{}")
    inference = run.inference.evolve(started=1, pending=FileRef(path=str(path), sha256="0" * 64))
    return run.evolve(state=State.GATE, inference=inference)


def training_elsewhere(scene: Scene, run: RunState) -> RunState:
    assert run.fingerprint is not None
    shutil.copytree(scene.root / "results/default", scene.outside, dirs_exist_ok=True)
    config = {**run.fingerprint.config, "run_root": str(scene.outside)}
    return run.evolve(fingerprint=run.fingerprint.evolve(config=config))


FORGED: dict[str, Callable[[Scene, RunState], RunState]] = {
    "checkpoint": lambda scene, run: run.with_stage(Stage.VIDEO, checkpoint=elsewhere(scene, run, whole=True)),
    "damaged checkpoint": lambda scene, run: run.with_stage(Stage.VIDEO, checkpoint=elsewhere(scene, run, whole=False)),
    "accepted checkpoint": lambda scene, run: run.with_stage(Stage.VIDEO, accepted=elsewhere(scene, run, whole=False)),
    "run root": training_elsewhere,
    "pending result": pending,
    "picture": lambda scene, run: run.with_stage(Stage.VIDEO, picture=str(scene.outside / "precious")),
    "reports": lambda scene, run: run.evolve(reports=[str(scene.outside / "precious")]),
    "name": lambda scene, run: run.evolve(run="../../../outside"),
    "working root": lambda scene, run: run.evolve(root=str(scene.outside)),
}
"""States with a right checksum, and a journal that adds up to them, that name something outside the run's folders."""


@pytest.mark.parametrize("what", FORGED)
def test_what_a_forged_state_names_outside_of_the_run_stays_as_it_is(scene: Scene, what: str) -> None:
    def lay(scene: Scene) -> None:
        store = scene.store
        run, _ = store.resume()
        assert run is not None
        store.commit(run, FORGED[what](scene, run), "forged", {})

    assert harm(scene, Hostile(lay, "outside", ends=(*GONE_WELL, ExitCode.CHANGED))) == []


@pytest.mark.parametrize("name", ["../outside", "..", ".", "", "/tmp/outside", "a/../../../outside"])
def test_a_run_cannot_be_named_by_a_path(scene: Scene, name: str) -> None:
    commands = tuple((*command, f"--run={name}") for command in (*READERS, RUN))
    assert harm(scene, Hostile(lambda scene: None, "--run", commands, REFUSED)) == []


# --- absurd sizes -----------------------------------------------------------------------------------------------

SIZED = (
    *(LINKED[name] for name in STATE_FILES),
    LINKED["metrics"],
    *(f"{LINKED['the newest checkpoint']}/{name}" for name in (*FILES, MANIFEST)),
)


@pytest.mark.parametrize("path", SIZED)
def test_a_file_of_absurd_size_is_not_read_to_its_end(scene: Scene, path: str) -> None:
    def lay(scene: Scene) -> None:
        there = linked(scene, path)
        there.touch()
        os.truncate(there, ABSURD)

    assert harm(scene, Hostile(lay, Path(path).name)) == []


def test_when_both_states_are_of_absurd_size_the_run_is_damaged_and_both_are_named(scene: Scene) -> None:
    def lay(scene: Scene) -> None:
        for path in (scene.store.paths.state, scene.store.paths.previous):
            os.truncate(path, ABSURD)

    assert harm(scene, Hostile(lay, "state.prev.json", ends=(ExitCode.DAMAGED,))) == []


def test_a_journal_of_absurd_size_without_a_state_is_damage(scene: Scene) -> None:
    def lay(scene: Scene) -> None:
        scene.store.paths.state.unlink()
        scene.store.paths.previous.unlink()
        os.truncate(scene.store.paths.journal, ABSURD)

    assert harm(scene, Hostile(lay, "journal.jsonl", ends=(ExitCode.DAMAGED,))) == []


@pytest.mark.parametrize("name", ["state.json", "state.prev.json", "config.json", "refused.json"])
def test_json_nested_without_end_is_not_followed_down(scene: Scene, name: str) -> None:
    def lay(scene: Scene) -> None:
        (scene.store.paths.folder / name).write_bytes(b"[" * 1_000_000)

    assert harm(scene, Hostile(lay, name)) == []


# --- YAML -------------------------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
YAML = {
    "a tag that calls": "device: !!python/object/apply:os.system ['touch \"CANARY\"']",
    "a tag that makes an object": "device: !!python/object/new:subprocess.Popen [[touch, 'CANARY']]",
    "a tag that names a module": "device: !!python/module:antigravity ''",
    "a billion laughs": LAUGHS,
    "a list within itself": "x: &a [*a]",
    "a mapping within itself": "x: &a {b: *a}",
    "lists nested without end": "x: " + "[" * 100_000,
    "mappings nested without end": "x: " + "{a: " * 5_000 + "}" * 5_000,
    "a whole number of 5,000 digits": "n_updates: " + "9" * 5_000,
    "a length beyond what a processor counts": "context_length: " + "9" * 30,
    "a tag that does not fit": "n_updates: !!int many",
    "a day that never was": "dataset: 2024-99-99",
    "a key of bytes": "? !!binary aGVsbG8=\n: 1",
    "a day as a key": "2024-01-01: 1",
    "a path longer than any": f"dataset: {'a' * 5_000}.h5",
    "a list where a number is wanted": "n_updates: [16]",
    "a mapping where a number is wanted": "n_updates: {a: 1}",
    "a number of 9,000 hexadecimal digits": "n_updates: 0x" + "f" * 9_000,
    "a number that is none": "learning_rate: .nan",
    "a length in bytes": "n_updates: !!binary aGVsbG8=",
    "what cannot be in a path": 'wandb_project: "a\\0b"',
    "half a letter": 'wandb_project: "\\ud800"',
    "a key twice": "learning_rate: 0.1\nlearning_rate: 0.2",
    "what counts in eights": "n_updates: 010",
    "what counts in sixties": "n_updates: 1:30",
    "a thousand unknown keys": "".join(f"key{n}: {{}}\n" for n in range(1000)),
    "orders to the terminal": '"\\e[31m": "\\e[2J"',
    "a comment of 100 MB": "#" * 100_000_000,
    "a list of 100 MB": "x: [" + "1," * 50_000_000 + "]",
}
"""What a line or more of training.yaml may say."""


def yaml_with(what: str) -> Hostile:
    def lay(scene: Scene) -> None:
        with (scene.root / "configs/training.yaml").open("a") as file:
            file.write(YAML[what].replace("CANARY", str(scene.canary)) + "\n")

    return Hostile(lay, "training.yaml", (FRESH,), REFUSED)


@pytest.mark.parametrize("what", YAML)
def test_hostile_yaml_is_refused(scene: Scene, what: str) -> None:
    assert harm(scene, yaml_with(what)) == []


def test_yaml_of_absurd_size_is_not_read_to_its_end(scene: Scene) -> None:
    def lay(scene: Scene) -> None:
        os.truncate(scene.root / "configs/training.yaml", ABSURD)

    assert harm(scene, Hostile(lay, "training.yaml", (FRESH,), REFUSED)) == []


# --- frames -----------------------------------------------------------------------------------------------------


def claiming(rows: int, *names: str) -> Callable[[h5py.File], None]:
    """Rows that are nowhere: none of their chunks was ever written."""

    def make(file: h5py.File) -> None:
        file.create_dataset("frames", (rows, 16, 16, 3), "u1", chunks=(1, 16, 16, 3))
        for name in names:
            file.create_dataset(name, (rows,), "i8", chunks=(1024,))

    return make


def far_apart(file: h5py.File) -> None:
    file.create_dataset("frames", (480, 16, 16, 3), "u1")
    file.attrs["stride"] = 2**62


def from_elsewhere(file: h5py.File) -> None:
    file["frames"] = h5py.ExternalLink("/nowhere.h5", "/frames")


FRAMES: dict[str, Callable[[h5py.File], None]] = {
    "a trillion rows": claiming(10**12),
    "a trillion rows in episodes": claiming(10**12, "episode", "actions"),
    "rows at a distance no processor counts": far_apart,
    "rows in another file that is not there": from_elsewhere,
}


@pytest.mark.parametrize("what", FRAMES)
def test_hostile_frames_are_refused(scene: Scene, what: str) -> None:
    def lay(scene: Scene) -> None:
        with h5py.File(scene.root / "frames.h5", "w") as file:
            FRAMES[what](file)

    assert harm(scene, Hostile(lay, "frames.h5", (FRESH,), REFUSED)) == []


# --- checkpoints ------------------------------------------------------------------------------------------------


class RunsCode:
    """Unpickling this the usual way makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


class Claims:
    """Saved as a tensor of one stored number that claims to be more."""

    def __reduce__(self) -> tuple[Any, ...]:
        storage = torch.zeros(1)._typed_storage()
        return torch._utils._rebuild_tensor_v2, (storage, 0, (10**18,), (1,), False, None)


def make_checkpoint(folder: Path) -> None:
    """A folder that `check` finds nothing wrong with."""
    folder.mkdir(parents=True)
    for name in FILES:
        torch.save({"config": {}, "weight": torch.zeros(400)}, folder / name)


def poison(path: Path, canary: Path) -> None:
    torch.save({"first": RunsCode(canary), "weight": torch.zeros(400)}, path)


def saved(content: Callable[[], dict[str, Any]]) -> Callable[[Path], None]:
    return lambda path: torch.save(content(), path)


def pickled(*instructions: bytes) -> Callable[[Path], None]:
    """A model file whose pickle consists of these instructions."""

    def make(path: Path) -> None:
        records = records_of(path) | {f"{path.stem}/data.pkl": b"".join([b"\x80\x02", *instructions, b"."])}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in records.items():
                archive.writestr(name, content)

    return make


def text(length: int) -> bytes:
    return b"X" + struct.pack("<I", length) + b"k" * length


def records_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def claiming_records(path: Path) -> None:
    records = records_of(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
        for entry in archive.filelist:
            entry.file_size = entry.compress_size = 2**60


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(f"{path.stem}/data/9", bytes(1 << 28))


@dataclass(frozen=True)
class Stored:
    """Bytes in a record of the archive, as a pickle of torch's describes them."""

    record: str
    length: int


@dataclass(frozen=True)
class View:
    """Saved as a tensor of those bytes."""

    stored: Stored
    shape: tuple[int, ...]
    strides: tuple[int, ...] = (1,)

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, (self.stored, 0, self.shape, self.strides, False, OrderedDict())


class Describer(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        return ("storage", torch.ByteStorage, thing.record, "cpu", thing.length) if isinstance(thing, Stored) else None


def described(content: Any) -> bytes:
    pickled = io.BytesIO()
    Describer(pickled, protocol=2).dump(content)
    return pickled.getvalue()


def full_of_holes(path: Path) -> None:
    """One record of 60 GiB, of which nothing is on the disk."""
    size = 60 << 30
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", described({"weight": View(Stored("0", size), (size,))}))
        with archive.open(f"{path.stem}/data/0", "w", force_zip64=True) as record:
            assert archive.fp is not None
            archive.fp.seek(size, os.SEEK_CUR)
            record._file_size = size  # type: ignore[attr-defined]


def one_within_the_other(path: Path) -> None:
    """A thousand records, each of which is all that come after it, headers and all, and the same megabyte."""
    content, count = bytes(4 << 20), 1000
    entries, tail = [], content
    for number in reversed(range(count)):
        name = f"{path.stem}/data/{number:03}".encode()
        crc, size = zlib.crc32(tail), len(tail)
        fields = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, crc, size, size, len(name), 0)
        tail = b"PK\3\4" + fields + name + tail if number else tail  # in reverse, from the last to the first
        entries.append((name, crc, size, len(tail)))
    sizes = [size for _, _, size, _ in entries[-2::-1]]
    views = {str(n): View(Stored(f"{n:03}", size), (size,)) for n, size in enumerate(sizes, start=1)}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", described(views))
        assert archive.fp is not None
        archive.fp.seek(archive.start_dir)
        archive.fp.write(tail)
        end = archive.fp.tell()
        for name, crc, size, from_end in entries[:-1]:
            entry = zipfile.ZipInfo(name.decode(), (1980, 1, 1, 0, 0, 0))
            entry.header_offset, entry.CRC, entry.file_size, entry.compress_size = end - from_end, crc, size, size
            archive.filelist.append(entry)
        archive.start_dir = end


def integer(value: int) -> bytes:
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(content)) + content


MERSENNE = 2**61 - 1
"""Python's hash of an integer is its rest in the division by it."""
HUGE = integer(10**5000)
TEXT_KEY = text(1)


def views_of_one_storage() -> dict[str, Any]:
    storage = torch.zeros(25_000_000)
    return {str(n): storage[n:] for n in range(3000)}


MODELS: dict[str, Callable[[Path], None]] = {
    "a bomb": bomb,
    "records that claim 2**60 bytes": claiming_records,
    "a tensor that claims 10**18 numbers": saved(lambda: {"weight": Claims(), "padding": torch.zeros(400)}),
    "a tensor of one number repeated 10**18 times": saved(lambda: {"weight": torch.zeros(1).expand(10**9, 10**9)}),
    "3,000 tensors in one storage of 100 MB": saved(views_of_one_storage),
    "a name no terminal can show": saved(lambda: {"\ud800": torch.full((400,), torch.nan)}),
    "60 GiB of holes": full_of_holes,
    "a thousand records over the same bytes": one_within_the_other,
    "60,000 numbers as keys of one hash": pickled(
        b"}(", *(integer(MERSENNE * n) + b"N" for n in range(1, 60_000)), b"u"
    ),
    "a key of 5,000 digits": pickled(b"}", HUGE, b"Ns"),
    "a number of 5,000 digits": pickled(b"}", TEXT_KEY, HUGE, b"s"),
    "a shape of 5,000 digits": saved(lambda: {"weight": View(Stored("0", 1600), (10**5000,), (0,))}),
    "a shape of a million numbers": saved(lambda: {"weight": View(Stored("0", 1600), (1,) * 10**6, (0,) * 10**6)}),
    "100,000 classes of one long name": pickled(
        b"}", text(1 << 20), b"q\x00", b"h\x00h\x00\x93" * 100_000, b"0" * 100_000, TEXT_KEY, b"Ns"
    ),
    "a long name of 100,000 storages": pickled(
        b"}", text(1 << 20), b"q\x00", (b"(X\x07\0\0\0storagectorch\nByteStorage\nh\x00NK\x01tQ") * 10_000, b"s"
    ),
    "100,000 keys of one long text of bytes": pickled(
        b"}](", b"B", struct.pack("<I", 1 << 20), bytes(1 << 20), b"q\x00", b"}h\x00Ns" * 100_000, b"es"
    ),
    "keys within keys without end": pickled(
        b"}", b")q\x00", *(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(200)), b"Ns"
    ),
    "things remembered under numbers of its own": pickled(
        b"}", *(b"Nr" + struct.pack("<I", n << 16) for n in range(9999))
    ),
    "more than a million instructions": pickled(b"}", TEXT_KEY, b"](", b"N" * (1 << 21), b"es"),
    "60 million instructions": pickled(b"N" * 60_000_000),
    "lists nested five million deep": pickled(b"}", text(8), b"]" * 5_000_000, b"a" * 4_999_999, b"s"),
    "a long name above many things": pickled(b"}", text(1 << 20), b"](", b"K\x01" * 100_000, b"es"),
}


HARMLESS = ("3,000 tensors in one storage of 100 MB", "a long name above many things")
"""Models that are only unusual."""


def model_of(what: str) -> Hostile:
    def lay(scene: Scene) -> None:
        make_checkpoint(scene.root / "given/video_tokenizer_step_4")
        MODELS[what](scene.root / "given/video_tokenizer_step_4" / MODEL)

    return Hostile(lay, MODEL, (("check", "given"),), GONE_WELL if what in HARMLESS else REFUSED)


@pytest.mark.parametrize("what", MODELS)
def test_a_hostile_model_is_judged_within_seconds(scene: Scene, what: str) -> None:
    assert harm(scene, model_of(what)) == []


def poisoned(name: str) -> Hostile:
    def lay(scene: Scene) -> None:
        make_checkpoint(scene.root / "given/video_tokenizer_step_4")
        poison(scene.root / "given/video_tokenizer_step_4" / name, scene.canary)

    return Hostile(lay, name, (("check", "given"),))


@pytest.mark.parametrize("name", FILES)
def test_a_look_at_a_checkpoint_runs_nothing_in_it(scene: Scene, name: str) -> None:
    assert harm(scene, poisoned(name)) == []


# --- the native engine ------------------------------------------------------------------------------------------

NATIVE = ("run",)


@pytest.fixture(scope="module")
def native(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The same with real weights."""
    return Scene(launcher, tmp_path_factory.mktemp("native"), (*NATIVE, "--max-mse", "0.9", "--allow-trivial"))


def test_a_warm_start_runs_nothing_in_the_files_it_is_given(native: Scene, figures: Counter[str]) -> None:
    """One stage is given a poisoned model, another an optimizer, the third a state."""
    given = dict(zip(Stage, FILES, strict=True))
    flags = ("video", "latent", "dynamics")

    def lay(scene: Scene) -> None:
        for stage, name in given.items():
            make_checkpoint(scene.root / f"given/{stage}_step_4")
            poison(scene.root / f"given/{stage}_step_4" / name, scene.canary)

    arguments = [part for flag in flags for part in (f"--{flag}-checkpoint", "given")]
    figures["hostile files"] += len(given)
    assert harm(native, Hostile(lay, MODEL, ((*NATIVE, "--run", "warm", *arguments),), REFUSED)) == []


@pytest.mark.parametrize("name", [OPTIMIZER, STATE])
def test_a_resume_runs_nothing_in_a_checkpoint_that_was_replaced_and_whose_hash_was_forged(
    native: Scene, figures: Counter[str], name: str
) -> None:
    def lay(scene: Scene) -> None:
        poison(scene.committed / name, scene.canary)
        store = scene.store
        run, _ = store.resume()
        assert run is not None
        completed = run.stages[Stage.VIDEO].completed
        sha256 = checkpoints.write_manifest(scene.committed, Stage.VIDEO, completed, run.run_id)
        ref = CheckpointRef(path=str(scene.committed), update=completed - 1, sha256=sha256)
        store.commit(run, run.with_stage(Stage.VIDEO, checkpoint=ref, accepted=ref), "forged", {})

    figures["hostile files"] += 1
    assert harm(native, Hostile(lay, name, (NATIVE,))) == []


NATIVE_LINKS = {
    "where the child writes": ("state/default/child.log",),
    "where the child answers": ("state/default/child_result.json", "state/default/child_result.tmp"),
    "where the child saves": (LINKED["the next checkpoint in the making"], LINKED["an attempt's log"]),
}


@pytest.mark.parametrize("where", NATIVE_LINKS)
def test_what_links_in_the_place_of_the_childs_files_point_to_stays_as_it_is(
    native: Scene, figures: Counter[str], where: str
) -> None:
    paths = NATIVE_LINKS[where]

    def lay(scene: Scene) -> None:
        for path in paths:
            durable.clear(linked(scene, path))
            to_what_was_there(path).lay(scene)

    figures["hostile files"] += len(paths)
    assert harm(native, Hostile(lay, "child.log", (NATIVE,))) == []


# --- the bench itself -------------------------------------------------------------------------------------------


def test_the_bench_catches_a_reader_that_unpickles(scene: Scene) -> None:
    assert f"outside: {scene.canary.name} is in one of them only" in harm(scene, poisoned(MODEL), broken="unpickled")


def test_the_bench_catches_a_reader_of_yaml_that_takes_the_last_of_two(scene: Scene) -> None:
    troubles = harm(scene, yaml_with("a key twice"), broken="last_key_wins")
    assert any("ended with 0" in trouble for trouble in troubles)


def test_the_bench_catches_a_reader_that_takes_any_number_for_a_key(scene: Scene) -> None:
    troubles = harm(scene, model_of("a key of 5,000 digits"), broken="numbers_believed")
    assert any("ended with 0" in trouble or "ended with 70" in trouble for trouble in troubles)


def test_the_bench_catches_links_that_are_followed(scene: Scene) -> None:
    troubles = harm(scene, to_what_was_there(LINKED["log.jsonl"]), broken="links_followed")
    assert any(trouble.startswith("outside: moved: ") for trouble in troubles)
