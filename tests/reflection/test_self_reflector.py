"""The policy reviews its own episodes: what it is asked, in which windows, and what happens after a bad answer."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.errors import ConfigError, ReflectionError
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy, ScriptedSampler, ScriptedSession
from hero_pl.reflection.self_reflector import SelfReflector, review_prompt
from hero_pl.reflection.statistics import reflection_statistics
from hero_pl.types import FinishReason, SampledAction, StopReason, Trajectory, Turn

GOOD = {f"turn{i}": {"diagnosis": f"Step {i} was sound.", "confidence": "high"} for i in (1, 2, 3)}


class Asked(ScriptedPolicy):
    """Answers by a function of the decoded prompt; keeps prompts and sampling settings."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.prompts: list[str] = []
        self.seeds: list[int] = []
        self.settings: list[Sampling] = []

        def script(context: str, seed: int) -> str:
            self.prompts.append(context)
            self.seeds.append(seed)
            return answer(context)

        super().__init__(script)
        self.load()
        opened, asked = self.sampler.open, self

        class Sampler(type(self.sampler)):  # type: ignore[misc]
            def open(self, policy: Any, sampling: Sampling, seeds: Any, weights: str = "live") -> Any:
                asked.settings.append(sampling)
                return opened(policy, sampling, seeds, weights)

        self.sampler = Sampler()


def played(policy: ScriptedPolicy, *steps: tuple[str, str], seed: int = 5) -> Trajectory:
    prompt = policy.template.first_prompt("Be quick.", "Find a lamp.")
    turns = []
    for number, (reply, observation) in enumerate(steps, 1):
        ids = (*policy.template.encoder.encode_untrusted(reply), int(policy.template.tokenizer.eos_token_id))
        turns.append(Turn(number, prompt, ids, (0.0,) * len(ids), reply, reply, observation, "user"))
        prompt = policy.template.next_prompt(prompt, ids, observation)
    return Trajectory("t", "e", seed, 0, "Be quick.", (), "Find a lamp.", tuple(turns), 0.25, StopReason.TERMINATED)


STEPS = (("look", "a shop"), ("search lamp", "none found"), ("leave", "over"))


def is_retry(context: str) -> bool:
    return "Your answer could not be used" in context


def test_all_turns_are_diagnosed_in_one_greedy_question() -> None:
    policy = Asked(lambda context: json.dumps(GOOD))
    (reflection,) = SelfReflector().reflect([played(policy, *STEPS)], policy)
    assert [diagnosis and diagnosis.text for diagnosis in reflection.diagnoses] == [
        f"Step {i} was sound." for i in (1, 2, 3)
    ]
    assert reflection.tokens == len(json.dumps(GOOD)) + 1
    assert policy.settings == [Sampling(0.0, 96 * 3 + 64)]
    assert "| none found" in policy.prompts[0]
    assert "FINAL REWARD: 0.25" in policy.prompts[0]


def test_temperature_and_the_limits_of_a_diagnosis_are_settings() -> None:
    long = {f"turn{i}": {"diagnosis": "Sound. " * 20, "confidence": "high"} for i in (1, 2, 3)}
    policy = Asked(lambda context: json.dumps(long))
    (reflection,) = SelfReflector(temperature=0.7, max_diagnosis_chars=30, tokens_per_turn=300).reflect(
        [played(policy, *STEPS)], policy
    )
    assert policy.settings[0].temperature == 0.7
    assert all(len(diagnosis.text) <= 30 for diagnosis in reflection.diagnoses)
    with pytest.raises(ConfigError, match="temperature"):
        SelfReflector(temperature=-1.0)


def test_an_episode_without_turns_asks_nothing() -> None:
    policy = Asked(lambda context: "")
    (reflection,) = SelfReflector(on_invalid="retry").reflect([played(policy)], policy)
    assert reflection.diagnoses == ()
    assert policy.prompts == []


# -- windows ---------------------------------------------------------------------------------------------------------


def answer_for_the_window(context: str) -> str:
    wanted = [i for i in (1, 2, 3) if f"--- turn{i} ---" in context]
    return json.dumps({f"turn{i}": GOOD[f"turn{i}"] for i in wanted})


