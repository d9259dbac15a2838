"""The guard detects a collapse, does nothing in a healthy run, and restores the last good weights."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

from hero_pl.batch import tokenize
from hero_pl.callbacks.collapse_guard import LIMITS, CollapseGuard, Limit, Watch
from hero_pl.callbacks.held_out import HeldOut
from hero_pl.callbacks.run_checkpoint import RunCheckpoint
from hero_pl.errors import ConfigError, PolicyError
from hero_pl.losses.normalize import normalized_sum
from hero_pl.module import HeroModule
from hero_pl.objectives.base import LossOutput, Objective, Step
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.loading import Lora
from hero_pl.teacher.weights import EMAWeights, LiveWeights

QUICK = {
    metric: Limit(limit.low, limit.high, limit.margin, min(limit.window, 3), limit.reference)
    for metric, limit in LIMITS.items()
}
"""The shipped limits, with windows for runs of a few steps."""


class Insists(Objective):
    """Makes one token more likely in every step: the policy collapses to it."""

    def __init__(self, token=None):
        self.token = token

    def prepare(self, trajectories, policy, reduce_sum):
        return Step(tokenize(trajectories, None, policy.dialect, reduce_sum=reduce_sum))

    def loss(self, policy, micro):
        logits = policy.score(micro.student)
        token = policy.template.tokenizer.eos_token_id if self.token is None else self.token
        per_token = F.cross_entropy(logits, torch.full_like(micro.action_ids, token), reduction="none")
        return LossOutput(normalized_sum(micro.coefficient, per_token))


def events(folder):
    path = folder / "lightning_logs" / "version_0" / "events.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


# -- bug 40 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("token", "metrics"), [(None, {"train/entropy"}), (40, {"train/entropy"})])
def test_bug_40_a_policy_that_collapses_onto_one_token_raises_the_alarm(
    token, metrics, tiny_module, tiny_data, fit, tmp_path
):
    guard = CollapseGuard(limits=QUICK)
    fit(tiny_module(Insists(token), lr=0.02), tiny_data(), 15, callbacks=[guard], logger=CSVLogger(tmp_path))
    logged = events(tmp_path)
    assert metrics <= {event["metric"] for event in logged}
    assert {event["action"] for event in logged} == {"warn"}
    assert guard.alarms == len(logged)


def test_bug_40_actions_that_grow_without_end_raise_the_alarm(tiny_module, tiny_data, fit, tmp_path):
    guard, objective = CollapseGuard(limits={"rollout/action_tokens_p95": Limit(high=1.5, window=2)}), Insists()
    module = tiny_module(objective, lr=0.02)
    fit(module, tiny_data(max_action_tokens=40), 12)  # short replies first: a random policy rambles
    objective.token = 40
    fit(module, tiny_data(max_action_tokens=40), 30, callbacks=[guard], logger=CSVLogger(tmp_path))
    assert "rollout/action_tokens_p95" in {event["metric"] for event in events(tmp_path)}


def test_bug_40_a_healthy_run_raises_none(tiny_module, tiny_data, fit, tmp_path):
    guard = CollapseGuard(limits=QUICK)
    fit(tiny_module(lr=1e-4), tiny_data(), 15, callbacks=[guard], logger=CSVLogger(tmp_path))
    assert events(tmp_path) == []
    assert guard.alarms == 0
    assert {metric for metric, watch in guard.watches.items() if watch.reference is not None} == set(LIMITS) - {
        "held_out/success"
    }


# -- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "healthy", "collapsed"),
    [
        ("teacher/hint_sensitivity", 0.16, 0.07),  # below half of its start
        ("teacher/hinted_logprob", -0.5, -1.3),  # less than half as likely
        ("teacher/hint_gain", 0.8, -0.3),  # less likely with the hint than without
        ("reflection/coverage", 0.9, 0.3),
        ("train/entropy", 0.5, 0.05),
        ("train/entropy", 0.5, 1.2),
        ("rollout/action_tokens_p50", 40.0, 3.0),
        ("rollout/action_tokens_p95", 120.0, 400.0),
        ("guard/valid_actions", 0.98, 0.5),
        ("rollout/repeated_actions", 0.05, 0.6),
        ("held_out/success", 0.6, 0.2),
    ],
)
def test_each_watched_number_has_a_limit_that_a_collapse_breaks_once(metric, healthy, collapsed):
    watch = Watch(metric, LIMITS[metric])
    window = LIMITS[metric].window
    assert [watch.observe(healthy) for _ in range(2 * window)] == [None] * 2 * window
    alarms = [alarm for _ in range(2 * window) if (alarm := watch.observe(collapsed)) is not None]
    assert len(alarms) == 1
    assert alarms[0].metric == metric
    assert alarms[0].reference == pytest.approx(healthy)
    assert str(alarms[0]).startswith(f"{metric} is ")


def test_a_wording_that_is_harmful_from_the_start_is_an_alarm_at_once():
    watch = Watch("teacher/hint_gain", LIMITS["teacher/hint_gain"])
    assert watch.observe(-2.0) is not None
    student_has_learned = Watch("teacher/hint_gain", LIMITS["teacher/hint_gain"])
    assert [student_has_learned.observe(value) for value in (2.0, 0.5, -0.01)] == [None] * 3


def test_limits_by_hand():
    watch = Watch("x", Limit(low=0.5, high=2.0, margin=1.0, window=2))
    seen = [watch.observe(value) for value in (8.0, 12.0, 4.0, 4.0, 3.9, 10.0, 32.0, 12.0)]
    # means of two: 10 (start), 8, 4.0, 3.95 < 0.5*10-1 = 4, 6.95, 21.0, 22 > 2*10+1
    assert [alarm and (round(alarm.value, 2), alarm.limit) for alarm in seen] == [
        None,
        None,
        None,
        None,
        (3.95, 4.0),
        None,
        None,
        (22.0, 21.0),
    ]


def test_the_best_so_far_can_be_the_reference():
    watch = Watch("x", Limit(low=0.5, window=1, reference="best"))
    assert [watch.observe(value) is not None for value in (0.2, 0.8, 0.5, 0.3)] == [False, False, False, True]


def test_after_going_back_only_new_observations_count():
    watch = Watch("x", Limit(low=0.5, window=2))
    assert [watch.observe(value) is not None for value in (1.0, 1.0, 0.1, 0.1)] == [False, False, False, True]
    watch.forget_recent()
    assert watch.reference == 1.0
    assert [watch.observe(value) is not None for value in (0.1, 0.1)] == [False, True]


# -- what is done ----------------------------------------------------------------------------------------------------


def test_stop_ends_the_run_and_says_why(tiny_module, tiny_data, fit, tmp_path, capsys):
    guard = CollapseGuard("stop", limits=QUICK)
    trainer = fit(tiny_module(Insists(), lr=0.02), tiny_data(), 30, callbacks=[guard], logger=CSVLogger(tmp_path))
    (first, *_) = events(tmp_path)
    assert trainer.global_step == first["step"] < 30
    assert first["action"] == "stop"
    assert first["value"] < first["limit"] < first["reference"]
    assert "training stops" in capsys.readouterr().out
    with open(tmp_path / "lightning_logs" / "version_0" / "metrics.csv", encoding="utf-8") as file:
        assert "guard/alarms" in file.readline()


class Weights(Callback):
    """Weights and moments of the optimizer after each step, by step."""

    def __init__(self):
        self.seen = {}

    def on_train_batch_end(self, trainer, module, *args):
        moments = [state["exp_avg"].clone() for state in trainer.optimizers[0].state.values()]
        self.seen[trainer.global_step] = ([p.detach().clone() for p in module.policy.parameters()], moments)


def same(left, right):
    return all(
        torch.equal(a, b) for part, other in zip(left, right, strict=True) for a, b in zip(part, other, strict=True)
    )


def test_rollback_restores_weights_and_optimizer_of_a_step_before_the_collapse(tiny_module, tiny_data, fit, tmp_path):
    guard, after = CollapseGuard("rollback", limits=QUICK, keep_every=2, max_rollbacks=1), Weights()
    module = tiny_module(Insists(), lr=0.02)
    before = Weights()
    trainer = fit(module, tiny_data(), 30, callbacks=[before, guard, after], logger=CSVLogger(tmp_path))
    logged = events(tmp_path)
    first = logged[0]
    assert first["action"] == "rollback"
    # the newest checkpoint has not proved good yet, so it is the one before
    assert first["step"] - 4 <= first["restored_step"] <= first["step"] - 3
    assert same(after.seen[first["step"]], before.seen[first["restored_step"]])
    assert not same(after.seen[first["step"]], before.seen[first["step"]])
    assert guard.rollbacks == 1
    # it collapses again, and the budget of rollbacks is used up
    assert logged[-1]["action"] == "stop"
    assert trainer.global_step == logged[-1]["step"] > first["step"]
    assert module.turns > 0


def test_bug_850_what_the_collapsed_weights_have_played_ahead_is_played_anew(tiny_module, tiny_data, fit, tmp_path):
    data, versions = tiny_data(), []
    limits = {**dict.fromkeys(LIMITS), "train/turns": Limit(high=3.0, window=1)}  # goes off in the fourth step

    class Ahead(Callback):
        def on_train_batch_start(self, trainer, *args):
            if trainer.global_step == 3:
                data.next.start(lambda ended: [], {"quarantined": {}, "suspects": ["of before"]})

        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            versions.append({turn.policy_version for one in batch for turn in one.turns})

    guard = CollapseGuard("rollback", limits=limits, keep_every=1, max_rollbacks=1)
    fit(tiny_module(), data, 5, callbacks=[Ahead(), guard], logger=CSVLogger(tmp_path))
    assert guard.rollbacks == 1
    assert versions == [{0}, {1}, {2}, {3}, {4}]
    assert data.collector("train").health.suspects == {"of before"}


def test_rollback_brings_the_moving_teacher_back_too(tiny_module, tiny_data, fit, tmp_path):
    objective = SelfDistillation(reflector=ShopRules(), weights=EMAWeights(0.5))
    limits = {**dict.fromkeys(LIMITS), "train/turns": Limit(high=3.0, window=1)}  # goes off once turns have tripled
    guard = CollapseGuard("rollback", limits=limits, keep_every=1)
    copies = {}

    class Copies(Callback):
        def on_train_batch_end(self, trainer, module, *args):
            state = module.policy.network.copies["ema"].state_dict()
            copies.setdefault(trainer.global_step, []).append({k: v.clone() for k, v in state.items()})

    fit(tiny_module(objective), tiny_data(), 5, callbacks=[Copies(), guard, Copies()], logger=CSVLogger(tmp_path))
    (event, *later) = events(tmp_path)
    assert later  # the turns go on counting, and what was seen before going back does not hide it
    now, then = copies[event["step"]][1], copies[event["restored_step"]][0]
    assert all(torch.equal(now[name], then[name]) for name in then)
    assert not all(torch.equal(copies[event["step"]][0][name], then[name]) for name in then)


@pytest.mark.parametrize("weights", [LiveWeights, EMAWeights])
def test_bug_741_an_adapter_is_rolled_back_though_its_base_is_not_in_the_checkpoint(
    weights, tiny_policy, tiny_data, fit, tmp_path
):
    torch.manual_seed(0)
    objective = SelfDistillation(reflector=ShopRules(), weights=weights())
    module = HeroModule(tiny_policy(lora=Lora(rank=2)), objective, lr=1e-2, warmup_steps=0)
    limits = {**dict.fromkeys(LIMITS), "train/turns": Limit(high=3.0, window=1)}
    before, after = Weights(), Weights()
    guard = CollapseGuard("rollback", limits=limits, keep_every=1, max_rollbacks=1)
    fit(module, tiny_data(), 4, callbacks=[before, guard, after], logger=CSVLogger(tmp_path))
    (event,) = events(tmp_path)
    assert event["action"] == "rollback"
    assert same(after.seen[event["step"]], before.seen[event["restored_step"]])
    assert not same(after.seen[event["step"]], before.seen[event["step"]])


def test_without_an_alarm_the_guard_changes_no_number_of_the_run(tiny_module, tiny_data, fit, tmp_path):
    results = []
    for callbacks in ([], [CollapseGuard("rollback", keep_every=1)]):
        module = tiny_module()
        fit(module, tiny_data(), 4, callbacks=callbacks)
        results.append([p.detach().clone() for p in module.policy.parameters()])
    assert same(results[:1], results[1:])


def test_held_out_success_is_watched_where_it_is_measured(tiny_module, tiny_data, fit):
    guard = CollapseGuard()
    fit(tiny_module(), tiny_data(), 2, callbacks=[HeldOut(4), guard])
    assert list(guard.watches["held_out/success"].recent) == [0.0]


def test_a_resumed_guard_knows_what_it_saw(tiny_module, tiny_data, fit, tmp_path):
    guard = CollapseGuard(limits=QUICK)
    trainer = fit(tiny_module(), tiny_data(), 4, callbacks=[guard])
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    whole, resumed = guard, CollapseGuard(limits=QUICK)
    fit(tiny_module(), tiny_data(), 4, tmp_path / "run.ckpt", callbacks=[resumed])
    assert resumed.state_dict() == whole.state_dict()
    assert resumed.batches == 4


def test_checkpoints_of_an_earlier_run_in_the_same_folder_are_not_gone_back_to(tiny_module, tiny_data, fit, tmp_path):
    (tmp_path / "guard").mkdir()
    for name in ("good", "batch=1", "batch=7"):
        (tmp_path / "guard" / f"{name}.ckpt").write_bytes(b"foreign")
    fit(tiny_module(), tiny_data(), 1, callbacks=[CollapseGuard("rollback")])
    (file,) = (tmp_path / "guard").iterdir()
    assert file.name == "batch=1.ckpt"
    assert file.read_bytes() != b"foreign"


# -- bug 742 ---------------------------------------------------------------------------------------------------------

SIXTH = {**dict.fromkeys(LIMITS), "train/turns": Limit(high=5.5, window=1)}
"""An alarm at the sixth batch of six turns, since the turns go on counting."""


def last_weights(fit, module, data, folder, steps, **kwargs):
    """Weights at the end of a run with checkpoints after each step and a rollback at the sixth."""
    guard, saver = CollapseGuard("rollback", limits=SIXTH, keep_every=2, max_rollbacks=1), RunCheckpoint(1, keep=9)
    fit(module, data, steps, callbacks=[guard, saver], default_root_dir=folder, **kwargs)
    assert guard.rollbacks == (steps > 5)
    return [p.detach().clone() for p in module.policy.parameters()]


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_bug_742_a_resumed_run_rolls_back_to_where_the_whole_run_does(at, tiny_module, tiny_data, fit, tmp_path):
    whole = last_weights(fit, tiny_module(), tiny_data(), tmp_path / "whole", 7)
    last_weights(fit, tiny_module(), tiny_data(), tmp_path / "broken", 5)  # steps after ``at`` are discarded
    checkpoint = tmp_path / "broken" / "checkpoints" / f"step={at}.ckpt"
    resumed = last_weights(fit, tiny_module(), tiny_data(), tmp_path / "broken", 7, ckpt_path=checkpoint)
    assert same([whole], [resumed])


def test_bug_742_a_file_that_is_not_the_one_of_the_checkpoint_is_not_gone_back_to(
    tiny_module, tiny_data, fit, tmp_path
):
    last_weights(fit, tiny_module(), tiny_data(), tmp_path, 5)
    good, other = tmp_path / "guard" / "batch=3.ckpt", tmp_path / "guard" / "batch=5.ckpt"
    shutil.copy(other, good)
    checkpoint = tmp_path / "checkpoints" / "step=5.ckpt"
    guard = CollapseGuard("rollback", limits=SIXTH, keep_every=2)
    with pytest.warns(UserWarning, match=r"batch=3.ckpt in .*guard is missing or not the file of the run's checkpoint"):
        fit(tiny_module(), tiny_data(), 6, checkpoint, callbacks=[guard])
    assert guard.rollbacks == 0
    assert guard.kept.good is None


def test_files_of_the_guard_stay_while_a_checkpoint_of_the_run_needs_them(tiny_module, tiny_data, fit, tmp_path):
    guard = CollapseGuard("rollback", limits=dict.fromkeys(LIMITS), keep_every=1)
    fit(tiny_module(), tiny_data(), 9, callbacks=[guard, RunCheckpoint(2, keep=2)])
    # good and candidate were 5 and 6 at step 6, the older of the two checkpoints (the other one is of step 8)
    left = {int(path.stem.partition("=")[2]) for path in (tmp_path / "guard").iterdir()}
    assert {5, 6, 7, 8, 9} <= left
    assert len(left) <= 6
    assert not list((tmp_path / "guard").glob("*.partial"))


def test_off_looks_at_nothing(tiny_module, tiny_data, fit):
    guard = CollapseGuard("off")
    fit(tiny_module(), tiny_data(), 1, callbacks=[guard])
    assert guard.batches == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: CollapseGuard("panic"),  # type: ignore[arg-type]
        lambda: CollapseGuard(keep_every=0),
        lambda: CollapseGuard(max_rollbacks=0),
        lambda: Limit(window=0),
        lambda: Limit(margin=-1.0),
    ],
)
def test_settings_that_cannot_work_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_numbers_that_are_not_finite_are_left_out(tiny_module):
    guard = CollapseGuard()

    class Trainer:
        callbacks = ()

    values = guard._values(Trainer(), {"train/entropy": math.nan, "reflection/coverage": 0.5, "unwatched": 1.0})
    assert values == {"reflection/coverage": 0.5}


class FallsSilent(ShopRules):
    """Its fourth review is not usable, so that the batch makes no step."""

    batches = 0

    def reflect(self, trajectories, policy):
        self.batches += 1
        reviews = super().reflect(trajectories, policy)
        if self.batches < 4:
            return reviews
        return [replace(review, diagnoses=(None,) * len(review.diagnoses)) for review in reviews]


@pytest.mark.filterwarnings("ignore:Nothing was learned from the batch")
def test_bug_805_the_half_of_a_rollback_in_a_batch_without_a_step_is_not_saved(tiny_module, tiny_data, fit, tmp_path):
    def fail(state):
        raise PolicyError("No server for sampling.")

    limits = {**dict.fromkeys(LIMITS), "reflection/coverage": Limit(low=0.5, window=1, reference="best")}
    module, guard = tiny_module(SelfDistillation(reflector=FallsSilent())), CollapseGuard("rollback", limits, 1)
    module.roll_back = fail  # after the weights of the guard were loaded
    with pytest.raises(PolicyError, match="No server"):
        fit(module, tiny_data(), 9, callbacks=[guard, RunCheckpoint(2, keep=9)])
    assert module.global_step == 3
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.ckpt")] == ["step=2.ckpt"]
