"""A record of an episode is read back exactly."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from hero_pl.errors import HeroError
from hero_pl.runs.jsonl import TornLineWarning
from hero_pl.runs.records import (
    RECORDS_FILE,
    SCHEMA_VERSION,
    Record,
    append_records,
    evaluable,
    from_record,
    is_error,
    reaches,
    read_records,
    records_path,
    refused,
    succeeded,
    to_record,
)
from hero_pl.types import Diagnosis, FinishReason, Hint, Reflection, StopReason, Trajectory, Turn


def turn(number: int, prompt: tuple[int, ...], action: tuple[int, ...] = (7, 8)) -> Turn:
    return Turn(
        number=number,
        prompt_ids=prompt,
        action_ids=action,
        action_logprobs=tuple(-0.1 / (i + 3) for i in range(len(action))),
        text="think\nclick[Buy]",
        action="click[Buy]",
        observation="</script><b>done</b>",
        role="tool",
        finish_reason=FinishReason.LENGTH,
        malformed="no closing bracket" if number == 2 else None,
        policy_version=10 + number,
        cut_chars=number,
    )


def episode(*turns: Turn) -> Trajectory:
    return Trajectory(
        task_id="shop/7",
        env_id="hero_pl/Toy-v0",
        seed=3,
        group=2,
        system_prompt="You shop.",
        tools=({"name": "click", "parameters": {"type": "object"}},),
        first_observation="Buy the red cup.",
        turns=turns,
        reward=1 / 3,
        stop_reason=StopReason.MAX_TURNS,
        info={"success": False, "parts": [0.5, None, {"deep": "\ud800"}]},
        cut_chars=9,
        failures=("env_error: it broke",),
    )


@pytest.fixture
def full() -> Record:
    turns = (turn(1, (1, 2, 3)), turn(2, (1, 2, 3, 7, 8, 4)), turn(3, (1, 9, 9), (5,)))
    reflection = Reflection(
        diagnoses=(
            None,
            Diagnosis("wrong cup", "low"),
            Diagnosis("go back", "high", {"name": "back"}),
        ),
        status="repaired",
        strict=False,
        issues=(("not_json", 0), ("leak", 2)),
        raw="{...",
        tokens=41,
    )
    return Record(
        stage="train",
        step=12,
        trajectory=episode(*turns),
        reflection=reflection,
        token_loss=((0.1, 1e-17), None, (math.inf,)),
        token_student=((0.5, 1 / 3), None, (math.nan,)),
        token_teacher=((0.9, 0.0), (0.1, 0.2), None),
        hints=(None, Hint(2, "<hint>wrong cup</hint>", "low", True, "back", "system", "<hint></hint>"), None),
    )


def through_json(record: Record) -> Record:
    return from_record(json.loads(json.dumps(to_record(record), allow_nan=False)))


def test_a_record_with_everything_comes_back_exactly(full: Record) -> None:
    back = through_json(full)
    assert math.isnan(back.token_student[2][0])  # type: ignore[index]
    finite = {"token_student": None}
    assert dataclasses.replace(back, **finite) == dataclasses.replace(full, **finite)


def test_a_record_without_reflection_and_losses_comes_back_exactly() -> None:
    bare = Record("rollout", 0, episode())
    assert through_json(bare) == bare


@pytest.mark.parametrize("kind", [Trajectory, Turn, Reflection, Diagnosis, Hint, Record])
def test_no_field_is_forgotten(full: Record, kind: type) -> None:
    data = to_record(full)
    written = {
        Trajectory: data["trajectory"],
        Turn: data["trajectory"]["turns"][0],
        Reflection: data["reflection"],
        Diagnosis: data["reflection"]["diagnoses"][1],
        Hint: data["hints"][1],
        Record: data,
    }[kind]
    assert {field.name for field in dataclasses.fields(kind)} <= set(written)


def test_a_prompt_is_stored_without_what_the_turn_before_already_says(full: Record) -> None:
    turns = to_record(full)["trajectory"]["turns"]
    # Turn 2 goes on after prompt (1, 2, 3) and action (7, 8); turn 3 was rewritten after its first id.
    assert [(one["prompt_shared"], one["prompt_ids"]) for one in turns] == [(0, [1, 2, 3]), (5, [4]), (1, [9, 9])]


def test_a_file_holds_many_records_and_survives_a_crash_while_writing(tmp_path: Path, full: Record) -> None:
    path = tmp_path / "trajectories.jsonl"
    bare = Record("validate", 5, episode(turn(1, (1,))))
    assert append_records(path, [bare, bare]) == 2
    whole = path.stat().st_size
    append_records(path, [full])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.warns(TornLineWarning, match=f"at byte {whole} after 2 complete lines"):
        assert list(read_records(path)) == [bare, bare]
    with pytest.warns(TornLineWarning, match="removed"):
        append_records(path, [bare])
    assert list(read_records(path)) == [bare] * 3


def test_a_newer_schema_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    path.write_text(json.dumps({"schema": SCHEMA_VERSION + 1}) + "\n")
    with pytest.raises(HeroError, match=rf"line 1: schema {SCHEMA_VERSION + 1} is newer.*Upgrade"):
        list(read_records(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": None}, "schema is None"),
        ({"schema": True}, "schema is True"),
        ({"trajectory": {"turns": []}}, "missing"),
        ({"trajectory": None}, "unknown name or value"),
    ],
)
def test_a_line_changed_by_hand_is_refused_with_the_reason(full: Record, change: dict, message: str) -> None:
    with pytest.raises(HeroError, match=message):
        from_record({**to_record(full), **change})


def test_an_unknown_stop_reason_is_refused(full: Record) -> None:
    data = to_record(full)
    data["trajectory"]["stop_reason"] = "bored"
    with pytest.raises(HeroError, match="bored"):
        from_record(data)


@pytest.mark.parametrize("loss", [((0.1, 0.2),), ((0.1,), None, (0.3,))])
def test_losses_that_do_not_fit_the_turns_are_refused(full: Record, loss: tuple) -> None:
    with pytest.raises(HeroError, match="token_loss"):
        to_record(dataclasses.replace(full, token_loss=loss))


def test_a_line_without_hints_as_earlier_versions_wrote_it_is_read(full: Record) -> None:
    data = to_record(full)
    del data["hints"]
    assert from_record(data).hints is None


def test_hints_that_do_not_fit_the_turns_are_refused(full: Record) -> None:
    with pytest.raises(HeroError, match="1 hints for 3 turns"):
        to_record(dataclasses.replace(full, hints=(None,)))


def test_diagnoses_that_do_not_fit_the_turns_are_refused(full: Record) -> None:
    short = Reflection(diagnoses=(None,), status="ok")
    with pytest.raises(HeroError, match="1 diagnoses for 3 turns"):
        to_record(dataclasses.replace(full, reflection=short))


def test_success_is_a_full_reward_up_to_a_millionth() -> None:
    rewards = [0.1 + 0.2 + 0.7 - 1e-15, 1.0 - 1e-7, 0.999, 1.0]
    played = [dataclasses.replace(episode(), reward=reward, info={}) for reward in rewards]
    assert [succeeded(one) for one in played] == [True, True, False, True]
    assert [reaches(one, 0.999 + 1e-7) for one in played] == [True] * 4


def test_bug_780_success_is_what_the_environment_reports_and_a_threshold_reads_the_reward() -> None:
    def played(reward: float, **info: object) -> Trajectory:
        return dataclasses.replace(episode(), reward=reward, info=info)

    graded, shaped, cut = played(0.9, success=True), played(1.0, success=False), played(1.0)
    assert [succeeded(one) for one in (graded, shaped, cut)] == [True, False, True]
    assert [succeeded(played(0.0, success=text)) for text in ("yes", 1, None)] == [False] * 3  # no report
    assert [reaches(one, 1.0) for one in (graded, shaped, cut)] == [False, True, True]


def test_only_what_environment_or_sampler_broke_says_nothing_about_the_policy() -> None:
    kinds = {reason: evaluable(dataclasses.replace(episode(), stop_reason=reason)) for reason in StopReason}
    assert [reason for reason, counts in kinds.items() if not counts] == [
        StopReason.ENV_ERROR,
        StopReason.ENV_TIMEOUT,
        StopReason.ENDPOINT_ERROR,
        StopReason.SAMPLER_ERROR,
    ]


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        ("Error: order not found", True),  # retail
        ("error: results: pine kettle | wool kettle", True),  # the pocket shop
        ("Unknown action fly", True),
        ("results: error-proof kettle", False),
        ("Your reply could not be read as an action: no brackets", False),
        ("", False),
    ],
)
def test_an_answer_is_an_error_in_every_environment_s_words(observation: str, expected: bool) -> None:
    one = dataclasses.replace(turn(1, (1,)), observation=observation)
    assert is_error(observation) == refused(one) == expected
    assert refused(dataclasses.replace(one, malformed="no brackets"))


def test_records_are_found_by_folder_and_by_file(tmp_path: Path) -> None:
    assert records_path(tmp_path) == tmp_path / RECORDS_FILE == tmp_path / "trajectories.jsonl"
    assert records_path(tmp_path / "other.jsonl") == tmp_path / "other.jsonl"


def test_a_record_with_one_version_for_the_whole_episode_is_read_as_that_of_each_turn(full: Record) -> None:
    data = to_record(full)
    for entry in data["trajectory"]["turns"]:
        del entry["policy_version"]
    data["trajectory"]["policy_version"] = 4
    read = from_record(data).trajectory
    assert [turn.policy_version for turn in read.turns] == [4, 4, 4]
    assert (full.trajectory.policy_version, read.policy_version, episode().policy_version) == (11, 4, None)
