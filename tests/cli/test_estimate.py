"""``hero_pl estimate`` prints what a configuration needs, and says whether it fits."""

import json
from pathlib import Path

import pytest

import hero_pl
from hero_pl.cli.main import main


def parts(capsys, *words):
    main(["estimate", *words, "--json"])
    found = json.loads(capsys.readouterr().out)
    return found, {(row["name"], row["detail"]): row["bytes"] for row in found["parts"]}


def test_the_largest_sum_is_that_of_one_phase(config, capsys, loads_no_model):
    found, _ = parts(capsys, "--config", config())
    sums = dict.fromkeys(("always", "learning", "rollout", "review", "evaluation"), 0)
    for row in found["parts"]:
        sums[row["when"]] += row["bytes"]
    largest = max(sums[phase] for phase in sums if phase != "always")
    assert found["peak_bytes"] == sums["always"] + largest
    assert sums[found["phase"]] == largest
    assert found["fits"]


def test_bug_698_an_evaluation_plays_more_episodes_than_a_step(config, capsys, loads_no_model):
    def caches(**changes):
        found, _ = parts(capsys, "--config", config(data__limits={"max_turns": 2, "num_envs": 6}, **changes))
        return {row["when"]: row["bytes"] for row in found["parts"] if row["name"] == "keys and values"}

    few, many = caches(held_out={"episodes": 4}), caches(held_out={"episodes": 40})
    assert few["evaluation"] == 4 * few["rollout"]  # a step plays one episode
    assert many["evaluation"] == 6 * many["rollout"]
    assert "evaluation" not in caches(held_out={"episodes": 0})


@pytest.fixture
def copies(config, capsys, loads_no_model):
    """Details of the frozen copies of an objective."""

    def of(name="SelfDistillation", **init_args):
        objective = {"class_path": name, "init_args": init_args}
        _, found = parts(capsys, "--config", config(model__objective=objective))
        return [detail for name, detail in found if name == "frozen copy"]

    return of


INITIAL = {"class_path": "SelfReflector", "init_args": {"weights": "initial"}}


def test_copies_are_those_of_teacher_and_reflector(copies):
    assert copies(reflector="ShopRules", weights="LiveWeights") == []
    assert copies(reflector=INITIAL, weights="LiveWeights") == ["initial"]
    assert copies(reflector=INITIAL, weights="InitialWeights") == ["initial"]
    assert copies(reflector=INITIAL, weights="EMAWeights") == ["ema", "initial"]


def test_bug_814_copies_of_wrapped_reflectors_and_of_penalties_are_counted(copies):
    wrapped = {"class_path": "ShuffledReflector", "init_args": {"inner": INITIAL}}
    blind = {"class_path": "BlindReflector", "init_args": {"inner": wrapped}}
    penalty = {"class_path": "GRPO", "init_args": {"beta_kl": 0.1}}
    assert copies(reflector=wrapped, weights="LiveWeights") == ["initial"]
    assert copies(reflector=blind, weights="EMAWeights") == ["ema", "initial"]
    assert copies("GRPO", beta_kl=0.1) == ["initial"]
    assert copies("Mixed", reflector="ShopRules", policy_gradient=penalty) == ["initial"]


def test_what_does_not_fit_ends_with_status_1_and_a_setting_to_change(config, capsys, loads_no_model):
    with pytest.raises(SystemExit) as ended:
        main(["estimate", "--config", config(), "--memory-gb", "0.000001", "--tflops", "1"])
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "DOES NOT FIT into 1e-06 GiB. Lower model." in said
    assert "s at 1 TFLOP/s" in said


def test_a_configuration_for_another_machine_is_estimated_here(config, capsys, loads_no_model):
    strategy = {"trainer__accelerator": "gpu", "trainer__devices": 8, "trainer__num_nodes": 2}
    found, rows = parts(capsys, "--config", config(**strategy, trainer__strategy="ddp"))
    assert found["processes"] == 16
    assert rows["buckets", "gradients that DDP exchanges"] == rows["gradients", "of trained weights"]
    alone, _ = parts(capsys, "--config", config())
    assert alone["processes"] == 1
    assert found["operations"] == alone["operations"]  # of one device


def test_a_strategy_that_is_not_served_is_refused(config, capsys, loads_no_model):
    with pytest.raises(SystemExit):
        main(["estimate", "--config", config(trainer__strategy="deepspeed")])
    assert "trainer.strategy=deepspeed" in capsys.readouterr().err


