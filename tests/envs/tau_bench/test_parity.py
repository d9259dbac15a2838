"""The core against recordings of the public benchmark and against its own ground truth."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hero_envs.tau_bench.database import Database, copy_json
from hero_envs.tau_bench.domain import Domain
from hero_envs.tau_bench.episode import Episode
from hero_envs.tau_bench.official import load_official
from hero_envs.tau_bench.tasks import Task
from hero_envs.tau_bench.users.recorded import RecordedUser

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / ".." / "shared" / "data" / "taubench"
TRACES = ["retail_gt", "retail_fuzz", "airline_gt", "airline_fuzz", "airline_hist"]

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the official data lies in shared/ beside the repository")


def conformance() -> ModuleType:
    file = ROOT / "tests" / "conformance" / "taubench_traces.py"
    spec = importlib.util.spec_from_file_location("taubench_traces", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def check_traces(name: str, every: int) -> None:
    module = conformance()
    report = module.Report()
    for number, trace in enumerate(module.episodes(DATA / "traces" / f"{name}.jsonl.gz")):
        if number % every == 0:
            module.replay(trace, load_official(trace["domain"], DATA), report)
    assert report.differences == []
    assert sum(report.passed.values()) > 30


@needs_data
@pytest.mark.parametrize("name", TRACES)
def test_every_tenth_recorded_episode_is_reproduced_step_by_step(name: str) -> None:
    check_traces(name, every=10)


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", TRACES)
def test_every_recorded_episode_is_reproduced_step_by_step(name: str) -> None:
    check_traces(name, every=1)


def play_ground_truth(domain: Domain, task: Task, skip: int | None = None) -> float:
    episode = Episode(domain, task, RecordedUser(["Thanks.", "###STOP###"]))
    episode.start()
    for number, action in enumerate(task.actions):
        if not domain.tools[action.name].terminal and number != skip:
            episode.step(action.name, action.kwargs)
    episode.step("respond", {"content": " ".join(task.outputs)})
    return episode.step("respond", {"content": "Bye."}).reward


@needs_data
@pytest.mark.parametrize(("name", "count"), [("retail", 635), ("airline", 50)])
def test_the_ground_truth_is_rewarded_on_every_task(name: str, count: int) -> None:
    domain = load_official(name, DATA)
    rewards = {task.id: play_ground_truth(domain, task) for task in domain.tasks.values()}
    assert len(rewards) == count
    assert [task_id for task_id, reward in rewards.items() if reward != 1.0] == []


@needs_data
def test_leaving_out_a_write_that_works_costs_the_reward() -> None:
    domain = load_official("retail", DATA)
    for task in domain.splits["train"][:100]:
        data = Database(domain.base)
        answers = [domain.tools[a.name].call(data, copy_json(dict(a.kwargs))) for a in task.actions]
        effective = next((i for i, answer in enumerate(answers) if not answer.startswith("Error")), None)
        if effective is not None:
            assert play_ground_truth(domain, task, skip=effective) == 0.0, task.id


@needs_data
@pytest.mark.parametrize(
    ("name", "canonical", "official"),
    [
        (
            "retail",
            "ae10e8a7f23bedf88c90a528efa2d59d27cae24b5ce1f0d28768b39257bf9f0d",
            "5a4b2cb59f4d12dea7e4adff24a7f8fada510ead49372ea4a729a82bbb5f49b5",
        ),
        (
            "airline",
            "f212eeda89b986239ddfb1a9b3d07d2b388112869864655ec9e5cc7ab07ab41c",
            "4587e6b48ad2b2c4f3e1fecb40aabec7bb2286513273b8f8cec3f5865222f290",
        ),
    ],
)
def test_the_initial_database_has_the_published_hashes(name: str, canonical: str, official: str) -> None:
    data = Database(load_official(name, DATA).base)
    assert data.canonical_hash() == canonical
    assert data.official_hash() == official


@needs_data
def test_episodes_share_the_records_and_leak_nothing() -> None:
    domain = load_official("airline", DATA)
    task = domain.tasks["test-0"]
    before = task.sha256()
    first, second = (Episode(domain, task, RecordedUser([])) for _ in range(2))
    booking = dict(task.actions[0].kwargs)
    first.step("book_reservation", booking)
    first.step("cancel_reservation", {"reservation_id": "HATHAT"})
    assert "HATHAT" in first.data["reservations"]
    assert "HATHAT" not in second.data["reservations"]
    assert "HATHAT" not in domain.base.tables["reservations"]
    assert second.data.delta() == {}
    assert task.sha256() == before
    assert len(booking["payment_methods"]) == len(task.actions[0].kwargs["payment_methods"])


@needs_data
def test_a_step_copies_only_the_records_it_writes() -> None:
    domain = load_official("retail", DATA)
    task = domain.tasks["train-0"]
    episode = Episode(domain, task, RecordedUser([]))
    order_id = task.actions[0].kwargs["order_id"]
    episode.step("get_order_details", {"order_id": order_id})
    assert list(episode.data["orders"].touched) == []
    episode.step(task.actions[0].name, task.actions[0].kwargs)
    assert list(episode.data["orders"].touched) == [order_id]
    assert list(episode.data["products"].touched) == []
