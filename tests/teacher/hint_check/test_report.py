"""The report names the best wording, fits a terminal, and is valid JSON."""

import json
from dataclasses import replace

import pytest

from hero_pl.errors import HeroError
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.teacher.hint_check.cases import ALL, Arm, make_cases
from hero_pl.teacher.hint_check.report import (
    SHARPER,
    WEAK,
    check_hints,
    choice,
    conclusion,
    draw,
    refusal,
    summary,
    table_text,
)
from hero_pl.teacher.hint_check.report import _best as best_of
from hero_pl.teacher.hint_check.verdict import Change, Judged, Kind
from hero_pl.teacher.render import HintTemplate
from hero_pl.teacher.wordings import POSITIONS, Wording, wordings


def report(policy, batch, **settings):
    cases = make_cases(*batch(policy, 6), HindsightTeacher().facts, policy.dialect)
    templates = {wording: HintTemplate(wording.template, 1024, 1536) for wording in wordings()}
    return check_hints(cases, templates, policy, ALL, **settings)


def test_the_best_wording_comes_first_with_the_arguments_that_choose_it(reader, batch) -> None:
    outcome = report(reader("Reply with exactly this action: ", "Note: "), batch)
    assert outcome.best.wording.template == "reply_exactly"
    assert choice(outcome) == (
        "--model.objective.init_args.teacher.init_args.template reply_exactly "
        f"--model.objective.init_args.teacher.init_args.position {outcome.best.wording.position}"
    )
    assert "reply_exactly" in summary(outcome)
    assert f"{outcome.tokens} tokens" in summary(outcome)


def test_of_wordings_that_help_alike_the_first_is_taken(reader, batch) -> None:
    policy = reader("; do ")
    cases = make_cases(*batch(policy), HindsightTeacher().facts, policy.dialect)
    for position, other in (("before_action", "last_message"), ("last_message", "before_action")):
        chosen = [Wording("full"), Wording("short", position), Wording("short", other)]
        outcome = check_hints(cases, {w: HintTemplate(w.template, 1024, 1536) for w in chosen}, policy, ALL)
        assert outcome.best.wording == Wording("short", position)


def judged(template: str, mean: float, half: float) -> Judged:
    change = Change(mean, mean - half, mean + half, 32, 10)
    return Judged(Wording(template), Kind.USABLE, *[change] * 7, change, {}, {}, {})


def test_bug_699_the_wording_that_helps_most_is_taken_unless_the_own_one_may_be_as_good() -> None:
    close = [judged("short", 0.13, 0.09), judged("reply_exactly", 0.17, 0.09)]
    assert best_of(close, None).wording.template == "reply_exactly"
    assert best_of(close, "short").wording.template == "short"
    apart = [judged("short", 0.13, 0.01), judged("reply_exactly", 0.17, 0.01)]
    assert best_of(apart, "short").wording.template == "reply_exactly"
    assert best_of([], "short") is None


def test_of_the_shipped_wordings_prose_is_taken_last(reader, batch) -> None:
    outcome = report(reader("Better: ", "; do ", "Again, with ", "Reply with exactly this action: ", "been: "), batch)
    assert {one.kind for one in outcome.judged} == {Kind.USABLE, Kind.UNTRIED}
    assert outcome.best.wording == Wording("short", "before_action")
    assert list(POSITIONS)[-1] == "full"


def test_bug_700_wordings_that_are_not_taken_are_measured_in_part_and_change_no_choice(reader, batch) -> None:
    policy = reader("; do ")
    spared, whole = report(policy, batch), report(policy, batch, drop=False)
    assert (spared.best, spared.bare) == (whole.best, whole.bare)
    assert spared.tokens < 0.5 * whole.tokens
    turns = {str(one.wording): (one.kind, one.overall.turns, one.content.turns) for one in spared.judged}
    assert turns["short @ before_action"] == (Kind.USABLE, 12, 6)
    assert turns["short @ last_message"] == (Kind.UNTRIED, 12, 0)
    assert turns["full @ before_action"] == (Kind.LESS, 4, 0)
    assert "helps less than another" in table_text(spared)
    kept = {str(one.wording): one.content.turns for one in report(policy, batch, own="full").judged}
    assert (kept["full @ before_action"], kept["short @ before_action"], kept["inline @ last_message"]) == (6, 6, 0)


