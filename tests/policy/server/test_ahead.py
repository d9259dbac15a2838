"""Episodes that are played while the trainer learns: how stale they are, and how runs end and go on."""

import threading
from typing import Any

import lightning
import pytest
import torch

from hero_pl.errors import ConfigError
from hero_pl.module import HeroModule
from hero_pl.objectives.policy_gradient import GRPO
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.rollout.limits import Limits
from tests.generate_server import GenerateServer

pytest.importorskip("peft", reason="adapters need the extra `lora`")


class Watch(lightning.Callback):
    """What every step was trained on."""

    def __init__(self) -> None:
        self.staleness: list[float] = []
        self.versions: list[set[int]] = []
        self.tasks: list[list[str]] = []
        self.counted: list[int] = []
        self.modes: list[bool] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        self.modes.append(module.policy.training)
        self.counted.append(trainer.datamodule.state_dict()["steps"])

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self.staleness.append(module.last_metrics["train/staleness"])
        self.versions.append({turn.policy_version for one in batch for turn in one.turns})
        self.tasks.append([one.task_id for one in batch])


def module_of(policy: Any, **settings: Any) -> HeroModule:
    torch.manual_seed(0)
    objective = settings.pop("objective", None) or SelfDistillation(reflector=ShopRules())
    return HeroModule(policy, objective, **{"lr": 1e-2, "warmup_steps": 0, "max_staleness": 1, **settings})


def ahead_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "hero_pl ahead"]


class Learned(lightning.Callback):
    """Holds the replies of the next episodes back until the trainer has learned."""

    def __init__(self, server: GenerateServer, data: Any) -> None:
        self.done, play = threading.Event(), data._play_next

        def started(policy: Any) -> None:
            self.done.clear()
            play(policy)

        data._play_next, server.tamper = started, self.hold

    def hold(self, path: str, answer: dict[str, Any]) -> None:
        if path == "/inference/v1/generate" and ahead_threads():
            self.done.wait(5)

    def on_train_batch_end(self, *args: Any) -> None:
        self.done.set()


def test_a_batch_is_at_most_one_step_behind_and_the_first_is_not(
    server: GenerateServer, make: Any, tiny_data: Any, fit: Any
) -> None:
    watch, module, data = Watch(), module_of(make(server, load=False)), tiny_data(ahead=1)
    fit(module, data, 4, callbacks=[watch, Learned(server, data)])
    assert watch.staleness == [0.0, 1.0, 1.0, 1.0]
    assert watch.versions == [{0}, {0}, {1}, {2}]
    assert watch.counted == [1, 2, 3, 4]  # what is trained on, not what is being played
    assert all(watch.modes)  # the other thread does not switch the policy to evaluation
    assert module.policy.version == 4
    assert not ahead_threads()


def test_without_playing_ahead_nothing_is_stale(server: GenerateServer, make: Any, tiny_data: Any, fit: Any) -> None:
    watch = Watch()
    fit(module_of(make(server, load=False), max_staleness=0), tiny_data(ahead=0), 3, callbacks=[watch])
    assert watch.staleness == [0.0, 0.0, 0.0]


