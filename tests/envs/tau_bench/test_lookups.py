"""Tasks that need an answer from the tools."""

import pytest

from hero_envs.tau_bench.env import TauBenchEnv
from hero_envs.tau_bench.generate import generate_tasks, pocket_retail
from hero_envs.tau_bench.goals import parse_request
from hero_envs.tau_bench.lookups import NEEDED

DOMAIN = pocket_retail(120, 400, 0, ("return", "return", "return", "cancel"), 1, True)
TASKS = [task for tasks in DOMAIN.splits.values() for task in tasks]


def order_of(task):
    return DOMAIN.base.tables["orders"][parse_request(task.instruction).goals[0].order_id]


@pytest.mark.parametrize("task", TASKS[::10], ids=lambda task: task.id)
def test_the_truth_is_what_the_words_stand_for(task):
    goal, order = parse_request(task.instruction).goals[0], order_of(task)
    if order["status"] != NEEDED[goal.kind]:
        assert task.actions == ()
        return
    (action,) = task.actions
    if goal.kind == "return":
        item = next(item for item in order["items"] if item["name"] == goal.items[0].name)
        paid = order["payment_history"][0]["payment_method_id"]
        assert action.kwargs["item_ids"] == [item["item_id"]]
        assert goal.payment_id in ("original", "gift_card")
        assert (action.kwargs["payment_method_id"] == paid) == (goal.payment_id == "original")
        assert goal.payment_id == "original" or action.kwargs["payment_method_id"].startswith("gift_card")
    else:
        assert action.kwargs["reason"] == goal.reason


def test_all_kinds_of_answers_occur():
    kinds = {(bool(task.actions), parse_request(task.instruction).goals[0].payment_id) for task in TASKS}
    assert kinds >= {(True, "original"), (True, "gift_card"), (True, None), (False, None)}


def test_the_refused_tasks_are_the_floor():
    for split, tasks in DOMAIN.splits.items():
        assert set(DOMAIN.do_nothing_ids(split)) == {task.id for task in tasks if not task.actions}
    assert 0 < sum(not task.actions for task in TASKS) < 0.3 * len(TASKS)


def test_another_kind_is_refused_by_name():
    with pytest.raises(ValueError, match="exchange"):
        generate_tasks(DOMAIN.base, "test", 5, kinds=("exchange",), lookups=True)


def test_the_compact_prompt_says_the_policy():
    env = TauBenchEnv(domain="pocket_retail", compact=True, lookups=True, size=60, tasks=60, kinds=("cancel",))
    assert "only pending orders" in env.reset(seed=0)[1]["system_prompt"]