def test_bug_642_reviews_of_the_policy_itself_need_a_cache_of_their_own(config, capsys, loads_no_model):
    def reviews(reflector):
        objective = {"class_path": "SelfDistillation", "init_args": {"reflector": reflector}}
        found, _ = parts(capsys, "--config", config(model__objective=objective, data__tasks_per_step=4))
        return {row["name"]: row["bytes"] for row in found["parts"] if row["when"] == "review"}

    many, one = (
        reviews({"class_path": "SelfReflector", "init_args": {"mode": "transcript", "batch_size": size}})
        for size in (64, 1)
    )
    assert many["keys and values"] > one["keys and values"] > 0
    assert reviews("ShopRules") == {}


@pytest.mark.parametrize(
    ("mode", "weights", "scoring", "kept"),
    [
        ("continue", "InitialWeights", "auto", True),
        ("transcript", "InitialWeights", "auto", False),
        ("continue", "EMAWeights", "auto", False),
        ("continue", "InitialWeights", "separate", False),
    ],
)
def test_reviewed_episodes_wait_for_a_teacher_with_the_same_weights(
    mode, weights, scoring, kept, config, capsys, loads_no_model
):
    reflector = {"class_path": "SelfReflector", "init_args": {"mode": mode, "weights": "initial"}}
    objective = {"reflector": reflector, "weights": weights, "teacher_scoring": scoring}
    found, _ = parts(
        capsys, "--config", config(model__objective={"class_path": "SelfDistillation", "init_args": objective})
    )
    waiting = [row for row in found["parts"] if row["when"] == "learning" and row["name"] == "keys and values"]
    assert bool(waiting) is kept


def test_bug_643_an_adapter_is_merged_into_a_second_copy_of_the_weights_that_it_changes(
    config, capsys, loads_no_model, tiny_config
):
    pytest.importorskip("peft", reason="the adapter needs the extra `lora`")
    lora = {"rank": 2, "alpha": 4, "target_modules": ["q_proj"]}

    def merged(merge):
        sampler = {"class_path": "CachedSampler", "init_args": {"merge": merge}}
        changes = {"model__policy__init_args__lora": lora, "model__policy__init_args__sampler": sampler}
        found, _ = parts(capsys, "--config", config(**changes))
        return [row["bytes"] for row in found["parts"] if (row["when"], row["name"]) == ("rollout", "merged weights")]

    query = tiny_config["hidden_size"] * tiny_config["num_attention_heads"] * tiny_config["head_dim"]
    assert merged(True) == [4 * query * tiny_config["num_hidden_layers"]]
    assert merged(False) == []


def test_a_sampler_on_a_server_needs_no_keys_and_values_here(config, capsys, loads_no_model):
    given = {"class_path": "ServerSampler", "init_args": {"url": "http://localhost:1", "folder": "w"}}
    words = ["--config", config(), "--model.policy.init_args.sampler", json.dumps(given)]
    found, _ = parts(capsys, *words)
    assert {row["when"] for row in found["parts"] if row["name"] == "keys and values"} == {"server"}
    assert found["peak_bytes"] == sum(row["bytes"] for row in found["parts"] if row["when"] in ("always", "learning"))


def test_bug_826_a_user_that_runs_in_this_process_needs_memory_too(config, capsys, loads_no_model):
    def user(threads=0, **settings):
        limits = {"max_turns": 2, "num_envs": 6, "threads": threads}
        given = {"user": {"pretrained": "hero_pl:pocket-retail", **settings}}
        words = config(data__env_args=given, data__limits=limits, held_out={"episodes": 4})
        found, _ = parts(capsys, "--config", words)
        rows = [row for row in found["parts"] if "user" in row["name"] + row["detail"]]
        return {(row["when"], row["name"]): row["bytes"] for row in rows}

    weights, cache = ("always", "weights of the user"), ("evaluation", "keys and values")
    whole, half = user(), user(threads=6, batch_size=3, dtype="bfloat16")
    file = (Path(hero_pl.__file__).parent / "pocket/checkpoints/pocket-retail/model.safetensors").stat().st_size
    assert 0.9 * file < whole[weights] <= file
    assert half[weights] == whole[weights] // 2
    assert half[cache] == 3 * half["rollout", "keys and values"]  # a step plays one episode
    assert whole[cache] == whole["rollout", "keys and values"]  # without threads one reply at a time
    assert ("server", "weights of the user") not in user(device="cpu")  # training is on the CPU, too
