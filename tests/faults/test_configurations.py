"""Case 26: each kind of wrong configuration is refused before a model is loaded, with the key and what to do."""

import importlib.util

import pytest

from hero_pl.callbacks.collapse_guard import Limit
from hero_pl.callbacks.held_out import HeldOut
from hero_pl.cli.main import main
from hero_pl.errors import ConfigError
from hero_pl.module import HeroModule
from hero_pl.objectives.policy_gradient import GRPO, PolicyGradient
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.teacher.hindsight import HindsightTeacher

SHOP_RULES = {"reflector": "ShopRules"}


def objective(class_path="SelfDistillation", **arguments):
    return {"model__objective": {"class_path": class_path, "init_args": arguments}}


def distilled(**arguments):
    return objective(**SHOP_RULES, **arguments)


def divergence(**arguments):
    return distilled(divergence={"class_path": "JensenShannon", "init_args": arguments})


def policy(**arguments):
    return {f"model__policy__init_args__{name}": value for name, value in arguments.items()}


def user(**arguments):
    return {"data__env": "hero_pl/PocketRetail-v0", "data__env_args": {"user": arguments}}


def made(**arguments):
    return policy(config={"model_type": "qwen3", **arguments})


NAMES = {
    "an unknown key": ({"data__tasks_per_stop": 3}, "data.tasks_per_stop", "Did you mean 'data.tasks_per_step'?"),
    "an unknown key of the trainer": ({"trainer__max_steps_": 3}, "trainer.max_steps_", "'trainer.max_steps'?"),
    "an unknown key of a callback": ({"export__enable": True}, "export.enable", "'export.enabled'?"),
    "an unknown section": ({"agent": {"lr": 1.0}}, "agent", "does not accept"),
    "an unknown key of a component": (objective(reflektor="ShopRules"), "reflektor", "'reflector'"),
    "an unknown key of the adapter": (policy(lora={"rnk": 3}), "lora", "'rank'"),
    "an unknown key of the model": (made(hidden_sise=32), "hidden_sise", "did you mean 'hidden_size'?"),
    "an unknown key of a logger": ({"wandb": {"projekt": "x"}}, "wandb", "'project'?"),
    "an unknown argument of the environment": ({"data__env_args": {"catalogue": 1}}, "env_args", "'catalog'?"),
    "an unknown stage": ({"data__splits": {"training": "train"}}, "data.splits", "Stages: train, validate, test"),
    "an unknown split": ({"data__splits": {"train": "nope"}}, "split='nope'", "expected one of warmup, train"),
    "a split as an argument": ({"data__env_args": {"split": "warmup"}}, "env_args.split", "data.splits: {train"),
    "the name of an argument of ours": ({"data__env_args": {"env_id": "x"}}, "env_args", "'env_id'"),
    "the name of an argument of Gymnasium": ({"data__env_args": {"id": "x"}}, "env_args", "'id'"),
    "a key that is a number": ({"data__env_args": {1: 2}}, "data.env_args: the key 1", "Put quotes around"),
    "a misspelled component": (objective("SelfDistilation"), "SelfDistilation", "'SelfDistillation'?"),
    "a misspelled inner component": (objective(reflector="ShopRule"), "ShopRule", "'ShopRules'?"),
    "a misspelled environment": (
        {"data__env": "hero_pl/WebShopPoket-v0"},
        "WebShopPoket",
        "'hero_pl/WebShopPocket-v0'?",
    ),
    "another version of an environment": ({"data__env": "hero_pl/WebShopPocket-v9"}, "-v9", "WebShopPocket-v0'?"),
    "a misspelled model type": (made(model_type="qwen33"), "qwen33", "Did you mean 'qwen3'?"),
    "a misspelled checkpoint of the package": (policy(tokenizer="hero_pl:poket-shop"), "poket-shop", "pocket-shop."),
    "a misspelled accelerator": ({"trainer__accelerator": "gpuu"}, "accelerator='gpuu'", "Available names are"),
    "a component in the place of another": (objective(reflector="JensenShannon"), "reflector", "JensenShannon"),
    "a function in the place of a component": (objective("os.system", command="true"), "os.system", "Objective"),
    "an unknown guard": ({"collapse_guard__action": "panic"}, "panic", "rollback"),
}

