"""A cache with free space holds the same values as a cache that is copied for every token."""

from typing import Any

import torch
from transformers import DynamicCache

from hero_pl.policy.growing_cache import growing_cache


def grown(cache: Any, rows: int, slots: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    keys, values = torch.randn(2, rows, 3, slots, 4, generator=torch.Generator().manual_seed(seed))
    found: tuple[torch.Tensor, torch.Tensor] = cache.update(keys, values, 0)
    return found


def test_keys_and_values_are_those_of_a_cache_that_copies() -> None:
    ours, theirs = growing_cache(), DynamicCache()
    for seed, slots in enumerate((5, 1, 1, 200, 1)):
        for one, other in zip(grown(ours, 2, slots, seed), grown(theirs, 2, slots, seed), strict=True):
            assert torch.equal(one, other)
        assert ours.get_seq_length() == theirs.get_seq_length()
    for layer in ours.layers:
        layer.swap([0], [1])
        layer.keep(1)
        layer.show(1, layer.get_seq_length())
    theirs.batch_select_indices(torch.tensor([1]))
    for one, other in zip(grown(ours, 1, 1, 9), grown(theirs, 1, 1, 9), strict=True):
        assert torch.equal(one, other)


def test_a_token_does_not_move_those_before_it() -> None:
    cache = growing_cache()
    grown(cache, 2, 10, 0)
    place = cache.layers[0].keys.data_ptr()
    for seed in range(50):
        grown(cache, 2, 1, seed)
    assert cache.layers[0].keys.data_ptr() == place


def test_rows_that_wait_keep_their_states_and_get_zeros() -> None:
    cache = growing_cache()
    grown(cache, 3, 10, 0)
    layer = cache.layers[0]
    want = layer.keys.clone()
    layer.show(2, 10)
    for seed in range(3):
        grown(cache, 2, 60, seed)  # longer than the room
    layer.show(3, 190)
    assert torch.equal(layer.keys[2, :, :10], want[2])
    assert not layer.keys[2, :, 10:].any()


def test_slots_are_taken_in_another_order() -> None:
    cache = growing_cache()
    grown(cache, 2, 5, 0)
    layer = cache.layers[0]
    want = layer.values[:, :, [4, 1]].clone()
    layer.reorder(torch.tensor([[4, 1], [4, 1]]))
    assert torch.equal(layer.values, want)


def test_rows_of_another_cache_are_put_below_with_their_last_slots_side_by_side() -> None:
    short, long = growing_cache(), growing_cache()
    grown(short, 1, 3, 0)
    grown(long, 2, 5, 1)
    one, other = short.layers[0].keys.clone(), long.layers[0].keys.clone()
    short.layers[0].beside(long.layers[0])
    keys = short.layers[0].keys
    assert torch.equal(keys[:1, :, 2:], one)
    assert not keys[:1, :, :2].any()
    assert torch.equal(keys[1:], other)
