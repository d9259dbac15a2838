"""The method in miniature: twelve tasks, twelve actions, a hidden rule, and a model that already obeys hints.

Everything but the task is the product: chat template, sampler, hint splicing, both sides' layout, divergence,
normalisation, advantages, frozen teacher. What each arm learns is measured without hints; chance is 1/12.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from hero_pl.losses.base import DistillationLoss
from hero_pl.losses.jensen_shannon import JensenShannon
from hero_pl.losses.kl import ForwardKL, ReverseKL
from hero_pl.objectives.base import Objective
from hero_pl.objectives.policy_gradient import GRPO
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.policy.base import Policy, Sampling, ScoreRow
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.reflection.base import Reflector
from hero_pl.reflection.controls import ShuffledReflector
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.teacher.weights import GatedWeights, InitialWeights, LiveWeights, TeacherWeights
from hero_pl.types import Diagnosis, Message, Reflection, StopReason, Trajectory, Turn

TASKS = 12
BATCH = 32
UPDATES = 150
OBEDIENCE_STEPS = 700
WEIGHT_SCALE = 0.5
"""Standard deviation of the initial weights. Adam moves a weight by about the learning rate per update, whatever its
size: with the 0.02 that transformers uses for wide models, 150 updates of 3e-4 rewrite a model of width 48 altogether,
and even right-or-wrong feedback reaches 0.5 to 0.8. From 0.5 on, four seeds of it lie between 0.14 and 0.15."""
RIGHT = [7, 2, 10, 0, 5, 9, 11, 3, 1, 8, 4, 6]
"""The hidden rule: the action that task number ``i`` wants."""

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of words, a chat template and a hint template that says the diagnosis alone."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "right", "not", *(f"t{i}" for i in range(TASKS)), *(f"a{i}" for i in range(TASKS))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["<user>", "<assistant>", "<end>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    folder = tmp_path_factory.mktemp("world")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<end>",
        chat_template="{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
    ).save_pretrained(folder)
    (folder / "hint.jinja").write_text("{{ diagnosis }}")
    return folder


def fresh(world: Path, weights: Weights | None = None) -> HuggingFacePolicy:
    policy = HuggingFacePolicy(
        config={
            "model_type": "qwen3",
            "hidden_size": 48,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 12,
            "max_position_embeddings": 64,
            "initializer_range": WEIGHT_SCALE,
        },
        tokenizer=str(world),
    )
    policy.load()
    if weights is not None:
        policy.model.load_state_dict(weights)
    return policy


def context(policy: Policy, task: int) -> tuple[int, ...]:
    return policy.template.conversation([Message("user", f"t{task}")])


def action_ids(policy: Policy) -> list[int]:
    return [int(i) for i in policy.template.tokenizer.convert_tokens_to_ids([f"a{i}" for i in range(TASKS)])]


@pytest.fixture(scope="module")
def obedient(world: Path) -> Weights:
    """Weights that follow hints and know nothing else: uniform over actions until a hint says otherwise."""
    policy = fresh(world)
    actions = action_ids(policy)
    size = len(policy.template.tokenizer)
    examples: list[tuple[ScoreRow, torch.Tensor]] = []
    for task in range(TASKS):
        for action in range(TASKS):
            for hint in ("", f"a{action} right", f"not a{action}"):
                if not hint and action:
                    continue
                ids = policy.template.splice(context(policy, task), hint)
                target = torch.zeros(size)
                target[actions] = 1.0
                if hint.startswith("not"):
                    target[actions[action]] = 0.0
                elif hint:
                    target = torch.nn.functional.one_hot(torch.tensor(actions[action]), size).float()
                row = ScoreRow((*ids, actions[0]), ((len(ids), len(ids) + 1),))
                examples += [(row, target / target.sum())] * (1 if hint else 8)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=OBEDIENCE_STEPS)
    draw = torch.Generator().manual_seed(0)
    for _ in range(OBEDIENCE_STEPS):
        chosen = [examples[int(i)] for i in torch.randint(len(examples), (64,), generator=draw)]
        loss = torch.nn.functional.cross_entropy(
            policy.score([row for row, _ in chosen]), torch.stack([target for _, target in chosen])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {name: value.detach().clone() for name, value in policy.model.state_dict().items()}


class Oracle(Reflector):
    """Knows the rule; says what ``words`` makes of the chosen and the right action."""

    def __init__(self, words: Callable[[str, str], str]) -> None:
        self.words = words

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        return [
            Reflection((Diagnosis(self.words(t.turns[0].text, f"a{RIGHT[int(t.task_id)]}"), "high"),), "ok")
            for t in trajectories
        ]


def names_the_right_action(chosen: str, right: str) -> str:
    return f"{right} right"


def says_right_or_wrong(chosen: str, right: str) -> str:
    return f"{right} right" if chosen == right else f"not {chosen}"


def distillation(world: Path, reflector: Reflector) -> SelfDistillation:
    teacher = HindsightTeacher(include_next_observation=False, include_reward=False, template=str(world / "hint.jinja"))
    return SelfDistillation(reflector, teacher, InitialWeights(), JensenShannon())


def play(policy: HuggingFacePolicy, group_size: int, generator: torch.Generator) -> list[Trajectory]:
    tasks = torch.randint(TASKS, (BATCH // group_size,), generator=generator).tolist()
    seeds = torch.randint(2**31, (BATCH,), generator=generator).tolist()
    owners = [(group, task) for group, task in enumerate(tasks) for _ in range(group_size)]
    prompts = [context(policy, task) for _, task in owners]
    with policy.sampling():
        session = policy.sampler.open(policy, Sampling(max_action_tokens=1), seeds)
        replies = session.act(range(BATCH), prompts)
    trajectories = []
    for (group, task), prompt, reply, seed in zip(owners, prompts, replies, seeds, strict=True):
        text = policy.template.encoder.decode(reply.ids)
        turn = Turn(1, prompt, reply.ids, reply.logprobs, text, text, "", "user", reply.finish_reason)
        reward = float(text == f"a{RIGHT[task]}")
        trajectories.append(
            Trajectory(str(task), "rule", seed, group, "", (), f"t{task}", (turn,), reward, StopReason.TERMINATED)
        )
    return trajectories


def train(policy: HuggingFacePolicy, objective: Objective, group_size: int = 1, updates: int = UPDATES) -> float:
    """Probability of the right action without hints, after the updates."""
    objective.check(group_size)
    objective.start(policy)
    optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=3e-4)
    generator = torch.Generator().manual_seed(1)
    for _ in range(updates):
        trajectories = play(policy, group_size, generator)
        with torch.no_grad():
            step = objective.prepare(trajectories, policy, lambda local: local)
        optimizer.zero_grad()
        objective.loss(policy, step.batch).loss.backward()
        optimizer.step()
        objective.after_step(policy, trajectories)
    return skill(policy)


def skill(policy: HuggingFacePolicy) -> float:
    actions = action_ids(policy)
    contexts = [context(policy, task) for task in range(TASKS)]
    rows = [ScoreRow((*ids, actions[0]), ((len(ids), len(ids) + 1),)) for ids in contexts]
    with policy.sampling():
        probabilities = policy.score(rows).softmax(-1)
    return sum(float(probabilities[task, actions[RIGHT[task]]]) for task in range(TASKS)) / TASKS


def test_the_taught_model_obeys_hints_and_knows_no_task(world: Path, obedient: Weights) -> None:
    policy = fresh(world, obedient)
    actions = action_ids(policy)
    ids = policy.template.splice(context(policy, 3), "a5 right")
    with policy.sampling():
        hinted = policy.score([ScoreRow((*ids, actions[0]), ((len(ids), len(ids) + 1),))]).softmax(-1)[0]
    assert hinted[actions[5]] > 0.9
    assert skill(policy) == pytest.approx(1 / TASKS, abs=0.02)


def test_hints_that_name_the_right_action_are_learnt_by_the_model_without_hints(world: Path, obedient: Weights) -> None:
    learnt = train(fresh(world, obedient), distillation(world, Oracle(names_the_right_action)))
    print(f"hero {learnt:.3f}")
    assert learnt >= 0.9


@pytest.mark.parametrize("divergence", [ForwardKL(), ReverseKL()])
def test_other_divergences_teach_the_same(world: Path, obedient: Weights, divergence: DistillationLoss) -> None:
    objective = distillation(world, Oracle(names_the_right_action))
    objective.divergence = divergence
    assert train(fresh(world, obedient), objective) >= 0.85


def test_feedback_that_says_only_right_or_wrong_teaches_a_little(world: Path, obedient: Weights) -> None:
    learnt = train(fresh(world, obedient), distillation(world, Oracle(says_right_or_wrong)))
    print(f"feedback only {learnt:.3f}")
    assert 1 / TASKS + 0.01 < learnt < 0.3


def test_shuffled_diagnoses_teach_nothing(world: Path, obedient: Weights) -> None:
    shuffled = ShuffledReflector(Oracle(names_the_right_action))
    learnt = train(fresh(world, obedient), distillation(world, shuffled))
    print(f"shuffled {learnt:.3f}")
    assert learnt <= 0.10


def test_grpo_on_as_many_samples_learns_less_than_hindsight_and_more_than_feedback(
    world: Path, obedient: Weights
) -> None:
    learnt = train(fresh(world, obedient), GRPO(), group_size=4)
    print(f"grpo {learnt:.3f}")
    assert 0.3 < learnt < 0.9


def test_what_a_live_teacher_learns_is_recorded_but_not_judged(
    world: Path, obedient: Weights, record_property: Callable[[str, object], None]
) -> None:
    objective = distillation(world, Oracle(names_the_right_action))
    objective.weights = LiveWeights()
    learnt = train(fresh(world, obedient), objective)
    print(f"live teacher {learnt:.3f}")
    record_property("live_teacher", learnt)
    assert 0.0 <= learnt <= 1.0


@pytest.mark.slow
def test_a_frozen_teacher_survives_300_updates_in_which_a_live_one_decays(
    world: Path, obedient: Weights, record_property: Callable[[str, object], None]
) -> None:
    def after_300_updates(weights: TeacherWeights) -> float:
        objective = distillation(world, Oracle(names_the_right_action))
        objective.weights = weights
        return train(fresh(world, obedient), objective, updates=300)

    initial, gated, live = (after_300_updates(weights) for weights in (InitialWeights(), GatedWeights(), LiveWeights()))
    print(f"initial {initial:.3f}, gated {gated:.3f}, live {live:.3f}")
    # A gated teacher is renewed while reward rises, and inherits what training overwrites: between the two, not judged.
    record_property("gated_teacher", gated)
    assert initial >= 0.95
    assert live <= 0.5
