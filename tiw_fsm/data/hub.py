"""TinyWorlds' own frames and models, fetched from the hub where they are kept, by ``huggingface_hub``.

What there is, and its hashes, are asked once and for one commit. The bytes of a file go to a part of it beside its
place, which a later call goes on with however this one ends: ``hf_hub_download`` would begin anew. A file gets its name
once all of it is there and has the hash that the hub tells.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from tiw_fsm.data.frames import KNOWN
from tiw_fsm.data.intake import kinds
from tiw_fsm.errors import DiskRefused, Interrupted, StateDamaged, UsageProblem, disk_errors
from tiw_fsm.stages import PACKED, Stage, stage_of, step_of
from tiw_fsm.system import durable, locking
from tiw_fsm.tinyworlds.checkpoint_files import MODEL, OPTIMIZER, STATE
from tiw_fsm.values.printable import excerpt, quoted

REPOSITORIES = {"dataset": "AlmondGod/tinyworlds", "model": "AlmondGod/tinyworlds-models"}
"""Where TinyWorlds keeps what, by the kind of the repository."""
PATIENCE = 30.0
"""Seconds to wait for an answer, or for the next bytes."""
MOST_NAMED = 20
OnProgress = Callable[[int, int], None]
"""Called with (bytes there, bytes in all); what it raises ends the work, and nothing is lost."""


class Remote(NamedTuple):
    """A file on the hub."""

    path: str
    """In its repository."""
    size: int
    """Bytes."""
    sha256: str | None
    """Of a large file; else there is only git's own hash."""
    git_sha1: str | None

    @property
    def digest(self) -> str:
        """What it must have."""
        return self.sha256 or self.git_sha1 or ""


class Repository(NamedTuple):
    """What a repository holds at one commit."""

    kind: str
    name: str
    endpoint: str
    commit: str
    files: Mapping[str, Remote]

    @property
    def words(self) -> str:
        """As sentences call it; without a password that its address may have."""
        return f"the {self.kind} repository {self.name} at {_host(self.endpoint)}"

    def find(self, path: str) -> Remote:
        """The file at ``path``.

        Raises:
            UsageProblem: there is none, with what there is.
        """
        if path not in self.files:
            raise UsageProblem(f"{self.words} has no {excerpt(path)}; it has {_some(sorted(self.files))}")
        return self.files[path]


# --- what there is --------------------------------------------------------------------------------------------------


def look(
    kind: Literal["dataset", "model"], *, name: str | None = None, revision: str | None, endpoint: str | None
) -> Repository:
    """What a repository holds.

    Args:
        name: ``owner/name``; TinyWorlds' own if None.
        revision: branch, tag or commit; the newest if None.
        endpoint: address of the hub; what ``HF_ENDPOINT`` says, or the public one, if None.

    Raises:
        UsageProblem: ``huggingface_hub`` is not installed, or nothing can be had under these names.
        Interrupted: the hub cannot be reached now.
    """
    said = endpoint or os.environ.get("HF_ENDPOINT")
    if said and not _is_address(said):
        raise UsageProblem(f"{excerpt(said)} is no address of a hub; correct --endpoint or HF_ENDPOINT")
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError as exc:
        raise UsageProblem("the client of the hub is not installed: pip install 'tiw_fsm[hub]'") from exc
    api = HfApi(endpoint=endpoint.rstrip("/") if endpoint else None)
    repository = Repository(kind, name or REPOSITORIES[kind], api.endpoint, "", {})
    with _told(repository, revision):
        try:
            info: Any = api.repo_info(
                repository.name, repo_type=kind, revision=revision, files_metadata=True, timeout=PATIENCE
            )
            files = {file.rfilename: _remote(file) for file in info.siblings or ()}
            return repository._replace(commit=str(info.sha), files=files)
        except (ValueError, LookupError, TypeError, AttributeError) as exc:
            if isinstance(exc, OSError):
                raise
            told = excerpt(str(exc).splitlines()[0] if str(exc) else type(exc).__name__)
            raise UsageProblem(
                f"{repository.words} cannot be asked for ({told}); correct --repo, or --endpoint and HF_ENDPOINT"
            ) from exc


def _remote(file: Any) -> Remote:
    """What the hub tells of a file; what it tells as a hash and is none is left out.

    Raises:
        ValueError: no file has such a size.
    """
    large = file.lfs or {}
    size = int(large.get("size", file.size) or 0)
    if size < 0:
        raise ValueError(f"it tells of {size} bytes in {file.rfilename}")
    git_sha1 = None if large else _hash(file.blob_id, 40)  # that of a large file is the hash of what stands for it
    return Remote(str(file.rfilename), size, _hash(large.get("sha256"), 64), git_sha1)


