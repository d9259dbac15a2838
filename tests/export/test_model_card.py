"""An exported policy loads in plain transformers and acts as in training; its card reports the measured result."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from hero_pl.chat.actions import PlainText, ToolCall
from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.chat.probes import written_date
from hero_pl.cli.main import main
from hero_pl.errors import HeroError
from hero_pl.export.hub import push
from hero_pl.export.model_card import Exported, write_model_card
from hero_pl.export.results import evaluations
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.sampling import Sampling
from hero_pl.runs.intervals import wilson
from hero_pl.runs.jsonl import append_lines
from hero_pl.runs.provenance import STARTS_FILE, commit, note_start, starts
from hero_pl.runs.records import Record, append_records
from hero_pl.types import StopReason, Trajectory
from tests.conftest import TINY

ROW = {"stage": "test", "seed": 3, "method": "m", "block": "", "task_id": "a", "reward": 0.5, "turns": 4}


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    """A short run of the packaged policy."""
    folder = tmp_path_factory.mktemp("packaged")
    values = {
        "model": {
            "policy": {"class_path": "HuggingFacePolicy", "init_args": {"pretrained": "hero_pl:pocket-shop"}},
            "objective": {"class_path": "SelfDistillation", "init_args": {"reflector": "ShopRules"}},
        },
        "data": {
            "env": "hero_pl/WebShopPocket-v0",
            "tasks_per_step": 1,
            "max_action_tokens": 12,
            "eval_temperature": 0.7,
            "limits": {"max_turns": 3},
        },
        "held_out": {"episodes": 4},
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 1,
            "limit_val_batches": 0,
            "enable_progress_bar": False,
            "logger": {
                "class_path": "lightning.pytorch.loggers.CSVLogger",
                "init_args": {"save_dir": str(folder), "name": "run"},
            },
        },
    }
    values["model"]["policy"]["init_args"]["parser"] = "PlainText"
    (folder / "run.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    main(["fit", "--config", str(folder / "run.yaml")])
    return folder / "run" / "version_0"


@pytest.fixture(scope="module")
def exported(packaged, tmp_path_factory):
    """The exported policy of the run, in a folder."""
    folder = tmp_path_factory.mktemp("exported") / "agent"
    main(["export", str(packaged.parent), str(folder), "--license", "mit"])
    return folder


def test_the_exported_folder_acts_in_plain_transformers_as_it_did_in_rollouts(packaged, exported):
    tokenizer = AutoTokenizer.from_pretrained(exported)
    model = AutoModelForCausalLM.from_pretrained(exported)
    lines = (packaged / "trajectories.jsonl").read_text(encoding="utf-8").splitlines()
    episode = next(row["trajectory"] for row in map(json.loads, lines) if row["stage"] == "test" and row["step"] == 1)
    first = episode["turns"][0]
    messages = [{"role": "system", "content": episode["system_prompt"]}] if episode["system_prompt"] else []
    messages.append({"role": "user", "content": episode["first_observation"]})
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == first["prompt_ids"]
    length = inputs["input_ids"].shape[1]
    reply = model.generate(**inputs, do_sample=False, temperature=None)[0, length:].tolist()
    assert len(reply) < 12  # it stops by itself
    assert reply[-1] in model.generation_config.eos_token_id
    settings = GenerationConfig.from_pretrained(exported)
    assert (settings.temperature, settings.max_new_tokens, settings.do_sample) == (0.7, 12, True)
    assert (settings.top_k, settings.top_p) == (0, 1.0)
    assert (exported / "chat_template.jinja").is_file()


def test_the_card_tells_the_result_with_its_interval_and_the_commit(packaged, exported):
    text = (exported / "README.md").read_text(encoding="utf-8")
    summary = json.loads((packaged / "summary.json").read_text(encoding="utf-8"))
    low, high = summary["after"]["success_ci"]
    sentence = f"succeed in **{summary['after']['success']:.3f}**, 95 % interval {low:.3f} to {high:.3f}"
    assert sentence in text
    assert f"| {summary['training_turns']} (these weights) | test |" in text
    assert "| base model | hero_pl:pocket-shop |" in text
    assert "| SelfDistillation (reflector ShopRules, teacher HindsightTeacher, weights LiveWeights, divergence " in text
    assert "`hero_pl/WebShopPocket-v0`" in text
    assert commit() in text
    assert "![Curves of the run against training turns](curves.png)" in text
    assert (exported / "curves.png").read_bytes() == (packaged / "curves.png").read_bytes()
    assert str(packaged.parents[1]) not in text.replace(str(exported), "")
    card = ModelCard.load(exported / "README.md").data
    assert (card.license, card.library_name, card.base_model) == ("mit", "transformers", None)
    assert [result.metric_value for result in card.eval_results] == [
        pytest.approx(summary["after"][name], abs=1e-6) for name in ("success", "reward")
    ]


def test_the_example_of_the_card_runs(exported, capsys, monkeypatch):
    monkeypatch.chdir(exported.parent)
    text = (exported / "README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    exec(compile(script, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(("args", "day"), [({}, "2024-07-26"), ({"today": "2025-01-31"}, "2025-01-31")])
def test_bug_737_the_card_names_the_date_of_the_rollouts_and_how_to_keep_it(args, day, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%Y-%m-%d') }}\n" + tokenizer.chat_template
    tokenizer.save_pretrained(tmp_path / "source")
    policy = HuggingFacePolicy(config=dict(TINY), tokenizer=str(tmp_path / "source"), template_args=args)
    policy.load()
    run, folder = tmp_path / "run", tmp_path / "export"
    run.mkdir()
    init = {"template_args": args}
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {"policy": {"init_args": init}}}), encoding="utf-8")
    policy.save_pretrained(folder, sampling=Sampling(0.0, 2))
    described = Exported(0, False, PlainText(), "GRPO", date=written_date(policy.template))
    text = write_model_card(folder, run, described).read_text(encoding="utf-8")
    assert f"it was always {day} in training and evaluation" in text
    template = folder / "chat_template.jinja"
    source = template.read_text(encoding="utf-8")
    template.write_text(source.replace("strftime_now('%Y-%m-%d')", f"'{day}'"), encoding="utf-8")
    (script,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    names = {}
    exec(compile(script, "README.md", "exec"), names)
    assert tuple(names["inputs"]["input_ids"][0].tolist()) == policy.template.first_prompt("", "the first observation")


def test_a_card_of_a_template_without_a_date_names_none(exported):
    assert "writes the date" not in (exported / "README.md").read_text(encoding="utf-8")


def test_a_checkpoint_that_was_not_evaluated_does_not_get_the_result_of_another(packaged, tmp_path):
    text = write_model_card(tmp_path, packaged, Exported(1, False, PlainText(), "GRPO")).read_text(encoding="utf-8")
    assert "These weights themselves were not evaluated." in text
    assert "(these weights)" not in text
    assert "model-index" not in text
    assert "license: unknown" in text


def test_a_card_without_a_run_says_so(tmp_path):
    text = write_model_card(tmp_path, None, Exported(0, True, PlainText(), "GRPO")).read_text(encoding="utf-8")
    assert "**Neither these weights nor the run that they come from were evaluated" in text
    assert "version and commit not recorded" in text
    assert "library_name: peft" in text


def test_evaluations_count_what_can_be_counted_and_know_the_turns_that_were_used(tmp_path):
    rows = [{**ROW, "turns_budget": 0, "success": True}, {**ROW, "turns_budget": 0, "success": False, "task_id": "b"}]
    rows += [{**ROW, "turns_budget": 0, "success": True, "evaluable": False}]
    rows += [{**ROW, "turns_budget": 100, "success": True, "do_nothing_succeeds": True, "user": "scripted"}]
    append_lines(tmp_path / "eval.jsonl", rows)
    summary = {"curve": {"0": {"turns_used": 0}, "100": {"turns_used": 104}}}
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    before, after = evaluations(tmp_path)
    assert (before.episodes, before.broken, before.success, before.turns_used) == (2, 1, 0.5, 0)
    assert (before.low, before.high) == wilson(1, 2)
    assert (after.turns_used, after.user, after.floor, after.success) == (104, "scripted", 1.0, 1.0)


def test_bug_874_a_card_has_no_result_of_weights_whose_evaluation_has_only_broken_episodes(tmp_path):
    append_lines(tmp_path / "eval.jsonl", [{**ROW, "turns_budget": 0, "success": False, "evaluable": False}])
    (tmp_path / "summary.json").write_text(json.dumps({"curve": {"0": {"turns_used": 0}}}), encoding="utf-8")
    text = write_model_card(tmp_path, tmp_path, Exported(0, False, PlainText(), "GRPO")).read_text(encoding="utf-8")
    assert "These weights themselves were not evaluated." in text
    assert "| 0 | test | unknown | 0.000 to 1.000 | unknown | unknown | 0 (1 broken, not counted) |" in text
    assert "nan" not in text.lower()


def test_bug_781_the_card_counts_a_task_that_was_played_several_times_once(tmp_path):
    rows = [{**ROW, "turns_budget": 0, "task_id": task, "success": task == "a"} for task in "abab"]
    append_lines(tmp_path / "eval.jsonl", rows)
    (tmp_path / "summary.json").write_text(json.dumps({"curve": {"0": {"turns_used": 0}}}), encoding="utf-8")
    (one,) = evaluations(tmp_path)
    assert (one.episodes, one.tasks, one.success, (one.low, one.high)) == (4, 2, 0.5, wilson(1, 2))
    text = write_model_card(tmp_path, tmp_path, Exported(0, False, PlainText(), "GRPO")).read_text(encoding="utf-8")
    assert "On 4 episodes of 2 of the test tasks these weights succeed in **0.500**" in text
    assert "a task that was played several times counts once" in text


def test_bug_824_a_base_model_of_the_hub_is_linked_and_folders_of_this_machine_are_not_shown(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for given, front, shown in (
        ("acme/tiny-1b", "base_model: acme/tiny-1b", "[acme/tiny-1b](https://huggingface.co/acme/tiny-1b)"),
        (str(tmp_path / "secret" / "weights"), None, "| base model | weights |"),
    ):
        local = {"file": str(tmp_path / "secret" / "rules"), "user": {"pretrained": str(tmp_path / "secret" / "user")}}
        policy = {"pretrained": given, "template_args": {"rules": local["file"]}}
        settings = {"model": {"policy": {"init_args": policy}}, "data": {"env": "a/B-v0", "env_args": local}}
        (run / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        text = write_model_card(tmp_path, run, Exported(0, False, PlainText(), "GRPO")).read_text(encoding="utf-8")
        assert shown in text
        assert (front in text) if front else ("base_model:" not in text)
        assert "with `{'file': 'rules', 'user': {'pretrained': 'user'}}`" in text
        assert f"folder = {tmp_path.name!r}  # the folder of this card" in text
        assert not re.search("secret|" + re.escape(str(tmp_path)), text)


def test_bug_825_the_example_of_a_policy_that_calls_tools_shows_them(tmp_path):
    parameters = {"type": "object", "properties": {"id": {"type": "string", "description": "Of the order. " * 9}}}
    tool = {"type": "function", "function": {"name": "find", "parameters": parameters, "strict": True}}
    trajectory = Trajectory("t", "a/B-v0", 0, 0, "Be kind.", (tool,), "Hello.", (), 0.0, StopReason.TERMINATED)
    append_records(tmp_path / "trajectories.jsonl", [Record("train", 0, trajectory)])

    class Tokenizer:
        def apply_chat_template(self, messages, **options):
            self.seen = messages, options.get("tools")

    for parser, tools in ((ToolCall(), [tool]), (PlainText(), None)):
        text = write_model_card(tmp_path, tmp_path, Exported(0, False, parser, "GRPO")).read_text(encoding="utf-8")
        (script,) = re.findall(r"^messages = .*?(?=^reply = )", text, re.MULTILINE | re.DOTALL)
        tokenizer = Tokenizer()
        exec(compile(script, "README.md", "exec"), {"tokenizer": tokenizer})
        assert tokenizer.seen[0][-1] == {"role": "user", "content": "Hello."}
        assert tokenizer.seen[1] == tools


def test_a_merged_adapter_loads_as_a_whole_model_and_an_unmerged_one_says_what_it_needs(tiny_policy, tmp_path):
    pytest.importorskip("peft", reason="LoRA needs the extra lora")
    from hero_pl.policy.loading import Lora

    policy = tiny_policy(lora=Lora(rank=2))
    policy.load()
    policy.save_pretrained(tmp_path, merge=True)
    assert (tmp_path / "model.safetensors").is_file()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).generation_config.eos_token_id == sorted(
        policy.template.end_ids
    )
    text = write_model_card(tmp_path, None, Exported(0, True, PlainText(), "GRPO")).read_text(encoding="utf-8")
    assert "Needs transformers and peft, and reads the base model as well." in text


# -- the command ---------------------------------------------------------------------------------------------------


def refused(capsys, *words):
    with pytest.raises(SystemExit):
        main(["export", *map(str, words)])
    return capsys.readouterr().err


def test_export_refuses_what_cannot_work_before_a_model_is_loaded(packaged, capsys, tmp_path, loads_no_model):
    checkpoint = next((packaged / "checkpoints").glob("*.ckpt"))
    assert "USER/NAME" in refused(capsys, checkpoint, tmp_path / "x", "--push", "a/b/c")
    assert "--license 'My License'" in refused(capsys, checkpoint, tmp_path / "x", "--license", "My License")
    (tmp_path / "empty").mkdir()
    assert "contains no checkpoint" in refused(capsys, tmp_path / "empty", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_bug_751_export_refuses_a_folder_with_files_before_a_model_is_loaded(
    packaged, capsys, tmp_path, loads_no_model
):
    (tmp_path / "agent" / ".git").mkdir(parents=True)  # the clone of an empty repository of the hub is a new folder
    for name in ("adapter_config.json", "thesis.txt"):
        (tmp_path / "agent" / name).write_text("mine", encoding="utf-8")
        assert "is not empty. Weights go into a folder of their own" in refused(capsys, packaged, tmp_path / "agent")
        (tmp_path / "agent" / name).unlink()
    with pytest.raises(pytest.fail.Exception, match="a model was loaded"):
        main(["export", str(packaged), str(tmp_path / "agent")])


def test_a_folder_with_two_runs_is_refused_with_their_names(capsys, tmp_path, loads_no_model):
    for name in ("one", "two"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / "last.ckpt").touch()
    text = refused(capsys, tmp_path, tmp_path / "x")
    assert "contains 2 runs" in text
    assert str(tmp_path / "two") in text


# -- upload --------------------------------------------------------------------------------------------------------


class Hub:
    """Stores the requests."""

    def __init__(self) -> None:
        self.asked: list = []

    def create_repo(self, name, **settings):
        self.asked.append(("create", name, settings))
        return f"https://hub/{name}"

    def upload_folder(self, **settings):
        self.asked.append(("upload", sorted(path.name for path in Path(settings["folder_path"]).iterdir()), settings))


def test_a_push_makes_a_private_repository_and_uploads_the_folder(packaged, exported, tmp_path, capsys, monkeypatch):
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    main(["export", str(packaged), str(tmp_path / "agent"), "--push", "me/agent"])
    (_, name, made), (_, uploaded, settings) = hub.asked
    assert (name, made["private"], made["exist_ok"], made["repo_type"]) == ("me/agent", True, True, "model")
    assert {"README.md", "model.safetensors", "generation_config.json", "chat_template.jinja"} <= set(uploaded)
    assert settings["repo_id"] == "me/agent"
    assert "Uploaded to https://hub/me/agent" in capsys.readouterr().out
    assert "folder = 'me/agent'" in (tmp_path / "agent" / "README.md").read_text(encoding="utf-8")
    assert push(tmp_path, "me/other", "dataset", public=True, api=hub) == "https://hub/me/other"
    assert hub.asked[2][2]["private"] is False


def test_a_hub_that_cannot_be_reached_costs_nothing_but_the_upload(tmp_path):
    class Down(Hub):
        def upload_folder(self, **_):
            raise ConnectionError("no route\nat all")

    with pytest.raises(HeroError, match=r"was written.*no route Log in .*hf upload me/agent .* --repo-type model"):
        push(tmp_path, "me/agent", "model", api=Down())


# -- which code made it --------------------------------------------------------------------------------------------


def test_every_start_of_a_run_is_noted_with_its_commit(packaged):
    (only,) = starts(packaged)
    assert only["commit"] == commit()
    assert only["checkpoint"] is None
    assert only["packages"]["torch"]
    note_start(packaged, "1.0", "some.ckpt")
    assert [row["checkpoint"] for row in starts(packaged)] == [None, "some.ckpt"]
    (packaged / STARTS_FILE).unlink()


def test_a_commit_is_that_of_the_folder_and_of_no_repository_around_it(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "lib").mkdir()
    assert commit(tmp_path / "lib") == ""
