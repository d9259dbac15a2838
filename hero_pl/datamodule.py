"""Online rollouts as a Lightning DataModule: the loader counts steps, the episodes are played right before each one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import lightning
import numpy as np
import torch

from hero_pl.chat.dialect import Dialect
from hero_pl.errors import ConfigError, PolicyError
from hero_pl.policy.base import Policy
from hero_pl.policy.sampling import Sampling, in_process
from hero_pl.rollout.ahead import AT_END_S, PlayAhead
from hero_pl.rollout.collect import Collector, pool_of
from hero_pl.rollout.demonstrations import Demonstrations
from hero_pl.rollout.environments import check_arguments, check_id, share_of
from hero_pl.rollout.limits import Limits
from hero_pl.rollout.ranks import over_ranks
from hero_pl.rollout.specs import EpisodeSpec, SeedPurpose, TaskStream, derive_seeds
from hero_pl.types import Trajectory

STAGES = {"train": 5, "validate": 8, "test": 4}
"""Second entry of the entropy of an evaluation, so that the same task has different randomness in two stages."""

MOST_EPISODES = 1_000_000
"""Episodes of one process and step at most."""
SPLITS = {"train": "train", "validate": "validation", "test": "test"}
"""Stage -> name of its split, if the environment has splits."""


class RolloutDataModule(lightning.LightningDataModule):
    """Plays episodes of a Gymnasium environment with the policy that is being trained.

    Args:
        env: Gymnasium id, or ``package:Id`` for your own environment.
        env_args: Arguments of the environment.
        tasks_per_step: Different tasks per optimizer step and process.
        group_size: Episodes per task; 1 is enough for HERO, GRPO needs more.
        temperature: Sampling temperature in training.
        max_action_tokens: Maximum number of tokens per action.
        limits: Turns per episode, episodes in flight.
        splits: Names of the environment's splits for training, validation and test.
        eval_episodes: Episodes of one evaluation; 0 plays every task of the split once.
        eval_temperature: Sampling temperature in evaluations.
        seed: Seed of task order, environments and sampling; default: ``seed_everything`` on the command line, else 0.
        seed_tasks: Number of tasks of an environment that has no list of tasks.
        demonstrations: Source of labeled trajectories that replace the policy's episodes (warm-up with ``SFT``).
        ahead: 1 plays the episodes of the next step on servers (``ServerSampler``) while the trainer learns. They are
            then one step behind the weights, so the objective needs a correction. 0 plays them directly before it.
    """

    def __init__(
        self,
        env: str,
        env_args: dict[str, Any] | None = None,
        tasks_per_step: int = 8,
        group_size: int = 1,
        temperature: float = 1.0,
        max_action_tokens: int = 256,
        limits: Limits | None = None,
        splits: dict[str, str] | None = None,
        eval_episodes: int = 0,
        eval_temperature: float = 1.0,
        seed: int | None = None,
        seed_tasks: int = 1000,
        demonstrations: Demonstrations | None = None,
        ahead: Literal[0, 1] = 0,
    ) -> None:
        super().__init__()
        if ahead not in (0, 1):
            raise ConfigError(f"data.ahead={ahead}: expected 0 or 1 step.")
        if ahead and demonstrations is not None:
            raise ConfigError("data.ahead=1 with data.demonstrations: demonstrations are not played. Set ahead: 0.")
        least_one = {"tasks_per_step": tasks_per_step, "group_size": group_size, "seed_tasks": seed_tasks}
        for name, value in least_one.items():
            if value < 1:
                raise ConfigError(f"data.{name}={value}: expected at least 1.")
        if tasks_per_step * group_size > MOST_EPISODES:
            raise ConfigError(
                f"data.tasks_per_step={tasks_per_step}, data.group_size={group_size}: expected at most {MOST_EPISODES} "
                "episodes per step."
            )
        if eval_episodes < 0:
            raise ConfigError(f"data.eval_episodes={eval_episodes}: expected 0 (every task) or a positive number.")
        seed = seed or 0
        if seed < 0:
            raise ConfigError(f"data.seed={seed}: expected 0 or a positive number.")
        unknown = (splits or {}).keys() - SPLITS.keys()
        if unknown:
            raise ConfigError(
                f"data.splits={splits}: no stage {', '.join(sorted(unknown))}. Stages: {', '.join(SPLITS)}."
            )
        limits = limits or Limits()
        check_id(env)
        check_arguments(env_args or {}, limits.workers)
        self.env, self.env_args = env, dict(env_args or {})
        self.tasks_per_step, self.group_size, self.seed, self.seed_tasks = tasks_per_step, group_size, seed, seed_tasks
        self.sampling = Sampling(temperature, max_action_tokens)
        self.eval_sampling = Sampling(eval_temperature, max_action_tokens)
        self.limits = limits
        self.splits = {**SPLITS, **(splits or {})}
        self.eval_episodes = eval_episodes
        self.demonstrations = demonstrations
        self.ahead = ahead
        self.next = PlayAhead()
        """Episodes of the next step that are being played."""
        self.accept_changes = False
        """Whether a checkpoint of a run with another number of tasks per step may be resumed."""
        self.trainer_of_command: lightning.Trainer | None = None  # has the precision, but does not play
        self.steps = 0
        """Number of training batches so far, including those without an optimizer step."""
        self.discarded: list[Trajectory] = []
        """Episodes of the latest training batch that were replaced (dynamic sampling). They count as played."""
        self.on_progress: Callable[[str, int, int], None] = lambda work, finished, total: None
        """Called with the work (``rolling out`` or ``evaluating``), the number of finished episodes and of all."""
        self._pool = pool_of(self.limits)
        self._collectors: dict[str, Collector] = {}
        self._health: dict[str, dict[str, Any]] = {}
        """State from a checkpoint of the splits that have not been played since."""

    def collector(self, stage: str) -> Collector:
        """Environments of a stage: ``train``, ``validate`` or ``test``."""
        split = self.splits.get(stage, stage)
        if split not in self._collectors:
            arguments = share_of(self.env_args, self._place()[1])
            made = Collector(self.env, arguments, split, self.limits, self.seed_tasks, self._pool)
            if split in self._health:
                made.health.load_state_dict(self._health.pop(split))
            self._collectors[split] = made
        return self._collectors[split]

    def teardown(self, stage: str) -> None:
        """Close the environments; they are created again at their next use."""
        self.next.drop(AT_END_S)
        self._pool.close()

    def on_exception(self, exception: BaseException) -> None:
        """Close the environments of a run that ends early."""
        self.teardown("fit")

    # -- training ----------------------------------------------------------------------------------------------

    def _stream(self, tasks: int) -> TaskStream:
        return TaskStream(tasks, self._per_step(), self.seed)

    def _per_step(self) -> int:
        """Tasks of one step over all processes."""
        return self.tasks_per_step * self._place()[1]

    def _place(self) -> tuple[int, int]:
        """Rank of this process, and number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> TaskStream:
        """Numbers of steps; the episodes are played in :meth:`on_before_batch_transfer`."""
        return self._stream(len(self.collector("train").task_ids))

    def specs(self, step: int) -> list[EpisodeSpec]:
        """This process's share of the episodes of a training step; all processes together play those of one."""
        collector, (rank, world) = self.collector("train"), self._place()
        tasks = self._playable(self._stream(len(collector.task_ids)).batch(step), step)
        seeds = derive_seeds(SeedPurpose.TRAIN, self.seed, step, 0, count=len(tasks) * self.group_size)
        count, first = len(seeds) // world, step * len(tasks)
        return [
            EpisodeSpec(collector.task_ids[tasks[i // self.group_size]], first + i // self.group_size, seeds[i])
            for i in range(rank * count, (rank + 1) * count)
        ]

    def _playable(self, tasks: list[int], step: int) -> list[int]:
        """The tasks, with others drawn at random in place of those in quarantine."""
        collector = self.collector("train")
        out = [i for i, task in enumerate(tasks) if collector.task_ids[task] in collector.health.quarantined]
        if not out:
            return tasks
        others = [task for task in self._sound_tasks() if task not in tasks] or self._sound_tasks()
        drawn = np.random.default_rng((SeedPurpose.RESAMPLE, self.seed, step, 0, 0)).permutation(others)
        instead = dict(zip(out, itertools.cycle(drawn), strict=False))
        return [int(instead.get(i, task)) for i, task in enumerate(tasks)]

    def _sound_tasks(self) -> list[int]:
        collector = self.collector("train")
        return [i for i, task in enumerate(collector.task_ids) if task not in collector.health.quarantined]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> list[Trajectory]:
        """Play the episodes of the step, directly before it, so that the policy is never stale."""
        assert self.trainer is not None
        policy: Policy = self.trainer.lightning_module.policy  # type: ignore[assignment]
        if self.trainer.training:
            if self.demonstrations is not None:
                specs, self.steps = self.specs(self.steps), self.steps + 1
                return self.demonstrations.make(specs, policy.dialect, self.collector("train"))
            health = self.collector("train").health
            before = set(self.next.health["suspects"]) if self.next.health else None
            with policy.gathered():
                played, _ = over_ranks(health, lambda: self._resampled(self._played(policy), policy), suspects=before)
            if self.ahead:
                self._play_next(policy)
            return played
        return self.evaluate(policy, str(batch))

    def _played(self, policy: Policy) -> list[Trajectory]:
        """The episodes of this step: those that were played ahead, or new ones."""
        self.settle(policy)
        step, self.steps = self.steps, self.steps + 1
        played = self.next.take(self.collector("train").health)
        if played is None:
            specs = self.specs(step)
            played = self._collect(specs, policy, self._counter("rolling out", len(specs)))
        return played

    def _play_next(self, policy: Policy) -> None:
        """Start the episodes of the next step, unless this one is the last."""
        assert self.trainer is not None
        updates = getattr(self.trainer.lightning_module, "updates_per_batch", 1)
        if self.trainer.max_steps not in range(self.trainer.global_step + updates + 1):
            specs, health = self.specs(self.steps), self.collector("train").health.state_dict()
            self.next.start(lambda on_episode: self._collect(specs, policy, on_episode), health)

    def settle(self, policy: Policy) -> None:
        """Wait until nothing is played, then send the newest weights to the sampler, if it has older ones."""
        self.next.wait()
        policy.send_weights()

    def _collect(
        self,
        specs: list[EpisodeSpec],
        policy: Policy,
        on_episode: Callable[[Trajectory], None] = lambda trajectory: None,
    ) -> list[Trajectory]:
        """Play training episodes.

        Raises:
            PolicyError: Out of memory; the message has the settings to lower.
        """
        objective: Any = self.trainer.lightning_module.objective if self.trainer else None
        try:
            with self.precision(policy.sampler), policy.sampler.keeping(objective.continues if objective else 0):
                return self.collector("train").collect(specs, policy, self.sampling, on_episode)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise PolicyError(
                f"Out of memory with {min(self.limits.num_envs, len(specs))} episodes in flight. Lower "
                "data.limits.num_envs, data.max_action_tokens or data.limits.max_turns."
            ) from error

    def _resampled(self, trajectories: list[Trajectory], policy: Policy) -> list[Trajectory]:
        """Replace rejected groups by groups of random tasks, until the objective accepts every group."""
        assert self.trainer is not None
        objective = self.trainer.lightning_module.objective
        collector = self.collector("train")
        self.discarded, attempt = [], 1
        while again := objective.redraw(trajectories, attempt):  # type: ignore[operator, union-attr]
            # step, rank and attempt determine tasks and seeds, so that a resumed run draws the same replacements
            key = (SeedPurpose.RESAMPLE, self.seed, self.steps - 1, self.trainer.global_rank, attempt)
            sound = self._sound_tasks()
            tasks = [sound[i] for i in np.random.default_rng((*key, 0)).integers(len(sound), size=len(again))]
            seeds = derive_seeds(*key, 1, count=len(again) * self.group_size)
            specs = [
                EpisodeSpec(collector.task_ids[tasks[i // self.group_size]], again[i // self.group_size], seed)
                for i, seed in enumerate(seeds)
            ]
            fresh = self._collect(specs, policy)
            self.discarded += [trajectory for trajectory in trajectories if trajectory.group in again]
            trajectories = [trajectory for trajectory in trajectories if trajectory.group not in again] + fresh
            attempt += 1
        return trajectories

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Return the trajectories unchanged; ids are converted to tensors when the batch of a step is built."""
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The position in the task stream, its tasks per step, and the tasks in quarantine."""
        known = {split: collector.health.state_dict() for split, collector in self._collectors.items()}
        if self.next.health is not None:
            known[self.splits["train"]] = self.next.health
        return {"steps": self.steps, "per_step": self._per_step(), "health": self._health | known}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        Raises:
            ConfigError: A step of the checkpoint's run had another number of tasks, over all processes.
        """
        before, now = state_dict.get("per_step", self._per_step()), self._per_step()
        training = self.trainer is None or self.trainer.state.fn == "fit"
        if before != now and training and not self.accept_changes:
            raise ConfigError(
                f"data.tasks_per_step={self.tasks_per_step} with {self._place()[1]} processes: {now} tasks per step, "
                f"but {before} in the run of the checkpoint, so tasks would be repeated or left out. Set "
                "data.tasks_per_step to that number divided by the number of processes, or accept the change with "
                "--resume_changed true."
            )
        self.next.drop()
        self.steps, self._health = int(state_dict["steps"]), dict(state_dict["health"])
        for split in self._health.keys() & self._collectors.keys():
            self._collectors[split].health.load_state_dict(self._health.pop(split))

    @property
    def quarantined(self) -> int:
        """Number of training tasks that are no longer drawn, because they always break."""
        return len(self.collector("train").health.quarantined)

    # -- evaluation --------------------------------------------------------------------------------------------

    def evaluate(
        self,
        policy: Policy,
        stage: str,
        episodes: int | None = None,
        sampling: Sampling | None = None,
        on_episode: Callable[[Trajectory], None] = lambda trajectory: None,
        trials: int = 1,
    ) -> list[Trajectory]:
        """Play held-out tasks without hints, as in deployment.

        Several processes share the episodes, and each gets all of them, in the order of one process.

        Args:
            policy: A policy with loaded weights.
            stage: ``validate``, ``test``, or ``train`` for the tasks of training.
            episodes: Number of episodes; tasks repeat if there are fewer. Default: ``eval_episodes``.
            sampling: Default: the evaluation settings.
            on_episode: Called with each finished episode.
            trials: Number of times that each of the ``episodes`` is played, with different randomness.

        Raises:
            ConfigError: The stage does not exist, or ``trials`` is not positive.
        """
        if trials < 1:
            raise ConfigError(f"trials={trials}: expected at least 1.")
        if stage not in STAGES:
            raise ConfigError(f"stage={stage!r}: expected one of {', '.join(STAGES)}.")
        self.settle(policy)
        specs = self._evaluated(stage, self.eval_episodes if episodes is None else episodes, trials)
        (rank, world), collector = self._place(), self.collector(stage)
        own = specs[rank::world]
        count = self._counter("evaluating", len(own), on_episode)
        with self.precision(policy.sampler), policy.gathered():
            _, shares = over_ranks(
                collector.health,
                lambda: collector.collect(own, policy, sampling or self.eval_sampling, count),
                gather=True,
            )
        return [shares[i % len(shares)][i // len(shares)] for i in range(len(specs))]

    def precision(self, sampler: object = None) -> AbstractContextManager[None]:
        """``trainer.precision``, which Lightning sets for steps only; no change for a sampler without the network."""
        trainer = self.trainer or self.trainer_of_command  # it changes the default type of other threads, too
        return trainer.precision_plugin.forward_context() if trainer and in_process(sampler) else nullcontext()

    def demonstrate(self, dialect: Dialect, episodes: int) -> list[Trajectory]:
        """Demonstrations of the first training tasks.

        Args:
            dialect: Dialect of the policy that will read them.
            episodes: How many; tasks repeat when there are fewer.

        Raises:
            ConfigError: The configuration has no demonstrations.
        """
        if self.demonstrations is None:
            raise ConfigError("data.demonstrations is not set, so there is nothing to demonstrate with.")
        return self.demonstrations.make(self._evaluated("train", episodes), dialect, self.collector("train"))

    def _evaluated(self, stage: str, episodes: int | None, trials: int = 1) -> list[EpisodeSpec]:
        ids = self.collector(stage).task_ids
        count = (episodes or len(ids)) * trials
        seeds = derive_seeds(SeedPurpose.EVALUATE, self.seed, STAGES[stage], count=count)
        return [EpisodeSpec(ids[i // trials % len(ids)], i, seeds[i]) for i in range(count)]

    def _counter(
        self, work: str, total: int, on_episode: Callable[[Trajectory], None] = lambda trajectory: None
    ) -> Callable[[Trajectory], None]:
        finished = 0
        self.on_progress(work, 0, total)

        def count(trajectory: Trajectory) -> None:
            nonlocal finished
            finished += 1
            on_episode(trajectory)
            self.on_progress(work, finished, total)

        return count

    def val_dataloader(self) -> list[str]:
        """One batch: all episodes of the evaluation."""
        return ["validate"]

    def test_dataloader(self) -> list[str]:
        """One batch: all episodes of the evaluation."""
        return ["test"]

    def predict_dataloader(self) -> list[str]:
        """One batch: all episodes of the test split."""
        return ["test"]
