"""Warm-up data: all modes occur, labels follow the hints, and no task is used for training or tests later."""

import hashlib
import re
from pathlib import Path

import pytest
import yaml

from hero_pl.errors import ConfigError
from hero_pl.pocket.shop.demonstrations import DEMONSTRATION, DEMONSTRATION_POSITION, ShopDemonstrations, habits
from hero_pl.pocket.shop.expert import ShopExpert
from hero_pl.pocket.shop.rules import Page, Request, action, decision
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.teacher.render import read_template

ENV = "hero_pl/WebShopPocket-v0"
BASELINES = Path(__file__).parents[3] / "configs" / "baselines"


@pytest.fixture
def made(tiny_policy):
    """Makes the policy and the rows of forty episodes."""

    def make(**kwargs):
        policy = tiny_policy()
        policy.load()
        collector = Collector(ENV, split="warmup")
        specs = [EpisodeSpec(task, i, i) for i, task in enumerate(collector.task_ids[:40])]
        rows = ShopDemonstrations(**kwargs).make(specs, policy.dialect, collector)
        return policy, rows

    return make


def hint_of(policy, row):
    """The hint in the row's context, or an empty text."""
    matches = re.findall(r"note:[^\n]*?(?=<\|im_|\n|$)", policy.template.encoder.decode(row.turns[-1].prompt_ids))
    return matches[-1].strip() if matches else ""


def test_acting_reviewing_and_hinted_rows_occur_in_all_modes(made):
    policy, rows = made()
    hints = [hint for row in rows if (hint := hint_of(policy, row))]
    assert any(len(row.turns) > 1 for row in rows)
    assert any("review: reward" in policy.template.encoder.decode(row.turns[-1].prompt_ids) for row in rows)
    verdict = re.compile(r"(right|wrong|wasted|invalid): ")
    modes = {("then" in hint, bool(verdict.search(hint)), " do " in hint) for hint in hints}
    assert (True, True, True) in modes, "full hints"
    assert (True, True, False) in modes, "hints without a target"
    assert (True, False, False) in modes, "environment feedback alone"
    assert any(not then and diagnosed for then, diagnosed, _ in modes), "diagnosis alone"


def test_bug_750_an_episode_whose_first_message_does_not_fit_ends_no_warm_up(tiny_policy):
    policy = tiny_policy(max_length=16)
    policy.load()
    collector = Collector(ENV, split="warmup")
    rows = ShopDemonstrations().make([EpisodeSpec(collector.task_ids[0], 0, 0)], policy.dialect, collector)
    assert [(row.turns, row.stop_reason.value) for row in rows] == [((), "context_full")]


@pytest.mark.parametrize("clean", [False, True])
def test_bug_755_another_environment_is_refused_by_name(clean, tiny_policy):
    policy = tiny_policy()
    policy.load()
    collector = Collector("hero_pl/Toy-v0")
    with pytest.raises(ConfigError, match=r"cannot play data\.env='hero_pl/Toy-v0'.*Set data\.demonstrations"):
        ShopDemonstrations(clean=clean).make([EpisodeSpec(collector.task_ids[0], 0, 0)], policy.dialect, collector)


def test_without_branches_and_reviews_nothing_but_acting_is_shown(made):
    policy, rows = made(branches=0, reviews=False)
    assert len(rows) == 40
    for row in rows:
        text = policy.template.encoder.decode(row.turns[-1].prompt_ids)
        assert "note:" not in text
        assert "review:" not in text


@pytest.mark.parametrize("kind", [ShopDemonstrations, ShopExpert])
def test_an_example_in_the_system_prompt_is_not_taken_for_the_request(kind, tiny_policy):
    policy = tiny_policy()
    policy.load()
    example = "For example:\nfind: buy a oak table with color: pink, and size: wide\nsearch[table]"
    collector = Collector(ENV, {"system_prompt": example}, split="warmup")
    demonstrations = kind(branches=0, reviews=False, noise=0.0, habit=0.0) if kind is ShopDemonstrations else kind()
    specs = [EpisodeSpec(task, i, i) for i, task in enumerate(collector.task_ids[:4])]
    rows = demonstrations.make(specs, policy.dialect, collector)
    assert all(row.system_prompt == example for row in rows)
    assert not any("table" in turn.text for row in rows for turn in row.turns)


def test_the_label_does_what_the_target_in_the_hint_says(made):
    policy, rows = made()
    asked = [(match.group(1).strip(), row) for row in rows if (match := re.search(r" do (.*)", hint_of(policy, row)))]
    assert len(asked) > 10
    for target, row in asked:
        assert target == row.turns[0].text


def test_the_label_repeats_what_a_hint_calls_right_and_leaves_what_it_calls_wrong(made):
    policy, rows = made(obedience=1.0)
    checked = 0
    for row in rows:
        match = re.search(r" (right|wrong): (.+?)(?: do .*)?$", hint_of(policy, row))
        if match:
            same = row.turns[0].text in (f"click[{match.group(2)}]", f"search[{match.group(2)}]")
            assert same == (match.group(1) == "right"), (match.group(0), row.turns[0].text)
            checked += 1
    assert checked > 20


