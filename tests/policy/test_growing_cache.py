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
    for cache in (ours, theirs):
        cache.batch_select_indices(torch.tensor([1]))
    for one, other in zip(grown(ours, 1, 1, 9), grown(theirs, 1, 1, 9), strict=True):
        assert torch.equal(one, other)


def test_a_token_does_not_move_those_before_it() -> None:
    cache = growing_cache()
    grown(cache, 2, 10, 0)
    place = cache.layers[0].keys.data_ptr()
    for seed in range(50):
        grown(cache, 2, 1, seed)
    assert cache.layers[0].keys.data_ptr() == place


def test_states_that_were_replaced_from_outside_are_kept() -> None:
    cache = growing_cache()
    grown(cache, 2, 10, 0)
    layer = cache.layers[0]
    layer.keys, layer.values = layer.keys.flip(2), layer.values.flip(2)
    want = layer.keys.clone()
    got, _ = grown(cache, 2, 1, 1)
    assert torch.equal(got[:, :, :10], want)
