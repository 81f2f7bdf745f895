"""What a TinyWorlds checkout can do, found out from its files without running them.

Its versions differ in what a resumed script restores, saves and reads. Each difference is one property of the code
(a loop that begins at a loaded step, a call behind the loop, a field of a config), so it is looked for there.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tiw_fsm.errors import UsageProblem
from tiw_fsm.stages import STAGES, Stage
from tiw_fsm.values.frozen import FrozenModel

TRAINING_SCRIPTS = {stage: spec.script for stage, spec in STAGES.items()}
INFERENCE_SCRIPT = "scripts/run_inference.py"
CONFIG, DRAWING, DATA = "utils/config.py", "utils/inference_utils.py", "datasets/data_utils.py"
NEEDED = (*TRAINING_SCRIPTS.values(), INFERENCE_SCRIPT, CONFIG, DRAWING, DATA)
PACKAGES = ("utils", "models", "datasets")
OPTIONAL_KEYS = ("seed", "sample_index", "decode_steps")
"""Keys of inference that only some versions have."""
REMEDY = "give --repo-root the folder of a TinyWorlds checkout (the one that has scripts/ and configs/)"


class StageDialect(FrozenModel):
    """What one stage's training script does."""

    absolute_updates: bool
    """``n_updates`` is where it ends, counted from the loaded step; else it is how many updates it makes."""
    restores_optimizer: bool
    restores_scheduler: bool
    resets_rate: bool
    """After restoring the scheduler it puts the asked learning rate back in force."""
    saves_last_step: bool
    """Else it saves only every ``log_interval`` updates, beginning with its first."""


class Dialect(FrozenModel):
    """What one checkout does; part of the run's state."""

    stages: dict[Stage, StageDialect]
    inference_reads_folders: bool
    """Else it wants each model as one file."""
    inference_keys: list[str]
    """Those of ``OPTIONAL_KEYS`` that it knows."""
    scores_context_frames: bool
    """Its MSE is taken over the true context frames too, which have no error."""
    datasets: list[str]
    """The names it knows; it takes no path."""


def read(root: Path) -> Dialect:
    """What the checkout at ``root`` can do.

    Raises:
        UsageProblem: it is no TinyWorlds checkout, or one that this tool does not understand.
    """
    if missing := [name for name in NEEDED if not (root / name).is_file()]:
        raise UsageProblem(f"{root} is no TinyWorlds checkout: {', '.join(missing)} missing; {REMEDY}")
    return Dialect(
        stages={stage: _stage(root / script) for stage, script in TRAINING_SCRIPTS.items()},
        inference_reads_folders="isfile" not in _called(_function(root / INFERENCE_SCRIPT, "missing")),
        inference_keys=[key for key in OPTIONAL_KEYS if key in _fields(root / CONFIG, "InferenceConfig")],
        scores_context_frames="context_window" not in _parameters(_function(root / DRAWING, "visualize_inference")),
        datasets=_compared_with(_tree(root / DATA), "dataset"),
    )


def code_digest(root: Path) -> str:
    """Digest of the code that trains and infers."""
    digest = hashlib.sha256()
    for path in _sources(root):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def modules(root: Path) -> list[str]:
    """The modules its code imports that are neither its own nor Python's."""
    names: set[str] = set()
    for node in (node for path in _sources(root) for node in ast.walk(_tree(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    own = {name for name in names if (root / name).is_dir() or (root / f"{name}.py").is_file()}
    return sorted(names - own - sys.stdlib_module_names)


def _sources(root: Path) -> list[Path]:
    scripts = [root / script for script in (*TRAINING_SCRIPTS.values(), INFERENCE_SCRIPT)]
    return scripts + [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]


def _stage(script: Path) -> StageDialect:
    tree = _tree(script)
    loop, count = _training_loop(tree, script)
    saves = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name(node) == "save_training_state"]
    within = set(ast.walk(loop))
    restored = [
        ast.unparse(node.func.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load_state_dict"
    ]
    return StageDialect(
        absolute_updates=len(count.args) > 1 and not isinstance(count.args[0], ast.Constant),
        restores_optimizer=any("optim" in owner for owner in restored),
        restores_scheduler=any("sched" in owner for owner in restored),
        resets_rate=any(
            isinstance(target, ast.Attribute) and target.attr == "base_lrs"
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
        ),
        saves_last_step=any(save not in within for save in saves),
    )


def _training_loop(tree: ast.AST, script: Path) -> tuple[ast.For, ast.Call]:
    """The loop over updates, and its call of range."""
    for loop in ast.walk(tree):
        if isinstance(loop, ast.For):
            for call in ast.walk(loop.iter):
                if isinstance(call, ast.Call) and _name(call) == "range" and "n_updates" in ast.unparse(call):
                    return loop, call
    raise UsageProblem(f"{script} has no loop over n_updates: this tool does not know such a TinyWorlds; {REMEDY}")


def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError, OSError) as exc:
        raise UsageProblem(f"{path} is not readable as Python ({exc}); restore it, for example with git") from exc


def _function(path: Path, name: str) -> ast.FunctionDef:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise UsageProblem(f"{path} has no function {name}: this tool does not know such a TinyWorlds; {REMEDY}")


def _called(function: ast.FunctionDef) -> set[str]:
    return {_name(node) for node in ast.walk(function) if isinstance(node, ast.Call)}


def _parameters(function: ast.FunctionDef) -> set[str]:
    return {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}


def _fields(path: Path, class_name: str) -> set[str]:
    """The annotated fields of a class."""
    return {
        statement.target.id
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ClassDef) and node.name == class_name
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }


def _compared_with(tree: ast.AST, name: str) -> list[str]:
    """The words that a variable is compared with, in the order of the code."""
    return list(dict.fromkeys(_words(tree, name)))


def _words(tree: ast.AST, name: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name) and node.left.id == name:
            for other in node.comparators:
                if isinstance(other, ast.Constant) and isinstance(other.value, str):
                    yield other.value


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
