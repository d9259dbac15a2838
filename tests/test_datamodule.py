"""Tasks and seeds of a step."""

import subprocess
import sys

import numpy as np
import pytest

from hero_pl.datamodule import RolloutDataModule
from hero_pl.errors import ConfigError
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.specs import TaskStream


def test_no_task_comes_twice_within_a_pass_and_every_pass_has_its_own_order():
    stream = TaskStream(tasks=12, per_step=3, seed=0)
    passes = [[task for step in range(4 * k, 4 * k + 4) for task in stream.batch(step)] for k in range(3)]
    assert all(sorted(tasks) == list(range(12)) for tasks in passes)
    assert passes[0] != passes[1] != passes[2]


def test_ranks_share_a_pass_without_overlap():
    stream = TaskStream(12, 6, seed=5)
    assert sorted(task for step in range(2) for task in stream.batch(step)) == list(range(12))
    assert len(stream) == 2


class Place(RolloutDataModule):
    """Runs as one of several processes."""

    place = (0, 1)

    def _place(self) -> tuple[int, int]:
        return self.place


def test_bug_290_several_processes_play_the_episodes_of_one_with_their_seeds(tiny_data) -> None:
    settings = {"env": "hero_pl/WebShopPocket-v0", "group_size": 2, "seed": 3}
    one = RolloutDataModule(tasks_per_step=4, **settings)
    several = [Place(tasks_per_step=2, **settings) for _ in range(2)]
    for rank, data in enumerate(several):
        data.place = (rank, 2)
    for step in (0, 7):
        assert one.specs(step) == [spec for data in several for spec in data.specs(step)]


def test_the_order_depends_on_the_seed_alone():
    assert TaskStream(50, 5, 1).batch(3) == TaskStream(50, 5, 1).batch(3)
    assert TaskStream(50, 5, 1).batch(3) != TaskStream(50, 5, 2).batch(3)


def test_a_group_is_one_task_with_different_seeds(tiny_data):
    specs = tiny_data(tasks_per_step=2, group_size=3).specs(4)
    assert [spec.group for spec in specs] == [8, 8, 8, 9, 9, 9]
    assert len({spec.task_id for spec in specs}) == 2
    assert len({spec.seed for spec in specs}) == 6


def drawn(*entropy, count):
    """The seed entropy of the committed results, as a formula."""
    return np.random.SeedSequence(entropy).generate_state(count, np.uint32).tolist()


def test_training_draws_from_its_stream_seed_step_and_rank(tiny_data):
    data = tiny_data(tasks_per_step=3, seed=7)
    assert [spec.seed for spec in data.specs(4)] == drawn(1, 7, 4, 0, count=3)


@pytest.mark.parametrize(("stage", "number"), [("train", 5), ("validate", 8), ("test", 4)])
def test_an_evaluation_draws_from_its_stream_seed_and_stage(stage, number, tiny_data):
    policy = ScriptedPolicy(["leave"])
    policy.load()
    played = tiny_data(seed=7).evaluate(policy, stage, 3)
    assert [trajectory.seed for trajectory in played] == drawn(2, 7, number, count=3)


def test_a_stage_that_is_not_there_is_refused(tiny_data):
    with pytest.raises(ConfigError, match=r"stage='tset': expected one of train, validate, test"):
        tiny_data().evaluate(None, "tset")


def test_the_state_is_the_number_of_batches_drawn_and_the_tasks_in_quarantine(tiny_data):
    data = tiny_data()
    health = {"quarantined": {"a": "it broke"}, "suspects": ["b"], "latest": [("a", True), ("c", False)]}
    state = {"steps": 17, "per_step": 2, "health": {"train": health}}
    data.load_state_dict(state)
    assert data.state_dict() == state  # also before an environment is made
    assert data.quarantined == 1
    assert data.state_dict() == state
    data.load_state_dict({**state, "health": {"train": {"quarantined": {}, "suspects": [], "latest": []}}})
    assert data.quarantined == 0


