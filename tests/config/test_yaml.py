"""What a YAML file says is what every reader of YAML finds in it; what is not is refused with its line."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.configs import LENIENT, TINY, merged
from tests.support.settings import settings_of
from tiw_fsm.config.files import FILES
from tiw_fsm.config.yaml_source import MOST_TOLD, Source
from tiw_fsm.engines import registry
from tiw_fsm.errors import UsageProblem
from tiw_fsm.run.preflight import data_problems
from tiw_fsm.values.frozen import FrozenModel

SHIPPED = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))


def said_by(path: Path, text: str) -> tuple[Any, list[str]]:
    """What a file with this text says, and what is wrong with it."""
    path.write_text(text)
    problems: list[str] = []
    return Source.read(path, problems).data, problems


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: "/".join(path.parts[-2:]))
def test_the_files_that_are_shipped_say_what_they_always_said(path: Path) -> None:
    problems: list[str] = []
    read = Source.read(path, problems).data
    with_points = re.sub(r"(?<![.\d])(\d+)e-", r"\1.0e-", path.read_text())  # as YAML 1.1 wants them
    assert problems == []
    assert read == (yaml.safe_load(with_points) or {})


TWICE = {
    "at the top": ("a: 1\nb: 2\na: 3\n", "x.yaml:3: a again, first at line 1"),
    "below a key": ("a:\n  b: 1\n  c: 2\n  b: 1\n", "x.yaml:4: b again, first at line 2"),
    "within braces": ("a: {b: 1,\n  b: 2}\n", "x.yaml:2: b again, first at line 1"),
    "in a list": ("a:\n- b: 1\n  b: 1\n", "x.yaml:3: b again, first at line 2"),
    "once in quotes": ("a: 1\n'a': 1\n", "x.yaml:2: a again, first at line 1"),
    "once with an escape": ('a: 1\n"\\x61": 1\n', "x.yaml:2: a again, first at line 1"),
    "below a key twice": ("a: {b: 1}\na: {c: 1}\n", "x.yaml:2: a again, first at line 1"),
}


@pytest.mark.parametrize("where", TWICE)
def test_a_key_given_twice_is_refused_with_both_lines(tmp_path: Path, where: str) -> None:
    text, said = TWICE[where]
    data, problems = said_by(tmp_path / "x.yaml", text)
    assert (data, len(problems)) == ({}, 1)
    assert said in problems[0]


def test_one_key_in_two_mappings_is_no_key_twice(tmp_path: Path) -> None:
    assert said_by(tmp_path / "x.yaml", "a: {c: 1}\nb: {c: 2}\n") == ({"a": {"c": 1}, "b": {"c": 2}}, [])


REFUSED = (
    *("010", "-010", "0777", "08", "00", "1:30", "1:30:59", "1:30.5", "1_000", "0b101", "0x_f", "1_0.5", "yes", "No"),
    *("on", "OFF", "2024-01-01", "2024-01-01 10:00:00", "=", "<<", ".inf", "-.Inf", ".NaN", "1e999", "9" * 5000),
    *("0x" + "f" * 5000, "!!int 3", "!!binary aGk=", "!!set {a}", "!!timestamp 2024-01-01", "!!python/name:os.system"),
    *('"\\0"', '"\\ud800"', '"a\\x00b"', "&a [*a]"),
)


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:12])
def test_what_readers_of_yaml_do_not_agree_on_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    data, problems = said_by(tmp_path / "x.yaml", f"a: 1\nb: {text}\n")
    assert (data, len(problems)) == ({}, 1)
    assert problems[0].startswith(f"{tmp_path}/x.yaml:2: ")
    assert len(problems[0]) < 500


READ = {
    "1": 1, "-1": -1, "+1": 1, "0": 0, "0x1f": 31, "0o17": 15, "1e-4": 1e-4, "1.5e3": 1500.0, ".5": 0.5, "1.": 1.0,
    "1E3": 1000.0, "true": True, "False": False, "null": None, "~": None, "": None, "text": "text", "'010'": "010",
    "'yes'": "yes", '"1:30"': "1:30", "a:b": "a:b", "1.2.3": "1.2.3", "y": "y", "[1, a]": [1, "a"], "{a: 1}": {"a": 1},
    "|\n  a\n  b": "a\nb\n", "e5": "e5",
}  # fmt: skip


@pytest.mark.parametrize("text", READ)
def test_what_is_plain_is_read(tmp_path: Path, text: str) -> None:
    data, problems = said_by(tmp_path / "x.yaml", f"a: {text}\n")
    assert problems == []
    assert data == {"a": READ[text]}
    assert type(data["a"]) is type(READ[text])


@settings(max_examples=500, deadline=None)
@given(st.text("0123456789+-._:eExbonyYNTrueflas~<= ", max_size=12))
def test_what_is_read_means_the_same_in_yaml_1_1_unless_that_takes_a_number_for_text(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    data, problems = said_by(path, f"a: {text}\n")
    if problems:
        return
    before = yaml.safe_load(path.read_text())
    if isinstance(before["a"], str) and not isinstance(data["a"], str):
        assert isinstance(data["a"], int | float)
    else:
        assert data == before
        assert type(data["a"]) is type(before["a"])


# --- every key of every file ------------------------------------------------------------------------------------

WRONG = (
    *(
        "[16]",
        "{a: 1}",
        "[[[1]]]",
        "text",
        "''",
        "-1",
        "0.5",
        "1000000000",
        "9" * 39,
        "1e300",
        "'\\e[31m'",
        '"\\e[31m"',
    ),
    *("true", "null", "x" * 5000, "/dev/null", "010", ".nan", '"\\0"', "9" * 5000, "2024-01-01", "!!binary aGk="),
)
"""Of each there is some key that may not have it."""


def keys_of(schema: type[FrozenModel], sample: Any) -> Iterator[tuple[str, ...]]:
    """Every key of a file, and below it."""
    for key in schema.model_fields:
        yield (key,)
        yield from ((key, *below) for below in _below((sample or {}).get(key)))


def _below(value: Any) -> Iterator[tuple[str, ...]]:
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (key,)
        yield from ((key, *below) for below in islice(_below(inner), 8))


DEFAULTS = {"loop": FILES["loop"].schema().model_dump(mode="json")}
PARTS = 6


@pytest.mark.parametrize("name", FILES)
def test_no_value_of_any_key_is_a_bug(root: Path, name: str) -> None:
    """It is taken, or refused with its file and line; of the values there are, every key is given a part."""
    kind, path = registry.find("native"), root / f"configs/{name}.yaml"
    base = merged(TINY, {"loop": LENIENT})[name]
    for number, key in enumerate(keys_of(FILES[name].schema, DEFAULTS.get(name))):
        template = yaml.safe_dump(merged(base, _nested(key, "VALUE")), width=9**9)
        for value in WRONG[number % PARTS :: PARTS]:
            path.write_text(template.replace("VALUE", value))
            try:
                found = settings_of(root)
                data_problems(found, kind)
                assert type(found).model_validate_json(found.model_dump_json()) is not None
            except UsageProblem as exc:
                said, line = str(exc), r"(:\d+)?" if value == "null" else r":\d+"
                assert re.search(rf"configs/\w+\.yaml{line}: ", said), (key, value, said)
                assert said.replace("\n", "").isprintable(), (key, value)
                assert len(said) < 5000, (key, value)


def _nested(key: tuple[str, ...], value: Any) -> dict[str, Any]:
    return {key[0]: _nested(key[1:], value) if key[1:] else value}


# --- how much is told -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["1", "{}", "{verdicts: {}}", "{verdicts: {maybe: {}}, a: 1, b: 2}"])
def test_thousands_of_unknown_keys_are_told_of_in_a_few_lines_and_at_once(root: Path, value: str) -> None:
    lines = "".join(f"  key{n}: {value}\n" for n in range(1000))
    (root / "configs/loop.yaml").write_text(f"gates:\n{lines}")
    began = time.process_time()
    with pytest.raises(UsageProblem) as caught:
        settings_of(root)
    assert time.process_time() - began < 8
    told = caught.value.problems
    assert len(told) == MOST_TOLD + 1
    assert re.search(r"loop\.yaml: and \d+ more", told[-1])


def test_a_command_is_never_quoted(root: Path) -> None:
    """It may have a password in it."""
    for value in ("[curl, PASSWORD]", "{curl: PASSWORD}", "PASSWORD" * 1000):
        (root / "configs/loop.yaml").write_text(f"on_finish: {value}\n")
        with pytest.raises(UsageProblem, match=r"loop\.yaml:1: on_finish: ") as caught:
            settings_of(root)
        assert "PASSWORD" not in str(caught.value)
