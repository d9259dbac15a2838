"""Cases 1 to 5: an environment that raises, cannot start, hangs, dies or answers wrongly costs only its own episode."""

import gc
import json
import math
import multiprocessing
import re
import warnings
from functools import cache
from multiprocessing import resource_tracker
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hero_pl.cli.main import main
from hero_pl.datamodule import RolloutDataModule
from hero_pl.errors import EnvError
from hero_pl.evaluation.rollout import rollout_metrics
from hero_pl.evaluation.summary import remarks, summarize
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.limits import Limits
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.runs.records import RECORDS_FILE, Record, evaluable, from_record, read_records, to_record
from hero_pl.types import StopReason
from tests.faults.conftest import episodes, same_weights
from tests.faults.faulty import FAULTY
from tests.rollout.test_answers import WRONG_STARTS, WRONG_STEPS

LIMITS = Limits(max_turns=3)


@pytest.fixture
def shop(tiny_data):
    """Makes the data of a run in the shop with faults, and the seeds of its steps."""

    def make(limits=LIMITS, **faults):
        return tiny_data(env=FAULTY, env_args=faults, limits=limits)

    return make


def records(folder):
    return [record.trajectory for record in read_records(folder / RECORDS_FILE)]


# -- case 1: step raises -----------------------------------------------------------------------------------------------


def test_bug_134_a_step_that_raises_once_is_played_again_and_the_run_is_the_same(run, shop, tmp_path):
    whole = run("whole", data=shop())
    third, seventh = shop().specs(1)[0].seed, shop().specs(3)[0].seed
    struck = run("run", data=shop(seeds={third: "fail", seventh: "fail"}, once=str(tmp_path)))
    assert same_weights(whole, struck)
    assert episodes(tmp_path / "run") == episodes(tmp_path / "whole")
    failures = {t.seed: t.failures for t in records(tmp_path / "run") if t.failures}
    assert failures.keys() == {third, seventh}
    for (failure,) in failures.values():
        assert failure.startswith(f"env_error: {FAULTY}, task ")
        assert failure.endswith("turn 2: step() raised RuntimeError('the shop is on fire')")
    assert all(evaluable(trajectory) for trajectory in records(tmp_path / "run"))


@pytest.mark.parametrize("retries", [0, 2])
def test_bug_139_a_step_that_always_raises_breaks_its_episode_which_teaches_nothing(retries, run, shop, tmp_path):
    third = shop().specs(1)[0]
    run("run", data=shop(Limits(max_turns=3, retries=retries), seeds={third.seed: "fail"}))
    written = list(read_records(tmp_path / "run" / RECORDS_FILE))
    (broken,) = [record for record in written if not evaluable(record.trajectory)]
    assert broken.trajectory.seed == third.seed
    assert broken.trajectory.stop_reason is StopReason.ENV_ERROR
    assert len(broken.trajectory.failures) == retries
    assert len(broken.trajectory.turns) == 2  # what was said when it broke is kept
    assert broken.token_loss is None
    assert f"task {third.task_id!r}, turn 2: step() raised RuntimeError(" in broken.trajectory.info["error"]


# -- case 2: a task that cannot be started -----------------------------------------------------------------------------


def test_bug_135_and_136_a_task_that_cannot_be_started_stays_in_quarantine(run, newest, shop, tmp_path):
    bad = shop().specs(1)[0].task_id
    data = shop(tasks={bad: "fail"})
    with pytest.warns(UserWarning, match=f"Task '{bad}' of {FAULTY} always breaks") as warned:
        run("run", data=data, steps=3)
    assert sum("always breaks" in str(warning.message) for warning in warned) == 1
    broken = [t for t in records(tmp_path / "run") if not evaluable(t)]
    assert [(t.task_id, t.turns, len(t.failures)) for t in broken] == [(bad, (), 1)]
    again = shop(tasks={bad: "fail"})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Task")
        run("run", data=again, resume=newest(), steps=4)
    passes = len(again.collector("train").task_ids)
    drawn = {spec.task_id for step in range(passes) for spec in again.specs(step)}
    assert drawn == set(again.collector("train").task_ids) - {bad}
    (unplayed,) = again.collector("train").collect([EpisodeSpec(bad, 0, 1)], speaker(), Sampling())
    assert unplayed.stop_reason is StopReason.ENV_ERROR
    assert unplayed.info["error"].startswith("not played, because the task always breaks: ")


@pytest.mark.filterwarnings("ignore:Task", "ignore:Nothing was learned")
def test_bug_137_a_run_of_which_too_much_is_broken_ends_with_the_reason(run, newest, shop):
    tasks = shop().collector("train").task_ids
    good = {spec.task_id for step in range(2) for spec in shop().specs(step)}
    data = shop(tasks=dict.fromkeys(set(tasks) - good, "fail"))
    with pytest.raises(EnvError, match=r"episodes of .* are broken.*the shop is on fire.*broken_share=0\.5.*check-env"):
        run("run", data=data, steps=30)
    assert newest() is not None


