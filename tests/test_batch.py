"""Student and teacher rows of every action: which ids are scored, and that splitting a step changes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from hero_pl.batch import TokenizedBatch, _Layout, check_alignment, tokenize, whole_action
from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.chat.template import CHATML, ChatTemplate
from hero_pl.errors import TokenAlignmentError
from hero_pl.losses.jensen_shannon import JensenShannon
from hero_pl.losses.normalize import Normalization, normalized_sum
from hero_pl.objectives.policy_gradient import PolicyGradient
from hero_pl.policy.base import Policy
from hero_pl.policy.branches import forwarded_tokens
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.teacher.weights import LiveWeights
from hero_pl.types import (
    Diagnosis,
    Hint,
    HintPosition,
    Message,
    Reflection,
    Role,
    ScoreRow,
    StopReason,
    Trajectory,
    Turn,
)

TINY = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 2048,
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> HuggingFacePolicy:
    folder = tmp_path_factory.mktemp("bytes")
    byte_tokenizer().save_pretrained(folder)
    loaded = HuggingFacePolicy(config=TINY, tokenizer=str(folder))
    loaded.load()
    return loaded


@pytest.fixture(scope="module")
def scripted() -> ScriptedPolicy:
    loaded = ScriptedPolicy()
    loaded.load()
    return loaded


def episode(
    policy: Policy, steps: Sequence[tuple[str, str]], first: str = "hello", reward: float = 0.0, role: Role = "user"
) -> Trajectory:
    """An episode with these ``(reply, observation)`` pairs."""
    template = policy.template
    prompt = template.first_prompt("be brief", first)
    turns = []
    for number, (reply, observation) in enumerate(steps, 1):
        ids = (*template.encoder.encode_untrusted(reply), int(template.tokenizer.eos_token_id))
        turns.append(Turn(number, prompt, ids, (-1.0,) * len(ids), reply, reply, observation, role))
        prompt = template.next_prompt(prompt, ids, observation, role)
    return Trajectory("task", "env", 0, 0, "be brief", (), first, tuple(turns), reward, StopReason.TERMINATED)


def hints_for(trajectory: Trajectory, *texts: str | None) -> list[Hint | None]:
    return [None if text is None else Hint(i, text) for i, text in enumerate(texts, 1)]


def decoded(policy: Policy, row: ScoreRow) -> str:
    return str(policy.template.tokenizer.decode(list(row.ids)))


def ragged(policy: Policy) -> tuple[list[Trajectory], list[list[Hint | None]]]:
    """Eight episodes of unequal length, some turns without a hint."""
    trajectories, hints = [], []
    for i in range(8):
        steps = [("go " * (1 + (i * 5 + j) % 4), f"saw {i}{j}") for j in range(1 + i % 3)]
        trajectories.append(replace(episode(policy, steps, first=f"task {i}"), reward=float(i % 2)))
        hints.append([None if (i + j) % 4 == 3 else Hint(j + 1, f"note {i * j}") for j in range(len(steps))])
    return trajectories, hints


def loss_of(policy: Policy, micro: TokenizedBatch) -> torch.Tensor:
    teacher = LiveWeights().scores(policy, micro.teacher).logits()
    return normalized_sum(micro.coefficient, JensenShannon()(policy.score(micro.student), teacher))


def gradient(policy: Policy, batches: Sequence[TokenizedBatch]) -> torch.Tensor:
    policy.zero_grad()
    for micro in batches:
        loss_of(policy, micro).backward()
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def test_bug_03_hint_ids_never_reach_the_student(scripted: ScriptedPolicy) -> None:
    trajectory = episode(scripted, [("one", "o1"), ("two", "o2")])
    batch = tokenize([trajectory], [hints_for(trajectory, "SECRET1", "SECRET2")], scripted.dialect)
    assert all("SECRET" not in decoded(scripted, row) for row in batch.student)
    assert ["SECRET1" in decoded(scripted, row) for row in batch.teacher] == [True, False]
    assert ["SECRET2" in decoded(scripted, row) for row in batch.teacher] == [False, True]


def test_bug_04_an_empty_hint_gives_exactly_no_divergence_and_no_gradient(policy: HuggingFacePolicy) -> None:
    trajectory = episode(policy, [("one", "o1")])
    batch = tokenize([trajectory], [hints_for(trajectory, "")], policy.dialect)
    student = policy.score(batch.student)
    divergence = JensenShannon()(student, LiveWeights().scores(policy, batch.teacher).logits())
    assert torch.equal(divergence, torch.zeros(len(batch)))
    assert not gradient(policy, [batch]).any()
    other = tokenize([trajectory], [hints_for(trajectory, "look again")], policy.dialect)
    assert gradient(policy, [other]).any()


def test_bug_04_empty_hints_on_later_turns_differ_by_rounding_at_most(policy: HuggingFacePolicy) -> None:
    trajectory = episode(policy, [("one", "o1"), ("two", "o2"), ("three", "o3")])
    batch = tokenize([trajectory], [hints_for(trajectory, "", "", "")], policy.dialect)
    divergence = JensenShannon()(policy.score(batch.student), LiveWeights().scores(policy, batch.teacher).logits())
    assert divergence.abs().max() < 1e-9


@pytest.mark.parametrize("position", get_args(HintPosition))
@pytest.mark.parametrize("role", ["user", "tool"])
def test_bug_04_an_empty_hint_gives_no_divergence_at_any_hint_position(
    position: HintPosition, role: Role, policy: HuggingFacePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy.template, "hint_position", position)
    trajectory = episode(policy, [("one", "o1"), ("two", "o2")], role=role)
    for turn in trajectory.turns:  # a turn by itself: both sides run the same row, so nothing may differ at all
        alone = replace(trajectory, turns=(turn,))
        batch = tokenize([alone], [[Hint(turn.number, "")]], policy.dialect)
        student = policy.score(batch.student)
        assert torch.equal(student, LiveWeights().scores(policy, batch.teacher).logits())
        hinted = tokenize([alone], [[Hint(turn.number, "look again")]], policy.dialect)
        assert "look again" in decoded(policy, hinted.teacher[0])
        assert "look again" not in decoded(policy, hinted.student[0])
        divergence = JensenShannon()(student, LiveWeights().scores(policy, hinted.teacher).logits())
        assert divergence.max() > 1e-9


def test_bug_05_only_sampled_ids_are_scored(scripted: ScriptedPolicy) -> None:
    trajectory = episode(scripted, [("one", "o1"), ("two", "o2")])
    batch = tokenize([trajectory], None, scripted.dialect)
    (row,) = batch.student
    scored = [token for start, stop in row.spans for token in row.ids[start:stop]]
    assert scored == [token for turn in trajectory.turns for token in turn.action_ids] == batch.action_ids.tolist()


def test_bug_06_the_teacher_reads_earlier_observations(policy: HuggingFacePolicy) -> None:
    def teacher_scores(observation: str) -> torch.Tensor:
        trajectory = episode(policy, [("one", observation), ("two", "end")])
        batch = tokenize([trajectory], [hints_for(trajectory, "note", "note")], policy.dialect)
        return LiveWeights().scores(policy, batch.teacher).logits()

    first_turn = len(episode(policy, [("one", "")]).turns[0].action_ids)
    before, after = teacher_scores("open"), teacher_scores("shut")
    torch.testing.assert_close(before[:first_turn], after[:first_turn])
    assert (before[first_turn:] - after[first_turn:]).abs().max() > 1e-5


def test_bug_07_sampled_ids_are_kept_although_encoding_their_text_gives_others() -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate([*alphabet, "ab"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>")])
    merging = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=CHATML)
    policy = ScriptedPolicy(template=ChatTemplate(merging))
    policy.load()
    sampled = (vocab["a"], vocab["b"], int(merging.eos_token_id))
    assert policy.template.encoder.encode_untrusted(policy.template.encoder.decode(sampled)) == (vocab["ab"],)

    prompt = policy.template.first_prompt("", "hi")
    following = policy.template.next_prompt(prompt, sampled, "ab?")
    turns = (
        Turn(1, prompt, sampled, (-1.0,) * 3, "ab", "ab", "ab?", "user"),
        Turn(2, following, sampled, (-1.0,) * 3, "ab", "ab", "", "user"),
    )
    trajectory = Trajectory("t", "e", 0, 0, "", (), "hi", turns, 0.0, StopReason.TERMINATED)
    batch = tokenize([trajectory], [hints_for(trajectory, "ab", "ab")], policy.dialect)
    assert batch.action_ids.tolist() == [*sampled, *sampled]
    for row in (*batch.student, *batch.teacher):
        assert all(row.ids[start:stop] == sampled for start, stop in row.spans)
    assert following[: len(prompt) + 3] == (*prompt, *sampled)
    assert len(batch.student) == 1


def test_bug_08_a_rewritten_history_starts_a_new_row(scripted: ScriptedPolicy) -> None:
    trajectory = episode(scripted, [("think, one", "o1"), ("two", "o2")])
    assert len(tokenize([trajectory], None, scripted.dialect).student) == 1
    shorter = [Message("user", "hello"), Message("assistant", "one"), Message("user", "o1")]
    rewritten = replace(trajectory.turns[1], prompt_ids=scripted.template.conversation(shorter))
    changed = replace(trajectory, turns=(trajectory.turns[0], rewritten))
    batch = tokenize([changed], None, scripted.dialect)
    assert len(batch.student) == 2
    assert batch.student[1].ids == rewritten.prompt_ids + rewritten.action_ids
    assert [row.trajectory for row in batch.student] == [0, 0]


@pytest.mark.parametrize("mode", [mode for mode in Normalization if mode is not Normalization.SEQ_MEAN_TOKEN_SUM_NORM])
def test_bug_15_and_16_micro_batches_give_the_gradient_of_the_whole_step(
    policy: HuggingFacePolicy, mode: Normalization
) -> None:
    trajectories, hints = ragged(policy)
    batch = tokenize(trajectories, hints, policy.dialect, mode)
    whole = gradient(policy, [batch])
    assert whole.abs().max() > 0
    counts = []
    for size in (1, 400, 900, 10**6):
        parts = list(batch.split(size))
        counts.append(len(parts))
        assert sum(len(part) for part in parts) == len(batch)
        assert (gradient(policy, parts) - whole).norm() < 1e-5 * whole.norm()
    assert counts[0] >= 7
    assert counts[0] > counts[1] > counts[-1] == 1


def test_a_turn_of_weight_zero_leaves_the_loss_and_its_denominator(scripted: ScriptedPolicy) -> None:
    trajectory = episode(scripted, [("one", "o1"), ("two", "o2")])
    batch = tokenize([trajectory], None, scripted.dialect, weight=lambda i, turn, hint: float(turn.number == 2))
    assert batch.turn_numbers == (2,)
    assert batch.coefficient.sum().item() == pytest.approx(1.0)


def test_a_turn_without_a_hint_leaves_the_loss_but_stays_in_the_context(scripted: ScriptedPolicy) -> None:
    trajectory = episode(scripted, [("one", "o1"), ("two", "o2"), ("three", "o3")])
    batch = tokenize([trajectory], [hints_for(trajectory, "a", None, "c")], scripted.dialect)
    assert batch.turn_numbers == (1, 3)
    (row,) = batch.student
    assert "two" in decoded(scripted, row)
    assert len(row.spans) == 2


def test_bug_18_a_batch_without_hints_is_empty_and_splits_into_nothing(scripted: ScriptedPolicy) -> None:
    trajectory = episode(scripted, [("one", "o1")])
    batch = tokenize([trajectory], [[None]], scripted.dialect)
    assert len(batch) == 0
    assert list(batch.split(100)) == []


GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512}
GPT2_DROPOUT = {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}


@pytest.mark.parametrize("config", [{**TINY, "attention_dropout": 0.5}, {**GPT2, **GPT2_DROPOUT}])
def test_bug_23_dropout_of_a_configuration_never_reaches_the_scores(tmp_path: Path, config: dict[str, object]) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    dropping = HuggingFacePolicy(config=config, tokenizer=str(tmp_path))
    dropping.load()
    dropping.train()
    trajectory = episode(dropping, [("one two three", "o1")])
    batch = tokenize([trajectory], [hints_for(trajectory, "note")], dropping.dialect)
    assert torch.equal(
        LiveWeights().scores(dropping, batch.teacher).logits(), LiveWeights().scores(dropping, batch.teacher).logits()
    )
    assert torch.equal(dropping.score(batch.student), dropping.score(batch.student))
    assert dropping.training


def test_bug_31_the_last_observation_is_in_no_earlier_hint(scripted: ScriptedPolicy) -> None:
    trajectory = episode(scripted, [("one", "o1"), ("two", "o2"), ("three", "CANARY")], reward=0.5)
    reflection = Reflection((Diagnosis("fine", "high"),) * 3, "ok")
    hints = HindsightTeacher().advise([trajectory], [reflection], scripted.dialect)
    batch = tokenize([trajectory], hints, scripted.dialect)
    assert ["CANARY" in decoded(scripted, row) for row in batch.teacher] == [False, False, True]
    assert all("CANARY" not in decoded(scripted, row) for row in batch.student)


def test_bug_32_a_turn_whose_hint_does_not_fit_is_dropped_and_counted(scripted: ScriptedPolicy) -> None:
    trajectory = episode(scripted, [("one", "o1"), ("two", "o2")])
    long = "x" * 200
    room = len(scripted.template.insert_hint(trajectory.turns[0].prompt_ids, long)) + len(
        trajectory.turns[0].action_ids
    )
    tight = ScriptedPolicy(template=scripted.template)
    tight.load()
    for limit, kept in ((room, (1,)), (room - 1, ())):
        tight.max_length = limit
        batch = tokenize([trajectory], [hints_for(trajectory, long, long)], tight.dialect)
        assert batch.turn_numbers == kept
        assert batch.counters["teacher/overflow_turns"] == 2 - len(kept)
        assert len(batch.teacher) == len(kept)
        for row in batch.teacher:
            assert row.ids == tight.template.insert_hint(trajectory.turns[0].prompt_ids, long) + (
                trajectory.turns[0].action_ids
            )


def test_bug_36_each_reward_stays_with_its_trajectory_through_reordering_and_splitting(
    scripted: ScriptedPolicy,
) -> None:
    trajectories = [episode(scripted, [(f"say {i}" * (i + 1), "o")], reward=i / 8) for i in range(8)]
    for order in (range(8), (3, 1, 7, 0, 2, 6, 5, 4)):
        chosen = [trajectories[i] for i in order]
        step = PolicyGradient("none").prepare(chosen, scripted, lambda local: local)
        seen = {}
        for part in step.batch.split(60):
            for row in part.trajectory.unique().tolist():
                mine = part.trajectory == row
                text = scripted.template.encoder.decode(tuple(part.action_ids[mine].tolist()))
                (seen[text],) = set(part.advantage[mine].tolist())
        assert seen == {t.turns[0].text: pytest.approx(t.reward) for t in trajectories}


def test_a_teacher_row_that_scores_other_ids_is_refused_with_task_turn_and_position(scripted: ScriptedPolicy) -> None:
    trajectory = episode(scripted, [("abc", "o1")])
    turn = trajectory.turns[0]
    ids = turn.prompt_ids + turn.action_ids
    start = len(turn.prompt_ids)
    check_alignment(trajectory, turn, ScoreRow(ids, ((start, len(ids)),)))
    with pytest.raises(TokenAlignmentError, match=r"Task task, turn 1.*position 0"):
        check_alignment(trajectory, turn, ScoreRow(ids, ((start - 1, len(ids) - 1),)))
    with pytest.raises(TokenAlignmentError, match="position 2"):
        check_alignment(trajectory, turn, ScoreRow(ids, ((start, start + 2),)))


def test_a_context_from_another_template_is_refused(scripted: ScriptedPolicy) -> None:
    trajectory = episode(scripted, [("abc", "o1")])
    foreign = replace(trajectory, turns=(replace(trajectory.turns[0], prompt_ids=(1, 2, 3)),))
    with pytest.raises(TokenAlignmentError, match="generation prompt"):
        tokenize([foreign], [hints_for(foreign, "note")], scripted.dialect)


def test_student_rows_that_hold_other_ids_than_sampled_are_refused(scripted: ScriptedPolicy) -> None:
    (turn,) = episode(scripted, [("yes", "no")]).turns
    layout = _Layout(scripted, whole_action, False)
    layout.add(0, episode(scripted, [("yes", "no")]), turn, None, 1.0, 0.0, [])
    layout.ids[0] += 1
    with pytest.raises(TokenAlignmentError, match="the student would score other ids"):
        layout.close_rows()


@dataclass(frozen=True, slots=True)
class Noted(TokenizedBatch):
    """A batch with additional fields of every type."""

    maybe: torch.Tensor | None = None
    nothing: torch.Tensor | None = None
    label: str = ""


def test_bug_61_and_62_optional_tensors_are_split_with_the_tokens(
    scripted: ScriptedPolicy,
) -> None:
    played = [episode(scripted, [(f"say {i}", "o"), ("again", "o")]) for i in range(3)]
    whole = tokenize(played, [hints_for(trajectory, "note", "look") for trajectory in played], scripted.dialect)
    given = {field.name: getattr(whole, field.name) for field in fields(whole)}
    batch = Noted(**given, maybe=torch.arange(len(whole)), label="mine")
    parts = list(batch.split(1))
    assert [int(part.trajectory.unique()) for part in parts] == [0, 1, 2]
    for part in parts:
        assert isinstance(part, Noted)
        assert part.maybe is not None
        assert torch.equal(batch.action_ids[part.maybe], part.action_ids)
        assert (part.nothing, part.label) == (None, "mine")
        for rows in (part.student, part.teacher):
            assert {row.trajectory for row in rows} == set(part.trajectory.tolist())
        for name in ("rollout_logprobs", "turn", "position", "coefficient", "advantage", "teacher_mask"):
            assert torch.equal(getattr(batch, name)[part.maybe], getattr(part, name)), name
    assert torch.equal(torch.cat([part.maybe for part in parts]), batch.maybe)  # type: ignore[misc, arg-type]


def test_a_micro_batch_is_billed_for_the_tokens_that_run(policy: HuggingFacePolicy) -> None:
    trajectories, hints = ragged(policy)
    batch = tokenize(trajectories, hints, policy.dialect)
    sharing = replace(batch, teacher_shares=True)
    cost = sum(len(row.ids) for row in batch.student) + forwarded_tokens(batch.teacher)
    assert cost < sum(len(row.ids) for row in (*batch.student, *batch.teacher))
    assert len(list(sharing.split(cost))) == 1
    assert len(list(sharing.split(cost - 1))) == 2
    assert len(list(batch.split(cost))) > 1
