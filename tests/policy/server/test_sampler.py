"""Servers sample from the weights of the trainer; stale, wrong, dead and restarted servers are detected."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from hero_envs import chat_http
from hero_pl.errors import PolicyError
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.server import canary, client
from hero_pl.policy.server.dialect import Served, request
from hero_pl.policy.server.session import reply_seed
from hero_pl.types import FinishReason, SampledAction, ScoreRow
from tests.conftest import TINY
from tests.generate_server import GenerateServer, serving

pytest.importorskip("peft", reason="adapters need the extra `lora`")

MODES = ["adapter", "folder"]


def train(policy: HuggingFacePolicy, size: float = 0.3) -> None:
    """Changes weights and version like an optimizer step."""
    torch.manual_seed(policy.version)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn_like(parameter)
    policy.version += 1
    policy.sampler.sync(policy)


def conversation(policy: HuggingFacePolicy, text: str = "find me a lamp") -> tuple[int, ...]:
    return policy.template.first_prompt("", text)


def largest_gap(
    policy: HuggingFacePolicy, prompt: Any, action: SampledAction, sampling: Sampling, weights: str = "live"
) -> float:
    row = ScoreRow((*prompt, *action.ids), ((len(prompt), len(prompt) + len(action.ids)),))
    with policy.sampling():
        log_q = (policy.score([row], weights) / sampling.divisor).log_softmax(-1)
    own = log_q.gather(-1, torch.tensor(action.ids)[:, None])[:, 0]
    return float((own - torch.tensor(action.logprobs)).abs().max())


# --- what is drawn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("sync", MODES)
def test_log_probabilities_are_those_of_the_trainer_over_turns_and_steps(
    server: GenerateServer, make: Any, sync: str, temperature: float
) -> None:
    policy, sampling = make(server, sync=sync), Sampling(temperature, 12)
    policy.sampler.sync(policy)
    for version in range(2):
        session = policy.sampler.open(policy, sampling, [11, 12])
        prompts = [conversation(policy), conversation(policy, "a longer question " * 9)]
        for _ in range(3):
            actions = session.act([0, 1], prompts)
            for prompt, action in zip(prompts, actions, strict=True):
                assert action.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
                assert action.version == version
                assert largest_gap(policy, prompt, action, sampling) < 1e-4
            prompts = [policy.template.next_prompt(p, a.ids, "go on") for p, a in zip(prompts, actions, strict=True)]
        train(policy)


def test_equal_seeds_draw_equal_actions_whatever_else_is_drawn(server: GenerateServer, make: Any) -> None:
    policy = make(server)
    prompt = conversation(policy)
    alone = policy.sampler.open(policy, Sampling(1.0, 12), [5]).act([0], [prompt])
    among = policy.sampler.open(policy, Sampling(1.0, 12), [4, 5, 6]).act([0, 1, 2], [prompt] * 3)
    assert alone[0].ids == among[1].ids
    assert len({action.ids for action in among}) == 3


def test_each_turn_has_random_numbers_of_its_own(server: GenerateServer, make: Any) -> None:
    policy = make(server)
    session = policy.sampler.open(policy, Sampling(1.0, 12), [5])
    first, second = (session.act([0], [conversation(policy)])[0] for _ in range(2))
    assert first.ids != second.ids
    assert len({reply_seed(seed, turn) for seed in range(20) for turn in range(1, 20)}) == 380


def test_a_reply_that_fills_the_context_is_length(server: GenerateServer, make: Any) -> None:
    policy = make(server)
    prompt = canary.canary_prompt(policy.dialect)[:300] + (20,) * 208
    (action,) = policy.sampler.open(policy, Sampling(1.0, 60), [1]).act([0], [prompt])
    assert (action.finish_reason, len(action.ids)) == (FinishReason.LENGTH, 4)


@pytest.mark.parametrize("defaults", [{"top_k": 5}])
def test_the_defaults_of_a_server_change_nothing(model: Path, make: Any, defaults: dict[str, Any]) -> None:
    with serving(model, defaults=defaults) as server:
        policy, sampling = make(server), Sampling(1.0, 12)
        (action,) = policy.sampler.open(policy, sampling, [1]).act([0], [conversation(policy)])
        assert largest_gap(policy, conversation(policy), action, sampling) < 1e-4


def test_a_closed_row_is_not_answered_and_its_request_is_ended(server: GenerateServer, make: Any) -> None:
    policy = make(server)
    session = policy.sampler.open(policy, Sampling(1.0, 4), [1, 2])
    waiting = [True]
    server.tamper = lambda path, answer: waiting and not waiting.pop() and server.over.wait(20)
    session.submit([0], [conversation(policy)])
    while waiting:
        pass
    session.close([0])
    assert [row for row, _ in session.finished()] == []
    session.submit([1], [conversation(policy)])
    assert [row for row, _ in session.finished()] == [1]


# --- several servers --------------------------------------------------------------------------------------------------


def test_a_conversation_stays_on_its_server(model: Path, make: Any) -> None:
    with serving(model) as one, serving(model) as two:
        policy = make(one, two)
        policy.sampler.sync(policy)
        one.bodies.clear(), two.bodies.clear()
        session = policy.sampler.open(policy, Sampling(1.0, 4), range(3))
        for _ in range(4):
            session.act(range(3), [conversation(policy, f"question {row}") for row in range(3)])
        asked = [{tuple(body["token_ids"]) for body in server.bodies} for server in (one, two)]
        assert sorted(len(server.bodies) for server in (one, two)) == [4, 8]
        assert sorted(len(prompts) for prompts in asked) == [1, 2]
        assert not asked[0] & asked[1]


def test_when_one_server_dies_the_others_take_over_until_it_is_back(model: Path, make: Any) -> None:
    with serving(model) as one, serving(model) as two:
        policy = make(one, two)
        policy.sampler.sync(policy)
        session = policy.sampler.open(policy, Sampling(1.0, 4), [1, 2])
        prompts = [conversation(policy)] * 2
        session.act([0, 1], prompts)
        one.die()
        actions = session.act([0, 1], prompts)
        assert sorted(action.finish_reason is FinishReason.ERROR for action in actions) == [False, True]
        assert all(action.finish_reason is not FinishReason.ERROR for action in session.act([0, 1], prompts))
        with pytest.warns(UserWarning, match=re.escape(f"{one.url} does not answer and is not used")):
            train(policy)
        one.start()
        train(policy)
        one.bodies.clear()
        policy.sampler.open(policy, Sampling(1.0, 4), [1, 2]).act([0, 1], prompts)
        assert len(one.bodies) == 1


# --- wrong servers ----------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "cached_prefix": ("folder", {"keeps_cache": True}, "log-probabilities of student differ by"),
    "former_weights": ("folder", {"keeps_weights": True}, "log-probabilities of student differ by"),
    "former_label": ("folder", {"keeps_label": True}, "drawn by the weights 'default', expected 'hero-"),
    "wrong_adapter": ("adapter", {"keeps_weights": True}, "log-probabilities of hero-.* differ by"),
    "raw_logprobs": ("adapter", {"processed_logprobs": False}, "--logprobs-mode processed_logprobs"),
    "scale_out": ("adapter", {"scale_out": False}, "started without --enable-scale-out"),
    "adapters": ("adapter", {"adapters": False}, "started without VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
    "dev_mode": ("folder", {"dev_mode": False}, "started without VLLM_SERVER_DEV_MODE=1"),
    "other_name": ("adapter", {"name": "qwen"}, r"serves qwen and no model 'student'.*--served-model-name"),
    "short_context": ("adapter", {"context": 256}, r"context of 256 tokens, the policy one of 512.*max-model-len 512"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_server_is_noticed_before_anything_is_drawn(model: Path, make: Any, case: str) -> None:
    sync, launch, message = WRONG[case]
    with serving(model, **launch) as server:
        policy = make(server, sync=sync)
        with pytest.raises(PolicyError, match=message) as caught:  # noqa: PT012 - some show only after a step
            policy.sampler.sync(policy)
            train(policy, 0.1)
        assert server.url in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_server_with_another_model_is_noticed(model: Path, make: Any, tmp_path: Path) -> None:
    other = HuggingFacePolicy(config={**TINY, "initializer_range": 0.3}, tokenizer="hero_pl:pocket-shop", seed=1)
    other.load()
    other.save_pretrained(tmp_path / "other")
    with serving(tmp_path / "other") as server:
        policy = make(server)
        with pytest.raises(PolicyError, match="does not draw from the weights of the trainer"):
            policy.sampler.sync(policy)


def test_the_check_asks_a_prompt_whose_prefix_was_cached_before_the_weights_changed(
    server: GenerateServer, make: Any
) -> None:
    policy = make(server, sync="folder")
    policy.sampler.sync(policy)
    prompt = canary.canary_prompt(policy.dialect)
    assert canary.PROMPT_TOKENS <= len(prompt) <= policy.max_length - canary.REPLY_TOKENS
    assert [tuple(body["token_ids"]) for body in server.bodies] == [prompt] * 2
    reload = next(i for i, path in enumerate(server.paths) if path == "/collective_rpc")
    asked = [i for i, path in enumerate(server.paths) if path == "/inference/v1/generate"]
    assert asked[0] < reload < asked[1]
    assert server.paths.index("/reset_prefix_cache") > reload


def test_a_wrong_version_ends_as_an_error_and_the_server_is_given_the_weights_again(
    server: GenerateServer, make: Any
) -> None:
    policy = make(server, sync="folder")
    policy.sampler.sync(policy)
    session = policy.sampler.open(policy, Sampling(1.0, 4), [1])
    server.engine.label = "somebody-else"
    server.engine.base = server.engine.base.apply(lambda module: None)
    (action,) = session.act([0], [conversation(policy)])
    assert (action.finish_reason, action.ids) == (FinishReason.ERROR, ())
    assert "drawn by the weights 'somebody-else'" in action.error
    (again,) = session.act([0], [conversation(policy)])
    assert again.finish_reason is not FinishReason.ERROR
    assert server.engine.label.startswith("hero-")


# --- dead and restarted servers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", MODES)
def test_a_restarted_server_gets_the_weights_again(server: GenerateServer, make: Any, sync: str) -> None:
    policy, sampling = make(server, sync=sync), Sampling(1.0, 6)
    policy.sampler.sync(policy)
    train(policy)
    session = policy.sampler.open(policy, sampling, [1])
    server.die()
    server.start()
    (lost,) = session.act([0], [conversation(policy)])
    assert lost.finish_reason is FinishReason.ERROR
    (action,) = session.act([0], [conversation(policy)])
    assert (action.finish_reason is not FinishReason.ERROR, action.version) == (True, 1)
    assert largest_gap(policy, conversation(policy), action, sampling) < 1e-4


def test_two_processes_may_give_a_restarted_server_the_same_adapter(server: GenerateServer, make: Any) -> None:
    policy = make(server)
    policy.sampler.sync(policy)
    name = next(iter(server.engine.adapters))
    server.die()
    server.start()

    def faster(path: str, answer: dict[str, Any]) -> None:
        if path == "/v1/models" and name not in server.engine.adapters:
            server.engine.load_adapter(name, str(policy.sampler._weights))

    server.tamper = faster
    policy.sampler._pools["live"].places[0].ready = False
    (action,) = policy.sampler.open(policy, Sampling(1.0, 6), [1]).act([0], [conversation(policy)])
    assert action.finish_reason is not FinishReason.ERROR


def test_a_dead_server_is_waited_for(server: GenerateServer, make: Any) -> None:
    policy = make(server)
    policy.sampler.sync(policy)
    session = policy.sampler.open(policy, Sampling(1.0, 6), [1, 2])
    server.die()
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            server.start()

    policy.sampler._pools["live"]._sleep = sleep
    lost = session.act([0, 1], [conversation(policy)] * 2)
    assert all(action.finish_reason is FinishReason.ERROR for action in lost)
    back = session.act([0, 1], [conversation(policy)] * 2)
    assert all(action.finish_reason is not FinishReason.ERROR for action in back)
    assert pauses == [0.1, 0.2, 0.4]


def test_a_server_that_stays_dead_ends_the_run_in_one_line_with_the_command(
    server: GenerateServer, make: Any, model: Path
) -> None:
    policy = make(server, timeout_s=30.0)
    policy.sampler.sync(policy)
    session = policy.sampler.open(policy, Sampling(1.0, 6), [1])
    server.die()
    clock = [0.0]
    pool = policy.sampler._pools["live"]
    pool._clock, pool._sleep = lambda: clock[0], lambda seconds: clock.__setitem__(0, clock[0] + seconds)
    session.act([0], [conversation(policy)])
    with pytest.raises(PolicyError, match=r"No server for sampling: .* connection failed") as caught:
        session.act([0], [conversation(policy)])
    assert "\n" not in str(caught.value)
    assert f"vllm serve {model} --host 127.0.0.1 --port {server.port}" in str(caught.value)
    assert 30.0 <= clock[0] < 40.0


def test_an_unreachable_server_is_refused_before_weights_are_read(
    server: GenerateServer, make: Any, model: Path
) -> None:
    server.die()
    policy = make(server, load=False)
    with pytest.raises(PolicyError, match=rf"No server for sampling: .*Start it with: .*vllm serve {model}") as caught:
        policy.sampler.check(policy)
    assert "\n" not in str(caught.value)
    assert policy.network is None


def test_a_server_that_never_answers_costs_one_time_limit(server: GenerateServer, make: Any) -> None:
    policy = make(server, timeout_s=0.3)
    policy.sampler.sync(policy)
    session = policy.sampler.open(policy, Sampling(1.0, 6), [1])
    server.tamper = lambda path, answer: server.over.wait(20) and None
    (action,) = session.act([0], [conversation(policy)])
    assert "no complete response within 0.3 s" in action.error


# --- the folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", MODES)
def test_the_newest_folder_alone_is_kept_and_so_is_its_adapter(
    server: GenerateServer, make: Any, tmp_path: Path, sync: str
) -> None:
    policy = make(server, sync=sync)
    policy.sampler.sync(policy)
    for _ in range(3):
        train(policy)
    (kept,) = (tmp_path / "weights").iterdir()
    assert re.fullmatch(r"hero-[0-9a-f]{8}-4", kept.name)
    assert list(server.engine.adapters) == ([kept.name] if sync == "adapter" else [])


def test_weights_that_change_within_one_version_get_a_name_of_their_own(server: GenerateServer, make: Any) -> None:
    policy = make(server)
    policy.sampler.sync(policy)
    train(policy)
    policy.version -= 1
    train(policy, 0.2)  # a run that was rolled back: the same version, other weights
    (action,) = policy.sampler.open(policy, Sampling(1.0, 4), [1]).act([0], [conversation(policy)])
    assert action.version == 1


def test_a_second_run_on_the_same_server_has_names_of_its_own(server: GenerateServer, make: Any) -> None:
    for _ in range(2):
        policy = make(server)
        policy.sampler.sync(policy)
    assert len(server.engine.adapters) == 2


@pytest.mark.parametrize("kind", [OSError, SafetensorError])
def test_bug_856_a_folder_has_its_name_only_when_it_is_whole(
    server: GenerateServer, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    policy = make(server)
    seen: list[list[str]] = []

    def full(folder: Path) -> None:
        (folder / "adapter_config.json").write_text("{")
        seen.append([path.name for path in (tmp_path / "weights").iterdir()])
        raise kind("No space left on device")

    monkeypatch.setattr(policy.network.model, "save_pretrained", full)
    with pytest.raises(PolicyError, match=r"No space left on device.*sampler\.init_args\.folder"):
        policy.sampler.sync(policy)
    assert [name.endswith(".partial") for name in seen[0]] == [True]
    assert list((tmp_path / "weights").iterdir()) == []


def test_bug_852_an_answer_may_be_longer_for_more_tokens_and_is_named_if_it_is_too_long(
    server: GenerateServer, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make(server)
    (one,) = policy.sampler.servers
    body = request(Served("student", 0), conversation(policy), 40, 1.0, 0, frozenset())
    for module in (chat_http, client):
        monkeypatch.setattr(module, "MAX_BYTES", 500)
    assert len(one.generate(body)["choices"][0]["token_ids"]) == 40
    monkeypatch.setattr(client, "BYTES_PER_TOKEN", 0)
    with pytest.raises(client.ServerError, match="an answer of more than 500 bytes") as caught:
        one.generate(body)
    assert not isinstance(caught.value, client.ServerGone)
