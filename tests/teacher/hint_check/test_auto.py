"""``template: auto`` measures once, chooses a wording that helps the policy, and refuses harmful ones."""

import json

import pytest

from hero_pl.callbacks.hint_check import HintCheck
from hero_pl.errors import ConfigError
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.scalars import add_up
from hero_pl.teacher.hindsight import FeedbackOnlyTeacher, HindsightTeacher


def test_bug_859_it_takes_the_wording_that_the_policy_reads(reader, batch) -> None:
    teacher = HindsightTeacher(template="auto")
    policy = reader("Better: ")
    played, reflections = batch(policy)
    policy.reads = lambda context: (
        context.rpartition("Better: ")[2].partition(")")[0] if "Better: " in context else None
    )
    teacher.settle(played, reflections, policy)
    hint = teacher.advise(played, reflections, policy.dialect)[0][0]
    assert (teacher.wording.template, hint.position) == ("inline", "last_message")
    assert hint.text == "(Hint: wrong: bad. Better: click[good0])"
    of_two_processes = add_up([teacher.metrics()] * 2)  # each has the report of all
    assert float(of_two_processes["hint_check_tokens"]) == teacher.report.tokens > 0


def test_it_refuses_to_train_where_no_wording_helps_and_force_trains_anyway(reader, batch) -> None:
    policy = reader("no such word")
    played, reflections = batch(policy)
    with pytest.raises(ConfigError, match=r"(?s)no wording.*--force true.*obeys nothing"):
        HindsightTeacher(template="auto").settle(played, reflections, policy)
    forced = HindsightTeacher(template="auto", force=True)
    forced.settle(played, reflections, policy)
    assert forced.wording == forced.report.first.wording


def test_a_batch_without_corrected_actions_says_that_nothing_can_be_measured(reader, batch) -> None:
    policy = reader("; do ")
    played, reflections = batch(policy, count=0)
    with pytest.raises(ConfigError, match="no turn of the first batch"):
        HindsightTeacher(template="auto").settle(played, reflections, policy)


def test_it_measures_once_and_a_resumed_run_not_at_all(reader, batch) -> None:
    policy = reader("; do ")
    played, reflections = batch(policy)
    teacher = HindsightTeacher(template="auto")
    assert teacher.state_dict() == {}
    teacher.settle(played, reflections, policy)
    first = teacher.report
    policy.reads = lambda context: None
    teacher.settle(played, reflections, policy)
    assert teacher.report is first
    resumed = HindsightTeacher(template="auto")
    resumed.load_state_dict(json.loads(json.dumps(teacher.state_dict())))
    resumed.settle(played, reflections, policy)
    assert resumed.report is None
    assert (resumed.wording, resumed.scaffold) == (teacher.wording, "note:")


def test_a_template_of_the_user_can_be_a_candidate(reader, batch, tmp_path) -> None:
    (tmp_path / "mine.jinja").write_text("HEY {{ target }}")
    policy = reader("HEY ")
    played, reflections = batch(policy)
    teacher = HindsightTeacher(template="auto", candidates=["short", str(tmp_path / "mine.jinja")])
    teacher.settle(played, reflections, policy)
    assert teacher.wording.template == str(tmp_path / "mine.jinja")


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="position"):
        HindsightTeacher(template="auto", position="last_message")
    with pytest.raises(ConfigError, match="candidates"):
        HindsightTeacher(template="short", candidates=["short"])
    with pytest.raises(ConfigError, match="FeedbackOnlyTeacher"):
        FeedbackOnlyTeacher(template="auto")


def test_a_run_keeps_and_tells_what_was_measured(tiny_module, tiny_data, fit, tmp_path, capsys) -> None:
    from lightning.pytorch.loggers import CSVLogger

    module = tiny_module(SelfDistillation(ShopRules(), HindsightTeacher(template="auto", force=True)))
    fit(module, tiny_data(), 2, callbacks=[HintCheck()], logger=CSVLogger(tmp_path, "run"))
    (record,) = tmp_path.glob("run/version_*/hint_check.json")
    values = json.loads(record.read_text())
    teacher = module.objective.teacher
    assert values["taken"] == [teacher.wording.template, teacher.wording.position]
    assert values["tokens"] == module.last_metrics["teacher/hint_check_tokens"] > 0
    assert f"template: auto chose {teacher.wording}" in " ".join(capsys.readouterr().out.split())


def test_a_refused_run_trains_no_step_and_keeps_the_measurement(tiny_module, tiny_data, fit, tmp_path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    module = tiny_module(SelfDistillation(ShopRules(), HindsightTeacher(template="auto")))
    with pytest.raises(ConfigError, match="--force true"):
        fit(module, tiny_data(), 2, callbacks=[HintCheck()], logger=CSVLogger(tmp_path, "run"))
    assert module.policy.version == 0
    assert json.loads(next(tmp_path.glob("run/version_*/hint_check.json")).read_text())["best"] is None
