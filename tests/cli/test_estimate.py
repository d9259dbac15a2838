"""``hero_pl estimate`` prints what a configuration needs, and says whether it fits."""

import json

import pytest

from hero_pl.cli.main import main


def parts(capsys, *words):
    main(["estimate", *words, "--json"])
    found = json.loads(capsys.readouterr().out)
    return found, {(row["name"], row["detail"]): row["bytes"] for row in found["parts"]}


def test_the_largest_sum_is_that_of_learning_or_rollout(config, capsys, loads_no_model):
    found, _ = parts(capsys, "--config", config())
    sums = dict.fromkeys(("always", "learning", "rollout"), 0)
    for row in found["parts"]:
        sums[row["when"]] += row["bytes"]
    assert found["peak_bytes"] == sums["always"] + max(sums["learning"], sums["rollout"])
    assert found["fits"]


def test_copies_are_those_of_teacher_and_reflector(config, capsys, loads_no_model):
    def copies(**init_args):
        objective = {"class_path": "SelfDistillation", "init_args": init_args}
        _, found = parts(capsys, "--config", config(model__objective=objective))
        return [detail for name, detail in found if name == "frozen copy"]

    initial = {"class_path": "SelfReflector", "init_args": {"weights": "initial"}}
    assert copies(reflector="ShopRules", weights="LiveWeights") == []
    assert copies(reflector=initial, weights="LiveWeights") == ["InitialWeights"]
    assert copies(reflector=initial, weights="InitialWeights") == ["InitialWeights"]
    assert copies(reflector=initial, weights="EMAWeights") == ["EMAWeights", "InitialWeights"]


def test_what_does_not_fit_ends_with_status_1_and_a_setting_to_change(config, capsys, loads_no_model):
    with pytest.raises(SystemExit) as ended:
        main(["estimate", "--config", config(), "--memory-gb", "0.000001", "--tflops", "1"])
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "DOES NOT FIT into 1e-06 GiB. Lower model." in said
    assert "s at 1 TFLOP/s" in said


def test_a_configuration_for_another_machine_is_estimated_here(config, capsys, loads_no_model):
    strategy = {"trainer__accelerator": "gpu", "trainer__devices": 8, "trainer__strategy": "ddp"}
    found, _ = parts(capsys, "--config", config(**strategy))
    assert found["operations"] > 0
