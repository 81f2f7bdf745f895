"""TinyWorlds' frames and models from the hub: the real client against a small server on loopback."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.configs import write_configs
from tests.support.hub_server import COMMIT, DATASETS, MODELS, Hub, serving
from tests.support.processes import Tiw
from tests.support.waiting import wait_for
from tiw_fsm import cli
from tiw_fsm.errors import ExitCode

ZELDA, PONG = random.Random(0).randbytes(3_000_000), random.Random(1).randbytes(70_000)
WITHOUT_CLIENT = (
    "import sys; sys.modules['huggingface_hub'] = None; sys.argv = ['tiw-fsm', 'download', 'ZELDA']; "
    "from tiw_fsm.__main__ import main; main()"
)


@pytest.fixture(autouse=True)
def no_account(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub({DATASETS: {"zelda_frames.h5": ZELDA, "pong_frames.h5": PONG}})) as hub:
        yield hub


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


Here = Callable[..., Done]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """The command line in this process: a client's start takes a second, and there are many cases."""

    def call(*arguments: str) -> Done:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["tiw-fsm", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Done(ended.value.code, *capsys.readouterr())  # type: ignore[arg-type]

    return call


@pytest.fixture
def download(here: Here, hub: Hub) -> Here:
    return lambda *arguments: here("download", *arguments, "--endpoint", hub.endpoint)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def one_sentence(done: subprocess.CompletedProcess[str] | Done) -> str:
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_several_datasets_come_whole_to_where_their_names_are_looked_for(
    tmp_path: Path, hub: Hub, download: Here
) -> None:
    done = download("zelda", "PONG")
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert files(tmp_path) == {"data/zelda_frames.h5": ZELDA, "data/pong_frames.h5": PONG}
    assert "`tiw-fsm run --dataset ZELDA`" in done.stdout
    assert hub.asked == [("zelda_frames.h5", None), ("pong_frames.h5", None)]


def test_what_is_there_and_the_hubs_is_not_fetched_again(tmp_path: Path, hub: Hub, download: Here) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/zelda_frames.h5").write_bytes(ZELDA)
    done = download("ZELDA")
    assert (done.returncode, "zelda_frames.h5 is there already" in done.stdout) == (ExitCode.PASSED, True)
    assert hub.asked == []


def test_another_file_in_its_place_is_only_replaced_when_that_is_asked_for(tmp_path: Path, download: Here) -> None:
    (tmp_path / "data").mkdir()
    mine = tmp_path / "data/pong_frames.h5"
    mine.write_bytes(b"mine")
    done = download("PONG")
    assert (done.returncode, "--force" in one_sentence(done)) == (ExitCode.USAGE, True)
    assert files(tmp_path) == {"data/pong_frames.h5": b"mine"}
    assert download("PONG", "--force").returncode == ExitCode.PASSED
    assert mine.read_bytes() == PONG


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_client_that_is_killed_in_the_middle_of_a_file_goes_on_there(
    tmp_path: Path, hub: Hub, download: Here, number: signal.Signals
) -> None:
    hub.hold_at = 2_000_000
    command = [sys.executable, "-m", "tiw_fsm", "download", "ZELDA", "--endpoint", hub.endpoint]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)

    def there() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "data").glob(".*.part"))

    wait_for("bytes", lambda: there() > 1_000_000 or process.poll() is not None, 60)
    process.send_signal(number)
    if number == signal.SIGTERM:
        hub.release.set()  # it looks at what it was asked between two blocks
    _, said = process.communicate(timeout=60)
    assert process.returncode == (ExitCode.INTERRUPTED if number == signal.SIGTERM else -signal.SIGKILL), said
    assert not (tmp_path / "data/zelda_frames.h5").exists()
    have, hub.hold_at = there(), None
    assert have > 1_000_000
    hub.asked.clear()
    done = download("ZELDA")
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert hub.asked == [("zelda_frames.h5", f"bytes={have}-")]
    assert files(tmp_path) == {"data/zelda_frames.h5": ZELDA}


