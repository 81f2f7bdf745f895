"""The page in a real browser: what is pressed is played, what is played is seen, and a lost line comes back."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.chromium import Chromium, Page, browser, chromium
from tests.support.playing import Line, Served, rolled_out, served
from tiw_fsm.play.opening import Opened
from tiw_fsm.play.world import Frames, Game

pytestmark = browser
STEPS = "document.getElementById('screen')?.dataset.steps"
LOOK = """(canvas => btoa(String.fromCharCode(...canvas.getContext('2d')
    .getImageData(0, 0, canvas.width, canvas.height).data)))(document.getElementById('NAME'))"""
LABELS = """[...document.querySelectorAll('button, input, select, canvas, a')]
    .filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"""


@pytest.fixture(scope="module")
def server(passed_root: Path) -> Iterator[Served]:
    with served(passed_root) as server:
        yield server


@pytest.fixture(scope="module")
def running() -> Iterator[Chromium]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(running: Chromium) -> Iterator[Page]:
    page = running.tab()
    yield page
    assert page.said == []
    page.close()


def begun(page: Page, address: str, start: int = 0) -> Page:
    page.open(f"{address}#{start + 1}")
    page.wait(f"{STEPS} === '0'")
    assert page("document.getElementById('screen').dataset.start") == str(start)
    return page


def choose(page: Page, key: str, action: int) -> None:
    """Change the map."""
    choice = f"document.querySelector('[aria-label=\"action of {key}\"]')"
    page(f"(e => {{ e.value = {action}; e.onchange(); }})({choice})")


def seen(page: Page, game: Game, canvas: str = "dream") -> Frames:
    """The frame that the page shows, as its pixels are."""
    rgba = np.frombuffer(base64.b64decode(page(LOOK.replace("NAME", canvas))), np.uint8)
    return rgba.reshape(*game.size, 4)[..., :3]


def pressed(page: Page, game: Game, codes: Sequence[str]) -> Frames:
    """What is seen after each of the keys."""
    found = []
    for code in codes:
        steps = int(page(STEPS))
        page.press(code)
        page.wait(f"{STEPS} === '{steps + 1}'")
        found.append(seen(page, game))
    return np.stack(found)


def test_keys_play_what_they_are_mapped_to_and_the_rollout_is_seen(page: Page, server: Served, opened: Opened) -> None:
    game = opened.game
    begun(page, server.address, 2)
    for key, action in (("left", 2), ("up", 1), ("wait", 3)):
        choose(page, key, action)
    codes = ["ArrowLeft", "KeyA", "ArrowUp", "KeyW", "Space", "Digit1", "Digit4"]
    found = pressed(page, game, codes)
    assert np.array_equal(found, rolled_out(game, 2, [2, 2, 1, 1, 3, 0, 3]))
    page.press("KeyR")
    page.wait(f"{STEPS} === '0'")
    assert np.array_equal(pressed(page, game, codes), found)
    page.leave_picture("play-desk.png")


def test_a_key_held_down_goes_on_until_it_is_let_go(page: Page, server: Served) -> None:
    begun(page, server.address)
    page.key("keyDown", "Digit2")
    page.wait(f"+{STEPS} >= 5")
    page.key("keyUp", "Digit2")
    page.wait("sent === null")
    steps = page(STEPS)
    page.press("Digit3")
    page.wait(f"{STEPS} === '{int(steps) + 1}'")
    assert "frames/s" in page("document.getElementById('speed').textContent")


def test_two_tabs_are_two_worlds(running: Chromium, server: Served, opened: Opened) -> None:
    one, other = begun(running.tab(), server.address), begun(running.tab(), server.address, 9)
    keys = ["Digit1", "Digit3", "Digit4", "Digit2"]
    found = [
        (pressed(one, opened.game, [key])[0], pressed(other, opened.game, [back])[0])
        for key, back in zip(keys, reversed(keys), strict=True)
    ]
    assert np.array_equal(np.stack([pair[0] for pair in found]), rolled_out(opened.game, 0, [0, 2, 3, 1]))
    assert np.array_equal(np.stack([pair[1] for pair in found]), rolled_out(opened.game, 9, [1, 3, 2, 0]))
    assert (one.said, other.said) == ([], [])
    one.close()
    other.close()


def test_following_shows_the_true_frame_beside_the_dream_until_a_key_takes_over(
    page: Page, server: Served, opened: Opened
) -> None:
    game = opened.game
    begun(page, server.address, game.episodes[1] - 4)
    page.press("KeyF")
    page.wait("document.getElementById('said').textContent.includes('ends here')")
    last = int(page(STEPS))
    assert last == 4
    truth = game.clip(int(game.starts[game.episodes[1] - 4]), game.config.context_window + last)
    expected = ((truth[0, -1].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    assert np.array_equal(seen(page, game, "truth"), expected)
    assert page("document.getElementById('truth').offsetWidth") > 100
    page.leave_picture("play-follow.png")
    pressed(page, game, ["Digit1"])
    assert page("document.getElementById('true-frame').hidden")


def test_starts_are_chosen_by_number_and_by_episode(page: Page, server: Served, opened: Opened) -> None:
    begun(page, server.address)
    at = "document.getElementById('screen').dataset.start"
    page.press("KeyN")
    page.wait(f"{at} === '{opened.game.episodes[1]}'")
    page.press("KeyP")
    page.wait(f"{at} === '0'")
    page("(e => { e.value = 12; e.onchange(); })(document.getElementById('start'))")
    page.wait(f"{at} === '11'")
    page("(e => { e.value = 99999; e.onchange(); })(document.getElementById('start'))")
    assert page("document.getElementById('start').value") == "12"
    assert page("location.hash") == "#12"


def test_a_line_that_is_cut_comes_back_by_itself_and_the_game_goes_on(
    page: Page, server: Served, opened: Opened
) -> None:
    line = Line(server.port)
    try:
        begun(page, f"http://127.0.0.1:{line.port}/", 4)
        before = pressed(page, opened.game, ["Digit1", "Digit4", "Digit3"])
        line.cut()
        page.wait("!document.getElementById('connection').hidden")
        assert "tried again by itself" in page("document.getElementById('connection').textContent")
        page.press("Digit2")  # waits until there is somebody to play it
        line.mend()
        page.wait(f"document.getElementById('connection').hidden && {STEPS} === '4'")
        after = pressed(page, opened.game, ["Digit4", "Digit1"])
        expected = rolled_out(opened.game, 4, [0, 3, 2, 1, 3, 0])
        assert np.array_equal(before, expected[:3])
        assert np.array_equal(after, expected[-2:])
    finally:
        line.close()
    page.said = [line for line in page.said if "ERR_" not in line]


def test_a_server_that_was_started_anew_gets_the_page_back_at_its_start(
    page: Page, passed_root: Path, opened: Opened
) -> None:
    with served(passed_root) as first:
        begun(page, first.address, 6)
        pressed(page, opened.game, ["Digit1"])
        port = first.port
        assert first.end()[0] == 0
        page.wait("!document.getElementById('connection').hidden")
    with served(passed_root, port=port):
        page.wait(f"document.getElementById('connection').hidden && {STEPS} === '0'")
        assert np.array_equal(pressed(page, opened.game, ["Digit2"]), rolled_out(opened.game, 6, [1]))
    page.said = [line for line in page.said if "ERR_" not in line]


def test_with_a_token_the_page_plays_and_saves_and_without_it_there_is_none(
    page: Page, passed_root: Path, opened: Opened
) -> None:
    with served(passed_root, token="a-secret") as server:
        begun(page, server.address, 1)
        assert np.array_equal(pressed(page, opened.game, ["Digit3"]), rolled_out(opened.game, 1, [2]))
        statuses = "Promise.all([...document.querySelectorAll('#save a')].map(a => fetch(a.href).then(r => r.status)))"
        assert set(page(statuses)) == {200}
        page.open(server.address.partition("?")[0])
        page.wait("document.body.textContent.includes('Open the address that')")
    page.said = [line for line in page.said if "403" not in line]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_plays_by_touch_and_nothing_sticks_out(
    page: Page, server: Served, opened: Opened, *, dark: bool
) -> None:
    page.phone()
    if dark:
        page.dark()
    begun(page, server.address, 1)
    choose(page, "right", 2)
    for number, selector in enumerate(["#pad [data-key=right]", "[aria-label='action 1']", "[aria-label='action 4']"]):
        page.touch(selector)
        page.wait(f"{STEPS} === '{number + 1}'")
    assert np.array_equal(seen(page, opened.game), rolled_out(opened.game, 1, [2, 0, 3])[-1])
    assert page("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    background = page("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(18, 21, 26)" if dark else "rgb(246, 247, 249)")
    page.leave_picture(f"play-phone-{'dark' if dark else 'light'}.png")
    page.touch("#follow")
    page.wait("document.getElementById('truth').offsetWidth > 0")
    assert page("document.documentElement.scrollWidth") == 390


def test_everything_that_can_be_used_has_a_name(page: Page, server: Served) -> None:
    begun(page, server.address)
    assert page(LABELS) == []
    assert page("document.documentElement.lang") == "en"


def test_the_keyboard_presses_the_buttons_too(page: Page, server: Served, opened: Opened) -> None:
    begun(page, server.address)
    page("document.querySelector(\"[aria-label='action 3']\").focus()")
    page.call("Input.dispatchKeyEvent", type="keyDown", code="Enter", key="Enter", text="\r", windowsVirtualKeyCode=13)
    page.call("Input.dispatchKeyEvent", type="keyUp", code="Enter", key="Enter", windowsVirtualKeyCode=13)
    page.wait(f"{STEPS} === '1'")
    assert np.array_equal(seen(page, opened.game), rolled_out(opened.game, 0, [2])[-1])


def test_a_browser_that_closes_leaves_the_others_alone(running: Chromium, server: Served, opened: Opened) -> None:
    one, other = begun(running.tab(), server.address), begun(running.tab(), server.address)
    one.key("keyDown", "Digit1")
    one.close()
    assert np.array_equal(pressed(other, opened.game, ["Digit3"]), rolled_out(opened.game, 0, [2]))
    other.close()
