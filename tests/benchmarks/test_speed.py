"""The benchmarks of speed compare equal work."""

import pytest
import torch
from profile_step import flop_counter
from throughput import generate, play, random_policy
from whole_step import Clock, Load, Ours


def test_generate_and_the_sampler_play_the_same_conversations() -> None:
    policy, load = random_policy(64, 2000), (3, 2, 20, 5, 7)
    assert play(policy, load, True) == play(policy, load, False) == generate(policy, load)


def test_parts_of_a_step_add_up_to_what_was_read() -> None:
    ours = Ours(Load(episodes=2, turns=2, prompt=16, action=4, observation=8, diagnosis=4), 64, 2000, "auto")
    with flop_counter(2000) as counter:
        clock, _, _ = ours.step(0, counter.get_total_flops)
    assert isinstance(clock, Clock)
    assert clock.total == pytest.approx(counter.get_total_flops())
    # forward and backward of the student cost three passes, the teacher at most one and its hints
    assert clock.spent["student"] > 1.5 * clock.spent["teacher"] > 0
    assert clock.spent["optimizer"] == 0


def test_operations_of_attention_are_counted_on_a_cpu() -> None:
    query = torch.randn(1, 2, 8, 4)
    with torch.no_grad(), flop_counter(2000) as counter:
        torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)
    assert counter.get_total_flops() == 2 * (2 * 2 * 8 * 8 * 4)