def test_tasks_in_quarantine_are_not_drawn_and_others_stand_in_for_them(tiny_data):
    data, untouched = tiny_data(tasks_per_step=3, group_size=2), tiny_data(tasks_per_step=3, group_size=2)
    before = [untouched.specs(step) for step in range(8)]
    out = {before[0][0].task_id, before[3][2].task_id}
    data.collector("train").health.quarantined.update(dict.fromkeys(out, "it broke"))
    for step, specs in enumerate(before):
        now = data.specs(step)
        assert now == data.specs(step)
        assert out.isdisjoint(spec.task_id for spec in now)
        assert len({spec.task_id for spec in now}) == 3
        assert [(spec.seed, spec.group) for spec in now] == [(spec.seed, spec.group) for spec in specs]
        kept = [spec for spec in specs if spec.task_id not in out]
        assert [spec for spec in now if spec in kept] == kept


def test_splits_share_no_task(tiny_data):
    data = tiny_data()
    splits = [set(data.collector(stage).task_ids) for stage in ("train", "validate", "test", "warmup")]
    assert all(splits)
    assert sum(map(len, splits)) == len(set.union(*splits))


@pytest.mark.parametrize("wrong", [{"tasks_per_step": 0}, {"group_size": 0}, {"eval_episodes": -1}, {"seed": -1}])
def test_a_wrong_number_is_refused_by_its_key(wrong):
    with pytest.raises(ConfigError, match=f"data.{next(iter(wrong))}"):
        RolloutDataModule("hero_pl/Toy-v0", **wrong)


def rebuilt(policy, trajectory):
    """The decision contexts that texts and sampled ids of an episode give, built as the rollout builds them."""
    prompt = policy.template.first_prompt(*policy_opening(policy, trajectory))
    for turn in trajectory.turns:
        yield prompt
        prompt = policy.template.next_prompt(prompt, turn.action_ids, turn.observation, turn.role)


def policy_opening(policy, trajectory):
    system_prompt, tools = policy.parser.describe(trajectory.system_prompt, trajectory.tools)
    return system_prompt, trajectory.first_observation, "user", tools


def test_bug_39_evaluation_prompts_are_those_of_the_rollout_and_hold_no_hint(tiny_module, tiny_data, fit):
    module, data = tiny_module(), tiny_data()
    fit(module, data, 2)
    assert module.last_metrics["hero/hinted_turns"] == 1.0  # training did use hints
    played = data.evaluate(module.policy, "test", 6)
    assert sum(len(trajectory.turns) for trajectory in played) >= 6
    for trajectory in played:
        assert [turn.prompt_ids for turn in trajectory.turns] == list(rebuilt(module.policy, trajectory))
        shown = module.policy.template.tokenizer.decode(list(trajectory.turns[-1].prompt_ids))
        assert "Review notes" not in shown
        assert "Assessment of this decision" not in shown


def test_bug_39_the_evaluation_path_never_imports_what_renders_hints():
    script = (
        "import sys, hero_pl.datamodule, hero_pl.policy.huggingface, hero_pl.callbacks.held_out\n"
        "print([name for name in sys.modules if name.startswith(('hero_pl.teacher', 'hero_pl.reflection'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_several_processes_share_a_spend_cap() -> None:
    user = {"url": "http://localhost:9", "model": "m", "spend_cap": 3.0, "prompt_price": 1.0}
    data = Place("hero_pl/PocketRetail-v0", {"user": user})
    data.place = (1, 2)
    endpoint = data.collector("train").env.unwrapped.user.endpoint
    assert endpoint.spending.cap == 1.5
    assert data.collector("test").env.unwrapped.user.endpoint is endpoint


def test_a_resumed_run_has_as_many_tasks_per_step_whatever_the_number_of_processes(tiny_data) -> None:
    two, one = Place("hero_pl/WebShopPocket-v0", tasks_per_step=2), tiny_data(tasks_per_step=4)
    two.place = (0, 2)
    two.steps = 3
    one.load_state_dict(two.state_dict())
    assert one.steps == 3
    other = tiny_data(tasks_per_step=2)
    with pytest.raises(
        ConfigError, match=r"2 tasks per step, but 4 in the run of the checkpoint.*--resume_changed true"
    ):
        other.load_state_dict(two.state_dict())
    other.accept_changes = True
    other.load_state_dict(two.state_dict())
    assert other.steps == 3