def test_a_long_episode_is_reviewed_in_windows_that_are_joined() -> None:
    policy = Asked(answer_for_the_window)
    steps = [(f"say {i} " + "x" * 400, "y" * 400) for i in (1, 2, 3)]
    whole = SelfReflector().reflect([played(policy, *steps)], policy)
    assert len(policy.prompts) == 1
    (reflection,) = SelfReflector(max_request_tokens=100).reflect([played(policy, *steps)], policy)
    assert len(policy.prompts) == 1 + 3
    assert reflection.diagnoses == whole[0].diagnoses
    assert reflection.status == "ok"
    assert reflection.tokens == sum(len(answer_for_the_window(prompt)) + 1 for prompt in policy.prompts[1:])


def test_what_a_question_does_not_show_is_counted_and_says_nothing_against_its_answer() -> None:
    policy = Asked(answer_for_the_window)
    steps = [("x" * 170, "y" * 5000), *STEPS[1:]]
    (whole,) = SelfReflector().reflect([played(policy, *steps)], policy)
    assert (whole.status, whole.strict, whole.issues) == ("ok", True, (("reply_cut", 1),))
    (windowed,) = SelfReflector(max_request_tokens=100).reflect([played(policy, *steps)], policy)
    assert windowed.status == "ok"
    unseen = ("future_left_out", 1), ("future_left_out", 2)
    assert windowed.issues == (("reply_cut", 1), unseen[0], ("past_cut", 2), unseen[1], ("past_cut", 3))
    assert float(reflection_statistics([whole, windowed])["issues/reply_cut"]) == 2.0


def test_a_truncated_answer_is_not_shown_when_the_request_is_repeated() -> None:
    policy = Asked(lambda context: "sorry")
    steps = [("look", "y" * 5000), *STEPS[1:]]
    (reflection,) = SelfReflector(on_invalid="retry").reflect([played(policy, *steps)], policy)
    assert ("reply_cut", 1) in reflection.issues
    assert "reply_cut" not in policy.prompts[1]


def test_without_a_setting_the_windows_follow_the_context_of_the_policy() -> None:
    policy = Asked(answer_for_the_window)
    steps = [("x" * 900, "y" * 900) for _ in range(3)]
    trajectory = played(policy, *steps)
    policy.max_length = 9000  # half of it is for the question, and one turn takes about 5000 with the instructions
    (reflection,) = SelfReflector().reflect([trajectory], policy)
    assert len(policy.prompts) > 1
    assert all(reflection.diagnoses)


def test_only_the_question_that_has_no_room_goes_unanswered() -> None:
    policy = Asked(lambda context: json.dumps(GOOD))
    short, long = played(policy, *STEPS), played(policy, ("x" * 9000, "y"), *STEPS[1:])
    policy.max_length = 8000
    reflections = SelfReflector(max_request_tokens=7900).reflect([long, short], policy)
    assert [bool(one.diagnoses[0]) for one in reflections] == [False, True]
    assert ("no_json", 0) in reflections[0].issues


# -- a second question -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["transcript", "continue"])
def test_retry_shows_the_policy_its_own_answer_and_what_was_wrong(mode: Any) -> None:
    first = json.dumps({"turn1": GOOD["turn1"], "turn3": {"diagnosis": "n/a"}})
    policy = Asked(lambda context: json.dumps(GOOD) if is_retry(context) else first)
    (reflection,) = SelfReflector(mode=mode, on_invalid="retry").reflect([played(policy, *STEPS)], policy)
    assert all(reflection.diagnoses)
    assert reflection.issues == (("retried", 0),)
    assert reflection.tokens == len(first) + 1 + len(json.dumps(GOOD)) + 1
    question, again = policy.prompts
    assert again.startswith(f"{question}{first}<|im_end|>\n<|im_start|>user\nYour answer could not be used")
    assert "turn2: the entry is missing" in again
    assert [setting.temperature for setting in policy.settings] == pytest.approx([0.0, 0.2])
    assert policy.seeds[0] != policy.seeds[1]
    statistics = reflection_statistics([reflection])
    assert float(statistics["retries"]) == 1.0
    assert float(statistics["tokens"]) == reflection.tokens