def test_if_the_best_may_not_be_used_the_next_one_is_tried(reader, batch) -> None:
    policy = reader("; do ")
    reads = policy.reads

    def stubborn(context: str) -> str | None:
        """With this wording it does what is right, whatever the hint says."""
        if "Note: right" in context:
            return "click[ok]"
        number = context.partition("task ")[2].partition("<|im_end|>")[0]
        return f"click[good{number}]" if "exactly this action: c" in context else reads(context)

    policy.reads = stubborn
    outcome = report(policy, batch)
    kinds = {str(one.wording): one.kind for one in outcome.judged}
    assert kinds["reply_exactly @ last_message"] is Kind.ANY_HINT
    assert outcome.best.wording.template == "short"


def test_no_wording_is_dropped_before_its_difference_is_resolved(reader, batch) -> None:
    assert {one.overall.turns for one in report(reader("no such word"), batch).judged} == {12}


def test_a_corrected_action_that_stays_unlikely_is_reported(reader, batch) -> None:
    policy = reader("; do ")
    assert WEAK in summary(report(policy, batch))
    policy.strength = 20.0
    assert WEAK not in summary(report(policy, batch))


def test_a_hint_that_ranks_the_corrected_action_first_but_leaves_it_unlikely_asks_for_a_sharper_teacher(
    reader, batch
) -> None:
    policy = reader("; do ")
    policy.strength = 8.0
    outcome = report(policy, batch)
    assert outcome.best.first == {"blamed": 1.0, "right": 0.0}
    assert 0.1 < outcome.best.probability[Arm.HINT.value] < 0.6
    assert "first on 1.00 of the blamed turns" in summary(outcome)
    assert SHARPER in summary(outcome)
    assert outcome.to_json()["wordings"][0]["ranked_first"] == {"blamed": 1.0, "right": 0.0}
    policy.strength = 20.0
    assert SHARPER not in summary(report(policy, batch))


def test_a_policy_that_reads_nothing_has_no_best_wording(reader, batch) -> None:
    outcome = report(reader("no such word"), batch)
    assert outcome.best is None
    assert choice(outcome) == ""
    assert {one.kind for one in outcome.judged} == {Kind.NOTHING}
    assert "--force" in refusal(outcome)
    assert "obeys nothing" in refusal(outcome)


def test_bug_776_only_wordings_that_were_measured_to_fail_say_do_not_train(reader, batch) -> None:
    outcome = report(reader("no such word"), batch)
    assert conclusion(outcome) == "No wording helps: do not train with hints of this policy."
    assert "Nothing could be measured" in conclusion(replace(outcome, blamed=0))
    open_ = [replace(outcome.judged[0], kind=Kind.UNRESOLVED), *outcome.judged[1:]]
    assert conclusion(replace(outcome, judged=tuple(open_))) == (
        f"Not resolved: {outcome.judged[0].wording}. Measure more --episodes and --turns before you train with hints."
    )
    best = report(reader("; do "), batch)
    assert conclusion(best) == f"Use it: {choice(best)}"


def test_the_table_fits_into_88_columns_and_names_every_wording(reader, batch) -> None:
    text = table_text(report(reader("; do "), batch))
    assert max(map(len, text.splitlines())) <= 88
    assert all(name in text for name in ("short", "full", "inline", "chat", "no hint", "6 blamed turns"))


def test_the_report_is_json_without_what_json_does_not_know(reader, batch) -> None:
    values = json.loads(json.dumps(report(reader("; do "), batch).to_json(), allow_nan=False))
    assert values["best"]["template"] == "short"
    assert (values["blamed"], values["right"], values["episodes"]) == (6, 6, 6)
    assert values["wordings"][0]["blamed"]["mean"] > 0.9
    assert values["wordings"][0]["gain_nats"]["blamed"] > 1.0


def test_bug_880_the_figure_is_a_picture_or_the_reason_why_it_cannot_be_written(reader, batch, tmp_path) -> None:
    pytest.importorskip("matplotlib", reason="the figure needs the extra `plot`")
    draw(report(reader("; do "), batch), tmp_path / "hints.png")
    assert (tmp_path / "hints.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(HeroError, match="cannot write the plot"):
        draw(report(reader("; do "), batch), tmp_path / "hints.png" / "more.png")
