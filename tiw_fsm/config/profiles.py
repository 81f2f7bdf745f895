"""The configs that come with the package: a profile is a folder of the YAML files that a run reads.

In a clone they lie beside the package, where they are edited; a wheel carries them within it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tiw_fsm.errors import disk_errors
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
    """Write the files ``names`` of a profile to ``folder``, over what bears their names: all of them or none.

    Raises:
        DiskRefused: ``folder`` is as it was before.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    durable.make_folder(folder)
    try:
        with disk_errors("writing", folder), tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder) as staging:
            staged = [Path(staging, name) for name in names]
            for path in staged:
                path.write_bytes(profile.files[path.name].read_bytes())
                durable.sync(path)
            for path in staged:
                os.replace(path, folder / path.name)
            durable.sync(folder)
    except BaseException:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise
