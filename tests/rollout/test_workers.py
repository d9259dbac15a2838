"""Environments in worker processes give the same episodes as environments in this process."""

import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from hero_pl.datamodule import RolloutDataModule
from hero_pl.errors import ConfigError, EnvError
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.answers import Answer
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.limits import Limits
from hero_pl.rollout.pool import Fault, Recipe, Reset, Step
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.rollout.workers import WorkerPool
from hero_pl.types import StopReason

ROOT = Path(__file__).resolve().parents[2]
RETAIL = ("hero_pl/PocketRetail-v0", {"size": 60, "tasks": 40})
MOODY = """
import os, subprocess, sys, time
import gymnasium

class Moody(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Text(1000)
    task_ids = ["a"]

    def __init__(self, fault=""):
        if fault:
            raise OSError(fault)

    def reset(self, *, seed=None, options=None):
        return f"{os.getpid()}", {}

    def step(self, action):
        if action == "child":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60.0)"])
            return str(child.pid), 0.0, False, False, {}
        if action == "hang":
            time.sleep(60.0)
        if action == "fail":
            raise RuntimeError("no")
        if action == "die":
            os._exit(7)
        return action, 0.0, False, False, {}
"""


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A Ray cluster on this machine, with room for a few workers."""
    ray = pytest.importorskip("ray", reason="transport: ray needs the extra `ray`: pip install 'hero_pl[ray]'")
    ray.init(num_cpus=4, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(params=["process", "ray"])
def transport(request: pytest.FixtureRequest) -> str:
    """Where the workers run."""
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return str(request.param)


@pytest.fixture
def pool(transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes a pool with an unreliable environment on each seat, which is registered in this process only."""
    (tmp_path / "moody_module.py").write_text(MOODY, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import moody_module

    gymnasium.register("MoodyWorker-v0", moody_module.Moody)
    made: list[WorkerPool] = []

    def make(seats: int, **limits: Any) -> WorkerPool:
        made.append(WorkerPool(Limits(**{"workers": 2, "transport": transport, **limits})))
        assert made[0].seats(Recipe.of("MoodyWorker-v0", None, {}), seats) == list(range(seats))
        return made[0]

    yield make
    for one in made:
        one.close()
    gymnasium.registry.pop("MoodyWorker-v0")
    sys.modules.pop("moody_module")
    assert multiprocessing.active_children() == []


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def observation(answer: Answer | Fault) -> str:
    assert isinstance(answer, Answer), answer
    return answer.observation


def test_the_same_episodes_are_played_by_any_number_of_workers(tiny_policy: Any, transport: str) -> None:
    policy = tiny_policy()
    policy.load()
    result = []
    for workers in (0, 1, 2, 4):
        limits = Limits(max_turns=3, num_envs=5, workers=workers, transport=transport if workers else "process")
        shop = Collector("hero_pl/WebShopPocket-v0", split="train", limits=limits)
        specs = [EpisodeSpec(shop.task_ids[i], i, 100 + i) for i in range(8)]
        result.append(shop.collect(specs, policy, Sampling(1.0, 6)))
        shop.close()
    assert {len(episode.turns) for episode in result[0]} == {3}
    assert result[1] == result[0]
    assert result[2] == result[0]
    assert result[3] == result[0]


def test_the_dialogues_of_a_user_are_the_same_too() -> None:
    policy = ScriptedPolicy(lambda context, seed: f"What is your zip code? {seed % 3}")
    policy.load()
    result = []
    for workers in (0, 2):
        retail = Collector(*RETAIL, split="train", limits=Limits(max_turns=3, workers=workers))
        specs = [EpisodeSpec(task, i, i) for i, task in enumerate(retail.task_ids[:6])]
        result.append(retail.collect(specs, policy, Sampling(max_action_tokens=64)))
        retail.close()
    assert result[0] == result[1]
    assert len({episode.first_observation for episode in result[0]}) > 1


def test_bug_243_an_id_that_was_registered_here_is_known_there_and_seats_are_spread_over_the_workers(pool: Any) -> None:
    made = pool(4)
    asked = made.ask({seat: Reset("a", 1) for seat in range(4)})
    pids = [observation(asked[seat]) for seat in range(4)]
    assert pids[0] == pids[2] != pids[1] == pids[3]
    assert len(multiprocessing.active_children()) == (2 if made._workers[0].limits.transport == "process" else 0)


def test_bug_241_and_242_a_worker_that_ends_takes_its_other_episodes_along_and_no_more(pool: Any) -> None:
    made = pool(6)
    first = made.ask({seat: Reset("a", 1) for seat in range(6)})
    answers = made.ask({1: Step("hi"), 2: Step("die"), 3: Step("hi"), 4: Step("hi")})
    assert {seat for seat, answer in answers.items() if isinstance(answer, Answer)} == {1, 3}
    assert answers[2] == Fault(StopReason.ENV_ERROR, "the worker process ended with exit status 7")
    assert {seat: answers[seat].own for seat in (0, 2, 4)} == {0: False, 2: True, 4: False}
    again = made.ask({seat: Reset("a", 1) for seat in (0, 2, 4)})
    assert len({observation(answer) for answer in again.values()} - {observation(first[0])}) == 1


def test_an_environment_that_raises_does_not_affect_its_worker_and_the_others(pool: Any) -> None:
    made = pool(4)
    before = made.ask({seat: Reset("a", 1) for seat in range(4)})
    answers = made.ask({0: Step("fail"), 2: Step("hi")})
    assert answers[0] == Fault(StopReason.ENV_ERROR, "step() raised RuntimeError('no')")
    assert observation(answers[2]) == "hi"
    assert made.ask({0: Reset("a", 1)}) == {0: before[0]}


def test_an_environment_that_cannot_be_created_leaves_its_worker_alone(pool: Any) -> None:
    made = pool(1, workers=1)
    (seat,) = made.seats(Recipe.of("MoodyWorker-v0", None, {"fault": "no display"}), 1)
    answers = made.ask({seat: Reset("a", 1), 0: Reset("a", 1)})
    error = "The environment 'MoodyWorker-v0' cannot be created: OSError('no display')"
    assert answers[seat] == Fault(StopReason.ENV_ERROR, error)
    assert made.ask({0: Reset("a", 1)}) == {0: answers[0]}


@pytest.mark.skipif(not Path("/proc").exists(), reason="no /proc to look a process up in")
def test_bug_245_what_an_environment_has_started_ends_with_a_worker_that_is_killed(pool: Any) -> None:
    made = pool(2, step_timeout_s=1.0)
    made.ask({0: Reset("a", 1)})
    child = int(observation(made.ask({0: Step("child")})[0]))
    assert runs(child)
    assert made.ask({0: Step("hang")})[0].reason is StopReason.ENV_TIMEOUT
    for _ in range(500):
        if not runs(child):
            return
        time.sleep(0.01)
    pytest.fail("it is still there")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no alarm to interrupt a call with")
def test_bug_244_what_an_interrupted_call_asked_for_is_never_taken_for_an_answer(pool: Any) -> None:
    made = pool(2)
    first = made.ask({seat: Reset("a", 1) for seat in range(2)})

    def ring(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    with pytest.raises(KeyboardInterrupt):
        made.ask({0: Step("hang"), 1: Step("hi")})
    signal.signal(signal.SIGALRM, before)
    again = made.ask({seat: Reset("a", 1) for seat in range(2)})
    assert observation(again[0]) != observation(first[0])
    assert again[1] == first[1]


def test_workers_that_were_closed_are_started_again(pool: Any) -> None:
    made = pool(1)
    first = observation(made.ask({0: Reset("a", 1)})[0])
    made.close()
    assert multiprocessing.active_children() == []
    assert observation(made.ask({0: Reset("a", 1)})[0]) != first


def test_a_worker_reads_no_tensor_library() -> None:
    code = (
        "import sys, hero_pl.rollout.workers; print(sorted({'torch', 'transformers', 'lightning'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_script_without_a_main_guard_gets_a_clear_error(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from hero_pl.rollout.limits import Limits\n"
        "from hero_pl.rollout.pool import Recipe, Reset\n"
        "from hero_pl.rollout.workers import WorkerPool\n"
        "pool = WorkerPool(Limits(workers=1))\n"
        "(seat,) = pool.seats(Recipe.of('hero_pl/Toy-v0', None, {}), 1)\n"
        "pool.ask({seat: Reset('want-red', 1)})\n",
        encoding="utf-8",
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert 'needs the line `if __name__ == "__main__":`' in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"pretrained": "folder"}, "limits.workers=2 with user.pretrained: every worker would load the model"),
        ({"url": "http://localhost/v1", "model": "m", "spend_cap": 1.0}, "limits.workers=2 with user.spend_cap"),
    ],
)
def test_a_user_that_workers_cannot_share_is_refused_at_once(user: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RolloutDataModule(RETAIL[0], {**RETAIL[1], "user": user}, limits=Limits(workers=2))


def test_what_another_process_cannot_make_is_refused() -> None:
    class Hidden(gymnasium.Env[str, str]):
        pass

    pool = WorkerPool(Limits(workers=1))
    gymnasium.register("HiddenWorker-v0", Hidden)
    try:
        with pytest.raises(ConfigError, match=r"cannot import .*<locals>\.Hidden.*HiddenWorker-v0.*top of a module"):
            pool.seats(Recipe.of("HiddenWorker-v0", None, {}), 1)
    finally:
        gymnasium.registry.pop("HiddenWorker-v0")
    with pytest.raises(ConfigError, match=r"arguments of hero_pl/Toy-v0 cannot be sent to another process"):
        pool.seats(Recipe.of("hero_pl/Toy-v0", None, {"user": lambda: None}), 1)
    recipe = Recipe("hero_pl/Toy-v0", None, {"color": "red"})
    with pytest.raises(ConfigError, match=r"cannot be created.*color"):
        pool.ask({pool.seats(recipe, 1)[0]: Reset("want-red", 1)})
    assert multiprocessing.active_children() == []


def test_a_worker_that_does_not_start_in_time_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hero_pl.rollout.workers.START_S", 0.0)
    pool = WorkerPool(Limits(workers=1))
    with pytest.raises(EnvError, match="has not started within 0 s"):
        pool.ask({pool.seats(Recipe.of("hero_pl/Toy-v0", None, {}), 1)[0]: Reset("want-red", 1)})
    assert multiprocessing.active_children() == []


def test_ray_without_workers_or_without_the_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"limits.transport=ray, limits.workers=0: .* at least 1 worker"):
        Limits(transport="ray")
    monkeypatch.setattr("hero_pl.rollout.ray_process.find_spec", lambda name: None)
    pool = WorkerPool(Limits(workers=1, transport="ray"))
    with pytest.raises(ConfigError, match=r"pip install 'hero_pl\[ray\]'"):
        pool.ask({pool.seats(Recipe.of("hero_pl/Toy-v0", None, {}), 1)[0]: Reset("want-red", 1)})