def test_a_connection_that_is_cut_again_and_again_is_made_anew(tmp_path: Path, hub: Hub, download: Here) -> None:
    hub.cut_at = 1_000_000
    done = download("ZELDA")
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert [asked for _, asked in hub.asked] == [None, "bytes=1000000-", "bytes=2000000-"]
    assert files(tmp_path) == {"data/zelda_frames.h5": ZELDA}


def test_a_hub_that_knows_no_ranges_sends_all_of_it_again(tmp_path: Path, hub: Hub, download: Here) -> None:
    hub.cut_at, hub.ignores_ranges = 1_000_000, True
    assert download("ZELDA").returncode == ExitCode.INTERRUPTED
    hub.cut_at = None
    assert download("ZELDA").returncode == ExitCode.PASSED
    assert files(tmp_path) == {"data/zelda_frames.h5": ZELDA}


def test_of_half_a_file_nothing_is_lost_and_the_next_call_goes_on(tmp_path: Path, hub: Hub, download: Here) -> None:
    """Cut at its middle, and then before anything more comes."""
    hub.cut_at, hub.cuts = 2_000_000, [0]
    done = download("ZELDA")
    assert (done.returncode, "run again, and it goes on" in one_sentence(done)) == (ExitCode.INTERRUPTED, True)
    assert [path.stat().st_size for path in (tmp_path / "data").iterdir()] == [2_000_000]
    hub.cut_at = None
    hub.asked.clear()
    assert download("ZELDA").returncode == ExitCode.PASSED
    assert hub.asked == [("zelda_frames.h5", "bytes=2000000-")]
    assert files(tmp_path) == {"data/zelda_frames.h5": ZELDA}


def test_bytes_that_are_not_what_the_hub_tells_of_are_not_kept(tmp_path: Path, hub: Hub, download: Here) -> None:
    hub.wrong, hub.small = {"zelda_frames.h5", "pong_frames.h5"}, {"pong_frames.h5"}
    for name in ("ZELDA", "PONG"):  # whose hashes are of two kinds
        done = download(name)
        assert (done.returncode, "arrived with the hash" in one_sentence(done)) == (ExitCode.DAMAGED, True)
        assert files(tmp_path) == {}
    hub.wrong = set()
    assert download("ZELDA", "PONG").returncode == ExitCode.PASSED