def test_the_next_episodes_are_played_while_the_trainer_learns(
    server: GenerateServer, make: Any, tiny_data: Any, fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning, drawn = threading.Event(), threading.Event()
    learn = HeroModule._update

    def tamper(path: str, answer: dict[str, Any]) -> None:
        if path == "/inference/v1/generate" and ahead_threads():
            learning.wait(20)
            drawn.set()

    def update(self: HeroModule, step: Any) -> Any:
        learning.set()
        assert not ahead_threads() or drawn.wait(20)  # a reply is drawn although this thread waits
        return learn(self, step)

    server.tamper = tamper
    monkeypatch.setattr(HeroModule, "_update", update)
    module = module_of(make(server, load=False))
    fit(module, tiny_data(ahead=1), 2)
    assert drawn.is_set()
    assert module.policy.version == 2


def test_a_resumed_run_plays_the_batch_in_flight_again(
    server: GenerateServer, make: Any, tiny_data: Any, fit: Any, tmp_path: Any
) -> None:
    whole = Watch()
    fit(module_of(make(server, load=False)), tiny_data(ahead=1), 4, callbacks=[whole])
    first, rest = Watch(), Watch()
    trainer = fit(
        module_of(make(server, load=False)),
        tiny_data(ahead=1),
        3,
        callbacks=[first],
        limit_train_batches=2,
        max_epochs=1,
    )
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    assert first.tasks == whole.tasks[:2]
    fit(module_of(make(server, load=False)), tiny_data(ahead=1), 4, tmp_path / "two.ckpt", callbacks=[rest])
    assert rest.tasks == whole.tasks[2:]
    assert rest.staleness == [0.0, 1.0]


@pytest.mark.parametrize("updates", [1, 2])
def test_bug_804_nothing_is_played_ahead_of_the_last_batch(
    updates: int, server: GenerateServer, make: Any, tiny_data: Any, fit: Any
) -> None:
    module, data = module_of(make(server, load=False), updates_per_batch=updates, max_staleness=3), tiny_data(ahead=1)
    started, start = [], data.next.start

    def note(*args: Any) -> None:
        started.append(data.steps)
        start(*args)

    data.next.start = note
    fit(module, data, 3 * updates)
    assert started == [1, 2]


def test_an_evaluation_plays_with_the_newest_weights(
    server: GenerateServer, make: Any, tiny_data: Any, fit: Any
) -> None:
    class Evaluate(lightning.Callback):
        versions: list[tuple[set[int], int]] = []  # noqa: RUF012 - one test

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            played = trainer.datamodule.evaluate(module.policy, "validate", 2)
            found = {turn.policy_version for one in played for turn in one.turns}
            self.versions.append((found, module.policy.version))

    watch = Watch()
    fit(module_of(make(server, load=False)), tiny_data(ahead=1), 3, callbacks=[watch, Evaluate()])
    assert Evaluate.versions == [({1}, 1), ({2}, 2), ({3}, 3)]
    assert watch.staleness == [0.0, 1.0, 1.0]


def test_a_server_that_dies_while_it_plays_ahead_costs_no_episode_and_none_is_counted_twice(
    server: GenerateServer, make: Any, tiny_data: Any, fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [0]

    def tamper(path: str, answer: dict[str, Any]) -> None:
        if path == "/inference/v1/generate" and ahead_threads():
            drawn[0] += 1
            if drawn[0] == 2:  # the first episode of the batch has ended
                threading.Thread(target=restart).start()
                server.dead.wait(20)

    def restart() -> None:
        server.die()
        server.start()

    def update(self: HeroModule, step: Any) -> Any:
        for thread in ahead_threads():
            thread.join()
        return learn(self, step)

    learn = HeroModule._update
    monkeypatch.setattr(HeroModule, "_update", update)  # weights do not change while the server comes back
    server.tamper = tamper
    watch, module = Watch(), module_of(make(server, load=False))
    data = tiny_data(ahead=1, limits=Limits(max_turns=1, num_envs=1))
    with pytest.warns(UserWarning, match="played ahead are lost and played again"):
        fit(module, data, 3, callbacks=[watch])
    assert drawn[0] > 2
    assert module.policy.version == 3
    assert module.last_metrics["train/broken_episodes"] == 0.0
    counted = [task for task, _ in data.collector("train").health.state_dict()["latest"]]
    assert counted == [task for tasks in watch.tasks for task in tasks]


def test_an_error_of_the_trainer_ends_the_other_thread(
    server: GenerateServer, make: Any, tiny_data: Any, fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: HeroModule, step: Any) -> Any:
        raise ValueError("broken on purpose")

    monkeypatch.setattr(HeroModule, "_update", broken)
    with pytest.raises(ValueError, match="on purpose"):
        fit(module_of(make(server, load=False)), tiny_data(ahead=1), 3)
    assert not ahead_threads()


def test_what_cannot_be_played_ahead_is_refused(
    server: GenerateServer, make: Any, tiny_data: Any, fit: Any, tiny_module: Any, loads_no_model: Any
) -> None:
    with pytest.raises(ConfigError, match=r"data\.ahead=1: the policy samples in this process"):
        fit(tiny_module(), tiny_data(ahead=1))
    redraws = GRPO(zero_variance="resample")
    with pytest.raises(ConfigError, match=r"data\.ahead=1: the objective draws rejected groups again"):
        fit(module_of(make(server, load=False), objective=redraws), tiny_data(ahead=1, group_size=2))
    with pytest.raises(ConfigError, match=r"data\.ahead=1, updates_per_batch=1: rollouts lag up to 1 optimizer steps"):
        fit(module_of(make(server, load=False), max_staleness=0), tiny_data(ahead=1))
    with pytest.raises(ConfigError, match=r"data\.ahead=2: expected 0 or 1 step"):
        tiny_data(ahead=2)