VALUES = {
    "text for a number": ({"model__lr": "fast"}, "model.lr", "Expected float"),
    "a list for a number": ({"model__lr": [1]}, "model.lr", "Expected float"),
    "a truth value for a number": ({"model__lr": True}, "model.lr", "Expected float"),
    "a fraction for a number of tokens": ({"data__max_action_tokens": 3.5}, "data.max_action_tokens", "Expected int"),
    "a time for a number": ({"data__seed": "1:30"}, "data.seed", "Expected int"),
    "a list for a mapping": ({"data__env_args": [1]}, "data.env_args", "Expected dict"),
    "a number for a name": ({"data__env": 3}, "data.env", "Expected str"),
    "a word of no choice": ({"model__schedule": "cosine"}, "model.schedule", "one of 'constant', 'linear'"),
    "one number of two": ({"model__betas": [0.9]}, "model.betas", "2 elements"),
    "nothing for a number": ({"model__lr": None}, "model.lr has no value", "remove the key"),
    "nothing for a temperature": ({"data__temperature": None}, "data.temperature has no value", "remove the key"),
    "nothing in a component": (divergence(beta=None), "divergence.init_args.beta has no value", "remove the key"),
    "nothing in the limits": ({"data__limits": {"num_envs": None}}, "limits.num_envs=None", "at least 1"),
    "no environment": ({"data__env": None}, "data.env", "required"),
    "no policy": ({"model__policy": None}, "model.policy", "required"),
    "text in the model": (made(hidden_size="big"), "hidden_size", "expected int"),
    "an adapter that is a word": (policy(lora=True), "lora", "Lora"),
}

RANGES = {
    "a negative rate": ({"model__lr": -1.0}, "lr", "lr > 0"),
    "a beta above 1": ({"model__betas": [0.9, 1.5]}, "betas=(0.9, 1.5)", "in [0, 1)"),
    "a negative epsilon": ({"model__eps": -1.0}, "eps=-1.0", "eps > 0"),
    "a negative decay": ({"model__weight_decay": -1.0}, "weight_decay=-1.0", "0 (none) or more"),
    "a negative norm": ({"model__clip": -1.0}, "clip=-1.0", "0 (no clipping)"),
    "a negative length of the schedule": ({"model__total_steps": -4}, "total_steps=-4", "at least 1"),
    "a negative temperature": ({"data__temperature": -1.0}, "temperature=-1.0", "0 (greedy)"),
    "a reply without tokens": ({"data__max_action_tokens": 0}, "max_action_tokens=0", "at least 1"),
    "a reply longer than the context": ({"data__max_action_tokens": 600}, "max_action_tokens=600", "512 tokens"),
    "no task": ({"data__tasks_per_step": 0}, "data.tasks_per_step=0", "at least 1"),
    "a billion tasks": ({"data__tasks_per_step": 10**9}, "data.tasks_per_step=1000000000", "at most"),
    "no seed as a task": ({"data__seed_tasks": 0}, "data.seed_tasks=0", "at least 1"),
    "an empty group": ({"data__group_size": 0}, "data.group_size", "at least 1"),
    "no turn": ({"data__limits": {"max_turns": 0}}, "max_turns", "at least 1"),
    "no time": ({"data__limits": {"step_timeout_s": 0}}, "limits.step_timeout_s", "positive number of seconds"),
    "a share above 1": ({"data__limits": {"broken_share": 1.5}}, "limits.broken_share", "[0, 1]"),
    "a negative seed": ({"data__seed": -2}, "data.seed=-2", "0 or a positive number"),
    "a seed too large": ({"seed_everything": 10**30}, "seed_everything=1000", "from 0 to 4294967295"),
    "negative threads": ({"torch_threads": -1}, "torch_threads=-1", "positive number"),
    "negative steps": ({"trainer__max_steps": -5}, "max_steps", "non-negative integer or -1"),
    "no device": ({"trainer__devices": 0}, "devices=0", "not a valid input"),
    "devices in words": ({"trainer__devices": "two"}, "devices", "int > 0"),
    "a negative budget": ({"turn_budget__max_turns": -1}, "turn_budget.max_turns=-1", "0 for no budget"),
    "a negative evaluation": ({"held_out__episodes": -5}, "held_out.episodes", "0 for no evaluation"),
    "an evaluation before the start": ({"held_out__at_turns": [-3]}, "held_out.at_turns=[-3]", "above 0"),
    "a negative log": ({"trajectories__every_n_steps": -1}, "every_n_steps", "0 for no log"),
    "no checkpoint": ({"checkpoint__keep": 0}, "checkpoint.", "enable_checkpointing: false"),
    "no window": ({"collapse_guard__limits": {"train/loss": {"window": 0}}}, "window", "window >= 1"),
    "a mixture of one": (divergence(beta=2.0), "beta=2.0", "ForwardKL"),
    "no candidate": (divergence(support="student", top_k=0), "top_k=0", "at least 1"),
    "a context of one word": (policy(max_length=3), "max_length=3", "16 tokens"),
    "a negative weight": (distilled(confidence_weights={"low": -1.0}), "confidence_weights", "non-negative"),
}
if importlib.util.find_spec("peft"):
    RANGES["an adapter without rank"] = (policy(lora={"rank": 0}), "rank: 0", "at least 1")

