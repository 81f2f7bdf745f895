"""The configs that come with the package: a profile is a folder of the YAML files that a run reads.

In a clone they lie beside the package, where they are edited; a wheel carries them within it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tiw_fsm.errors import UsageProblem
from tiw_fsm.system import durable

PACKAGE = Path(__file__).parent.parent
FOLDER = next(path for path in (PACKAGE / "configs", PACKAGE.parent / "configs") if path.is_dir())


class Profile(NamedTuple):
    """One folder of configs.

    Attributes:
        folder: where it lies below a working root, and where ``tiw-fsm init`` writes it if not told otherwise.
        frames: the command that brings the frames that it names.
    """

    folder: Path
    frames: str

    @property
    def files(self) -> dict[str, Path]:
        """The YAML files that come with the package, by name."""
        found = (FOLDER / self.folder.relative_to("configs")).glob("*.yaml")
        return {path.name: path for path in sorted(found)}


PROFILES = {
    "tinyworlds": Profile(Path("configs"), "tiw-fsm download ZELDA"),
    "demo": Profile(Path("configs/demo"), "tiw-fsm record data/planet_frames.h5"),
    "crafter": Profile(Path("configs/crafter"), "tiw-fsm record --game crafter --frames 200000"),
}


def write(profile: Profile, names: Iterable[str], folder: Path) -> None:
    """Write the files ``names`` of a profile to ``folder``, over what bears their names: each whole, or not at all.

    Raises:
        UsageProblem: something that is no file bears one of the names; nothing was written.
        DiskRefused: the operating system refused; a file is as it was before, or whole and new.
    """
    paths = [folder / name for name in names]
    if wrong := [path for path in paths if path.exists() and not (path.is_file() or path.is_symlink())]:
        raise UsageProblem([f"{path} is no file: move it away, or name another folder" for path in wrong])
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        for path in paths:
            durable.replace(path, profile.files[path.name].read_bytes())
    except BaseException:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise
