"""Labels by outcome: rules play the rest of an episode in the real pocket environments."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hero_pl.annotate.files import read_rows
from hero_pl.annotate.oracle import label_rows as by_rule
from hero_pl.annotate.outcome import label_rows
from hero_pl.annotate.quality import QUESTIONS, sample_turns
from hero_pl.cli.main import main
from hero_pl.errors import HeroError
from hero_pl.pocket.retail.rules import ACTS, Clerk
from hero_pl.rollout.environments import begin, make
from hero_pl.types import Diagnosis, Reflection, StopReason, Trajectory, Turn

SHOP = "hero_pl/WebShopPocket-v0"
RETAIL = "hero_pl/PocketRetail-v0"
RETAIL_ARGS = {
    "compact": True,
    "handles": True,
    "lookups": True,
    "kinds": ["return"],
    "max_goals": 1,
    "size": 200,
    "tasks": 400,
}


def played(env_id: str, task: int, actions: Sequence[str], args: Mapping[str, Any] | None = None) -> Trajectory:
    """An episode of these actions; an empty one stands for a reply that could not be read."""
    env = make(env_id, "train", **(args or {}))
    name = env.unwrapped.task_ids[task]
    first = begin(env, name, 7).observation
    turns, reward = [], 0.0
    for number, action in enumerate(actions, 1):
        reply = "unreadable"
        if action:
            reply, gained, *_ = env.step(action)
            reward += gained
        turns.append(Turn(number, (), (1,), (0.0,), action or "?", action, reply, "user"))
    return Trajectory(name, env_id, 7, 0, "", (), first, tuple(turns), reward, StopReason.TERMINATED)


def rows_of(trajectory: Trajectory, target: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """One row per turn, in order."""
    reflection = Reflection(tuple(Diagnosis("right: x", "high", target) for _ in trajectory.turns), "ok")
    rows, _ = sample_turns([trajectory], {"true": [reflection]}, 99)
    return sorted(rows, key=lambda row: row["turn"])


def errors(rows: Sequence[Mapping[str, Any]]) -> list[bool | None]:
    return [row["labels"]["turn_was_error"] for row in rows]


def shopping(task: int = 0) -> dict[str, str]:
    """Words of the request of a task: material, kind, color, size."""
    env = make(SHOP, "train")
    words = begin(env, env.unwrapped.task_ids[task], 7).observation.replace(",", "").split()
    return {"material": words[3], "kind": words[4], "color": words[words.index("color:") + 1], "size": words[-1]}


def test_mistakes_in_the_shop_are_the_turns_after_which_less_can_be_had() -> None:
    want = shopping()
    other = next(color for color in ("red", "blue") if color != want["color"])
    actions = [
        f"search[{want['kind']}]",
        "click[nothing]",  # an error: a turn is lost
        "",  # unreadable
        f"click[{want['material']} {want['kind']}]",
        f"click[{other}]",  # the wrong color: the purchase is worth less
        f"click[{want['size']}]",
        "click[buy now]",
    ]
    rows = rows_of(played(SHOP, 0, actions))
    expected = [False, True, True, False, True, False, False]
    assert errors(label_rows(rows, SHOP)) == expected
    assert errors(by_rule(rows)) == expected, "the rules say the same without playing"


def test_a_target_is_valid_if_it_does_not_lower_the_reward() -> None:
    want = shopping()
    trajectory = played(SHOP, 0, [f"search[{want['kind']}]", "click[nothing]"])
    item = {"name": "click", "arguments": {"element": f"{want['material']} {want['kind']}"}}
    assert label_rows(rows_of(trajectory, item), SHOP)[1]["labels"]["target_valid"] is True
    back = {"name": "click", "arguments": {"element": "back to search"}}
    assert label_rows(rows_of(trajectory, back), SHOP)[1]["labels"]["target_valid"] is False
    assert label_rows(rows_of(trajectory), SHOP)[1]["labels"]["target_valid"] is None


def test_turns_after_a_lost_episode_have_no_label() -> None:
    def play(task: int) -> tuple[list[str], bool]:
        """Actions by the rules, but another item of the order is returned; and whether there is another item."""
        env = make(RETAIL, "train", **RETAIL_ARGS)
        reply = begin(env, env.unwrapped.task_ids[task], 7).observation
        clerk = Clerk.open(reply)
        actions, over = [], False
        while not over:
            call = dict(clerk.right())
            if call["name"] == ACTS[1]:
                others = [item for item in clerk.desk.items if item not in call["arguments"]["item_ids"]]
                if not others:
                    return [], False
                call["arguments"] = {**call["arguments"], "item_ids": others[:1]}
            actions.append(json.dumps(call))
            reply, _, over, _, _ = env.step(actions[-1])
            clerk = clerk.after(actions[-1], reply)
        return actions, any(ACTS[1] in action for action in actions)

    task, actions = next((task, sent) for task in range(50) for sent, fits in [play(task)] if fits)
    labeled = label_rows(rows_of(played(RETAIL, task, actions, RETAIL_ARGS)), RETAIL, RETAIL_ARGS)
    changed = next(number for number, action in enumerate(actions) if ACTS[1] in action)
    assert errors(labeled) == [False] * changed + [True] + [None] * (len(actions) - changed - 1)
    assert len(actions) > changed + 1
    assert {name for name in QUESTIONS if labeled[0]["labels"][name] is not None} == {"turn_was_error"}


def test_rules_label_the_retail_desk_in_its_own_words() -> None:
    transfer = json.dumps({"name": "transfer_to_human_agents", "arguments": {"summary": "not allowed"}})
    (row,) = rows_of(played(RETAIL, 0, [transfer], RETAIL_ARGS))
    for diagnosis, expected in (
        ("user not found: transfer", (True, True, True)),
        ("not allowed: transfer", (True, False, False)),
        ("right: transfer", (False, False, False)),
        ("Very well.", (None, None, None)),
    ):
        (labeled,) = by_rule([{**row, "diagnosis": diagnosis}])
        labels = labeled["labels"]
        assert labels["turn_was_error"] is True
        assert (labels["says_error"], labels["error_type"], labels["grounded"]) == expected, diagnosis


def test_an_environment_that_does_not_repeat_what_was_recorded_is_refused() -> None:
    rows = rows_of(played(SHOP, 0, [f"search[{shopping()['kind']}]", "click[nothing]"]))
    rows[1]["history"][0]["reply"] = "results: something else"
    with pytest.raises(HeroError, match=r"recorded reply of turn 1 is .*something else.*Give the configuration"):
        label_rows(rows, SHOP)


def test_the_command_takes_the_environment_from_the_configuration(tmp_path: Path) -> None:
    rows = rows_of(played(RETAIL, 0, ["Hello."], RETAIL_ARGS))
    (tmp_path / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.yaml").write_text(json.dumps({"data": {"env": RETAIL, "env_args": RETAIL_ARGS}}))
    words = ["annotate", "outcome", str(tmp_path / "turns.jsonl"), str(tmp_path / "run.yaml")]
    main([*words, "--out", str(tmp_path / "outcome.jsonl")])
    (row,) = read_rows(tmp_path / "outcome.jsonl")
    assert (row["rater"], row["labels"]["turn_was_error"]) == ("outcome", True)
    (tmp_path / "run.yaml").write_text("{}")
    with pytest.raises(SystemExit):
        main([*words, "--out", str(tmp_path / "again.jsonl")])