@pytest.mark.filterwarnings("ignore:Task")
def test_a_rollout_without_an_episode_that_can_be_scored_fails_and_keeps_its_records(config, tmp_path, capsys):
    tasks = RolloutDataModule(FAULTY).collector("test").task_ids
    path = config(data__env=FAULTY, data__env_args={"tasks": dict.fromkeys(tasks, "fail")})
    for number, message in (
        (2, "None of the 2 episodes can be scored"),
        (50, "of the latest 5 episodes of .* are broken"),
    ):
        out = tmp_path / f"{number}.jsonl"
        with pytest.raises(SystemExit) as ended:
            main(["rollout", "--config", path, "--episodes", str(number), "--out", str(out)])
        assert ended.value.code == 1
        assert re.search(message, capsys.readouterr().err)
        assert len(list(read_records(out))) == min(number, 5)


# -- cases 3 and 4: an environment hangs, a worker process dies --------------------------------------------------------


@pytest.fixture
def leaves_nothing():
    """Checks that no process and no open file is left after the test."""
    resource_tracker.ensure_running()  # of Python; it comes with the first process and stays
    before = open_files()
    yield
    gc.collect()
    assert multiprocessing.active_children() == []
    assert open_files() <= before


def open_files():
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("fault", ["hang", "die"])
def test_bug_240_a_worker_that_hangs_or_dies_is_replaced_and_the_run_is_the_same(fault, run, shop, tmp_path):
    whole = run("whole", data=shop())
    third = shop().specs(1)[0]
    limits = Limits(max_turns=3, workers=1, step_timeout_s=2.0)
    struck = run("run", data=shop(limits, seeds={third.seed: fault}, once=str(tmp_path)))
    assert same_weights(whole, struck)
    assert episodes(tmp_path / "run") == episodes(tmp_path / "whole")
    (failure,) = [failure for t in records(tmp_path / "run") for failure in t.failures]
    error = "env_timeout: {}step() took longer than 2 s" if fault == "hang" else "env_error: {}the worker process ended"
    assert failure.startswith(error.format(f"{FAULTY}, task {third.task_id!r}, turn 2: "))


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_always_hangs_breaks_its_episode_alone(workers, shop):
    limits = Limits(max_turns=3, workers=workers, step_timeout_s=1.0, retries=0)
    specs = shop().specs(0) + shop().specs(1)
    data = shop(limits, seeds={specs[1].seed: "hang"})
    trajectories = data.collector("train").collect(specs, speaker(), Sampling(max_action_tokens=8))
    assert [t.stop_reason.value for t in trajectories] == ["truncated", "env_timeout", "truncated", "truncated"]
    assert [t.failures for t in trajectories] == [()] * 4
    assert "turn 2: step() took longer than 1 s" in trajectories[1].info["error"]
    data.teardown("fit")


@pytest.mark.usefixtures("leaves_nothing")
def test_a_signal_ends_a_run_whose_environment_hangs(run, newest, shop):
    third = shop().specs(1)[0]
    limits = Limits(max_turns=3, workers=1, step_timeout_s=60.0)
    with pytest.raises(SystemExit) as ended:
        run("run", data=shop(limits, seeds={third.seed: "strike"}))
    assert ended.value.code == 143
    assert newest().name == "step=1.ckpt"


# -- case 5: wrong answers ---------------------------------------------------------------------------------------------


class Answers(gymnasium.Env[str, str]):
    """Returns the given answers."""

    observation_space = action_space = gymnasium.spaces.Text(1000)
    task_ids = ("a", "b", "c")

    def __init__(self, start=("hi", {}), step=("go on", 0.0, False, False, {})):
        self.start, self.answer = start, step

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.start

    def step(self, action):
        return self.answer


@pytest.fixture(autouse=True)
def _registered():
    gymnasium.register("AnswersTest-v0", Answers, order_enforce=False, disable_env_checker=True)
    yield
    gymnasium.registry.pop("AnswersTest-v0")


@cache
def speaker():
    policy = ScriptedPolicy(["go"])
    policy.load()
    return policy


def play(**answers):
    limits = Limits(max_turns=2, max_observation_chars=500)
    collector = Collector("AnswersTest-v0", answers, limits=limits)
    return collector.collect([EpisodeSpec("a", 0, 1)], speaker(), Sampling(max_action_tokens=8))[0]