def _hash(told: Any, digits: int) -> str | None:
    return told if isinstance(told, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", told) else None


def frames_file(name: str) -> str:
    """The file of a dataset that TinyWorlds knows by name, or a file's own name.

    Raises:
        UsageProblem: it is neither.
    """
    if known := KNOWN.get(name.upper()):
        return known.file
    if name.endswith(kinds.H5) and Path(name).name == name:
        return name
    raise UsageProblem(f"{quoted(name)} is no dataset of TinyWorlds; known are {', '.join(KNOWN)}, or give an h5 file")


def models(repository: Repository, suite: str) -> dict[Stage, list[Remote]]:
    """The newest checkpoint of each stage in the folder ``suite``: a single file, or a folder of TinyWorlds' three.

    Raises:
        UsageProblem: there is none, or it cannot be told which.
    """
    found: dict[Stage, dict[str, list[Remote]]] = {}
    for path, remote in repository.files.items():
        folder, _, name = path.rpartition("/")
        packed = name not in (MODEL, OPTIMIZER, STATE)
        if (stage := stage_of(path)) and path.startswith(suite + "/") and name.endswith(PACKED):
            found.setdefault(stage, {}).setdefault(path if packed else folder, []).append(remote)
    if not found:
        suites = sorted({path.partition("/")[0] for path in repository.files if stage_of(path) and "/" in path})
        raise UsageProblem(f"{repository.words} has no models of {quoted(suite)}; it has {_some(suites)}")
    return {stage: _newest(found[stage], stage, suite) for stage in Stage if stage in found}


def local_path(remote: Remote, stage: Stage) -> Path:
    """Where a model's file goes in the folder of its stage's checkpoints; one of TinyWorlds' three into one of its own,
    named as checkpoints are."""
    folder, _, name = remote.path.rpartition("/")
    if name not in (MODEL, OPTIMIZER, STATE):
        return Path(local_name(name))
    return Path(f"{stage}_step_{step_of(folder) or 0}", name)


def local_name(name: str) -> str:
    """A name from outside as that of a file of ours."""
    return re.sub(r"^\.|[^\w.-]", "_", name[-100:], flags=re.ASCII)


def _newest(candidates: Mapping[str, list[Remote]], stage: Stage, suite: str) -> list[Remote]:
    steps = {path: step for path in candidates if (step := step_of(path)) is not None}
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    newest = [path for path, step in steps.items() if step == max(steps.values())]
    if len(newest) != 1 or len(steps) < len(candidates):
        raise UsageProblem(
            f"{quoted(suite)} has several {stage} checkpoints, and their names do not tell which is the newest: "
            f"{_some(sorted(candidates))}; name a folder that has one of each stage"
        )
    return candidates[newest[0]]


# --- one file -------------------------------------------------------------------------------------------------------


def fetch(repository: Repository, remote: Remote, target: Path, *, force: bool, on_progress: OnProgress) -> bool:
    """Have the file at ``target``, whole; returns False if it was there already.

    Raises:
        UsageProblem: another file is there, and ``force`` is not given; or the hub tells no hash.
        Interrupted: the connection was cut, or ``on_progress`` said so. What has arrived is kept for the next call.
        RunHeld: another process fetches it.
        StateDamaged: what arrived is not what the hub tells of; it was removed.
        DiskRefused: the disk has no room, or does not take it. What has arrived is kept.
    """
    if not remote.digest:
        raise UsageProblem(f"{repository.words} tells no hash of {excerpt(remote.path)}, so it is not fetched")
    if target.exists():
        if _digest(target, remote, on_progress) == remote.digest:
            return False
        if not force:
            raise UsageProblem(
                f"{target} is there, and is not the {excerpt(remote.path)} of {repository.words}; --force fetches it "
                "in its place, or move yours elsewhere"
            )
    durable.make_folder(target.parent)
    part = target.with_name(f".{target.name}.{remote.digest[:16]}.part")
    with disk_errors("writing", part), _alone(part, target) as file:
        if file.seek(0, os.SEEK_END) > remote.size:
            file.truncate(0)
        room = shutil.disk_usage(part.parent).free
        if (lacking := remote.size - file.seek(0, os.SEEK_END)) > room:
            raise DiskRefused(
                f"{excerpt(remote.path)} needs {lacking:,} bytes more in {part.parent}, and {room:,} are free; make "
                "room and run again."
            )
        with _told(repository, None):
            _receive(repository, remote, file, on_progress)
        file.flush()
        if (arrived := _digest(part, remote, on_progress)) != remote.digest:
            part.unlink()
            raise StateDamaged(
                f"{excerpt(remote.path)} arrived with the hash {arrived}, and {repository.words} tells "
                f"{remote.digest}; it was removed: run again, and if that is no help, give another --endpoint."
            )
        durable.take_place(part, target)
    return True


@contextmanager
def _alone(part: Path, target: Path) -> Iterator[IO[bytes]]:
    """The part, open for appending, and locked: two processes would mix their bytes."""
    with open(part, "ab+") as file:
        locking.take_alone(file.fileno(), part, held=f"another process fetches {target}; wait for it, and run again")
        try:
            yield file
        except BaseException:
            if not file.seek(0, os.SEEK_END):
                part.unlink(missing_ok=True)
            raise


def _receive(repository: Repository, remote: Remote, file: IO[bytes], on_progress: OnProgress) -> None:
    """Append what is missing. A connection that is cut is made anew as long as each brings more."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    while (have := file.seek(0, os.SEEK_END)) < remote.size:
        try:
            _receive_more(repository, remote, file, have, on_progress)
        except HTTPError as exc:
            if isinstance(exc, HfHubHTTPError) or file.tell() <= have:
                raise
        if file.tell() <= have:
            raise Interrupted(f"{repository.words} ended {excerpt(remote.path)} early; {_kept(file, remote)}")


def _receive_more(repository: Repository, remote: Remote, file: IO[bytes], have: int, on_progress: OnProgress) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(
        repository.name,
        remote.path,
        repo_type=repository.kind,
        revision=repository.commit,
        endpoint=repository.endpoint,
    )
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with get_session().stream("GET", url, headers=headers, timeout=PATIENCE) as response:
        if response.status_code >= 400:
            response.read()
            hf_raise_for_status(response)
        if have and response.status_code != 206:  # it sends all of it again
            file.truncate(0)
            have = 0
        on_progress(have, remote.size)
        for block in response.iter_bytes():
            file.write(block)
            have += len(block)
            on_progress(have, remote.size)
            if have > remote.size:
                break


def _digest(path: Path, remote: Remote, on_progress: OnProgress) -> str:
    """The hash of a file that is there, of the kind that the hub tells of ``remote``."""
    size = path.stat().st_size
    digest = hashlib.sha256() if remote.sha256 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    done = 0
    with disk_errors("reading", path), open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            done += len(block)
            on_progress(done, size)
    return digest.hexdigest()


# --- what goes wrong ------------------------------------------------------------------------------------------------


@contextmanager
def _told(repository: Repository, revision: str | None) -> Iterator[None]:
    """Translate what the client raises.

    Raises:
        UsageProblem: there is no such thing, or not for everybody.
        Interrupted: it may be there later.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as exc:
        raise UsageProblem(
            f"{repository.words} is only for those whom its owner let in; ask for access on its page, and log in with "
            "`hf auth login` or HF_TOKEN"
        ) from exc
    except errors.RevisionNotFoundError as exc:
        raise UsageProblem(f"{repository.words} has no revision {quoted(revision)}; correct --revision") from exc
    except errors.HfHubHTTPError as exc:
        status = exc.response.status_code
        if status in (401, 403):
            raise UsageProblem(
                f"{repository.words} is not open to everybody, or not there (it answered {status}); correct --repo, or "
                "log in with `hf auth login` or HF_TOKEN"
            ) from exc
        if 400 <= status < 500 and status not in (408, 425, 429):
            raise UsageProblem(
                f"{repository.words} is not there (it answered {status}); correct --repo, --endpoint or HF_ENDPOINT"
            ) from exc
        raise Interrupted(
            f"{repository.words} answered {status}; what has arrived is kept: run again later, and it goes on."
        ) from exc
    except errors.OfflineModeIsEnabled as exc:
        raise UsageProblem("HF_HUB_OFFLINE is set, so nothing is fetched; unset it") from exc
    except errors.HTTPError as exc:
        raise Interrupted(
            f"{repository.words} cannot be reached ({excerpt(str(exc)) or type(exc).__name__}); look to the network, "
            "or give another --endpoint. What has arrived is kept: run again, and it goes on."
        ) from exc


def _kept(file: IO[bytes], remote: Remote) -> str:
    return f"{file.seek(0, os.SEEK_END):,} of {remote.size:,} bytes are kept: run again, and it goes on."


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _host(endpoint: str) -> str:
    return excerpt(urlsplit(endpoint).netloc.rpartition("@")[2])


def _some(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return (", ".join(map(excerpt, names[:MOST_NAMED])) or "nothing") + (f" and {more} more" if more > 0 else "")
