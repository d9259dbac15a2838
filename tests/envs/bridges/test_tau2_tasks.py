"""The package tau2-bench and its tasks; nothing here needs it."""

import sys
from types import SimpleNamespace

import pytest

from hero_envs.bridges.tau2_tasks import SPLITS, made, refusal, tasks_of, tau2_bench, without_judged
from hero_pl.errors import ConfigError
from hero_pl.rollout.environments import make


class Record(SimpleNamespace):
    """A model of pydantic, as far as the bridge uses one."""

    def model_copy(self, update):
        return Record(**{**vars(self), **update})


def parts(*names):
    return [SimpleNamespace(value=name) for name in names]


def task(basis=("DB",), actions=(), nl_assertions=None, communicate_info=None, ticket="A ticket.", history=None, of=()):
    criteria = Record(
        reward_basis=parts(*basis),
        actions=[SimpleNamespace(requestor=who) for who in actions],
        env_assertions=[SimpleNamespace(env_type=who) for who in of],
        nl_assertions=nl_assertions,
        communicate_info=communicate_info,
    )
    start = SimpleNamespace(message_history=history)
    return Record(evaluation_criteria=criteria, ticket=ticket, initial_state=start)


def package_of(tasks, splits=None, solo_plays=True):
    """A package with one domain."""
    found = {"get_domains": lambda: ["shop", "banking_knowledge"], "get_tasks_loader": lambda _: lambda: tasks}
    if splits is not None:
        found["get_task_splits_loader"] = lambda _: lambda: splits
    agent = SimpleNamespace(LLMSoloAgent=SimpleNamespace(check_valid_task=lambda _: solo_plays))
    registry = SimpleNamespace(registry=SimpleNamespace(**found))
    return SimpleNamespace(registry=registry, agent=agent, utils=SimpleNamespace(DATA_DIR="data"))


TEN = [SimpleNamespace(id=f"t{number}") for number in range(10)]


def test_a_missing_package_gives_one_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tau2", None)
    with pytest.raises(ConfigError, match=r"not installed: pip install 'tau2 @ git\+https") as raised:
        make("hero_pl/Tau2-v0")
    assert "\n" not in str(raised.value)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts a package named tau2 on the path, with the files that are given."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tau2"]:
        monkeypatch.delitem(sys.modules, name)

    def put(**files):
        (tmp_path / "tau2").mkdir()
        for name, text in {"__init__": "", **files}.items():
            (tmp_path / "tau2" / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))

    yield put
    for name in [name for name in sys.modules if name.partition(".")[0] == "tau2"]:
        del sys.modules[name]


def test_another_project_of_this_name_is_refused_and_not_run(installed):
    installed(__init__="raise SystemExit('run')")
    with pytest.raises(ImportError, match="is another project"):
        tau2_bench()


def test_what_tau2_bench_itself_lacks_is_named(installed):
    installed(registry="import no_such_package_of_a_test")
    with pytest.raises(
        ImportError, match=r"cannot be imported \(No module named '(no_such_package_of_a_test|loguru)'\)"
    ):
        tau2_bench()


@pytest.mark.parametrize("named", [None, {"base": ["t0"]}])
def test_without_own_splits_the_position_decides(named):
    found = {split: list(tasks_of(package_of(TEN, named), "shop", split)) for split in SPLITS}
    assert found["validation"] == ["t0", "t5"]
    assert found["test"] == ["t3", "t8"]
    assert found["train"] == ["t1", "t2", "t4", "t6", "t7", "t9"]
    assert found["all"] == [task.id for task in TEN]


def test_own_splits_are_kept_and_every_fifth_training_task_is_held_out():
    named = {"test": ["t0", "t1"], "train": [f"t{number}" for number in range(1, 10)], "base": []}  # t1 in both
    found = {split: list(tasks_of(package_of(TEN, named), "shop", split)) for split in SPLITS}
    assert found["test"] == ["t0", "t1"]
    assert found["validation"] == ["t2", "t7"]
    assert found["train"] == ["t3", "t4", "t5", "t6", "t8", "t9"]


def test_an_unknown_split_or_domain_is_refused():
    with pytest.raises(ValueError, match="split='dev': expected one of train, validation, test, all"):
        tasks_of(package_of(TEN), "shop", "dev")
    with pytest.raises(ValueError, match="domain='zoo': expected one of shop"):
        made(package_of(TEN), "zoo", solo=False)
    with pytest.raises(ValueError, match="retrieval configuration"):
        made(package_of(TEN), "banking_knowledge", solo=False)


def test_missing_data_names_the_file_and_the_variable():
    def missing():
        raise FileNotFoundError(2, "No such file", "data/tasks.json")

    package = package_of(TEN)
    package.registry.registry.get_tasks_loader = lambda _: missing
    package.registry.registry.get_env_constructor = lambda _: lambda solo_mode: missing()
    for call in (lambda: tasks_of(package, "shop", "all"), lambda: made(package, "shop", solo=False)):
        with pytest.raises(FileNotFoundError, match=r"data/tasks.json is missing .* Set TAU2_DATA_DIR"):
            call()


@pytest.mark.parametrize(
    ("given", "how", "said"),
    [
        (task(), {}, ""),
        (Record(evaluation_criteria=None), {}, "nothing to evaluate"),
        (task(history=["Hello."]), {}, "middle of a conversation"),
        (task(("DB", "NL_ASSERTION"), nl_assertions=["Polite."]), {}, "a language model as judge"),
        (task(("DB", "NL_ASSERTION"), nl_assertions=["Polite."]), {"without_judge": True}, ""),
        (task(("DB", "NL_ASSERTION")), {}, ""),
        (task(("NL_ASSERTION",), nl_assertions=["Polite."]), {"without_judge": True}, "no part without a judge"),
        (task(actions=["assistant", "user"]), {}, "has to use tools"),
        (task(actions=["assistant", "user"]), {"has_tools": True}, ""),
        (task(actions=["assistant", "user"]), {"solo": True}, ""),
        (task(actions=["assistant"], of=["assistant", "user"]), {}, "has to use tools"),
        (task(actions=["assistant"], of=["assistant"]), {}, ""),
        (task(ticket=None), {"solo": True}, "no ticket"),
        (task(("DB", "COMMUNICATE"), communicate_info=["42"]), {"solo": True}, "what the customer is told"),
        (task(("DB", "COMMUNICATE"), communicate_info=["42"]), {}, ""),
    ],
)
def test_a_task_that_cannot_be_played_has_a_reason(given, how, said):
    how = {"solo": False, "has_tools": False, "without_judge": False, **how}
    reason = refusal(package_of([]), given, **how)
    assert (said in reason) if said else reason == ""


def test_a_ticket_that_tau2_bench_does_not_play_is_refused():
    assert "no ticket" in refusal(package_of([], solo_plays=False), task(), True, False, False)


def test_only_the_part_for_a_judge_is_taken_out_of_a_reward():
    given = task(("DB", "NL_ASSERTION", "ACTION"), nl_assertions=["Polite."])
    scored, left_out = without_judged(given)
    assert [part.value for part in scored.evaluation_criteria.reward_basis] == ["DB", "ACTION"]
    assert left_out == ["Polite."]
    assert len(given.evaluation_criteria.reward_basis) == 3  # the task itself is unchanged
    assert without_judged(task())[1] == []
