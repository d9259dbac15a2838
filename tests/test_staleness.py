"""Staleness of rollouts, and that the sampler is notified of new weights."""

from dataclasses import replace

import torch
from lightning.pytorch.callbacks import Callback

from hero_pl.policy.sampler import CachedSampler


class MixedEpisodes(Callback):
    """Gives the last turn of the batch a weights version that is three steps newer than the others."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        module.policy.version += 5
        last = batch[-1]
        turns = (*last.turns[:-1], replace(last.turns[-1], policy_version=3))
        batch[-1] = replace(last, turns=turns)


def test_bug_41_the_oldest_turn_of_a_batch_decides_its_staleness(tiny_module, tiny_data, fit):
    module = tiny_module(max_staleness=5)
    fit(module, tiny_data(), 1, callbacks=[MixedEpisodes()])
    assert module.last_metrics["train/staleness"] == 5.0


def test_the_sampler_is_synced_before_rollouts_and_after_each_batch_that_changes_the_weights(
    tiny_module, tiny_data, fit, tmp_path
):
    class Told(CachedSampler):
        def __init__(self):
            super().__init__()
            self.versions = []

        def sync(self, policy):
            self.versions.append(policy.version)

    module, data = tiny_module(updates_per_batch=2, max_staleness=1), tiny_data()
    module.policy.sampler = sampler = Told()
    trainer = fit(module, data, 2)
    assert sampler.versions == [0, 2]
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    state = torch.load(tmp_path / "two.ckpt", weights_only=False)
    module.roll_back(state)
    data.settle(module.policy)
    data.settle(module.policy)
    assert sampler.versions == [0, 2, 2]
    resumed = tiny_module(updates_per_batch=2, max_staleness=1)
    resumed.policy.sampler = again = Told()
    fit(resumed, tiny_data(), 4, tmp_path / "two.ckpt")
    assert again.versions == [2, 4]
