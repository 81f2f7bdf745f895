"""How a dataset lies in its file: what HDF5 would make up where nothing was stored, and what it cannot decode."""

from __future__ import annotations

import math

import h5py

BY_PLUGIN = {
    307: "bzip2",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32018: "fcidecomp",
    32024: "sz3",
    32026: "blosc2",
    32028: "sperr",
}
"""Filters that the package hdf5plugin brings, by their registered numbers."""
HOW = (
    "install hdf5plugin (pip install hdf5plugin) and start with "
    "HDF5_PLUGIN_PATH=$(python -c 'import hdf5plugin; print(hdf5plugin.PLUGIN_PATH)') in the environment, or "
)


def missing_filters(dataset: h5py.Dataset) -> str | None:
    """The filters that this h5py lacks to decode ``dataset``, and what to do; None where it lacks none."""
    created = dataset.id.get_create_plist()
    filters = (created.get_filter(n) for n in range(created.get_nfilters()))
    lacking = {number: name.decode(errors="replace") for number, _, _, name in filters if not _available(number)}
    if not lacking or _first_row_decodes(dataset):
        return None
    known = {number: BY_PLUGIN.get(number) or name or "of no name" for number, name in lacking.items()}
    words = ", ".join(f"{number} ({name})" for number, name in known.items())
    how = HOW if lacking.keys() <= BY_PLUGIN.keys() else "install the plugin that has it, or "
    return f"is compressed with filter {words}, which this h5py lacks; {how}save the file again with gzip"


def _available(number: int) -> bool:
    return bool(h5py.h5z.filter_avail(number))


def _first_row_decodes(dataset: h5py.Dataset) -> bool:
    """An optional filter may have been left out when the file was written."""
    try:
        dataset[:1]
    except (OSError, RuntimeError, ValueError):
        return False
    return True


def never_written(dataset: h5py.Dataset) -> str | None:
    """What of ``dataset`` was declared and never stored, so that HDF5 reads it as zeros; None where all was."""
    if not dataset.size or dataset.is_virtual or dataset.external:
        return None
    if dataset.chunks:
        wanted = math.prod(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        stored = dataset.id.get_num_chunks()
        what = None if stored >= wanted else f"{wanted - stored} of its {wanted} chunks were"
    else:
        compact = dataset.id.get_create_plist().get_layout() == h5py.h5d.COMPACT
        what = None if compact or dataset.id.get_storage_size() else "it was"
    return what and f"{what} never written, and HDF5 reads zeros there; cut it to the rows there are, or record again"
