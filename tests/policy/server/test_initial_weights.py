"""Replies of the initial weights, which a reviewer asks while others are trained."""

import re
from pathlib import Path
from typing import Any

import pytest

from hero_pl.policy.sampling import Sampling
from hero_pl.types import FinishReason
from tests.generate_server import GenerateServer, serving
from tests.policy.server.test_sampler import conversation, largest_gap, train

pytest.importorskip("peft", reason="adapters need the extra `lora`")


@pytest.mark.parametrize("known_before", [True, False])
@pytest.mark.parametrize("mixes", [True, False])
def test_initial_weights_of_an_adapter_are_one_that_adds_zero(
    model: Path, make: Any, mixes: bool, known_before: bool
) -> None:
    with serving(model, mixes=mixes) as server:
        policy, sampling = make(server), Sampling(1.0, 6)
        if known_before:
            policy.sampler.check(policy, "initial")
        policy.sampler.sync(policy)
        train(policy)
        server.bodies.clear()
        (action,) = policy.sampler.open(policy, sampling, [1], "initial").act([0], [conversation(policy)])
        assert re.fullmatch("hero-[0-9a-f]{8}-initial", server.bodies[-1]["model"])
        assert action.version == 0
        assert largest_gap(policy, conversation(policy), action, sampling, "initial") < 1e-4
        assert largest_gap(policy, conversation(policy), action, sampling, "live") > 1e-2


def test_a_restarted_server_gets_the_initial_weights_of_an_adapter_again(server: GenerateServer, make: Any) -> None:
    policy = make(server)
    policy.sampler.sync(policy)
    train(policy)
    session = policy.sampler.open(policy, Sampling(1.0, 6), [1], "initial")
    session.act([0], [conversation(policy)])
    server.die()
    server.start()
    (lost,) = session.act([0], [conversation(policy)])
    (action,) = session.act([0], [conversation(policy)])
    assert lost.finish_reason is FinishReason.ERROR
    assert largest_gap(policy, conversation(policy), action, Sampling(1.0, 6), "initial") < 1e-4


def test_initial_weights_have_their_own_server_when_all_weights_are_trained(model: Path, make: Any) -> None:
    with serving(model) as live, serving(model) as initial:
        policy = make(live, sync="folder", initial_url=initial.url)
        policy.keep("initial")
        policy.sampler.sync(policy)
        train(policy)
        initial.bodies.clear(), live.bodies.clear()
        policy.sampler.open(policy, Sampling(1.0, 6), [1], "initial").act([0], [conversation(policy)])
        assert (len(live.bodies), initial.engine.label) == (0, "default")
        assert len(initial.bodies) == 2  # the check, then the reply