def test_a_review_in_lines_is_asked_for_after_the_episode_and_again_in_lines() -> None:
    lines = "turn1: fine\nturn2: other words / do: search lamps\nturn3: fine"
    policy = Asked(lambda context: lines if is_retry(context) else "It went well.")
    reflector = SelfReflector(mode="continue", answer="lines", on_invalid="retry", max_request_tokens=None)
    (reflection,) = reflector.reflect([played(policy, *STEPS)], policy)
    assert [one and one.text for one in reflection.diagnoses] == ["fine", "other words", "fine"]
    assert reflection.diagnoses[1].next_action_target == {"action": "search lamps"}  # type: ignore[union-attr]
    question, again = policy.prompts
    assert "over<|im_end|>" in question
    assert "Its reward is 0.25 of 1.00. Review each of your 3 turns in one line" in question
    assert "no line begins with turn1:" in again
    assert "Write the whole review again, one line for each of turn1..turn3" in again
    with pytest.raises(ConfigError, match="mode: continue"):
        SelfReflector(answer="lines")


def test_bug_50_a_line_that_does_not_fit_is_cut_off_and_counted() -> None:
    policy = Asked(lambda context: "turn1: fine\nturn2: fine\nturn3: " + "x" * 400)
    (reflection,) = SelfReflector(mode="continue", answer="lines").reflect([played(policy, *STEPS)], policy)
    assert [bool(one) for one in reflection.diagnoses] == [True, True, False]
    assert ("cut_line", 0) in reflection.issues


def test_bug_730_a_prompt_that_opens_the_reasoning_is_known_to_the_parser() -> None:
    draft = json.dumps(GOOD)
    policy = Asked(lambda context: f"Well.</think>{draft}" if is_retry(context) else f"{draft} But wait, turn 2")
    policy.template.opens_reasoning = True
    episode = played(policy, *STEPS)
    (reflection,) = SelfReflector().reflect([episode], policy)
    assert (reflection.diagnoses, reflection.issues) == ((None, None, None), (("unfinished_reasoning", 0),))
    assert float(reflection_statistics([reflection])["issues/unfinished_reasoning"]) == 1.0
    (reflection,) = SelfReflector(on_invalid="retry").reflect([episode], policy)
    assert all(reflection.diagnoses)
    assert "it ended inside the reasoning" in policy.prompts[-1]


def test_only_incomplete_answers_are_asked_about_again() -> None:
    policy = Asked(lambda context: "sorry" if "| forget" in context and not is_retry(context) else json.dumps(GOOD))
    good, bad = played(policy, *STEPS), played(policy, ("forget", "a shop"), *STEPS[1:])
    reflections = SelfReflector(on_invalid="retry").reflect([good, bad], policy)
    assert [one.issues for one in reflections] == [(), (("retried", 0),)]
    assert [is_retry(prompt) for prompt in policy.prompts] == [False, False, True]


def test_questions_are_repeated_up_to_the_limit_ever_warmer_and_the_best_answer_stays() -> None:
    best = json.dumps({"turn1": GOOD["turn1"]})
    raw_answers = ["sorry", best, "hm", "hmm"]
    answers = iter(raw_answers)
    policy = Asked(lambda context: next(answers))
    (reflection,) = SelfReflector(on_invalid="retry", retries=3).reflect([played(policy, *STEPS)], policy)
    assert [bool(diagnosis) for diagnosis in reflection.diagnoses] == [True, False, False]
    assert reflection.issues.count(("retried", 0)) == 3
    assert [setting.temperature for setting in policy.settings] == pytest.approx([0.0, 0.2, 0.4, 0.6])
    # each further question goes on from the best answer so far, not from the latest
    for before, prompt in zip((*raw_answers[:2], best), policy.prompts[1:], strict=True):
        assert f"{before}<|im_end|>" in prompt
    assert reflection.tokens == sum(len(one) + 1 for one in raw_answers)


def test_skip_asks_once() -> None:
    policy = Asked(lambda context: "sorry")
    (reflection,) = SelfReflector().reflect([played(policy, *STEPS)], policy)
    assert reflection.status == "rejected"
    assert len(policy.prompts) == 1


def test_a_second_question_that_does_not_fit_is_counted() -> None:
    policy = Asked(lambda context: "sorry")
    trajectory = played(policy, *STEPS)
    policy.max_length = len(review_prompt(trajectory, policy.dialect)) + 8
    (reflection,) = SelfReflector(mode="continue", on_invalid="retry").reflect([trajectory], policy)
    assert ("retry_too_long", 0) in reflection.issues
    assert ("retried", 0) not in reflection.issues