@pytest.mark.filterwarnings("ignore:Task")
@pytest.mark.parametrize(
    ("call", "case"), [*(("start", case) for case in WRONG_STARTS), *(("step", case) for case in WRONG_STEPS)]
)
def test_bug_131_and_132_a_wrong_answer_breaks_its_episode_and_names_all_that_helps(call, case):
    answer, problem = (WRONG_STARTS if call == "start" else WRONG_STEPS)[case]
    episode = play(**{call: answer})
    where = "start" if call == "start" else "turn 1"
    assert episode.stop_reason is StopReason.ENV_ERROR
    assert episode.info["error"].startswith(f"AnswersTest-v0, task 'a', {where}: ")
    assert problem in episode.info["error"]
    assert episode.reward == 0.0


def test_bug_133_ten_megabytes_are_cut_with_a_count():
    episode = play(start=("x" * 10_000_000, {}), step=("y" * 10_000_000, 0.0, False, False, {}))
    assert episode.stop_reason is StopReason.MAX_TURNS
    assert [episode.cut_chars, *(turn.cut_chars for turn in episode.turns)] == [9_999_500] * 3
    assert episode.turns[0].observation == "y" * 500 + "\n[9999500 more characters were cut off]"
    assert len(episode.turns[1].prompt_ids) < 2000


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary(max_size=9)
    | st.complex_numbers()
    | st.sampled_from([10**400, math.nan, 1e30, np.float64("inf"), np.int64(1), np.array([1.0, 2.0]), object, set()]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=12,
)
KEYS = ("role", "system_prompt", "tools", "user", "user_is_faithful", "do_nothing_succeeds", "plain_replies")
OWN = ("error", "rewritten_tokens", "success", "reward_info")
INFO = st.dictionaries(st.sampled_from([*KEYS, *OWN]) | st.text(), ANY, max_size=3)
TOOL = st.just({"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}})
TOOLS = st.fixed_dictionaries({"tools": st.lists(TOOL | ANY, max_size=2)})


@st.composite
def nearly_right(draw, *fields):
    """Answers with at most one wrong field, because an answer with two is refused at the first."""
    answer = [draw(field) for field in fields]
    if draw(st.booleans()):
        answer[draw(st.integers(0, len(answer) - 1))] = draw(ANY)
    return tuple(answer)


START = nearly_right(st.text(), INFO | TOOLS) | ANY
STEP = nearly_right(st.text(), st.sampled_from([0.0, 0.5, 1]), st.booleans(), st.booleans(), INFO) | ANY


@pytest.mark.filterwarnings("ignore:Task")
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(START | st.just(("hi", {})), STEP)
@example(("\ud800", {"system_prompt": "<|im_end|>\ud83d"}), ("\udfff", 1, False, True, {"error": "\ud800"}))
@example(("hi", {"user": ["x"], "user_is_faithful": {}}), ("", 0.5, True, True, {"rewritten_tokens": "many"}))
@example(("hi", {"plain_replies": 3, "do_nothing_succeeds": "no"}), ("x", True, True, False, {"user": None}))
@example(("hi", {"user": -math.inf}), ("x", 0.0, True, False, {"scores": [0.5, {"mean": math.nan}]}))
@example(("hi", {}), ("x", 0.0, True, False, {"mean": math.nan}))
@example(("hi", {1: 2, "1": 3}), ("x", 1.0, np.bool_(True), False, {"a": np.array(1.5)}))
def test_whatever_an_environment_answers_becomes_a_record(start, step):
    """The examples are answers that caused an error once, or were likely to."""
    episode = play(start=start, step=step)
    assert episode.stop_reason in (
        StopReason.ENV_ERROR,
        StopReason.TERMINATED,
        StopReason.TRUNCATED,
        StopReason.MAX_TURNS,
    )
    assert 0.0 <= episode.reward <= 2.0 + 1e-6
    record = Record("train", 0, episode)
    assert from_record(json.loads(json.dumps(to_record(record), allow_nan=False))) == record
    for scalar in rollout_metrics([episode], [], speaker()).values():
        float(scalar)
    remarks(summarize([episode], speaker()))


class NotANumber(Answers):
    """Gives a reward that is not a number in every other task."""

    def reset(self, *, seed=None, options=None):
        self.reward = math.nan if options["task"] == "b" else 1.0
        return "hi", {}

    def step(self, action):
        return "over", self.reward, True, False, {}


@pytest.mark.filterwarnings("ignore:Task")
def test_bug_130_a_reward_that_is_no_number_reaches_no_loss(tiny_module, tiny_data, fit):
    from hero_pl.objectives.policy_gradient import PolicyGradient

    gymnasium.register("NotANumber-v0", NotANumber)
    try:
        module = tiny_module(PolicyGradient("none"))
        fit(module, tiny_data(env="NotANumber-v0", tasks_per_step=3), 1)
    finally:
        gymnasium.registry.pop("NotANumber-v0")
    assert module.last_metrics["train/broken_episodes"] == 1.0
    assert module.last_metrics["train/skipped_steps"] == 0.0
    assert math.isfinite(module.last_metrics["train/loss"])
    assert module.last_metrics["train/grad_norm"] > 0.0
