"""A run's page as a real browser shows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.chromium import CHROMIUM, FLAGS, browser
from tests.support.eventful import die_in_dynamics
from tests.support.pages import seen
from tests.support.simulation import Simulation
from tiw_fsm.reporting.html import writer
from tiw_fsm.reporting.html.page import page

LOCAL = ("--allow-file-access-from-files", "--enable-logging=stderr")
LOOK = """<body style="margin:0"><iframe id="frame" src="PAGE" style="width:WIDTHpx;height:3000px;border:0"></iframe>
<p id="found"></p><script>onload = () => {
  const inner = document.getElementById('frame').contentDocument, root = inner.documentElement;
  inner.querySelectorAll('details').forEach(d => d.open = true);
  document.getElementById('found').textContent = JSON.stringify({
    wide: root.scrollWidth, client: root.clientWidth,
    over: [...inner.querySelectorAll('main *')].filter(e => !e.closest('.wide') &&
      e.getBoundingClientRect().right > root.clientWidth + 1).map(e => e.outerHTML.slice(0, 90)),
    images: [...inner.images].map(i => i.naturalWidth),
    shown: [...inner.images].map(i => i.getBoundingClientRect().width),
    drawings: [...inner.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height),
    background: getComputedStyle(inner.body).backgroundColor,
    life: inner.querySelector('.life').textContent,
  });
}</script>"""
"""A page with the page in it: a window cannot be as narrow as a phone, a frame can."""


def written(simulation: Simulation) -> Path:
    path = writer.write_now(simulation.store)
    assert path is not None
    return path


def look(folder: Path, path: Path, *, width: int, dark: bool) -> tuple[dict[str, Any], list[str]]:
    """What a browser makes of the page, and what it said on its console. With TIW_SCREENSHOTS it leaves pictures."""
    (folder / "look.html").write_text(LOOK.replace("PAGE", path.as_uri()).replace("WIDTH", str(width)))
    theme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"

    def browse(*more: str) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            command = [
                str(CHROMIUM),
                *FLAGS,
                *LOCAL,
                theme,
                f"--user-data-dir={profile}",
                f"--window-size={width},3000",
            ]
            return subprocess.run(
                [*command, *more, (folder / "look.html").as_uri()], capture_output=True, text=True, timeout=120
            )

    if pictured := os.environ.get("TIW_SCREENSHOTS"):
        browse(f"--screenshot={pictured}/{width}-{'dark' if dark else 'light'}.png")
    done = browse("--dump-dom")
    (found,) = re.findall(r'<p id="found">(.*?)</p>', done.stdout, flags=re.DOTALL)
    return json.loads(unescape(found)), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_it_whole_on_desk_and_phone_by_day_and_night(
    eventful: Simulation, tmp_path: Path, width: int, dark: bool
) -> None:
    path = written(eventful)
    found, said = look(tmp_path, path, width=width, dark=dark)
    assert said == []
    assert found["wide"] <= found["client"] == width
    assert found["over"] == []
    assert len(found["images"]) >= 6
    assert min(found["images"]) > 0
    assert len(found["drawings"]) == 7
    assert min(found["drawings"]) > 100
    assert found["background"] == ("rgb(18, 21, 26)" if dark else "rgb(246, 247, 249)")


@browser
@pytest.mark.parametrize(("width", "shown"), [(1200, 1030), (390, 896)])
def test_a_very_wide_picture_fits_a_desk_and_scrolls_in_its_own_box_on_a_phone(
    eventful: Simulation, tmp_path: Path, width: int, shown: int
) -> None:
    """TinyWorlds' own pictures are that wide."""
    png = eventful.state.inference.attempts[-1].png
    assert png is not None
    Image.new("RGB", (6000, 800)).save(png)
    found, _ = look(tmp_path, written(eventful), width=width, dark=False)
    assert 6000 in found["images"]
    assert max(found["shown"]) == pytest.approx(shown, abs=20)
    assert (found["wide"], found["over"]) == (width, [])


@browser
def test_a_page_that_its_runner_did_not_renew_says_that_it_was_running(simulation: Simulation, tmp_path: Path) -> None:
    die_in_dynamics(simulation)
    found = seen(simulation, alive=True)
    for ago, said in ((timedelta(), "running, as of "), (timedelta(minutes=7), "was running 7 min ago")):
        then = (datetime.now(UTC) - ago).strftime("%Y-%m-%dT%H:%M:%SZ")
        path = writer.write(simulation.store.paths, page(replace(found, now=then)))
        told, _ = look(tmp_path, path, width=390, dark=False)
        assert told["life"].startswith(said)


@browser
def test_an_error_on_the_console_would_be_noticed(eventful: Simulation, tmp_path: Path) -> None:
    path = written(eventful)
    path.write_text(path.read_text().replace("(function () {", "(function () { nothing.of.the.kind();"))
    _, said = look(tmp_path, path, width=1200, dark=False)
    assert "nothing is not defined" in "".join(said)


@browser
def test_a_browser_loads_nothing_the_page_names(eventful: Simulation, tmp_path: Path) -> None:
    """The policy in the page holds: an image slipped into it is refused."""
    path = written(eventful)
    (tmp_path / "tracker.png").write_bytes(b"")
    path.write_text(path.read_text().replace("</main>", f'<img src="{(tmp_path / "tracker.png").as_uri()}"></main>'))
    (tmp_path / "bare.html").write_text(path.read_text())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [str(CHROMIUM), *FLAGS, *LOCAL, f"--user-data-dir={profile}", "--dump-dom", path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "Content Security Policy" in done.stderr