TOGETHER = {
    "a group of one": ({"model__objective": "GRPO"}, "group_size", "Set data.group_size to 2 or more"),
    "a schedule without an end": ({"model__schedule": "linear"}, "linear needs total_steps", "Set it"),
    "rollouts older than the weights": ({"model__updates_per_batch": 2}, "updates_per_batch=2", "max_staleness"),
    "weights twice": (policy(pretrained="hero_pl:pocket-shop"), "pretrained='hero_pl:pocket-shop'", "exactly one"),
    "no kind of model": (policy(config={"hidden_size": 32}), "model_type", "for example qwen3"),
    "threads and workers": ({"data__limits": {"threads": 2, "workers": 2}}, "limits.threads=2", "Set one of them to 0"),
    "a run without an end": ({"trainer__max_steps": -1}, "turn_budget.max_turns=0", "Set one of them"),
    "a run without a step": ({"trainer__max_steps": 0}, "trainer.max_steps=0", "hero_pl test"),
    "a run that is resumed and started": ({"resume": "auto", "ckpt_path": "last"}, "--resume", "Give one of them"),
    "a check that is not there": ({"force": True}, "--force", "template: auto"),
    "a scaled loss": ({"trainer__precision": "16-mixed"}, "trainer.precision=16-mixed", "bf16-mixed"),
    "accumulated gradients": ({"trainer__accumulate_grad_batches": 2}, "accumulate_grad_batches", "Remove"),
    "another clipping": ({"trainer__gradient_clip_val": 1.0}, "gradient_clip_val", "Remove"),
    "an unknown user": (user(url="http://localhost:9", model="m", strategy="nope"), "nope", "react"),
    "an unknown key of the user": (user(url="http://localhost:9", model="m", strategi="llm"), "strategi", "strategy"),
    "numbers for text": ({"data__env": "CartPole-v1"}, "observation_space", "expected text"),
}

PLACES = {
    "a folder of a model": (policy(config=None, pretrained="./no/such"), "no folder no/such", "hub id"),
    "a folder of a tokenizer": (policy(tokenizer="/no/such/folder"), "no folder /no/such/folder", "hub id"),
    "a hint template": (
        distilled(teacher={"class_path": "HindsightTeacher", "init_args": {"template": "gone.jinja"}}),
        "gone.jinja",
        "Check the path",
    ),
    "a folder of data": (
        {"data__env": "hero_pl/WebShop-v0", "data__env_args": {"data_dir": "/no/such"}},
        "/no/such",
        "Expected a folder",
    ),
    "a package": ({"data__env": "nowhere_pkg:Env-v0"}, "nowhere_pkg", "PYTHONPATH"),
    "an environment of a package": ({"data__env": "hero_envs:Nope-v0"}, "hero_envs:Nope-v0", "registers no"),
    "a path for an environment": ({"data__env": "../../x:y"}, "../../x:y", "cannot be created"),
    "a run": ({"resume": "nowhere"}, "--resume nowhere", "auto, never, or a path"),
    "a folder that is a file": ({"trainer__logger__init_args__save_dir": __file__}, "run folder", "save_dir"),
    "a folder outside": ({"trainer__logger__init_args__name": "../../x"}, "init_args.name='../../x'", "save_dir"),
}

WRONG = {**NAMES, **VALUES, **RANGES, **TOGETHER, **PLACES}


