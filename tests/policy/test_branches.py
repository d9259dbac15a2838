"""Scoring with shared prefixes gives the logits of separate passes and counts the tokens that are run."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from hero_pl.batch import tokenize
from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.branch_passes import Layout, blocks_of, run_layout, tree_layout
from hero_pl.policy.branches import BranchScorer, forwarded_tokens, plan
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.loading import Lora
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.teacher.weights import EMAWeights, InitialWeights, LiveWeights, TrustRegionWeights
from hero_pl.types import Hint, HintPosition, ScoreRow, StopReason, Trajectory, Turn

QWEN: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": QWEN,
    "llama": {**QWEN, "model_type": "llama"},
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 4096},
}
HOW: list[Any] = ["prefix_cache", "tree_mask"]


def made(folder: Path, config: dict[str, Any] = QWEN, **settings: Any) -> HuggingFacePolicy:
    byte_tokenizer().save_pretrained(folder)
    policy = HuggingFacePolicy(config=config, tokenizer=str(folder), **settings)
    policy.load()
    return policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> HuggingFacePolicy:
    return made(tmp_path_factory.mktemp("bytes"))


def episode(policy: Any, turns: int, number: int = 0) -> Trajectory:
    template = policy.template
    prompt, played = template.first_prompt("Sell what is asked for.", f"customer {number}"), []
    for i in range(1, turns + 1):
        ids = (
            *template.encoder.encode_untrusted(f"offer {number} {i}" * (1 + i % 3)),
            int(template.tokenizer.eos_token_id),
        )
        played.append(Turn(i, prompt, ids, (-1.0,) * len(ids), "", "", f"seen {i}", "user"))
        prompt = template.next_prompt(prompt, ids, f"seen {i}" * i)
    return Trajectory("t", "e", 0, number, "", (), "", tuple(played), 0.0, StopReason.TERMINATED)


def teacher_rows(policy: Any, turns: Sequence[int] = (4, 1, 3), empty: bool = False) -> tuple[ScoreRow, ...]:
    trajectories = [episode(policy, count, i) for i, count in enumerate(turns)]
    hints = [[Hint(t.number, "" if empty else f"note {t.number}" * t.number) for t in e.turns] for e in trajectories]
    return tokenize(trajectories, hints, policy.dialect).teacher


def separate(policy: HuggingFacePolicy, rows: Sequence[ScoreRow], weights: str = "live") -> torch.Tensor:
    with policy.sampling():
        return torch.cat([policy.score([row], weights) for row in rows])


def shared(policy: HuggingFacePolicy, rows: Sequence[ScoreRow], how: Any, weights: str = "live") -> torch.Tensor:
    scorer = BranchScorer(how)
    with policy.sampling():
        logits = scorer.score(policy, rows, weights)
    assert scorer.reason is None
    return logits


# -- equality --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_separate_passes(how: Any, shape: str, tmp_path: Path) -> None:
    policy = made(tmp_path, SHAPES[shape])
    rows = teacher_rows(policy)
    want = separate(policy, rows)
    assert (shared(policy, rows, how) - want).abs().max() <= 1e-4
    assert want.abs().max() > 0.3


@pytest.mark.parametrize("how", HOW)
def test_rows_come_back_in_their_order_also_when_they_are_mixed(how: Any, policy: HuggingFacePolicy) -> None:
    rows = teacher_rows(policy)
    mixed = tuple(rows[i] for i in (5, 0, 7, 2, 1, 6, 3, 4))
    assert (shared(policy, mixed, how) - separate(policy, mixed)).abs().max() <= 1e-4


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("position", get_args(HintPosition))
def test_every_hint_position_gives_the_same_numbers(how: Any, position: HintPosition, tmp_path: Path) -> None:
    policy = made(tmp_path, hint_position=position)
    rows = teacher_rows(policy)
    if position == "system":  # nothing to share: the reason is told
        with pytest.warns(UserWarning, match="hint_position: system"), policy.sampling():
            got = BranchScorer(how).score(policy, rows, "live")
    else:
        got = shared(policy, rows, how)
        assert len(plan(rows)) == 3
    assert (got - separate(policy, rows)).abs().max() <= 1e-4


def test_a_history_rewritten_in_the_middle_has_two_trunks(policy: HuggingFacePolicy) -> None:
    first, second = episode(policy, 3, 1), episode(policy, 5, 2)
    turns = (*first.turns, *second.turns[3:])
    trajectory = replace(first, turns=turns)
    rows = tokenize([trajectory], [[Hint(t.number, "note") for t in turns]], policy.dialect).teacher
    assert [(tree.trunk, [i for i, _ in tree.branches]) for tree in plan(rows)] == [(2, [0, 1]), (4, [3])]


@pytest.mark.parametrize("how", HOW)
def test_equal_rows_and_empty_hints_are_scored_too(how: Any, policy: HuggingFacePolicy) -> None:
    rows = teacher_rows(policy, empty=True)
    twice = (*rows, *rows)
    assert (shared(policy, twice, how) - separate(policy, twice)).abs().max() <= 1e-4


@pytest.mark.parametrize("how", HOW)
def test_frozen_copies_and_adapters_are_scored_with_their_own_weights(how: Any, tmp_path: Path) -> None:
    from hero_pl.policy.loading import Lora

    for settings in ({}, {"lora": Lora(rank=2)}):
        policy = made(tmp_path, **settings)  # type: ignore[arg-type]
        policy.keep("initial")
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        rows = teacher_rows(policy)
        got = shared(policy, rows, how, "initial")
        assert (got - separate(policy, rows, "initial")).abs().max() <= 1e-4
        assert (got - separate(policy, rows)).abs().max() > 1e-2


# -- negative controls: the check above would notice -----------------------------------------------------------------


def shifted(layout: Layout) -> Layout:
    return replace(layout, positions=tuple(p + (i >= layout.trunk) for i, p in enumerate(layout.positions)))


def not_rebased(layout: Layout) -> Layout:
    return replace(layout, positions=tuple(range(len(layout.ids))))


def plain_causal(layout: Layout) -> Layout:
    return replace(layout, trunk=len(layout.ids), spans=())


def one_id_too_many(layout: Layout) -> Layout:
    return replace(layout, spans=tuple((start, stop, seen + 1) for start, stop, seen in layout.spans))


@pytest.mark.parametrize("pairs", [0, 1 << 30])
def test_branches_attend_alone_or_together_and_give_the_same(
    pairs: int, policy: HuggingFacePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = teacher_rows(policy, (5,))
    (tree,) = plan(rows)
    layout = tree_layout(rows, tree)
    monkeypatch.setattr("hero_pl.policy.branch_passes.TOGETHER", pairs)
    assert len(blocks_of(layout, policy.network.device)) == (1 if pairs else len(layout.spans))
    order = [tree.trunk, *(i for i, _ in tree.branches)]
    with policy.sampling():
        got = run_layout(policy.network.model, policy.network.logits_at, layout)
    assert (got - separate(policy, [rows[i] for i in order])).abs().max() <= 1e-4


@pytest.mark.parametrize("spoil", [shifted, not_rebased, plain_causal, one_id_too_many])
def test_a_wrong_position_or_mask_changes_the_logits_by_more_than_a_tenth(
    spoil: Any, policy: HuggingFacePolicy
) -> None:
    rows = teacher_rows(policy, (5,))
    (tree,) = plan(rows)
    order = [tree.trunk, *(i for i, _ in tree.branches)]
    want = separate(policy, [rows[i] for i in order])
    layout = tree_layout(rows, tree)
    with policy.sampling():
        right = run_layout(policy.network.model, policy.network.logits_at, layout)
        wrong = run_layout(policy.network.model, policy.network.logits_at, spoil(layout))
    assert (right - want).abs().max() <= 1e-4
    assert (wrong - want).abs().max() > 1e-1


# -- cost ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
def test_each_token_of_the_conversation_runs_once_and_each_hint_and_action_once(
    how: Any, policy: HuggingFacePolicy
) -> None:
    trajectory = episode(policy, 6)
    hints = ["note " * i for i in range(1, 7)]
    rows = tokenize([trajectory], [[Hint(i, text) for i, text in enumerate(hints, 1)]], policy.dialect).teacher
    generation = len(policy.template.generation_ids)
    body = len(trajectory.turns[-1].prompt_ids) - generation  # L: the conversation up to the last decision
    new = [len(row.ids) - (len(turn.prompt_ids) - generation) for row, turn in zip(rows, trajectory.turns, strict=True)]
    scorer = BranchScorer(how)
    with policy.sampling():
        scorer.can_share(policy, "live")
        before = scorer.forwarded
        scorer.score(policy, rows, "live")
    # L + sum(h + a), less the <|im_start|> of each hint message, which the conversation has at the same place
    assert scorer.forwarded - before == body + sum(new) - 5
    assert forwarded_tokens(rows) == body + sum(new) - 5
    assert sum(len(row.ids) for row in rows) > 2 * (body + sum(new))


def test_a_rewritten_history_keeps_the_numbers_and_is_reported_once(policy: HuggingFacePolicy) -> None:
    trajectory = episode(policy, 3)
    other = policy.template.first_prompt("", "an entirely different beginning of the conversation")
    changed = replace(trajectory, turns=(replace(trajectory.turns[0], prompt_ids=other), *trajectory.turns[1:]))
    batch = tokenize([changed], [[Hint(i, "note") for i in (1, 2, 3)]], policy.dialect)
    assert len(batch.student) == 2
    scorer = BranchScorer("prefix_cache")
    with pytest.warns(UserWarning, match="rewrote the history 1 times"):
        assert float(scorer.rewritten(1)["teacher/rewritten_histories"]) == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer.rewritten(1)
    with policy.sampling():
        got = scorer.score(policy, batch.teacher, "live")
    assert (got - separate(policy, batch.teacher)).abs().max() <= 1e-4


# -- networks that cannot share --------------------------------------------------------------------------------------


def test_a_policy_without_a_network_falls_back_with_a_reason() -> None:
    policy = ScriptedPolicy()
    policy.load()
    rows = teacher_rows(policy)
    scorer = BranchScorer("tree_mask")
    with pytest.warns(UserWarning, match="falls back to separate passes: ScriptedPolicy has no network"):
        logits = scorer.score(policy, rows, "live")
    assert torch.equal(logits, policy.score(rows))
    tokens = sum(len(row.ids) for row in rows)
    assert scorer.forwarded == tokens


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({**QWEN, "model_type": "mistral", "sliding_window": 8}, "sliding_window"),
        ({**QWEN, "model_type": "lfm2", "layer_types": ["conv", "full_attention"] * 2}, "raises an error|logits"),
    ],
)
def test_a_network_that_does_more_than_attend_falls_back_with_a_reason(
    config: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    policy = made(tmp_path, config, attention="eager")
    rows = teacher_rows(policy, (2,))
    scorer = BranchScorer("tree_mask")
    with pytest.warns(UserWarning, match=reason), policy.sampling():
        logits = scorer.score(policy, rows, "live")
    torch.testing.assert_close(logits, separate(policy, rows), atol=1e-4, rtol=1e-4)
    assert policy.network.model.config._attn_implementation != "hero_pl_branches"


# -- in training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("weights", [LiveWeights, InitialWeights, EMAWeights, TrustRegionWeights])
def test_a_training_step_has_the_same_loss_and_gradient(how: Any, weights: Any, tiny_module, tiny_data, fit) -> None:
    norms, losses, tokens = [], [], []
    for scoring in ("separate", how):
        settings = {"teacher": HindsightTeacher(template="short"), "teacher_scoring": scoring, "probe_turns": 0}
        module = tiny_module(SelfDistillation(ShopRules(), weights=weights(), **settings))
        fit(module, tiny_data(), 1)
        norms.append(module.last_metrics["train/grad_norm"])
        losses.append(module.last_metrics["train/loss"])
        tokens.append(module.last_metrics.get("teacher/forwarded_tokens"))
        whole = module.last_metrics["teacher/tokens"]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert tokens[0] is None
    assert tokens[1] < whole


@pytest.mark.parametrize("lora", [None, Lora(2)], ids=["whole", "adapter"])
def test_recomputed_activations_do_not_keep_the_network_from_sharing(lora: Any, tmp_path: Path) -> None:
    if lora is not None:
        pytest.importorskip("peft", reason="the adapter needs the extra `lora`")
    byte_tokenizer().save_pretrained(tmp_path)
    policy = made(tmp_path, QWEN, gradient_checkpointing=True, lora=lora)
    policy.train()  # as it is when a step is laid out
    scorer = BranchScorer("prefix_cache")
    assert scorer.can_share(policy, "live"), scorer.reason
