"""The machinery of a miniature TinyWorlds: what its scripts share. Python's own library only, to start at once.

It computes nothing: losses fall by a formula, weights are those of a template. What it honours is the contract:
arguments, folders, printed lines, W&B's offline file, the layout of checkpoints. ``fault.json`` tells it to misbehave.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import struct
import sys
import time
import zipfile
import zlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

STAGES = ("video_tokenizer", "latent_actions", "dynamics")
LOSS = {"video_tokenizer": 0.02, "latent_actions": 0.04, "dynamics": 2.0}


class Distributed:
    """An object of the checkout's own in every state.pt, as TinyWorlds has them."""

    def __init__(self):
        self.use_ddp = False


def arguments(*flags):
    parser = argparse.ArgumentParser()
    for flag in flags:
        parser.add_argument(flag)
    parser.add_argument("overrides", nargs=argparse.REMAINDER)
    parsed = parser.parse_args()
    for flag in flags:
        assert Path(getattr(parsed, flag.strip("-"))).is_file(), flag
    pairs = (word.partition("=") for word in parsed.overrides if "=" in word)
    values = {key: value for key, _, value in pairs}
    with open("asked.jsonl", "a") as file:
        file.write(json.dumps({"script": sys.argv[0], **values}) + "\n")
    return SimpleNamespace(**{key.replace(".", "_"): _typed(value) for key, value in values.items()})


def _typed(value):
    if value in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[value]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value


def fault(what, stage):
    """How to misbehave now, if at all. A fault with ``times`` happens so often."""
    for number, planned in enumerate(json.loads(Path("fault.json").read_text())):
        if planned["what"] == what and planned.get("stage", stage) == stage:
            count = Path(f"fault.{number}.count")
            done = len(count.read_bytes()) if count.exists() else 0
            if done < planned.get("times", 10**9):
                planned["happen"] = partial(count.write_bytes, b"." * (done + 1))
                return planned
    return None


class Optimizer:
    def load_state_dict(self, state):
        assert state


class Scheduler:
    def __init__(self, args):
        self.base_lrs = [args.learning_rate]

    def state_dict(self):
        return {"base_lrs": self.base_lrs, "last_epoch": 0}

    def load_state_dict(self, state):
        if state:
            self.base_lrs = state["base_lrs"]


def load_state(folder):
    with zipfile.ZipFile(Path(folder) / "state.pt") as archive:
        return pickle.loads(archive.read("state/data.pkl"))


def save_training_state(training, scheduler, step):
    stage = training.stage
    folder = training.root / stage / "checkpoints" / f"{stage}_step_{step}"
    folder.mkdir(parents=True, exist_ok=True)
    templates = Path("templates") / stage
    shutil.copyfile(templates / "model_state_dict.pt", folder / "model_state_dict.pt")
    if (torn := fault("tear", stage)) and step >= torn["at"]:
        torn["happen"]()
        with open(folder / "model_state_dict.pt", "r+b") as file:
            file.truncate(1500)
        print("killed while saving", flush=True)
        os._exit(1)
    shutil.copyfile(templates / "optim_state_dict.pt", folder / "optim_state_dict.pt")
    config = json.loads((templates / "config.json").read_text())
    state = {
        "scheduler_state_dict": scheduler.state_dict(),
        "config": {**config, "distributed": Distributed()},
        "step": step,
    }
    with zipfile.ZipFile(folder / "state.pt", "w") as archive:
        archive.writestr("state/data.pkl", pickle.dumps(state, protocol=2))
        archive.writestr("state/byteorder", "little")
        archive.writestr("state/version", "3\n")
    draw(training.root / stage / "visualizations" / f"{stage}_step_{step}.png")


class Training:
    """One process of one stage: counts, logs, and misbehaves where told to."""

    def __init__(self, stage, args, first=0):
        self.stage, self.args, self.first = stage, args, first
        self.root = Path(os.environ["NG_RUN_ROOT_DIR"])
        self.rows = []
        oom = fault("oom", stage)
        if oom and args.batch_size_per_gpu > oom["above"]:
            raise SystemExit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.")

    def update(self, i, scheduler):
        for what in ("crash", "hang"):
            if (planned := fault(what, self.stage)) and i >= planned["at"]:
                planned["happen"]()
                if what == "crash":
                    raise RuntimeError("made to crash")
                time.sleep(1000)
        if slow := fault("slow", self.stage):
            time.sleep(slow["seconds"])
        loss = LOSS[self.stage] / (1 + 0.01 * i) / self.args.gradient_accumulation_steps
        if (broken := fault("nan", self.stage)) and i >= broken["at"]:
            if i == broken["at"]:
                broken["happen"]()
            loss = float("nan")
        row = {"_step": i, "train/loss": loss, "learning_rate/group_0": scheduler.base_lrs[0]}
        if self.stage != "video_tokenizer" and i % self.args.log_interval == 0:
            row |= {"unique_actions": 3, "action_entropy": 0.9}
        self.rows.append(row)
        done, total = i - self.first + 1, self.args.n_updates - self.first
        print(
            f"\r {done / total:4.0%}|###| {done}/{total} [00:01<00:01, 9.00it/s]", end="", file=sys.stderr, flush=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        """W&B writes what it has when the process ends by itself, and nothing when it is killed."""
        folder = Path(os.environ["WANDB_DIR"]) / "wandb" / "offline-run-20260101_000000-abc12345"
        folder.mkdir(parents=True)
        assert os.environ["WANDB_MODE"] == "offline"
        write_history(folder / "run-abc12345.wandb", self.rows)
        (folder.parent / "latest-run").symlink_to(folder.name)


# --- W&B's file format ------------------------------------------------------------------------------------------


def write_history(path, rows):
    content = bytearray(b":W&B\xe1\xbe\x00")
    for row in rows:
        items = b"".join(_field(1, _field(2, key.encode()) + _field(16, _json(row[key]))) for key in row)
        data = _field(2, items + _field(2, b"\x08" + _varint(row["_step"])))
        first = True
        while data or first:
            left = 32768 - len(content) % 32768
            if left < 7:
                content += bytes(left)
                continue
            part, data = data[: left - 7], data[left - 7 :]
            kind = (1 if first else 4) if not data else (2 if first else 3)
            content += struct.pack("<IHB", zlib.crc32(part, zlib.crc32(bytes([kind]))), len(part), kind) + part
            first = False
    path.write_bytes(content)


def _json(value):
    return json.dumps(value).encode()


def _field(number, content):
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def draw(path):
    """A PNG of one pixel."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0\x80\x80\x80")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
