"""The kinds of sources: one table of how each is recognised and opened, and which extra it needs."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

from tiw_fsm.data.intake import containers, environment, images, minari, thinning, video
from tiw_fsm.data.intake.options import Options
from tiw_fsm.data.intake.source import Source, needing
from tiw_fsm.errors import DiskRefused, UsageProblem, disk_errors
from tiw_fsm.values.printable import excerpt, quoted

H5 = (".h5", ".hdf5")
ZARR = (".zarr", ".zarr.zip")
ZARR_FILES = (".zarray", ".zgroup", "zarr.json")

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class Kind:
    """A kind of source.

    Attributes:
        what: what it is, in words.
        recognises: whether a name, as it was given, is of this kind.
        open: makes a source of files ready; it raises as the modules of the intake say.
        extra: what of this package has to be installed for it.
        timed: whether its frames have times, so that ``start`` and ``end`` are seconds.
        together: whether files that follow one another are one source; else each is one.
        is_path: whether its names are those of files and folders, which have to be there.
        takes: what of ``SOME_TAKE`` may be asked of it.
    """

    what: str
    recognises: Callable[[str], bool]
    open: Callable[[Sequence[str], Options], Source]
    extra: str | None = None
    timed: bool = False
    together: bool = False
    is_path: bool = True
    takes: frozenset[str] = frozenset()


def _named(*suffixes: str) -> Callable[[str], bool]:
    return lambda name: name.lower().endswith(suffixes) and not os.path.isdir(name)


def _zarr(name: str) -> bool:
    return name.rstrip("/").lower().endswith(ZARR) or any(os.path.isfile(os.path.join(name, f)) for f in ZARR_FILES)


def _minari(name: str) -> bool:
    return name.startswith(minari.PREFIX) or minari.is_folder(Path(name))


def _each(open_one: Callable[[str, Options], Source]) -> Callable[[Sequence[str], Options], Source]:
    return lambda files, options: open_one(files[0], options)


KEYED = frozenset({"key"})
PLAYED = frozenset({"key", "frames", "seed", "wrappers"})
SOME_TAKE = {"key": "--key", "frames": "--frames", "seed": "--seed", "wrappers": "--wrapper"}
"""What is asked of some kinds only, and the flag that asks it."""
IMAGES = Kind("a picture", images.is_image, images.open_images, together=True)
KINDS = (
    Kind("a recording of Minari", _minari, _each(minari.open_minari), "arrays", is_path=False, takes=KEYED),
    Kind("a zarr", _zarr, _each(containers.open_zarr), "arrays", takes=KEYED),
    IMAGES,
    Kind("a video", _named(*video.SUFFIXES), _each(video.open_video), "video", timed=True),
    Kind("an array of numpy", _named(".npy"), _each(containers.open_npy)),
    Kind("an archive of numpy", _named(".npz"), _each(containers.open_npz), takes=KEYED),
    Kind("an h5 file", _named(*H5), _each(containers.open_h5), takes=KEYED),
    Kind(
        "an environment",
        environment.is_environment,
        _each(environment.open_environment),
        "gym",
        is_path=False,
        takes=PLAYED,
    ),
)
"""The first that recognises a source opens it."""


def kind_of(name: str) -> Kind | None:
    """Which kind of source a name is, whether it is there or not; None if of none, as folders are."""
    return next((kind for kind in KINDS if kind.recognises(name)), None)


def opened(names: Sequence[str], options: Options) -> Sequence[Callable[[], Source]]:
    """What opens each of the sources, all of which have been opened once to see that they can be.

    Raises:
        UsageProblem: one is not there, of no kind, cannot be used, or its extra is missing.
        DiskRefused: one cannot be read.
    """
    found = list(_together(opening for name in names for opening in _openings(name)))
    _require_askable(list(dict.fromkeys(kind for kind, _ in found)), options)
    for file in (file for kind, files in found if kind.is_path for file in files):
        _there(file)
    opens = [partial(_open, kind, files, options) for kind, files in found]
    for opening in opens:
        opening().close()
    return opens


def _require_askable(kinds: Sequence[Kind], options: Options) -> None:
    """Raise UsageProblem if something is asked that none of the kinds takes, and so would be without effect."""
    for asked, flag in SOME_TAKE.items():
        if getattr(options, asked) == getattr(Options, asked) or any(asked in kind.takes for kind in kinds):
            continue
        able = ", ".join(kind.what for kind in KINDS if asked in kind.takes)
        raise UsageProblem(f"{flag}: is for {able}, and not for {kinds[0].what}; leave it out")


_Opening = tuple[Kind, tuple[str, ...]]
"""A kind, and the files of one source."""


def _openings(name: str) -> Iterator[_Opening]:
    if ADDRESS.match(name):
        raise UsageProblem(f"{excerpt(name)}: is an address, and nothing is downloaded; download it, and give the file")
    if kind := kind_of(name):
        yield kind, (name,)
        return
    _there(name)
    if not os.path.isdir(name):
        raise UsageProblem(f"{excerpt(name)}: of no known kind; give {known()}")
    yield from _in_folder(Path(name))


def _in_folder(folder: Path) -> Iterator[_Opening]:
    with disk_errors("reading", folder):
        names = sorted((name for name in os.listdir(folder) if not name.startswith(".")), key=images.natural)
    files = [(kind, str(folder / name)) for name in names if (kind := kind_of(str(folder / name)))]
    kinds = list(dict.fromkeys(kind for kind, _ in files))
    if len(kinds) > 1:
        raise UsageProblem(f"{folder}: holds {' and '.join(kind.what for kind in kinds)}; keep one kind in a folder")
    if kinds and not kinds[0].together:
        yield from ((kind, (file,)) for kind, file in files)
        return
    found = images.images_in(folder)
    if not found:
        raise UsageProblem(f"{folder}: holds no frames; give {known()}")
    yield IMAGES, tuple(map(str, found))


def _together(opens: Iterable[_Opening]) -> Iterator[_Opening]:
    """Files that were given one by one, of a kind that takes them ``together``, are one source."""
    for kind, group in groupby(opens, lambda opening: opening[0]):
        if kind.together:
            yield kind, tuple(file for _, files in group for file in files)
        else:
            yield from group


def _there(name: str) -> None:
    """Raise UsageProblem unless ``name`` is a file or a folder: opening a pipe would wait for whoever writes it."""
    if not os.path.lexists(name):
        raise UsageProblem(f"{excerpt(name)}: no such file, folder or environment; correct the source")
    if not os.path.exists(name):
        raise UsageProblem(f"{excerpt(name)}: is a link to what is not there; mend the link, or take it away")
    with disk_errors("reading", Path(name)):
        mode = os.stat(name).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UsageProblem(f"{excerpt(name)}: is a pipe or a device; write what comes from it to a file first")


def _open(kind: Kind, files: Sequence[str], options: Options) -> Source:
    if not kind.timed and options.fps is not None:
        raise UsageProblem(f"--fps {options.fps:g}: {kind.what} has no times; take every so many-th with --stride")
    if not kind.timed and (
        options.clock or any(at is not None and at != int(at) for at in (options.start, options.end))
    ):
        raise UsageProblem(f"--start and --end: of {kind.what} they are rows, so give whole numbers")
    with needing(f"{Path(files[0]).name}: {kind.what}", kind.extra):
        source = kind.open(files, options)
    if kind.timed:
        return source
    if source.expected is not None and 0 < source.expected <= options.start:
        source.close()
        raise UsageProblem(
            f"--start {options.start:g}: lies behind the last of the {source.expected} rows of {excerpt(source.name)}; "
            "correct it"
        )
    taken = thinning.between(source.shots, options.start, options.end)
    last = min(x for x in (options.end, source.expected) if x is not None) if source.expected is not None else None
    return replace(source, shots=taken, expected=None if last is None else max(0, int(last - options.start)))


def known() -> str:
    """The kinds, in words."""
    return (
        "videos, pictures or a folder of them, an .npy, .npz, .h5 or .zarr, a recording of Minari, or the id of an "
        "environment (MiniGrid-Empty-8x8-v0)"
    )


def command(source: str, output: str | None = None, size: int | None = None, key: str | None = None) -> str:
    """What to type to make ``source`` a file that can be trained on; without ``size`` in the size that is usual."""
    keyed = () if key is None else ("--key", key)
    stem = Path(source).name.partition(".")[0] or "mine"
    sized = () if size in (None, Options.size) else ("--size", str(size))
    inside = os.path.isdir(source) and Path("data").resolve().is_relative_to(Path(source).resolve())
    folder = os.path.relpath(Path(source).resolve().parent) if inside else "data"
    made = output or os.path.normpath(os.path.join(folder, f"{stem}.h5"))
    return shlex.join(["tiw-fsm", "frames", source, "-o", made, *sized, *keyed])


def instead(name: str, path: Path, size: int | None = None) -> str | None:
    """Why what is there is no frame file, and the command that makes one of frames of ``size``; None if it is an h5
    file or unknown."""
    if name.lower().endswith(H5):
        return None
    kind = kind_of(str(path)) or kind_of(name)
    what = kind.what if kind else "a folder of frames"
    if kind is None and not _is_folder_of_frames(path):
        return None
    there = str(path) if path.exists() and not os.path.exists(name) else name
    made = command(there, size=size)
    return f"dataset {quoted(name)} is {what} and no h5 file; `{made}` makes one of it: then name that one"


def _is_folder_of_frames(path: Path) -> bool:
    try:
        return path.is_dir() and bool(next(_in_folder(path)))
    except (UsageProblem, DiskRefused):
        return False
