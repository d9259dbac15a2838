"""The command ``fit`` on two processes with gloo on the CPU, with a policy of random weights."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import yaml
from two_ranks import TINY

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """Without what an earlier run in this process may have left behind for its own ranks."""
    kept = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **more}


OVERLAYS = {
    "ddp": ("data_parallel.yaml", "lightning.pytorch.strategies.DDPStrategy"),
    "fsdp2": ("fsdp2.yaml", "hero_pl.strategies.FSDP2Strategy"),
}


def fit(folder: Path, changes: dict[str, object], timeout: str = "0:02:00", name: str = "ddp") -> list[str]:
    """Words of the command; ``changes`` are sections that replace those below."""
    overlay, class_path = OVERLAYS[name]
    strategy = {
        "class_path": class_path,
        "init_args": {"process_group_backend": "gloo", "timeout": timeout},
    }
    values = {
        "model": {
            "policy": {"init_args": {"pretrained": None, "config": TINY, "tokenizer": "hero_pl:pocket-shop"}},
            "objective": {"init_args": {"reflector": "ShopRules"}},
        },
        "data": {"tasks_per_step": 2, "max_action_tokens": 4, "limits": {"max_turns": 2}},
        "trainer": {
            "accelerator": "cpu",
            "devices": 2,
            "enable_progress_bar": False,
            "strategy": strategy,
            "logger": {"init_args": {"save_dir": str(folder / "runs")}},
        },
        **changes,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    overlays = ["configs/quickstart.yaml", f"configs/hardware/{overlay}", str(folder / "tiny.yaml")]
    return [sys.executable, "-m", "hero_pl", "fit", *(word for file in overlays for word in ("--config", file))]


def finished(folder: Path, changes: dict[str, object]) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, which must be a good one."""
    done = subprocess.run(
        fit(folder, changes),
        cwd=ROOT,
        env=environment(MASTER_PORT=str(free_port())),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done
