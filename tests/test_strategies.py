"""Strategies of the trainer; two processes are in ``end_to_end/test_data_parallel.py``."""

import pytest
from torch.distributed.fsdp import FSDPModule

from hero_pl.errors import ConfigError
from hero_pl.strategies import FSDP2Strategy, check_sharding, check_strategy


def test_sharding_is_served_with_adamw_and_refused_with_muon() -> None:
    check_strategy(FSDP2Strategy())
    check_sharding(FSDP2Strategy(), None)
    with pytest.raises(ConfigError, match=r"matrix_lr=0.02 with FSDP2Strategy.*Remove matrix_lr"):
        check_sharding(FSDP2Strategy(), 0.02)


def test_a_torch_that_cannot_shard_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(FSDPModule, "set_reduce_scatter_unused_params")
    with pytest.raises(ConfigError, match="Update torch"):
        FSDP2Strategy()
