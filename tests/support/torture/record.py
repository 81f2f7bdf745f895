"""What the random kills came to, on the disk: a piece of them is done at a time, and the next goes on after it.

A life is a run that is killed several times on its way. Which kills, and after which commits, is decided by its seed
and number alone, so that one that went wrong can be repeated by itself.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import tiw_fsm


@dataclass(frozen=True)
class Life:
    """A run that was killed, and what was wrong with how it ended."""

    seed: int
    number: int
    kills: dict[str, int]
    """How many of each kind."""
    troubles: list[str]

    @property
    def killed(self) -> int:
        return sum(self.kills.values())

    def __str__(self) -> str:
        again = f"make torture-kills SEED={self.seed} LIFE={self.number}"
        return f"life {self.number} of seed {self.seed}, repeated alone by `{again}`: {'; '.join(self.troubles)}"


class Record:
    """Lives of the package as it is now: those of other code are passed over.

    Args:
        path: a file of lines, one per life; None remembers nothing beyond this process.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._code = _digest()
        self._lives = self._read(path) if path and path.exists() else []

    def lives(self, seed: int) -> list[Life]:
        return [life for life in self._lives if life.seed == seed]

    def add(self, life: Life) -> None:
        self._lives.append(life)
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            torn = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
            with open(self._path, "a") as file:  # whoever was killed writing has left half a line
                file.write(("\n" if torn else "") + json.dumps({"code": self._code, **asdict(life)}) + "\n")

    def told(self) -> list[str]:
        """Sums, a sentence per seed."""
        return [self._sum(seed) for seed in sorted({life.seed for life in self._lives})]

    def _sum(self, seed: int) -> str:
        lives = self.lives(seed)
        kinds = sum((Counter(life.kills) for life in lives), Counter[str]())
        wrong = [str(life.number) for life in lives if life.troubles]
        return (
            f"seed {seed}: {len(lives)} lives, {kinds.total()} random kills "
            f"({', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))}), "
            f"{len(wrong)} failures{': lives ' + ', '.join(wrong) if wrong else ''}"
        )

    def _read(self, path: Path) -> list[Life]:
        found = []
        for line in path.read_text().splitlines():
            try:
                told = json.loads(line)
            except ValueError:
                continue
            if told.pop("code") == self._code:
                found.append(Life(**told))
        return found


def _digest() -> str:
    """Of the package: a kill says nothing of code that was changed after it."""
    assert tiw_fsm.__file__ is not None
    folder = Path(tiw_fsm.__file__).parent
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]
