"""Arrays as sources: any layout and type that means the same pictures gives the same pixels."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.data.intake.sources import Held, make, numbered
from tests.support.frame_files import blosc
from tiw_fsm.data.intake import making
from tiw_fsm.data.intake.options import Options
from tiw_fsm.errors import UsageProblem

ROWS, SIDE = 60, 16
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (ROWS, SIDE, SIDE, 3), dtype=np.uint8)
COLOUR[0, 0, 0], COLOUR[0, 0, 1] = 0, 255
GREY = COLOUR[..., :1]
DONES = np.arange(ROWS) % 5 == 4

VALUES = {
    "uint8": lambda p: p,
    "int64": lambda p: p.astype(np.int64),
    "uint16": lambda p: p.astype(np.uint16) * 257,
    "big endian uint16": lambda p: (p.astype(np.uint16) * 257).astype(">u2"),
    "big endian": lambda p: p.astype(">i4"),
    "0..1": lambda p: p.astype(np.float32) / 255,
    "half 0..1": lambda p: (p / 255).astype(np.float16),
    "-1..1": lambda p: p.astype(np.float64) / 127.5 - 1,
    "0..255": lambda p: p.astype(np.float32),
}
LAYOUTS = {
    "NHWC": lambda p: p,
    "NCHW": lambda p: p.transpose(0, 3, 1, 2),
    "episodes, NHWC": lambda p: p.reshape(12, 5, *p.shape[1:]),
    "episodes, NCHW": lambda p: p.transpose(0, 3, 1, 2).reshape(12, 5, p.shape[3], SIDE, SIDE),
    "Fortran order": np.asfortranarray,
}
CHANNELS = {
    "colour": (COLOUR, COLOUR),
    "grey": (GREY, np.repeat(GREY, 3, axis=3)),
    "with alpha": (np.concatenate([COLOUR, np.full_like(GREY, 255)], axis=3), COLOUR),
}


def npy(folder: Path, array: NDArray[Any]) -> Path:
    np.save(folder / "a.npy", array)
    return folder / "a.npy"


def npz(folder: Path, array: NDArray[Any]) -> Path:
    np.savez_compressed(folder / "a.npz", pictures=array, rewards=np.zeros(ROWS))
    return folder / "a.npz"


def h5(folder: Path, array: NDArray[Any]) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("replay/observations", data=array, compression="gzip")
        file["replay/rewards"] = np.zeros(ROWS)
    return folder / "a.h5"


def zarr_store(folder: Path, array: NDArray[Any]) -> Path:
    group = zarr.open_group(folder / "a.zarr", mode="w")
    group.create_array("data/img", shape=array.shape, dtype=array.dtype, chunks=(7, *array.shape[1:]))[:] = array
    return folder / "a.zarr"


STORES = {"npy": npy, "npz": npz, "h5": h5, "zarr": zarr_store}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(VALUES)),
    st.sampled_from(list(LAYOUTS)),
    st.sampled_from(list(CHANNELS)),
    st.sampled_from(list(STORES)),
)
def test_the_same_pictures_give_the_same_pixels_however_they_are_stored(
    values: str, layout: str, channels: str, store: str
) -> None:
    stored, expected = CHANNELS[channels]
    with tempfile.TemporaryDirectory() as folder:
        source = STORES[store](Path(folder), LAYOUTS[layout](VALUES[values](stored)))
        held = make(Path(folder) / "o.h5", source, size=SIDE)
    assert (held.frames == expected).all()
    assert held.lengths == ([5] * 12 if "episodes" in layout else [6] * 10)


def test_grey_pictures_without_an_axis_of_colours_and_masks_are_pictures(tmp_path: Path) -> None:
    assert (make(tmp_path / "o.h5", npy(tmp_path, GREY[..., 0]), size=SIDE).frames == GREY).all()
    mask = GREY[..., 0] > 127
    assert (make(tmp_path / "o.h5", npy(tmp_path, mask), size=SIDE).frames[..., 0] == mask * 255).all()


# --- what lies beside them --------------------------------------------------------------------------------------

ACTIONS = RNG.integers(0, 5, ROWS)


@pytest.mark.parametrize(
    "labels",
    [
        {"dones": DONES},
        {"terminals": DONES[:, None].astype(np.float32)},
        {"timeouts": DONES & (np.arange(ROWS) < 30), "terminals": DONES & (np.arange(ROWS) >= 30)},
        {"is_first": np.arange(ROWS) % 5 == 0},
        {"episode": np.arange(ROWS) // 5 + 7},
    ],
    ids=lambda labels: "+".join(labels),
)
def test_what_is_recorded_of_episodes_is_kept(tmp_path: Path, labels: dict[str, NDArray[Any]]) -> None:
    np.savez(tmp_path / "a.npz", frames=COLOUR, **labels)
    assert make(tmp_path / "o.h5", tmp_path / "a.npz").lengths == [5] * 12


@pytest.mark.parametrize(
    ("actions", "kept"),
    [
        (ACTIONS, ACTIONS),
        (ACTIONS.astype(np.uint8)[:, None], ACTIONS),
        (np.eye(5)[ACTIONS], ACTIONS),
        (RNG.normal(size=(ROWS, 2)), None),
        (ACTIONS[1:], None),
    ],
    ids=["one a row", "a column", "one-hot", "continuous", "too few"],
)
def test_actions_are_kept_where_they_are_one_number_a_row(tmp_path: Path, actions: Any, kept: Any) -> None:
    np.savez(tmp_path / "a.npz", frames=COLOUR, actions=actions)
    held = make(tmp_path / "o.h5", tmp_path / "a.npz")
    assert held.actions is None if kept is None else (held.actions == kept).all()


@pytest.mark.parametrize(
    ("actions", "kept", "said"),
    [
        (
            ACTIONS % 3 - 1,
            ACTIONS % 3 - 1,
            f"actions are unknown where they are -1, at {(ACTIONS % 3 == 0).sum()} of 60",
        ),
        (ACTIONS % 3 - 5, None, "actions are left out: they begin at -5; count them from 0 on"),
    ],
    ids=["-1 to 1", "-5 to -3"],
)
def test_actions_below_0_are_told_of(tmp_path: Path, actions: Any, kept: Any, said: str) -> None:
    np.savez(tmp_path / "a.npz", frames=COLOUR, actions=actions)
    assert any(said in note for note in notes_of(tmp_path / "a.npz"))
    held = Held(tmp_path / "o.h5")
    assert held.actions is None if kept is None else (held.actions == kept).all()


def notes_of(*sources: Path) -> tuple[str, ...]:
    """What is said of a file that is made of them, o.h5 beside the first."""
    return making.make(sources[0].with_name("o.h5"), [str(source) for source in sources], Options(size=16)).notes


@pytest.mark.parametrize(
    ("array", "said"),
    [
        ((COLOUR > 127).astype(np.int64), ["the brightest pixel is 1 of 255, so the frames are nearly black"]),
        (np.full_like(COLOUR, 200), ["all frames are the same"]),
        (np.zeros_like(COLOUR), ["all frames are the same", "the brightest pixel is 0 of 255"]),
        (COLOUR, []),
    ],
    ids=["0 and 1", "all the same", "black", "pictures"],
)
def test_pictures_that_can_hardly_be_meant_are_told_of(tmp_path: Path, array: Any, said: list[str]) -> None:
    notes = [note for note in notes_of(npy(tmp_path, array)) if "so that every tenth" not in note]
    assert [sentence in note for sentence, note in zip(said, notes, strict=True)] == [True] * len(said)


def test_pictures_of_several_sizes_are_told_of(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", COLOUR)
    np.save(tmp_path / "b.npy", numbered(60, 20, 30))
    said = "pictures of several sizes were brought to one: 16 by 16, 30 by 20"
    assert said in notes_of(tmp_path / "a.npy", tmp_path / "b.npy")


def test_an_action_that_was_not_held_over_a_stride_is_unknown(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", frames=numbered(120, 16, 16), action=np.array([1, 1, 2, 3] * 30))
    held = make(tmp_path / "o.h5", tmp_path / "a.npz", stride=2)
    assert held.actions is not None
    assert held.actions.tolist() == [1, -1] * 30


def test_names_of_actions_stay_theirs_when_a_frame_file_is_made_anew(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frames"], file["episode"], file["actions"] = COLOUR, np.arange(ROWS) // 5, ACTIONS
        file["actions"].attrs["names"] = ["none", "left", "right", "up", "down"]
    held = make(tmp_path / "o.h5", tmp_path / "a.h5", size=8)
    assert held.names == ["none", "left", "right", "up", "down"]
    assert held.lengths == [5] * 12


def test_a_pattern_means_all_arrays_that_fit_it_each_an_episode(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for n in range(12):
            file[f"data/demo_{n}/obs/image"] = COLOUR[5 * n : 5 * n + 5]
            file[f"data/demo_{n}/actions"] = np.full(5, n)
    held = make(tmp_path / "o.h5", tmp_path / "a.h5", key="data/*/obs/image", size=SIDE)
    assert held.lengths == [5] * 12
    assert held.actions is not None
    assert held.actions.tolist() == (np.arange(60) // 5).tolist()
    assert (held.frames == COLOUR).all()


def test_start_and_end_are_rows(tmp_path: Path) -> None:
    held = make(tmp_path / "o.h5", npy(tmp_path, COLOUR), start=3.0, end=45.0, size=SIDE)
    assert (held.frames == COLOUR[3:45]).all()


# --- arrays that cannot be used ---------------------------------------------------------------------------------


def refused(path: Path, **options: Any) -> str:
    output = path.parent / "out" / "o.h5"
    with pytest.raises(UsageProblem) as caught:
        make(output, path, **options)
    assert not output.parent.exists() or list(output.parent.iterdir()) == []
    (problem,) = caught.value.problems
    return problem


class Trap:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.path.join(tempfile.gettempdir(), "unpickled"),)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_objects_are_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (np.save if name == "a.npy" else np.savez)(tmp_path / name, np.array([Trap()] * 60, object))
    assert "holds Python objects, which reading would execute" in refused(tmp_path / name)
    assert not (tmp_path / "unpickled").exists()


def test_a_zarr_that_wants_to_be_unpickled_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from numcodecs import Pickle

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shape = (60, 16, 16, 3)
    zarr.create_array(tmp_path / "a.zarr", shape=shape, chunks=shape, dtype="u1", zarr_format=2, compressors=None)
    said = json.loads((tmp_path / "a.zarr/.zarray").read_text())
    (tmp_path / "a.zarr/.zarray").write_text(json.dumps(said | {"compressor": {"id": "pickle", "protocol": 5}}))
    (tmp_path / "a.zarr/0.0.0.0").write_bytes(Pickle().encode(np.array([Trap()], object)))
    assert "pickle" in refused(tmp_path / "a.zarr")
    assert not (tmp_path / "unpickled").exists()


def with_nan() -> NDArray[np.float32]:
    values = COLOUR.astype(np.float32)
    values[7, 3, 3, 1] = np.nan
    return values


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (with_nan(), "values in row 7 that are no numbers"),
        (COLOUR.astype(np.float32) * 3, "has values from 0 to 765"),
        (COLOUR.astype(np.int16) - 100, "which are black and white cannot be known"),
        (np.concatenate([COLOUR, GREY], axis=3), "four channels, and the fourth is no opaque alpha"),
        (COLOUR[0], "(16, 16, 3) uint8"),
        (COLOUR[..., :2], "holds no pictures"),
        (np.zeros((60, 7, 7, 3), np.uint8), "and sides of 8 pixels or more"),
        (COLOUR[:12], "12 frames in all are too few"),
        (COLOUR[:1], "1 frame in all is too few"),
        (COLOUR[:0], "0 frames in all are too few"),
        (np.array(["x"] * 60), "holds no pictures"),
    ],
    ids=["NaN", "to 765", "from -100", "4 channels", "one", "2 channels", "tiny", "few", "one frame", "none", "text"],
)
@pytest.mark.parametrize("store", ["npy", "h5"])
def test_arrays_that_are_no_pictures_are_refused(tmp_path: Path, store: str, array: Any, said: str) -> None:
    if array.dtype.kind == "U" and store == "h5":
        array = array.astype("S1")
    assert said in refused(STORES[store](tmp_path, array))


def test_a_key_that_is_not_there_or_not_said_is_answered_with_those_that_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", left=COLOUR, right=COLOUR, depth=np.zeros((60, 4)))
    assert "keys with pictures are left, right; name one with --key" in refused(tmp_path / "a.npz")
    assert "has no key 'front'; keys with pictures are left, right" in refused(tmp_path / "a.npz", key="front")
    assert "depth is (60, 4) float64, which is no pictures" in refused(tmp_path / "a.npz", key="depth")


@pytest.mark.parametrize("store", STORES)
def test_what_is_damaged_is_refused(tmp_path: Path, store: str) -> None:
    path = STORES[store](tmp_path, COLOUR)
    if store == "zarr":
        chunk = path / "data/img/c/3/0/0/0"
        chunk.write_bytes(b"damaged")
    else:
        os.truncate(path, path.stat().st_size * 2 // 3)
    assert any(word in refused(path) for word in ("cut short", "a chunk cannot be read"))


@pytest.mark.parametrize("rows", [-5, 10**7, 10**13])
@pytest.mark.parametrize("store", ["npy", "npz"])
def test_a_header_that_claims_other_rows_than_are_there_is_not_believed(tmp_path: Path, store: str, rows: int) -> None:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "|u1", "fortran_order": False, "shape": (rows, 16, 16, 3)})
    content.write(COLOUR.tobytes())
    path = tmp_path / f"a.{store}"
    if store == "npy":
        path.write_bytes(content.getvalue())
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("frames.npy", content.getvalue())
    assert f"not readable as .{store} (its header " in refused(path)


def test_more_rows_than_anybody_has_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("frames", (10**13, 16, 16, 3), "u1", chunks=(16, 16, 16, 3))
    assert "claims 10,000,000,000,000 rows; give at most 20,000,000" in refused(tmp_path / "a.h5")


def test_a_filter_that_is_missing_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frames"], file["episode"], file["actions"] = COLOUR, np.arange(ROWS) // 5, ACTIONS
    blosc(tmp_path / "a.h5")
    assert "not readable as HDF5" in refused(tmp_path / "a.h5")


def test_rows_of_different_lengths_are_no_objects(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        jpegs = file.create_dataset("jpegs", (60,), h5py.vlen_dtype(np.uint8))
        for row in range(60):
            jpegs[row] = np.arange(row, dtype=np.uint8)
    assert "jpegs has rows of different lengths, which may be encoded pictures" in refused(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"frames": 50}, "--frames: is for an environment, and not for an array of numpy; leave it out"),
        ({"seed": 3}, "--seed: is for an environment"),
        ({"wrappers": ("a:B",)}, "--wrapper: is for an environment"),
        ({"key": "x"}, "--key: is for a recording of Minari, a zarr, an archive of numpy, an h5 file, an environment"),
        ({"start": 60.0}, "--start 60: lies behind the last of the 60 rows of a.npy"),
        ({"start": 90.0, "clock": True}, "they are rows, so give whole numbers"),
    ],
    ids=str,
)
def test_what_a_source_cannot_be_asked_is_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    assert said in refused(npy(tmp_path, COLOUR), **options)


def test_times_are_asked_of_videos_alone(tmp_path: Path) -> None:
    path = npy(tmp_path, COLOUR)
    assert "has no times; take every so many-th with --stride" in refused(path, fps=10.0)
    assert "they are rows, so give whole numbers" in refused(path, start=1.5)
