"""A long run with worker processes: does memory grow, do files stay open?

    python benchmarks/soak.py                     2 000 episodes, 2 workers, one of them killed every 200 episodes
    python benchmarks/soak.py --episodes 20000

A small policy with random weights is trained in the pocket shop with HERO, labels by rules; checkpoints and all logs
are written. Memory is the resident set of the trainer and of its workers, from /proc (Linux); a slope is the
least-squares line over all measurements after the first 400 episodes, in which libraries fill their caches.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import tempfile
import warnings
from pathlib import Path

PER_STEP = 10
EVERY = 100
"""Episodes between two measurements."""
WARM_UP = 400
CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
}


def resident_mb(pid: int | None) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Watch:
    """Measures every so many episodes, and kills a worker every so many."""

    def __init__(self, kill_every: int) -> None:
        self.kill_every, self.killed = kill_every, 0
        self.rows: list[dict[str, float]] = []

    def look(self, episodes: int) -> None:
        workers = multiprocessing.active_children()
        if episodes % EVERY == 0:
            row = {
                "episodes": float(episodes),
                "trainer_mb": resident_mb(os.getpid()),
                "workers_mb": sum(resident_mb(worker.pid) for worker in workers),
                "files": float(len(os.listdir("/proc/self/fd"))),
                "processes": float(len(workers)),
            }
            self.rows.append(row)
            print(json.dumps({name: round(value, 1) for name, value in row.items()}), flush=True)
        if self.kill_every and workers and episodes % self.kill_every == 0:
            os.kill(workers[0].pid or 0, signal.SIGKILL)
            self.killed += 1

    def slope(self, name: str) -> float:
        """Per 100 episodes."""
        import numpy as np

        settled = [row for row in self.rows if row["episodes"] >= WARM_UP]
        return float(np.polyfit([row["episodes"] for row in settled], [row[name] for row in settled], 1)[0]) * 100.0


def train(episodes: int, workers: int, watch: Watch) -> None:
    # imported here, for a worker process imports what a script imports at its top
    import lightning

    from hero_pl.callbacks.checkpoints import AtomicCheckpointIO
    from hero_pl.callbacks.run_checkpoint import RunCheckpoint
    from hero_pl.callbacks.run_logger import RunLogger
    from hero_pl.callbacks.trajectories import TrajectoryLog
    from hero_pl.chat.actions import PlainText
    from hero_pl.datamodule import RolloutDataModule
    from hero_pl.module import HeroModule
    from hero_pl.objectives.self_distillation import SelfDistillation
    from hero_pl.pocket.shop.reflector import ShopRules
    from hero_pl.policy.huggingface import HuggingFacePolicy
    from hero_pl.rollout.limits import Limits

    policy = HuggingFacePolicy(config=CONFIG, tokenizer="hero_pl:pocket-shop", parser=PlainText())
    module = HeroModule(policy, SelfDistillation(reflector=ShopRules()), lr=1e-3, max_idle_batches=0)
    limits = Limits(max_turns=6, workers=workers)
    data = RolloutDataModule("hero_pl/WebShopPocket-v0", tasks_per_step=PER_STEP, max_action_tokens=8, limits=limits)
    look = lightning.pytorch.callbacks.LambdaCallback(
        on_train_batch_end=lambda trainer, *_: watch.look(trainer.global_step * PER_STEP)
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=episodes // PER_STEP,
            max_epochs=-1,
            limit_val_batches=0,
            logger=RunLogger(folder, "", "soak"),
            callbacks=[TrajectoryLog(), RunCheckpoint(25), look],
            plugins=[AtomicCheckpointIO()],
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            log_every_n_steps=1,
        )
        trainer.fit(module, data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kill-every", type=int, default=200, help="Episodes; 0: never.")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Nothing was learned")
    watch = Watch(options.kill_every)
    train(options.episodes, options.workers, watch)
    last = watch.rows[-1]
    slopes = {f"{name} per 100 episodes": round(watch.slope(name), 3) for name in ("trainer_mb", "workers_mb")}
    files = sorted({int(row["files"]) for row in watch.rows if row["episodes"] >= WARM_UP})
    ends = {"open files": files, "processes": int(last["processes"]), "workers killed": watch.killed}
    left = len(multiprocessing.active_children())
    print(json.dumps({"episodes": int(last["episodes"]), **slopes, **ends, "processes left": left}))


if __name__ == "__main__":
    main()