def refused(capsys, words):
    """What a refused command prints: an explanation of bounded size."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    text = capsys.readouterr().err
    assert ended.value.code in (1, 2)
    assert "Traceback" not in text
    assert len(text.splitlines()) < 30
    assert len(text) < 3000
    return text


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_setting_is_refused_with_its_key_and_what_to_do(kind, config, capsys, loads_no_model):
    changes, key, cure = WRONG[kind]
    text = refused(capsys, ["fit", "--config", config(**changes)])
    assert key in text
    assert cure in text


@pytest.mark.parametrize("name", ["ddpp", "deepspeed", "fsdp", "ddp_spawn", "ModelParallelStrategy", "FSDPStrategy"])
def test_a_strategy_that_is_not_served_is_refused_with_those_that_are(name, config, capsys, loads_no_model):
    given = {"class_path": f"lightning.pytorch.strategies.{name}"} if name[0].isupper() else name
    text = refused(capsys, ["fit", "--config", config(trainer__strategy=given, trainer__devices=2)])
    assert f"trainer.strategy={name}" in text
    assert "Use auto (one process) or ddp" in text
    assert "hero_pl.strategies.FSDP2Strategy" in text
    assert "tensor_parallel_size" in text
    assert "save_distributed_checkpoint: false" in text


def test_an_extra_that_is_not_installed_is_named(config, capsys, monkeypatch, loads_no_model):
    monkeypatch.setattr("hero_pl.policy.loading.find_spec", lambda name: None)
    assert "pip install 'hero_pl[lora]'" in refused(capsys, ["fit", "--config", config(**policy(lora={"rank": 2}))])


MANY = ", ".join(f"k{i}: 1" for i in range(6000))
FILES = {
    "binary": (bytes(range(256)), "control characters are not allowed"),
    "a tab": (b"model:\n\tlr: 1\n", "line 2, column 1"),
    "two documents": (b"model: {lr: 1.0}\n---\nmodel: {lr: 2.0}\n", "expected a single document"),
    "code": (b"model: !!python/object/apply:os.system ['true']\n", "tags are not supported"),
    "a value that is not defined": (b"model: *a\n", "undefined alias"),
    "a value that contains itself": (b"model: &a {policy: *a}\n", "contains itself"),
    "a small text for a huge value": (
        ("x0: &x0 [1]\n" + "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 6))).encode(),
        "more than 5000 values",
    ),
    "a huge value": (f"data: {{env_args: {{{MANY}}}}}\n".encode(), "more than 5000 values"),
    "a huge file": (b"# x\n" * 300_000, "1200000 bytes"),
    "a number that is not finite": (b"model: {lr: 1e999}\n", "1e999: expected a finite decimal number"),
    "a number of thousands of digits": (b"data: {seed: " + b"9" * 5000 + b"}\n", "digits"),
    "a list as a key": (b"? [1, 2]\n: 3\n", "unhashable key"),
    "no text as a key": (b"true: 3\n", "Key must be a string"),
    "a truth value of 1.1": (b"model: {lr: on}\n", "model.lr"),
    "a tag": (b"model: {lr: !!bool x}\n", "line 1: the tag"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_configuration_is_refused_with_its_name(kind, config, capsys, tmp_path, loads_no_model):
    content, expected = FILES[kind]
    (tmp_path / "over.yaml").write_bytes(content)
    text = refused(capsys, ["fit", "--config", config(), "--config", str(tmp_path / "over.yaml")])
    assert expected in text
    assert str(tmp_path / "over.yaml") in text or kind in ("no text as a key", "a truth value of 1.1")


@pytest.mark.parametrize(
    ("path", "expected"), [("a" * 5000, "cannot be opened"), ("/dev/null", "is a device or pipe"), ("", "is a folder")]
)
def test_a_path_that_is_no_file_is_refused(path, expected, capsys, loads_no_model):
    assert expected in refused(capsys, ["fit", "--config", path])


@pytest.mark.parametrize(
    ("component", "name"),
    [
        *((HindsightTeacher, name) for name in ("include_action_target", "min_confidence", "on_invalid", "position")),
        *((SelfReflector, name) for name in ("weights", "mode", "answer")),
        *((GRPO, name) for name in ("scale_rewards", "zero_variance")),
        *((SelfDistillation, name) for name in ("teacher_scoring", "scaffold")),
        *((HuggingFacePolicy, name) for name in ("dtype", "hint_position", "reasoning")),
        *((PolicyGradient, "zero_variance"), (HeldOut, "stage"), (Limit, "reference"), (HeroModule, "schedule")),
    ],
)
def test_bug_862_a_word_that_is_no_choice_is_refused_in_python_too(component, name):
    needed = {HuggingFacePolicy: {"config": {"model_type": "qwen3"}, "tokenizer": "hero_pl:pocket-shop"}}
    needed[HeroModule] = {"policy": ScriptedPolicy(), "objective": GRPO()}
    with pytest.raises(ConfigError, match=rf"{component.__name__}\({name}='foo'\): expected one of "):
        component(**needed.get(component, {}), **{name: "foo"})
