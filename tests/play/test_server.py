"""The real server, as a process on loopback: what it answers, whom it answers, what it gives to keep, how it ends."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pytest
from PIL import Image
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.playing import Served, Tab, rolled_out, served, websocket
from tests.support.waiting import wait_for
from tiw_fsm.data import frames, supply
from tiw_fsm.play.guard import Guard, is_loopback, new_token
from tiw_fsm.play.opening import Opened
from tiw_fsm.play.sessions import KEPT_SECONDS, MOST, Sessions
from tiw_fsm.play.world import Player
from tiw_fsm.tinyworlds.config import DataSource
from tiw_fsm.worlds.films import film

ACTIONS = [0, 3, 1, 1, 2, 0, 3]


@pytest.fixture(scope="module")
def server(passed_root: Path) -> Iterator[Served]:
    with served(passed_root) as server:
        yield server


OpenTab = Callable[..., Tab]


@pytest.fixture
def open_tab(server: Served) -> Iterator[OpenTab]:
    """Opens tabs, which are closed in the end."""
    tabs: list[Tab] = []

    def begin(session: str = "", start: int = 0) -> Tab:
        tabs.append(Tab(server.address, session, start))
        return tabs[-1]

    yield begin
    for tab in tabs:
        tab.socket.close()


def get(server: Served, path: str, **headers: str) -> tuple[int, bytes, Any]:
    request = urllib.request.Request(server.address + path, headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def test_what_is_played_over_the_socket_is_the_rollout_bit_for_bit(open_tab: OpenTab, opened: Opened) -> None:
    tab = open_tab(start=5)
    assert (tab.hello["run"], tab.hello["resumed"], tab.shown.header["start"]) == ("default", False, 5)
    assert np.array_equal(tab.play(ACTIONS), rolled_out(opened.game, 5, ACTIONS))
    again = tab.ask("reset", start=9)
    assert again is not None
    assert (again.header["kind"], again.header["start"], again.header["steps"]) == ("start", 9, 0)
    assert np.array_equal(tab.play(ACTIONS), rolled_out(opened.game, 9, ACTIONS))


def test_following_shows_the_true_frames_until_the_episode_ends(open_tab: OpenTab, opened: Opened) -> None:
    tab, player = open_tab(start=opened.game.episodes[1] - 2), Player(opened.game, opened.game.episodes[1] - 2)
    for _ in range(2):
        answer, expected = tab.ask("follow"), player.follow()
        assert answer is not None
        assert expected is not None
        assert np.array_equal(answer.dream, expected.dream)
        assert np.array_equal(answer.truth, expected.truth)
    assert tab.ask("follow") is None


def test_two_tabs_play_their_own_worlds(open_tab: OpenTab, opened: Opened) -> None:
    one, other = open_tab(start=0), open_tab(start=8)
    assert one.hello["session"] != other.hello["session"]
    found: tuple[list[Any], list[Any]] = [], []
    for action in ACTIONS:
        found[0].append(one.play([action]))
        found[1].append(other.play([3 - action]))
    assert np.array_equal(np.concatenate(found[0]), rolled_out(opened.game, 0, ACTIONS))
    assert np.array_equal(np.concatenate(found[1]), rolled_out(opened.game, 8, [3 - action for action in ACTIONS]))


def test_a_world_waits_for_its_browser_and_goes_on(open_tab: OpenTab, opened: Opened) -> None:
    first = open_tab(start=3)
    before = first.play(ACTIONS)
    first.socket.socket.close()  # not a word of farewell
    second = open_tab(session=first.hello["session"])
    assert (second.hello["resumed"], second.shown.header["start"], second.shown.header["steps"]) == (True, 3, 7)
    assert np.array_equal(second.shown.dream[-len(ACTIONS) :], before)
    after = second.play(ACTIONS)
    assert np.array_equal(np.concatenate([before, after]), rolled_out(opened.game, 3, [*ACTIONS, *ACTIONS]))


def test_a_session_nobody_knows_begins_anew_where_its_page_began(open_tab: OpenTab) -> None:
    tab = open_tab(session="nobody", start=4)
    assert (tab.hello["resumed"], tab.shown.header["start"]) == (False, 4)


@pytest.mark.parametrize(
    "message",
    [
        "not json",
        "[" * 500,
        "{}",
        "null",
        '{"do": "step"}',
        '{"do": "step", "action": 4}',
        '{"do": "step", "action": -1}',
        '{"do": "step", "action": true}',
        '{"do": "step", "action": 1.5}',
        '{"do": "reset", "start": 1000000}',
        '{"do": "dance"}',
        b"\x00\x01",
        "x" * 5000,
    ],
    ids=lambda message: str(message)[:30],
)
def test_a_message_that_makes_no_sense_closes_its_connection_and_nothing_else(
    open_tab: OpenTab, message: str | bytes
) -> None:
    tab, other = open_tab(), open_tab()
    tab.play([1])
    tab.socket.send(message)
    with pytest.raises(ConnectionClosed) as closed:
        tab.socket.recv(timeout=30)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == (1009 if len(message) > 1024 else 1003)
    assert len(other.play(ACTIONS)) == len(ACTIONS)
    assert open_tab(session=tab.hello["session"]).shown.header["steps"] == 1


def test_the_page_loads_nothing_from_elsewhere(server: Served) -> None:
    for path in ("", "play.js", "play.css", "colours.css"):
        status, content, headers = get(server, path)
        assert status == 200
        assert b"http://" not in content
        assert b"https://" not in content
        assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert get(server, "../world.py")[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8008", "192.168.1.7", "127.0.0.1.evil.example", "["])
def test_a_name_that_was_turned_to_loopback_is_refused(server: Served, host: str) -> None:
    status, content, _ = get(server, "", Host=host)
    assert (status, b"talks to loopback only" in content) == (403, True)


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "[::1]:80", "127.0.0.1"])
def test_loopback_by_any_name_is_served_as_through_a_tunnel(server: Served, host: str) -> None:
    assert get(server, "", Host=host)[0] == 200


def test_a_strangers_page_gets_no_socket(server: Served) -> None:
    address = server.address.replace("http://", "ws://") + "socket"
    for origin in ("http://evil.example", f"http://localhost:{server.port}", "null"):
        with pytest.raises(InvalidStatus) as refused:
            websocket(address, origin=origin)
        assert refused.value.response.status_code == 403
    websocket(address, origin=server.address.rstrip("/")).close()


def answered(token: str | None, path: str, query: str, host: str = "192.168.1.7:8008") -> int:
    """The status that a server with a token answers with."""
    told: list[AsgiMessage] = []

    async def inside(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> AsgiMessage:
        return {"type": "http.request"}

    async def send(message: AsgiMessage) -> None:
        told.append(message)

    scope = {"type": "http", "path": path, "query_string": query.encode(), "headers": [(b"host", host.encode())]}
    asyncio.run(Guard(inside, token, frozenset({"/play.js"}))(scope, receive, send))
    status: int = told[0]["status"]
    return status


def test_on_another_host_the_token_is_wanted(server: Served) -> None:
    token = new_token("0.0.0.0")
    assert token is not None
    assert len(token) > 20
    assert token != new_token("0.0.0.0")
    for path in ("/", "/socket", "/game.h5"):
        assert answered(token, path, f"token={token}") == 200
        for wrong in ("", "token=", f"token={token}x", "token=%C3%A4", f"other={token}"):
            assert answered(token, path, wrong) == 403
    assert answered(token, "/play.js", "") == 200
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "example.org")] == [
        *[True] * 3,
        *[False] * 3,
    ]
    assert new_token("127.0.0.1") is None


def test_what_was_played_can_be_kept(server: Served, open_tab: OpenTab, opened: Opened, tmp_path: Path) -> None:
    tab = open_tab(start=6)
    played = tab.play(ACTIONS)
    window = opened.game.config.context_window
    assert {"gif", "h5"} <= set(tab.hello["formats"])
    found = {kind: get(server, f"game.{kind}?session={tab.hello['session']}") for kind in tab.hello["formats"]}
    for kind, (status, _, headers) in found.items():
        assert status == 200
        assert headers["Content-Disposition"] == f'attachment; filename="default-start-7.{kind}"'
    with Image.open(io.BytesIO(found["gif"][1])) as gif:
        assert (gif.format, gif.size) == ("GIF", (224, 224))
        assert gif.n_frames <= window + len(ACTIONS)  # Pillow joins those that are the same
    path = tmp_path / "played.h5"
    path.write_bytes(found["h5"][1])
    with h5py.File(path) as file:
        assert np.array_equal(file["frames"][window:], played)
        assert file["actions"][window - 1 : -1].tolist() == ACTIONS
        assert file["actions"][-1] == -1
        assert (file.attrs["stride"], len(file["actions"].attrs["names"])) == (1, 4)
        assert set(file["episode"][:]) == {0}
    problems = frames.inspect(
        DataSource(path=str(path), skip=0, stride=1),
        frame_size=16,
        training_length=4,
        held_out=supply.HeldOut(clips=0, length=4),
    )
    assert problems == []
    for wrong in ("game.h5?session=nobody", "game.exe", f"game.exe?session={tab.hello['session']}"):
        assert get(server, wrong)[0] == 404


def test_a_film_plays_and_looks_like_what_was_played() -> None:
    if "libx264" not in av.codecs_available:
        pytest.skip("this PyAV has no H.264 encoder")
    shown = [np.full((15, 15, 3), 20 * n, np.uint8) for n in range(10)]
    with av.open(io.BytesIO(film(shown))) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].codec_context.name == "h264"
    assert len(decoded) == len(shown)
    assert {frame.shape[0] % 2 for frame in decoded} == {0}
    assert max(abs(float(a.mean()) - float(b.mean())) for a, b in zip(shown, decoded, strict=True)) < 6


def test_a_world_whose_browser_does_not_come_back_is_given_up(opened: Opened) -> None:
    now = 0.0
    sessions = Sessions(clock=lambda: now)
    kept, gone = sessions.begin(Player(opened.game)), sessions.begin(Player(opened.game))
    assert kept is not None
    assert gone is not None
    sessions.connect(kept)
    first = sessions.connect(gone)
    sessions.connect(gone)
    sessions.disconnect(gone, first)  # a connection that another one took the place of
    now = 2 * KEPT_SECONDS
    assert sessions.find(gone.id) is gone
    sessions.disconnect(gone, 2)
    now += KEPT_SECONDS - 1
    assert sessions.find(gone.id) is gone
    now += 2
    assert sessions.find(gone.id) is None
    assert sessions.find(kept.id) is kept
    assert len(sessions) == 1


def test_there_are_only_so_many_worlds_and_those_that_are_left_make_room(opened: Opened) -> None:
    sessions, player = Sessions(), Player(opened.game)
    all_of_them = [sessions.begin(player) for _ in range(MOST)]
    for session in all_of_them:
        assert session is not None
        sessions.connect(session)
    assert sessions.begin(player) is None
    assert all_of_them[5] is not None
    sessions.disconnect(all_of_them[5], 1)
    assert sessions.begin(player) is not None
    assert sessions.find(all_of_them[5].id) is None
    assert len(sessions) == MOST


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=str)
def test_a_signal_ends_it_at_once_and_it_says_how_to_go_on(passed_root: Path, number: int) -> None:
    with served(passed_root) as server:
        tab = Tab(server.address)
        tab.play(ACTIONS)
        code, said, errors = server.end(number)
        assert (code, errors) == (0, "")
        told = (
            "Ended after 7 frames; the run is as it was. `tiw-fsm play default` opens its newest checkpoints again.\n"
        )
        assert said == told
        with pytest.raises(ConnectionClosed):
            tab.socket.recv(timeout=30)


def test_a_signal_ends_it_while_it_still_loads(passed_root: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "tiw_fsm", "play", "--no-browser", "--port", "0"],
        cwd=passed_root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "tiw_fsm.play.guard" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert (process.returncode, "Ended after 0 frames" in said) == (0, True)


def test_a_browser_is_opened_where_there_is_one(passed_root: Path, tmp_path: Path) -> None:
    program, opened = tmp_path / "browser", tmp_path / "opened"
    program.write_text(f'#!/bin/sh\necho "$1" > {opened}.tmp; mv {opened}.tmp {opened}\n')
    program.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-m", "tiw_fsm", "play", "--port", "0"],
        cwd=passed_root,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"BROWSER": str(program), "COLUMNS": "200"},
    )
    try:
        wait_for("the browser", opened.exists, 60)
        assert process.stdout is not None
        assert opened.read_text().strip() in process.stdout.readline()
    finally:
        process.terminate()
        assert process.communicate()
    assert process.returncode == 0
