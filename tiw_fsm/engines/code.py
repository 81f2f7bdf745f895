"""The code that decides the bits: the version of the package and all of ``tinyworlds``. Its digest, one way to take it.

A controller takes it from the files. A process that trains takes it from what it imported: the two are the same only
if nobody has changed the files since.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

from tiw_fsm.version import __version__

PACKAGE = "tiw_fsm.tinyworlds"
FOLDER = Path(__file__).absolute().parents[1] / "tinyworlds"


def code_digest() -> str:
    """Digest of the code as it stands in the files."""
    return _digest({path: path.read_bytes() for path in _files()})


def import_recorded() -> str:
    """Import the code from its files, whatever was compiled of them before; the digest of what was imported.

    To be called before anything of it is imported.
    """
    assert PACKAGE not in sys.modules
    sources: dict[Path, bytes] = {}
    recorder = _Recorder(sources)
    sys.meta_path.insert(0, recorder)
    try:
        for path in _files():
            inside = path.relative_to(FOLDER).with_suffix("").parts
            import_module(".".join([PACKAGE, *inside]).removesuffix(".__init__"))
    finally:
        sys.meta_path.remove(recorder)
    return _digest(sources)


def _files() -> list[Path]:
    return sorted(FOLDER.rglob("*.py"))


def _digest(sources: Mapping[Path, bytes]) -> str:
    digest = hashlib.sha256(__version__.encode())
    for path in sorted(sources):
        digest.update(str(path.relative_to(FOLDER)).encode() + b"\0" + sources[path])
    return digest.hexdigest()


class _Source(SourceFileLoader):
    """Compiles the bytes that it records."""

    def __init__(self, name: str, path: str, sources: dict[Path, bytes]) -> None:
        super().__init__(name, path)
        self._sources = sources

    def path_stats(self, path: str) -> Mapping[str, float]:
        raise OSError("what was compiled before is not asked for: it is told from the source by its time alone")

    def get_data(self, path: str) -> bytes:
        data = super().get_data(path)
        self._sources[Path(path).absolute()] = data
        return data


class _Recorder(MetaPathFinder):
    """Has ``_Source`` load every module of the code."""

    def __init__(self, sources: dict[Path, bytes]) -> None:
        self._sources = sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != PACKAGE and not fullname.startswith(f"{PACKAGE}."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Source(fullname, spec.origin, self._sources)
        return spec
