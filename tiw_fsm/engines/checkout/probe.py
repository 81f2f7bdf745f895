"""What a checkout's interpreter has: its packages, its torch, its device."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiw_fsm.engines.checkout import dialect, script_output
from tiw_fsm.errors import UsageProblem

PROBE = """
import importlib.util, json, os, sys
found = {"missing": [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None], "torch": None}
found["threads"] = len(os.sched_getaffinity(0))
if "torch" in sys.argv[1:] and not found["missing"]:
    import torch
    found["torch"], found["threads"] = torch.__version__, torch.get_num_threads()
    found["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
print(json.dumps(found))
"""
"""Asks the checkout's interpreter what it has; torch is imported only if the checkout does."""
PROBE_SECONDS = 300


def probe(python: str, root: Path) -> Mapping[str, Any]:
    """What the checkout's interpreter has.

    Raises:
        UsageProblem: it does not run, or lacks something.
    """
    wanted = dialect.modules(root)
    try:
        asked = subprocess.run(
            [python, "-c", PROBE, *wanted],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            cwd=root,
            stdin=subprocess.DEVNULL,
        )
        found = json.loads(asked.stdout.strip().splitlines()[-1]) if asked.returncode == 0 else None
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as exc:
        raise UsageProblem(f"{python} does not run as a Python: {exc}; correct --python-exec") from exc
    install = f"install the checkout's requirements: {python} -m pip install -r {root / 'requirements.txt'}"
    if found is None:
        raise UsageProblem(f"{python} fails:\n{script_output.last_lines(asked.stderr)}\n{install}")
    if found["missing"]:
        raise UsageProblem(f"{python} lacks {', '.join(found['missing'])}; {install}")
    return dict(found)
