"""A password in the command of ``on_finish`` stands in one file that only its owner can read, whenever a run is killed;
and what a path or an error says gives no orders to a terminal, a browser or a reader of Markdown."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.support.configs import write_configs
from tests.support.processes import Tiw
from tests.support.torture.bench import SIMULATED, spread
from tests.support.torture.launch import Ended, Fault, Launcher
from tiw_fsm.errors import ExitCode
from tiw_fsm.reporting.markdown.tables import bullets, link, table
from tiw_fsm.storage.paths import StatePaths
from tiw_fsm.values.printable import printable

PASSWORD = "correct horse battery staple"
COMMAND = f"cat /proc/$$/cmdline > seen; test '{PASSWORD}' = ''"
RUN = SIMULATED.arguments


class Scene:
    """A root whose loop.yaml has a command with a password in it."""

    def __init__(self, launcher: Launcher, folder: Path) -> None:
        self.root = folder
        self.paths = StatePaths(folder / "state/default")
        self._launcher = launcher
        self.have(COMMAND)

    def have(self, command: str | None) -> None:
        loop = {"on_finish": command} if command else {}
        write_configs(self.root / "configs", {**SIMULATED.changes, "loop": loop})

    def run(self, *flags: str, fault: Fault | None = None, broken: str | None = None) -> Ended:
        return self._launcher.start(self.root, *RUN, *flags, fault=fault, broken=broken, script=SIMULATED.script).wait()

    def exposed(self) -> list[str]:
        """Files with the password in them that others may read, and those that nobody else could read before."""
        found = []
        for path in self.root.rglob("*"):
            if not path.is_file() or path.is_relative_to(self.root / "configs"):
                continue
            private = not stat.S_IMODE(path.stat().st_mode) & 0o077
            if PASSWORD.encode() in path.read_bytes() and not (private and path.name.startswith("on_finish")):
                found.append(f"{path.name} has it")
            if private and not path.name.startswith("on_finish"):
                found.append(f"{path.name} is hidden")
        return found


@pytest.fixture
def scene(launcher: Launcher, tmp_path: Path) -> Scene:
    return Scene(launcher, tmp_path)


def test_a_password_stands_in_one_file_for_its_owner_and_in_no_list_of_processes(scene: Scene) -> None:
    ended = scene.run()
    assert ended.code == ExitCode.PASSED, ended.stderr
    assert "on_finish ended with 1" in ended.stderr
    assert PASSWORD not in ended.stdout + ended.stderr
    assert PASSWORD.encode() in scene.paths.on_finish.read_bytes()
    assert (scene.exposed(), PASSWORD in (scene.root / "seen").read_text()) == ([], False)


def test_a_run_that_is_killed_anywhere_exposes_no_password(
    scene: Scene, launcher: Launcher, tmp_path_factory: pytest.TempPathFactory, figures: Counter[str]
) -> None:
    for at in spread(scene.run().operations, 8):
        killed = Scene(launcher, tmp_path_factory.mktemp("killed"))
        killed.run(fault=Fault("before", at))
        assert killed.exposed() == [], f"killed at {at}"
        figures["kills of a run with a password"] += 1


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_the_mode_of_the_file_does_not_depend_on_the_umask(scene: Scene, umask: int) -> None:
    """Nor do other files become stricter than it asks for."""
    command = [sys.executable, "-m", "tiw_fsm", *RUN]
    done = subprocess.run(command, cwd=scene.root, umask=umask, timeout=60, capture_output=True, check=False)
    assert done.returncode in (ExitCode.PASSED, ExitCode.DISK), done.stderr
    assert stat.S_IMODE(scene.paths.on_finish.stat().st_mode) == 0o600
    assert stat.S_IMODE(scene.paths.config.stat().st_mode) == 0o666 & ~umask


def test_another_command_takes_the_place_of_the_first_and_none_leaves_none(scene: Scene) -> None:
    scene.run(fault=Fault("marked", 3))
    scene.have("touch other")
    scene.run(fault=Fault("marked", 2))
    assert scene.paths.on_finish.read_text() == "touch other\n"
    scene.have(None)
    assert scene.run().code == ExitCode.PASSED
    assert not scene.paths.on_finish.exists()


@pytest.mark.parametrize("fault", [None, Fault("marked", 5)], ids=["ended", "at work"])
def test_what_an_older_version_wrote_is_mended_at_the_next_start(scene: Scene, tiw: Tiw, fault: Fault | None) -> None:
    """As far as it can be: of the journal, whose hash the state vouches for, and of the log it is said."""
    scene.run(fault=fault, broken="commands_shown")
    assert {"state.json has it", "config.json has it", "journal.jsonl has it"} <= set(scene.exposed())
    ended = scene.run()
    assert ended.code == ExitCode.PASSED, ended.stderr
    assert "journal.jsonl cannot be rewritten" in ended.stderr
    assert set(scene.exposed()) <= {"journal.jsonl has it", "log.jsonl has it"}
    assert tiw(scene.root, "verify").returncode == ExitCode.PASSED
    for reader in ("status --json", "history --json", "report"):
        assert PASSWORD not in tiw(scene.root, *reader.split()).stdout
    assert PASSWORD not in scene.paths.page.read_text()
    assert "cannot be rewritten" not in scene.run().stderr


def test_the_bench_catches_commands_that_are_written_out(scene: Scene) -> None:
    scene.run(broken="commands_shown")
    assert "state.json has it" in scene.exposed()


def test_the_bench_catches_a_file_that_is_made_as_every_other(scene: Scene) -> None:
    scene.run(broken="umask_obeyed")
    assert "on_finish has it" in scene.exposed()


# --- what is shown ----------------------------------------------------------------------------------------------

EVIL = "a\x1b[31m\x07\x9b\u202e|`<script>alert(1)<b> **x** [y](z) &lt; __p__ $q$"
"""A name that gives orders to terminals, browsers and readers of Markdown."""
READERS = ("status", "history", "verify", "check", "graph", "report")


def unfit(text: str) -> list[str]:
    return sorted({ascii(c) for c in text if not c.isprintable() and c != "\n"})


def disobeyed(scene: Scene, broken: str | None = None) -> list[str]:
    """What of a run with an evil name is more than text somewhere."""
    scene.have(None)
    (scene.root / "configs").rename(scene.root / EVIL)
    given = ("--config-dir", EVIL, "--run-root", str(scene.root.parent / (scene.root.name + EVIL)))
    ended = scene.run(*given, broken=broken)
    assert ended.code == ExitCode.PASSED, ended.stderr
    found = {"run": ended.stdout + ended.stderr}
    for reader in READERS:
        said = scene._launcher.start(scene.root, reader, broken=broken).wait()
        found[reader] = said.stdout + said.stderr
    found |= {path.name: path.read_text() for path in (scene.root / "docs/action").iterdir()}
    found["page"] = scene.paths.page.read_text()
    troubles = [f"{name}: {letters}" for name, text in found.items() if (letters := unfit(text))]
    pages = {name: text for name, text in found.items() if name == "page" or name.endswith((".md", ".svg"))}
    return troubles + [f"{name}: a script" for name, text in pages.items() if re.search(r"(?<!\\)<script>alert", text)]


def test_what_a_name_says_is_obeyed_nowhere(scene: Scene) -> None:
    assert disobeyed(scene) == []


def test_the_bench_catches_what_is_shown_as_it_is(scene: Scene) -> None:
    assert {"verify", "page"} <= {trouble.partition(":")[0] for trouble in disobeyed(scene, broken="shown_as_it_is")}


def parsed(lines: list[str]) -> list[Token]:
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = reader.parse("\n".join(lines))
    return [part for token in tokens for part in (token.children or [] if token.type == "inline" else [token])]


def texts(tokens: list[Token]) -> str:
    return "".join(token.content for token in tokens if token.type in ("text", "text_special"))


@given(st.text(st.sampled_from("\\`*_{}[]()<>#+-.!|~&;:/ab1\n\x1b\u202e \t$\"'=^")))
def test_no_text_is_more_than_text_in_a_report(text: str) -> None:
    shown = " ".join(printable(" ".join(text.splitlines())).split())
    in_list, in_table = parsed(bullets({"name": text})), parsed(table(("head",), [(text,)]))
    allowed = {"text", "text_special"}
    structure = {f"{name}_{end}" for name in ("bullet_list", "list_item", "paragraph") for end in ("open", "close")}
    assert {token.type for token in in_list} <= allowed | structure
    rows = {token.type for token in in_table if not re.match("table|thead|tbody|tr|th|td", token.type)}
    assert rows <= allowed
    assert " ".join(texts(in_list).split()) == f"name: {shown}".strip()
    linked = parsed([link(text, "there")])
    assert {token.attrs.get("href") for token in linked if token.type == "link_open"} <= {"there"}


# --- names that are no text -------------------------------------------------------------------------------------

NO_TEXT = b"caf\xe9".decode(errors="surrogateescape")


@pytest.mark.parametrize("command", ["check", "run --engine simulated", "status", "verify", "history", "schedule cron"])
@pytest.mark.parametrize("flag", ["--repo-root", "--state-dir"])
def test_a_root_whose_name_is_no_utf_8_is_refused_by_all_before_anything_is_written(
    scene: Scene, flag: str, command: str
) -> None:
    root = scene.root / NO_TEXT
    write_configs(root / "configs")
    before = sorted(scene.root.rglob("*"))
    ended = scene._launcher.start(scene.root, *command.split(), flag, NO_TEXT).wait()
    assert (ended.code, "UTF-8" in ended.stderr, unfit(ended.stderr)) == (ExitCode.USAGE, True, [])
    assert sorted(scene.root.rglob("*")) == before


FLAGS: dict[str, Any] = {
    "a run root that is no UTF-8": ("--run-root", NO_TEXT),
    "configs that are no UTF-8": ("--config-dir", NO_TEXT),
    "a checkpoint longer than any path": ("--video-checkpoint", "x" * 5000),
    "a name longer than any": ("--run-root", "x" * 300),
    "a state folder longer than any path": ("--state-dir", "x" * 5000),
    "a root longer than any path": ("--repo-root", "/" + "x" * 300),
    "orders to the terminal": ("--dataset", "\x1b[31m"),
}


@pytest.mark.parametrize("what", FLAGS)
def test_a_flag_that_no_path_can_be_is_refused(scene: Scene, what: str) -> None:
    engine = () if what == "orders to the terminal" else RUN[1:]
    ended = scene._launcher.start(scene.root, "run", *engine, *FLAGS[what]).wait()
    assert (ended.code, unfit(ended.stderr)) == (ExitCode.USAGE, []), ended.stderr
    assert FLAGS[what][0] in ended.stderr