REFUSALS = {
    "no such repository": (["ZELDA", "--repo", "some/body"], {}, ExitCode.USAGE, "some/body at 127.0.0.1"),
    "no repository's name": (["ZELDA", "--repo", "some body/x/y"], {}, ExitCode.USAGE, "correct --repo"),
    "no such revision": (["ZELDA", "--revision", "v9"], {}, ExitCode.USAGE, "has no revision 'v9'"),
    "no such file": (["SONIC"], {}, ExitCode.USAGE, "has no sonic_frames.h5; it has pong_frames.h5, zelda_frames.h5"),
    "no such dataset": (["DOOM"], {}, ExitCode.USAGE, "known are ZELDA, PONG"),
    "private": (["ZELDA"], {DATASETS: (401, {})}, ExitCode.USAGE, "HF_TOKEN"),
    "gated": (["ZELDA"], {DATASETS: (403, {"X-Error-Code": "GatedRepo"})}, ExitCode.USAGE, "ask for access"),
    "out of order": (["ZELDA"], {DATASETS: (500, {})}, ExitCode.INTERRUPTED, "answered 500"),
    "busy": (["ZELDA"], {DATASETS: (429, {})}, ExitCode.INTERRUPTED, "answered 429"),
    "a file out of order": (["ZELDA"], {"zelda_frames.h5": (503, {})}, ExitCode.INTERRUPTED, "run again later"),
    "a file that went": (["ZELDA"], {"zelda_frames.h5": (404, {})}, ExitCode.USAGE, "answered 404"),
    "nothing asked for": ([], {}, ExitCode.USAGE, "give names of datasets (ZELDA"),
    "two things asked for": (["ZELDA", "--model", "sonic"], {}, ExitCode.USAGE, "one of the two"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_had_is_said_in_a_sentence_and_leaves_nothing(
    tmp_path: Path, hub: Hub, download: Here, case: str
) -> None:
    arguments, hub.answers, code, said = REFUSALS[case]
    done = download(*arguments)
    assert (done.returncode, said in one_sentence(done)) == (code, True), done.stderr
    assert files(tmp_path) == {}


def test_a_disk_without_room_for_a_file_is_told_before_the_first_byte(tmp_path: Path, hub: Hub, download: Here) -> None:
    hub.claims = {"zelda_frames.h5": 1 << 60}
    done = download("ZELDA")
    assert (done.returncode, "make room" in one_sentence(done)) == (ExitCode.DISK, True)
    assert (hub.asked, files(tmp_path)) == ([], {})


def test_without_a_network_it_says_so(tmp_path: Path, tiw: Tiw) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        done = tiw(tmp_path, "download", "ZELDA", "--endpoint", f"http://127.0.0.1:{unheard.getsockname()[1]}")
    assert (done.returncode, "cannot be reached" in one_sentence(done)) == (ExitCode.INTERRUPTED, True)


@pytest.mark.parametrize("endpoint", ["hub", "http://[", "http://", "ftp://127.0.0.1", "http://127.0.0.1:99999"])
def test_an_endpoint_that_is_none_is_named(endpoint: str, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    done = here("download", "ZELDA")
    assert (done.returncode, "HF_ENDPOINT" in one_sentence(done)) == (ExitCode.USAGE, True)


def test_the_environment_names_the_endpoint(
    tmp_path: Path, tiw: Tiw, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    assert tiw(tmp_path, "download", "PONG", "--revision", COMMIT).returncode == ExitCode.PASSED
    assert files(tmp_path) == {"data/pong_frames.h5": PONG}


def test_two_at_once_do_not_mix_their_bytes(tmp_path: Path, hub: Hub, download: Here) -> None:
    hub.hold_at = 1_000_000
    command = [sys.executable, "-m", "tiw_fsm", "download", "ZELDA", "--endpoint", hub.endpoint]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for("bytes", lambda: any((tmp_path / "data").glob(".*.part")) or process.poll() is not None, 60)
    done = download("ZELDA")
    assert (done.returncode, "another process fetches" in one_sentence(done)) == (ExitCode.HELD, True)
    hub.hold_at = None
    hub.release.set()
    process.communicate(timeout=60)
    assert process.returncode == ExitCode.PASSED
    assert files(tmp_path) == {"data/zelda_frames.h5": ZELDA}


@pytest.mark.parametrize("told", ["../../x", "", None, 5, "0" * 63, "0" * 65, "g" * 64, "0" * 64 + "\n"])
def test_a_hash_that_is_none_is_not_believed(tmp_path: Path, hub: Hub, download: Here, told: object) -> None:
    hub.hashes["zelda_frames.h5"] = told
    done = download("ZELDA")
    assert (done.returncode, "tells no hash of zelda_frames.h5" in one_sentence(done)) == (ExitCode.USAGE, True)
    assert (hub.asked, files(tmp_path)) == ([], {})


def test_a_size_that_is_none_is_not_believed(tmp_path: Path, hub: Hub, download: Here) -> None:
    hub.claims["zelda_frames.h5"] = -1
    done = download("ZELDA")
    assert (done.returncode, "tells of -1 bytes" in one_sentence(done)) == (ExitCode.USAGE, True)
    assert (hub.asked, files(tmp_path)) == ([], {})


def test_without_the_client_one_sentence_says_so(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_CLIENT], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, "pip install 'tiw_fsm[hub]'" in one_sentence(done)) == (ExitCode.USAGE, True)
    assert list(tmp_path.iterdir()) == []


def test_a_known_dataset_that_is_missing_is_refused_with_the_command_that_fetches_it(tmp_path: Path, tiw: Tiw) -> None:
    write_configs(tmp_path / "configs", {"training": {"dataset": "POLE_POSITION"}})
    assert "fetch it with `tiw-fsm download POLE_POSITION`" in tiw(tmp_path, "check").stdout


# --- models ---------------------------------------------------------------------------------------------------------

PACKED = {
    "sonic/sonic_video_tokenizer.pth": b"video",
    "sonic/actions/sonic_actions_checkpoint_5.pth": b"older",
    "sonic/actions/sonic_actions_checkpoint_40.pth": b"actions",
    "sonic/dynamics.pth": b"dynamics",
    "sonic/picture.png": b"",
    "pong/lam.pt": b"pong's actions",
    "README.md": b"",
}
FOLDERS = {
    f"zelda/{stage}/checkpoints/{stage}_step_{step}/{name}": f"{stage} {step} {name}".encode()
    for stage in ("video_tokenizer", "latent_actions", "dynamics")
    for step in (9, 100)
    for name in ("model_state_dict.pt", "optim_state_dict.pt", "state.pt")
}


def test_models_come_to_a_run_root_of_their_own_with_the_command_that_starts_from_them(
    tmp_path: Path, hub: Hub, download: Here
) -> None:
    hub.repositories[MODELS] = PACKED
    done = download("--model", "sonic")
    assert done.returncode == ExitCode.PASSED, done.stderr
    assert files(tmp_path / "results/pretrained/sonic") == {
        "video_tokenizer/checkpoints/sonic_video_tokenizer.pth": b"video",
        "latent_actions/checkpoints/sonic_actions_checkpoint_40.pth": b"actions",
        "dynamics/checkpoints/dynamics.pth": b"dynamics",
    }
    assert done.stdout.splitlines()[-1] == (
        "tiw-fsm run --run sonic "
        "--video-checkpoint results/pretrained/sonic/video_tokenizer/checkpoints "
        "--latent-checkpoint results/pretrained/sonic/latent_actions/checkpoints "
        "--dynamics-checkpoint results/pretrained/sonic/dynamics/checkpoints --dataset SONIC"
    )
    hub.asked.clear()
    assert download("--model", "sonic").stdout.count("is there already") == 3
    assert hub.asked == []


def test_of_checkpoint_folders_the_newest_by_update_comes_as_a_folder(tmp_path: Path, hub: Hub, download: Here) -> None:
    hub.repositories[MODELS] = FOLDERS
    assert download("--model", "zelda").returncode == ExitCode.PASSED
    newest = {path.removeprefix("zelda/"): content for path, content in FOLDERS.items() if "_step_100/" in path}
    assert files(tmp_path / "results/pretrained/zelda") == newest


@pytest.mark.parametrize(
    ("suite", "said"),
    [
        ("doom", "has no models of 'doom'; it has pong, sonic"),
        ("two", "their names do not tell which is the newest: two/dynamics/a.pth, two/dynamics/b.pth"),
    ],
)
def test_models_that_cannot_be_told_are_named_and_nothing_is_fetched(
    tmp_path: Path, hub: Hub, download: Here, suite: str, said: str
) -> None:
    two = {f"two/dynamics/{name}.pth": b"" for name in "ab"} if suite == "two" else {}
    hub.repositories[MODELS] = PACKED | two
    done = download("--model", suite)
    assert (done.returncode, said in one_sentence(done)) == (ExitCode.USAGE, True), done.stderr
    assert files(tmp_path) == {}


def test_names_from_the_hub_lead_nowhere_else_and_tell_a_terminal_nothing(
    tmp_path: Path, hub: Hub, download: Here
) -> None:
    hub.repositories[MODELS] = {"evil/dynamics/.\x1b[2J%2e.pth": b"1", "evil/actions/..pth": b"2"}
    done = download("--model", "evil")
    assert done.returncode == ExitCode.PASSED, done.stderr
    folder = "results/pretrained/evil"
    assert files(tmp_path) == {
        f"{folder}/dynamics/checkpoints/___2J_2e.pth": b"1",
        f"{folder}/latent_actions/checkpoints/_.pth": b"2",
    }
    assert "\x1b" not in done.stdout + done.stderr