def test_retries_draw_from_seeds_of_their_own_and_leave_the_global_generator_alone(tmp_path: Any) -> None:
    import torch

    byte_tokenizer().save_pretrained(tmp_path)
    config = {"model_type": "qwen3", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 8192}
    policy = HuggingFacePolicy(config=config, tokenizer=str(tmp_path))
    policy.load()
    scripted = ScriptedPolicy(template=policy.template)
    scripted.load()
    trajectories = [played(scripted, *STEPS, seed=seed) for seed in (1, 2)]
    reflector = SelfReflector(on_invalid="retry", tokens_per_turn=1)
    before = torch.random.get_rng_state()
    first, second = (reflector.reflect(trajectories, policy) for _ in range(2))
    assert first == second
    assert torch.equal(torch.random.get_rng_state(), before)


def test_settings_that_cannot_work_are_refused() -> None:
    ranges = {"retries": 0, "tokens_per_turn": 0, "batch_size": 0, "max_request_tokens": -5}
    for settings in ({"on_invalid": "panic"}, *({name: value} for name, value in ranges.items())):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            SelfReflector(**settings)  # type: ignore[arg-type]
    with pytest.raises(ReflectionError, match="needs the policy"):
        SelfReflector().reflect([], None)


@pytest.mark.parametrize("position", ["before_action", "system", "last_message", "think_prefix"])
def test_the_request_to_review_is_the_last_message_at_any_hint_position(position: Any) -> None:
    asked = Asked(lambda context: "{}")
    asked.template.hint_position = position
    context = str(asked.template.tokenizer.decode(list(review_prompt(played(asked, *STEPS), asked.dialect))))
    assert context.rindex("review: reward") > context.rindex("over")
    assert context.count("review: reward") == 1


def test_an_episode_that_fills_the_context_takes_no_room_from_the_others() -> None:
    policy = Asked(lambda context: json.dumps(GOOD))
    short = [played(policy, *STEPS, seed=seed) for seed in range(3)]
    long = played(policy, ("look", "x" * 400), *STEPS[1:], seed=9)
    reflector = SelfReflector(mode="continue", tokens_per_turn=100)
    alone = reflector.reflect(short, policy)
    policy.max_length = len(review_prompt(long, policy.dialect)) + 5
    together = reflector.reflect([short[0], long, *short[1:]], policy)
    assert [together[0], *together[2:]] == alone
    assert not any(together[1].diagnoses)
    assert [setting.max_action_tokens for setting in policy.settings[-3:]] == [364, 5, 364]


def test_bug_43_a_long_question_and_one_with_a_long_answer_are_not_asked_in_one_batch() -> None:
    policy = Asked(lambda context: json.dumps(GOOD))
    long, short = played(policy, ("look", "x" * 400), seed=1), played(policy, *STEPS, seed=2)
    prompts = [len(review_prompt(one, policy.dialect)) for one in (long, short)]
    policy.max_length = max(prompts[0] + 164, prompts[1] + 364)  # each has room for its own answer
    assert prompts[0] + 364 > policy.max_length
    SelfReflector(mode="continue", tokens_per_turn=100).reflect([long, short], policy)
    assert [setting.max_action_tokens for setting in policy.settings] == [164, 364]


class Failing(ScriptedSession):
    """Fails the first answers of its first row."""

    failures = 0

    def finished(self) -> list[tuple[int, SampledAction]]:
        failure = SampledAction((), (), FinishReason.ERROR, 0, "the server does not answer")
        answers = dict(super().finished())
        for row in answers:
            if self.seeds[row] == self.seeds[0] and self.failures:
                self.failures -= 1
                answers[row] = failure
        return list(answers.items())


@pytest.mark.parametrize("failures", [1, 2])
def test_a_question_that_the_sampler_fails_is_asked_once_more_and_then_counted(failures: int) -> None:
    class Sampler(ScriptedSampler):
        def open(self, policy: Any, sampling: Sampling, seeds: Any = (), weights: str = "live") -> Failing:
            session = Failing(policy, sampling, seeds)
            session.failures = failures
            return session

    policy = Asked(lambda context: json.dumps(GOOD))
    policy.sampler = Sampler()
    failed, fine = SelfReflector(mode="continue").reflect([played(policy, *STEPS, seed=s) for s in (1, 2)], policy)
    assert any(failed.diagnoses) == (failures == 1)
    assert (("sampler_error", 0) in failed.issues) == (failures == 2)
    assert all(fine.diagnoses)