def test_clean_demonstrations_win_every_episode(made):
    _, rows = made(clean=True)
    assert [row.reward for row in rows] == [1.0] * 40


def shown_episode(policy, row):
    """The demonstration in the leading system message of the row, or an empty text."""
    match = re.match(r"(?:<\|im_start\|>)?system\n(note: find: .*)", decoded(policy, row))
    return match.group(1) if match else ""


def decoded(policy, row):
    """The context of the row's last turn as text."""
    return policy.template.encoder.decode(row.turns[-1].prompt_ids)


def test_demonstrations_are_shown_at_their_share_of_the_hint_following_rows(made):
    policy, rows = made(demonstrations=0.4)
    followed = [row for row in rows if len(row.turns) == 1]
    shown = [row for row in followed if shown_episode(policy, row)]
    assert len(followed) == 120
    assert 0.25 < len(shown) / len(followed) < 0.55  # three standard deviations are 0.13
    assert any("note: then" in decoded(policy, row) for row in followed), "usual hints are left"


def test_a_demonstration_is_a_whole_success_of_the_same_task_and_the_label_is_right_on_the_page_in_front(made):
    policy, rows = made(demonstrations=0.99, astray=0.3)
    shown = [(row, text) for row in rows if (text := shown_episode(policy, row))]
    assert len(shown) > 100
    for row, text in shown:
        request = Request.read(row.first_observation)
        assert text.startswith(f"note: {row.first_observation} do search[{request.category}] then results: ")
        assert re.match(r".* do click\[buy now\] then done(<\|im_end\|>)?$", text)
        page = re.findall(r"user\n(.*?)(?:<\|im_end\|>)?\n", decoded(policy, row))[-1]
        assert row.turns[0].text == action(*decision(request, Page.read(page)))
    assert any(row.turns[0].text == "click[back to search]" for row, _ in shown), "off the demonstrated path too"


@pytest.mark.parametrize("overlay", sorted(BASELINES.glob("full_demo*.yaml")), ids=lambda path: path.stem)
def test_the_baselines_show_a_demonstration_as_the_warm_up_did(overlay):
    model = yaml.safe_load(overlay.read_text(encoding="utf-8"))["model"]
    assert model["policy"]["init_args"]["hint_position"] == DEMONSTRATION_POSITION
    template = model["objective"]["init_args"]["teacher"]["init_args"]["template"]
    assert read_template(template, "") == read_template(DEMONSTRATION, "")


def test_a_demonstration_takes_few_tokens(made):
    policy, rows = made(demonstrations=0.99)
    blocks = [policy.template.encoder.encode_untrusted(text) for row in rows if (text := shown_episode(policy, row))]
    assert max(map(len, blocks)) < 100


def test_without_demonstrations_the_rows_are_those_that_the_shipped_base_policies_were_made_of(made):
    _, rows = made()
    digest = hashlib.sha256(repr([(t.prompt_ids, t.action_ids) for row in rows for t in row.turns]).encode())
    assert digest.hexdigest()[:16] == "03abc0deee5f70b0"


def test_the_demonstrator_is_mediocre(made):
    _, rows = made()
    played = [row.reward >= 1.0 for row in rows if len(row.turns) > 1]
    assert 0.05 < sum(played) / len(played) < 0.7


def test_a_search_that_went_astray_is_reviewed_as_wrong_and_mended(made):
    _, rows = made(astray=0.5)
    astray = [row for row in rows if len(row.turns) > 1 and "click[back to search]" in [t.text for t in row.turns]]
    assert len(astray) > 5
    for row in astray:
        assert '"wrong: ' in row.turns[-1].text
        assert '"right: back to search"' in row.turns[-1].text


def test_habits_follow_the_position_whether_or_not_the_first_value_is_right(made):
    _, rows = made(habit=0.99, noise=0.0, astray=0.0, wasted=0.0, invalid=0.0)
    first = []
    for row in (row for row in rows if len(row.turns) > 1):
        pages = [row.first_observation, *(turn.observation for turn in row.turns)]
        for page, turn in zip(pages, row.turns[:-1], strict=False):
            kind = Request.read(row.first_observation).category
            if Page.read(page).slot in habits(kind):
                first.append(turn.text == f"click[{Page.read(page).values[0]}]")
    assert len(first) > 30
    assert sum(first) / len(first) > 0.9


def test_warm_up_tasks_are_disjoint_from_all_others():
    tasks = {split: set(Collector(ENV, split=split).task_ids) for split in ("warmup", "train", "validation", "test")}
    assert all(tasks.values())
    for split in ("train", "validation", "test"):
        assert not tasks["warmup"] & tasks[split]


def test_a_probability_of_one_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"noise=1\.0"):
        ShopDemonstrations(noise=1.0)
