"""Puts every silent bug of ``docs/bugs.md`` into a copy of the package and says whether its tests notice.

    python tests/mutations/run.py            all of them, a few minutes
    python tests/mutations/run.py 9 31 40    these

A bug that survives its tests, or a line that is not there any more, ends the run with status 1. The bugs stand below
and in ``bugs/``, one file per package.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

# what all tests need, imported once: importing it takes longer than most of them
import hypothesis  # noqa: F401
import lightning  # noqa: F401
import pytest
import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Bug:
    """One bug: what is put in, where, and the tests that must fail."""

    number: int
    put_in_as: str
    file: str
    changes: tuple[tuple[str, str], ...]
    tests: str
    select: str = ""
    """Expression for ``pytest -k``; default: tests named after the bug."""


def read(path: Path) -> list[Bug]:
    """The bugs of one file: tables ``bug``, each with tables ``change`` of ``old`` and ``new`` text."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))["bug"]
    changes = [tuple((one["old"], one["new"]) for one in bug.pop("change")) for bug in found]
    return [Bug(changes=of_bug, **bug) for bug, of_bug in zip(found, changes, strict=True)]


BATCH, DIVERGENCE = "hero_pl/batch.py", "hero_pl/losses/divergence.py"
CREDIT, POLICY_GRADIENT = "hero_pl/losses/credit.py", "hero_pl/losses/policy_gradient.py"
SCHEDULES = "hero_pl/objectives/schedules.py"
ADVANTAGES, NORMALIZE, MODULE = "hero_pl/losses/advantages.py", "hero_pl/losses/normalize.py", "hero_pl/module.py"
SCALARS = "hero_pl/scalars.py"
ENDPOINT = "envs/hero_envs/chat_endpoint.py"

BRANCHES = "hero_pl/policy/branches.py"

BUGS = (
    Bug(
        1,
        "score an action token with the logits at its own position",
        "hero_pl/types.py",
        (("for position in range(start - 1, stop - 1)]", "for position in range(start, stop)]"),),
        "tests/policy/test_huggingface.py",
    ),
    Bug(
        2,
        "let the gradient of the divergence flow into the teacher",
        DIVERGENCE,
        (
            ("log_p = log_probabilities(teacher_logits.detach()", "log_p = log_probabilities(teacher_logits"),
            ("* slope, None, None", "* slope, -grad_value.unsqueeze(-1) * slope, None"),
        ),
        "tests/losses/test_divergence.py",
    ),
    Bug(
        3,
        "give the spliced context to the student as well",
        BATCH,
        (
            (
                "        whole = context + action\n",
                "        context = self.dialect.template.insert_hint(context, hint.text) if hint else context\n"
                "        whole = context + action\n",
            ),
        ),
        "tests/test_batch.py",
    ),
    Bug(
        4,
        "splice the message of an empty hint in",
        "hero_pl/chat/template.py",
        (("        if not hint:\n            return prompt_ids\n", ""),),
        "tests/test_batch.py",
    ),
    Bug(
        5,
        "let the span of an action begin in the text before it",
        BATCH,
        (
            (
                "span = (len(context) + first, len(context) + last)",
                "span = (len(context) + first - 3, len(context) + last)",
            ),
        ),
        "tests/test_batch.py",
    ),
    Bug(
        6,
        "use the mask of the action as attention mask",
        "hero_pl/policy/network.py",
        (
            (
                "input_ids=ids.to(self.device), use_cache=False)",
                "input_ids=ids.to(self.device), use_cache=False, attention_mask=torch.tensor(\n"
                "                [[int(p >= pieces[i][1][0]) for p in range(ids.shape[1])] for i in group]))",
            ),
        ),
        "tests/test_batch.py",
    ),
    Bug(
        7,
        "encode the decoded action again",
        BATCH,
        (
            (
                "context, action = turn.prompt_ids, turn.action_ids",
                "encoder = self.dialect.template.encoder\n"
                "        context, action = turn.prompt_ids, encoder.encode_untrusted(encoder.decode(turn.action_ids))",
            ),
        ),
        "tests/test_batch.py",
    ),
    Bug(
        8,
        "extend the open row although the history differs",
        BATCH,
        ((" and context[: len(self._open[1])] == self._open[1]:", ":"),),
        "tests/test_batch.py",
    ),
    Bug(
        9,
        "give the student the weight of the teacher in the mixture",
        "hero_pl/losses/jensen_shannon.py",
        (("self.beta = beta", "self.beta = 1.0 - beta"),),
        "tests/losses/test_jensen_shannon.py",
    ),
    Bug(
        10,
        "compute the forward divergence in reverse",
        "hero_pl/losses/kl.py",
        (("return p * gap, q - p", "return -q * gap, -q * gap"),),
        "tests/losses/test_divergence.py",
    ),
    Bug(
        11,
        "form the log-ratio from probabilities",
        DIVERGENCE,
        (
            (
                "gap = (log_p - log_q).nan_to_num_(nan=0.0, posinf=_EXCLUDED_GAP, neginf=-_EXCLUDED_GAP)",
                "gap = (log_p.exp() / log_q.exp()).log()",
            ),
        ),
        "tests/losses/test_divergence.py",
    ),
    Bug(
        12,
        "leave the top-k probabilities as they are, without tail or renormalization",
        "hero_pl/losses/support.py",
        (("return inside_q - mass_q, inside_p - mass_p, metrics", "return inside_q, inside_p, metrics"),),
        "tests/losses/test_support.py",
    ),
    Bug(
        13,
        "read the teacher at its own top-k tokens",
        "hero_pl/losses/support.py",
        (("log_p.gather(-1, indices)", "log_p.topk(indices.shape[-1], dim=-1).values"),),
        "tests/losses/test_support.py",
    ),
    Bug(
        14,
        "divide the student's logits alone by the temperature",
        "hero_pl/objectives/self_distillation.py",
        (
            (
                "return micro.tempered(without_scaffold(*views) if self.subtracts else views[0]).detach()",
                "return without_scaffold(*views) if self.subtracts else views[0]",
            ),
        ),
        "tests/objectives/test_temperature.py",
    ),
    Bug(
        15,
        "average within each micro-batch",
        BATCH,
        (
            (
                "            **self._tokens(keep),\n",
                "            **self._tokens(keep)\n"
                '            | {"coefficient": self.coefficient[keep] / self.coefficient[keep].sum()},\n',
            ),
        ),
        "tests/test_batch.py",
    ),
    Bug(
        16,
        "divide the loss by the number of micro-batches once more",
        MODULE,
        (
            (
                "self.manual_backward(out.loss * float(world))",
                "self.manual_backward(out.loss * float(world) / len(micros))",
            ),
        ),
        "tests/test_module.py",
        "size_of_micro_batches",
    ),
    Bug(
        17,
        "divide by the rank's own count",
        NORMALIZE,
        (("total = reduce_sum(torch.as_tensor(", "total = _on_one_rank(torch.as_tensor("),),
        "tests/losses/test_normalize.py",
        "two_ranks",
    ),
    Bug(
        18,
        "divide by a count of zero",
        NORMALIZE,
        (
            (
                "share = torch.where(total > 0, 1.0 / total.clamp(min=torch.finfo(weight.dtype).tiny), 0.0)",
                "share = 1.0 / total",
            ),
        ),
        "tests/losses/test_normalize.py",
    ),
    Bug(
        19,
        "accept an average in low precision",
        "hero_pl/teacher/ema.py",
        (("average.dtype not in (torch.float32, torch.float64)", "not average.dtype"),),
        "tests/teacher/test_ema.py",
    ),
    Bug(
        20,
        "read the rate as the weight of the teacher",
        "hero_pl/teacher/ema.py",
        (("dtype=average.dtype), update_rate)", "dtype=average.dtype), 1.0 - update_rate)"),),
        "tests/teacher/test_ema.py",
    ),
    Bug(
        21,
        "save no frozen copies",
        MODULE,
        (('"copies": self.policy.copies_state(),', '"copies": {},'),),
        "tests/test_module.py",
        "resumed and initial",
    ),
    Bug(
        22,
        "hand the frozen copies to the optimizer",
        MODULE,
        (
            (
                "        self.objective.start(self.policy)\n",
                "        self.objective.start(self.policy)\n"
                "        copied = [p for copy in self.policy.network.copies.values() for p in copy.parameters()]\n"
                '        self.optimizers().optimizer.add_param_group({"params": copied})\n',
            ),
        ),
        "tests/test_module.py",
    ),
    Bug(
        23,
        "leave dropout on",
        "hero_pl/policy/huggingface.py",
        (("        self.dropout = without_dropout(config)\n", ""),),
        "tests/test_batch.py",
    ),
    Bug(
        24,
        "switch the adapter off and on without a context",
        "hero_pl/policy/network.py",
        (
            (
                "with torch.no_grad(), self.model.disable_adapter():  # comes back on, also after an error\n"
                "                yield self.model\n",
                "with torch.no_grad():\n                self.model.base_model.disable_adapter_layers()\n"
                "                yield self.model\n                self.model.base_model.enable_adapter_layers()\n",
            ),
        ),
        "tests/policy/test_huggingface.py",
    ),
    Bug(
        25,
        "count group members by their place in the batch",
        ADVANTAGES,
        (
            (
                "        self._groups = ids.numel()\n",
                "        self.index = self.index.sort().values\n        self._groups = ids.numel()\n",
            ),
        ),
        "tests/losses/test_advantages.py",
    ),
    Bug(
        26,
        "give a group of one its plain reward",
        ADVANTAGES,
        (
            (
                "return deviation / (variance.sqrt() + eps).masked_fill(group.without_spread, 1.0)[group.index]",
                "scaled = deviation / (variance.sqrt() + eps).masked_fill(group.without_spread, 1.0)[group.index]\n"
                "    return torch.where(group.size[group.index] == 1, group.rewards, scaled)",
            ),
        ),
        "tests/losses/test_advantages.py",
    ),
    Bug(
        27,
        "divide the squared deviations by the size of the group",
        ADVANTAGES,
        (("eps: float = 1e-4, ddof: int = 1", "eps: float = 1e-4, ddof: int = 0"),),
        "tests/losses/test_advantages.py",
    ),
    Bug(
        28,
        "divide differences that are float noise by their deviation",
        ADVANTAGES,
        (
            (".masked_fill(self.without_spread[self.index], 0.0)", ""),
            (".masked_fill(group.without_spread, 1.0)[group.index]", "[group.index]"),
        ),
        "tests/losses/test_advantages.py",
    ),
    Bug(
        29,
        "take the constant from the longest trajectory",
        NORMALIZE,
        (
            (
                "inner, outer = constant, float(num_trajectories)",
                "inner, outer = float(tokens_of_trajectory.max()), float(num_trajectories)",
            ),
        ),
        "tests/losses/test_normalize.py",
    ),
    Bug(
        30,
        "take keys that start at zero as they are",
        "hero_pl/reflection/parse.py",
        (("by_turn = {number + 1: value", "by_turn = {number: value"),),
        "tests/reflection/test_parse.py",
    ),
    Bug(
        31,
        "find no leak",
        "hero_pl/reflection/leak.py",
        (
            ("self.ngram]), 0) > turn:", "self.ngram]), 0) > 10**9:"),
            ("self._first_identifier.get(name, 0) > turn", "self._first_identifier.get(name, 0) > 10**9"),
        ),
        "tests/reflection/test_parse.py",
    ),
    Bug(
        32,
        "cut the context from the left",
        BATCH,
        (
            (
                "        if len(row.ids) > self.dialect.max_length:\n            return False\n",
                "        if over := max(0, len(row.ids) - self.dialect.max_length):\n"
                "            cut = tuple((start - over, stop - over) for start, stop in row.spans)\n"
                "            row = ScoreRow(row.ids[over:], cut, i)\n",
            ),
        ),
        "tests/test_batch.py",
    ),
    Bug(
        33,
        "play one batch ahead",
        "hero_pl/datamodule.py",
        (
            (
                "            if self.trainer.world_size > 1:\n",
                '            played, self._ahead = getattr(self, "_ahead", played), played\n'
                "            if self.trainer.world_size > 1:\n",
            ),
        ),
        "tests/test_module.py",
        "samples_with_the_weights",
    ),
    Bug(
        34,
        "take the old log-probabilities from the weights that are being updated",
        "hero_pl/objectives/policy_gradient.py",
        (("self.surrogate(log_q, micro.rollout_logprobs,", "self.surrogate(log_q, log_q.detach(),"),),
        "tests/test_module.py",
    ),
    Bug(
        35,
        "give every conversation the same stream",
        "hero_pl/policy/sampler.py",
        (("key=seed % 2**64", "key=0 * seed"),),
        "tests/policy/test_huggingface.py",
    ),
    Bug(
        36,
        "hand out advantages by place instead of by trajectory",
        BATCH,
        (
            (
                "            **self._tokens(keep),\n",
                '            **{**self._tokens(keep), "advantage": self.advantage[: int(keep.sum())]},\n',
            ),
        ),
        "tests/test_batch.py",
    ),
    Bug(
        37,
        "count no negative values",
        DIVERGENCE,
        (("(per_token < 0)", "(per_token < -math.inf)"),),
        "tests/losses/test_divergence.py",
    ),
    Bug(
        38,
        "let a turn take its own words",
        "hero_pl/reflection/controls.py",
        (
            ("giver = items[members[taken[place]]] if taken else None", "giver = items[i]"),
            ("                assert giver is not items[i]\n", ""),
        ),
        "tests/reflection/test_controls.py",
    ),
    Bug(
        39,
        "splice a hint into the contexts that are played",
        "hero_pl/rollout/slots.py",
        (
            (
                "episode.history.append(sampled.ids, given.observation, given.role)",
                "grown = episode.history.append(sampled.ids, given.observation, given.role)\n"
                '            episode.history.prompt_ids = self.dialect.template.insert_hint(grown, "Review notes")',
            ),
        ),
        "tests/test_datamodule.py",
    ),
    Bug(
        40,
        "never find a number beyond its limits",
        "hero_pl/callbacks/collapse_guard.py",
        (("self.beyond, not low <= mean <= high", "self.beyond, False"),),
        "tests/callbacks/test_collapse_guard.py",
    ),
    Bug(
        41,
        "take the version of the youngest turn",
        MODULE,
        (("oldest = min((turn.policy_version", "oldest = max((turn.policy_version"),),
        "tests/test_staleness.py",
    ),
    Bug(
        42,
        "leave the token that begins a sequence in front of the system hint",
        "hero_pl/chat/template.py",
        (("*system[self._leading_bos(system) :], *prompt_ids[start:]", "*system, *prompt_ids[start:]"),),
        "tests/chat/test_template.py",
    ),
    Bug(
        43,
        "count only the tokens of the question itself",
        "hero_pl/reflection/self_reflector.py",
        (("both = max(longest, len(ids)) + max(wanted, need)", "both = len(ids) + need"),),
        "tests/reflection/test_self_reflector.py",
    ),
    Bug(
        44,
        "answer all who wait at once",
        "hero_pl/rollout/local_user.py",
        (
            (
                "self._waiting[: self._batch_size], self._waiting[self._batch_size :]",
                "self._waiting, []",
            ),
        ),
        "tests/rollout/test_local_user.py",
    ),
    Bug(
        45,
        "let a row that joins late see what is in the cache",
        "hero_pl/policy/cached_rows.py",
        (("pad(mask, (new, 0))])", "pad(mask, (new, 0), value=1)])"),),
        "tests/policy/test_sampler.py",
    ),
    Bug(
        46,
        "wait until every slot is free",
        "hero_pl/rollout/slots.py",
        (
            (
                "        while self.free and self.waiting:\n            begun = []\n",
                "        while self.free and self.waiting and not self.playing:\n            begun = []\n",
            ),
        ),
        "tests/rollout/test_slots.py",
    ),
    Bug(
        47,
        "take runs with equal seeds for two trials",
        "hero_pl/runs/plots.py",
        (("if seed is not None and owner", "if seed is not None and seed < 0 and owner"),),
        "tests/runs/test_plots.py",
    ),
    Bug(
        48,
        "give an interval of no width",
        "hero_pl/annotate/quality.py",
        (("if low < high:", "if low <= high:"),),
        "tests/annotate/test_quality.py",
    ),
    Bug(
        49,
        "train and save what transformers read from GGUF",
        "hero_pl/policy/loading.py",
        (
            ("return gguf.plain(read, attention) if file else read", "return read"),
            ("gguf.unpacked() if file else {}", "{}"),
        ),
        "tests/policy/test_gguf.py",
    ),
    Bug(
        50,
        "read a line of a review that was cut off as a whole one",
        "hero_pl/reflection/parse.py",
        (('text = text.rpartition("\\n")[0]', "pass"),),
        "tests/reflection",
    ),
    Bug(
        51,
        "write no mark into eval.jsonl",
        "hero_pl/callbacks/held_out.py",
        (('"turns_budget": mark,', '"turns_budget": 0,'),),
        "tests/callbacks/test_held_out.py",
    ),
    Bug(
        52,
        "evaluate once a mark is exceeded",
        "hero_pl/callbacks/held_out.py",
        (("module.turns >= mark", "module.turns > mark"),),
        "tests/callbacks/test_held_out.py",
    ),
    Bug(
        53,
        "count the two passes of a trust region as one",
        "hero_pl/teacher/weights.py",
        (("    passes = 2\n", ""),),
        "tests/objectives/test_objectives.py",
    ),
    Bug(
        54,
        "leave the buffers of the average as they were",
        "hero_pl/teacher/weights.py",
        (("            mine.copy_(theirs)\n", "            pass\n"),),
        "tests/teacher/test_weights.py",
    ),
    Bug(
        55,
        "never end a run that learns nothing",
        "hero_pl/step.py",
        (("self.most and self.in_a_row >= self.most:", "self.in_a_row < 0:"),),
        "tests/test_idle.py",
    ),
    Bug(
        56,
        "average a count over ranks",
        SCALARS,
        (("return total(sum(value for value, _ in known))", "return total(sum(v for v, _ in known) / len(known))"),),
        "tests/test_scalars.py",
    ),
    Bug(
        57,
        "add a number that was not measured",
        SCALARS,
        (("not math.isnan(value := float(part.value))]", "[value := float(part.value)]]"),),
        "tests/test_scalars.py",
    ),
    Bug(
        58,
        "weight every part of a mean alike",
        SCALARS,
        (("sum(value * weight for value, weight in known) / whole", "sum(value for value, _ in known) / len(known)"),),
        "tests/test_scalars.py",
    ),
    Bug(
        59,
        "take a plain number for a mean",
        SCALARS,
        (("        if not isinstance(part, Scalar):\n", "        if not hasattr(part, '__float__'):\n"),),
        "tests/test_scalars.py",
    ),
    Bug(
        60,
        "log the last value again",
        MODULE,
        (("{**gone, **self.last_metrics}", "self.last_metrics"),),
        "tests/test_idle.py",
    ),
    Bug(
        61,
        "split fields that are declared as a tensor and nothing else",
        BATCH,
        (("Tensor in (hints[f.name], *get_args(hints[f.name]))", "hints[f.name] is Tensor"),),
        "tests/test_batch.py",
    ),
    Bug(
        62,
        "give every student row to the first trajectory",
        BATCH,
        (("ScoreRow(ids, tuple(spans), i)", "ScoreRow(ids, tuple(spans))"),),
        "tests/test_batch.py",
    ),
    Bug(
        63,
        "count the turns of broken episodes",
        "hero_pl/evaluation/metrics.py",
        (("if evaluable(one) for turn in one.turns]", "for turn in one.turns]"),),
        "tests/evaluation/test_metrics.py",
    ),
    Bug(
        66,
        "take the last of two equal keys in a file",
        "hero_pl/cli/configs.py",
        (("                if key.value in seen:", "                if key.value in ():"),),
        "tests/cli/test_configs.py",
        "seems_to_say_something_else",
    ),
    Bug(
        67,
        "read 010 as a text",
        "hero_pl/cli/configs.py",
        (('r"[-+]?(0[0-9_]+|0o', 'r"[-+]?(0o'),),
        "tests/cli/test_configs.py",
        "not_finite_and_decimal",
    ),
    Bug(
        68,
        "read the words of YAML 1.1 as booleans",
        "hero_pl/cli/configs.py",
        (('(r"true|True|TRUE|false|False|FALSE", "tTfF")', '(r"true|True|TRUE|false|False|FALSE|no|off", "tTfFno")'),),
        "tests/cli/test_configs.py",
        "scalar_is_what_it_looks_like",
    ),
    Bug(
        69,
        "take any name of a configuration for a path",
        "hero_pl/cli/configs.py",
        (("    known = dict(_packaged())\n", "    known = {text: Path(text), **dict(_packaged())}\n"),),
        "tests/cli/test_configs.py",
        "a_name_is_no_path",
    ),
    Bug(
        70,
        "write values without quotes that the loader needs",
        "hero_pl/cli/configs.py",
        (
            (
                "    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)",
                "    return yaml.safe_dump(values, sort_keys=False)",
            ),
        ),
        "tests/cli/test_configs.py",
        "read_again_as_it_was",
    ),
    Bug(
        71,
        "put the configurations of `rollout` before its options",
        "hero_pl/cli/play.py",
        (
            (
                "    words = list(overrides)\n",
                '    words = sorted(overrides, key=lambda word: not word.startswith("--config="))[::-1]\n',
            ),
        ),
        "tests/cli/test_lightning.py",
        "options_of_fit_in_their_order",
    ),
    Bug(
        72,
        "take the first of two components of one name",
        "hero_pl/cli/components.py",
        (("        if other is not cls and cls.__module__", "        if other is None and cls.__module__"),),
        "tests/cli/test_components.py",
        "two_classes_of_one_name",
    ),
    Bug(
        73,
        "import the packages of components without their modules",
        "hero_pl/cli/components.py",
        (("            importlib.import_module(module.name)\n", "            pass\n"),),
        "tests/cli/test_components.py",
        "a_new_file_is_listed",
    ),
    Bug(
        74,
        "hand a word for a boolean to the environment as text",
        "hero_pl/rollout/environments.py",
        (("        kwargs |= _switches(env_id, kwargs)\n", ""),),
        "tests/cli/test_main.py",
        "arguments_of_an_environment_are_yaml",
    ),
    Bug(
        75,
        "end an interrupted command with status 0",
        "hero_pl/cli/main.py",
        (("            raise typer.Exit(130) from error", "            raise typer.Exit(0) from error"),),
        "tests/cli/test_main.py",
        "interrupted_command_says_so",
    ),
    Bug(
        76,
        "leave the ratio of RLSD unclipped",
        CREDIT,
        (("gap).exp().clamp(1.0 - band, 1.0 + band)", "gap).exp()"),),
        "tests/losses/test_credit.py",
    ),
    Bug(
        77,
        "weigh tokens of RLSD by the teacher's ratio, whatever the outcome",
        CREDIT,
        (("(advantages.sign() * gap).exp()", "gap.exp()"),),
        "tests/losses/test_credit.py",
    ),
    Bug(
        78,
        "differentiate the gate of SDAR",
        "hero_pl/losses/sampled_token.py",
        (("self.sharpness * gap.detach()", "self.sharpness * gap"),),
        "tests/losses/test_sampled_token.py",
    ),
    Bug(
        79,
        "apply the second bound of the policy gradient to positive advantages, too",
        POLICY_GRADIENT,
        (("torch.where(advantages < 0, -self.dual_clip * advantages, torch.inf)", "-self.dual_clip * advantages"),),
        "tests/losses/test_policy_gradient.py",
    ),
    Bug(
        80,
        "differentiate the weight of CISPO",
        POLICY_GRADIENT,
        (("-clipped.detach() * advantages", "-clipped * advantages"),),
        "tests/losses/test_policy_gradient.py",
    ),
    Bug(
        81,
        "let the belief of AgentOPSD keep all evidence",
        CREDIT,
        (("total = decay * total + piece", "total = total + piece"),),
        "tests/losses/test_credit.py",
    ),
    Bug(
        82,
        "keep the weight of the distillation at its first value",
        "hero_pl/objectives/mixed.py",
        (("scheduled(self.distillation_weight).at(policy.version)", "scheduled(self.distillation_weight).at(0)"),),
        "tests/objectives/test_mixed.py",
    ),
    Bug(
        83,
        "swap the shares of two normalizations",
        SCHEDULES,
        (("{normalize: 1.0 - share, blend.toward: share}", "{normalize: share, blend.toward: 1.0 - share}"),),
        "tests/objectives/test_schedules.py",
    ),
    Bug(
        84,
        "ask the teacher although its weight has ended at zero",
        SCHEDULES,
        (("return self._final == 0.0 and step >= self.begin + self.steps", "return False"),),
        "tests/objectives/test_mixed.py",
    ),
    Bug(
        85,
        "take the advantage from turns without a hint under the turn belief",
        "hero_pl/objectives/mixed.py",
        (("factor = torch.ones(len(set(batch.turn.tolist()))", "factor = torch.zeros(len(set(batch.turn.tolist()))"),),
        "tests/objectives/test_mixed.py",
    ),
    Bug(
        86,
        "leave the temperature out of the gradient of a chunk",
        "hero_pl/losses/summed_divergence.py",
        (("coefficients[part] / temperature", "coefficients[part]"),),
        "tests/losses/test_summed_divergence.py",
    ),
    Bug(
        87,
        "encode a hint for every row that it stands in",
        "hero_pl/chat/template.py",
        (("lru_cache(KEPT_HINTS)(self._encode_hint)", "self._encode_hint"),),
        "tests/objectives/test_hints_once.py",
    ),
    Bug(
        88,
        "keep the ids of a hint whatever it follows",
        "hero_pl/chat/template.py",
        (("last if last is None or last in self.encoder.control_ids else -1", "-1"),),
        "tests/chat/test_template.py",
    ),
    Bug(
        110,
        "take no notice of the pause that a server asks for",
        ENDPOINT,
        (
            (
                "        if asked_s is not None:\n            return min(asked_s",
                "        if False:\n            return min(asked_s",
            ),
        ),
        "tests/envs/test_chat_endpoint.py",
        "a_busy_server_is_left_alone",
    ),
    Bug(
        111,
        "let all who wait for a server come back at once",
        ENDPOINT,
        ((" * (1.0 + self._chance()) / 2.0", ""),),
        "tests/envs/test_chat_endpoint.py",
        "pauses_double_up_to_the_limit_and_are_not_alike",
    ),
    Bug(
        112,
        "let every thread try a key that nobody has tried",
        ENDPOINT,
        (("                alone.enter_context(self._first)\n", "                pass\n"),),
        "tests/envs/test_chat_endpoint.py",
        "a_refused_key_or_model_costs_one_request",
    ),
    Bug(
        113,
        "ask a dead server for ever",
        ENDPOINT,
        (("        if failures >= self._max_failures:", "        if False:"),),
        "tests/faults/test_endpoints.py",
        "a_dead_endpoint_ends_the_run",
    ),
    Bug(
        114,
        "take what is on its way for spent",
        ENDPOINT,
        (("                if self.spent + amount > self.cap:", "                if True:"),),
        "tests/envs/test_chat_endpoint.py",
        "what_is_on_its_way_is_waited_for",
    ),
    Bug(
        115,
        "look at no spend cap",
        ENDPOINT,
        (("            while self.cap is not None and self.spent", "            while False and self.spent"),),
        "tests/envs/test_chat_endpoint.py",
        "nothing_is_asked_that_might_exceed_the_cap",
    ),
    Bug(
        116,
        "score an episode whose user simulator did not answer",
        "hero_pl/runs/records.py",
        (("StopReason.ENDPOINT_ERROR, StopReason.SAMPLER_ERROR)", "StopReason.SAMPLER_ERROR)"),),
        "tests/envs/tau_bench/test_endpoint_user.py",
        "a_user_that_dies_breaks_its_own_episode",
    ),
    Bug(
        117,
        "take a refused key for the fault of an episode",
        "hero_pl/rollout/environments.py",
        (
            (
                "        raise EndpointError(str(error)) from error\n",
                "        raise UnansweredError(str(error)) from error\n",
            ),
        ),
        "tests/envs/tau_bench/test_endpoint_user.py",
        "a_refused_key_ends_the_run",
    ),
    Bug(
        118,
        "let a signal wait for the answers to reviews",
        "hero_pl/reflection/chat_reflector.py",
        (("            self.endpoint.cancel()\n", ""),),
        "tests/reflection/test_chat_reflector.py",
        "a_signal_does_not_wait",
    ),
    Bug(
        119,
        "let a signal wait for the answers of users",
        "hero_pl/rollout/environments.py",
        (('    getattr(env.unwrapped, "cancel", lambda: None)()\n', "    pass\n"),),
        "tests/envs/tau_bench/test_endpoint_user.py",
        "a_signal_does_not_wait",
    ),
    Bug(
        120,
        "show the key that a server echoes",
        "envs/hero_envs/chat_http.py",
        (("    if not key:\n        return text\n", "    return text\n"),),
        "tests/envs/test_chat_http.py",
        "a_key_that_the_server_echoes",
    ),
    Bug(
        121,
        "give a call its whole time for every part",
        "envs/hero_envs/chat_http.py",
        (("        left = self._deadline - self._clock()\n", "        left = self.timeout\n"),),
        "tests/envs/test_chat_http.py",
        "time_limit",
    ),
    Bug(
        122,
        "give a command that a spend cap ended the status of any error",
        "hero_pl/errors.py",
        (("    exit_status: ClassVar[int] = 3\n", "    exit_status: ClassVar[int] = 1\n"),),
        "tests/faults/test_endpoints.py",
        "status_of_the_cap",
    ),
    Bug(
        123,
        "refuse to resume with a higher spend cap",
        "hero_pl/callbacks/settings.py",
        ((" or (asks and name in OF_ENDPOINTS)", ""),),
        "tests/faults/test_endpoints.py",
        "status_of_the_cap",
    ),
    Bug(
        124,
        "let the parser of calls raise on deep nesting",
        "hero_pl/chat/calls.py",
        (
            (
                "    except (ValueError, RecursionError) as error:\n        short",
                "    except ValueError as error:\n        short",
            ),
        ),
        "tests/faults/test_text.py",
        "ten_thousand_broken_calls",
    ),
    Bug(
        125,
        "make an optimizer step without any turn in the loss",
        "hero_pl/module.py",
        (("        if not anywhere:\n            return StepOutputs(), False\n", ""),),
        "tests/faults/test_text.py",
        "reviews_without_use",
    ),
    Bug(
        126,
        "take no identifier for a leak",
        "hero_pl/reflection/leak.py",
        (
            (
                "        return any(self._first_identifier.get(name, 0) > turn for name in candidates)",
                "        return False and any(candidates)",
            ),
        ),
        "tests/reflection/test_leak_rates.py",
        "planted_leaks_are_found",
    ),
    Bug(
        127,
        "encode text from outside like the text of the template",
        "hero_pl/chat/encode.py",
        (
            ("_pieces(text, [cut for cut, _ in self._cuts(text)])", "_pieces(text, [])"),
            ("        if self.control_ids.isdisjoint(ids):\n            return ids\n", "        return ids\n"),
        ),
        "tests/faults/test_text.py",
        "no_special_token",
    ),
    Bug(
        128,
        "quote only lines that end with a line feed",
        "hero_pl/chat/wording.py",
        (("for line in text.splitlines()) or", "for line in text.split(chr(10))) or"),),
        "tests/faults/test_text.py",
        "orders_as_quoted_material",
    ),
    Bug(
        129,
        "let any observation end a dialogue",
        "envs/hero_envs/tau_bench/episode.py",
        (
            (
                "        if not self.done:\n",
                "        self.done = self.done or STOP in observation\n        if not self.done:\n",
            ),
        ),
        "tests/faults/test_text.py",
        "only_the_user_ends_a_dialogue",
    ),
    Bug(
        130,
        "compute powers of any size",
        "envs/hero_envs/tau_bench/calculator.py",
        (("        if (left.bit_length() - 1) * right > MAX_BITS:", "        if False:"),),
        "tests/envs/tau_bench/test_calculator.py",
        "all_of_them_together",
    ),
    Bug(
        131,
        "add up any number of large powers",
        "envs/hero_envs/tau_bench/calculator.py",
        (("                if work > MAX_WORK:", "                if False:"),),
        "tests/envs/tau_bench/test_calculator.py",
        "known_answers",
    ),
    Bug(
        132,
        "write whatever an environment reports",
        "hero_pl/rollout/answers.py",
        (
            (
                "        if isinstance(value, float) and math.isfinite(value):\n",
                "        if isinstance(value, float):\n",
            ),
        ),
        "tests/faults/test_environments.py",
    ),
    Bug(
        133,
        "keep an observation whole, however long",
        "hero_pl/rollout/answers.py",
        (("    cut = max(0, len(observation) - max_chars)\n", "    cut = 0\n"),),
        "tests/faults/test_environments.py",
    ),
    Bug(
        134,
        "give a broken episode up at once",
        "hero_pl/rollout/slots.py",
        (("        if fault.guilty and len(failures) >= retries:\n", "        if fault.guilty:\n"),),
        "tests/faults/test_environments.py",
    ),
    Bug(
        135,
        "draw tasks that always break",
        "hero_pl/datamodule.py",
        (("        if not out:\n", "        if True:\n"),),
        "tests/faults/test_environments.py",
    ),
    Bug(
        136,
        "forget at a resume which tasks always break",
        "hero_pl/datamodule.py",
        (("                made.health.load_state_dict(self._health.pop(split))\n", "                pass\n"),),
        "tests/faults/test_environments.py",
    ),
    Bug(
        137,
        "never end a run whose environment is broken",
        "hero_pl/rollout/health.py",
        (("        if len(tasks) > self.broken_share * max(FEWEST, len(self._latest)):\n", "        if False:\n"),),
        "tests/faults/test_environments.py",
    ),
    Bug(
        138,
        "wait for an environment without a limit",
        "hero_pl/rollout/pool.py",
        (("    signal.setitimer(signal.ITIMER_REAL, limit)\n", ""),),
        "tests/rollout/test_pool.py",
    ),
    Bug(
        139,
        "count broken episodes as failures of the policy",
        "hero_pl/runs/records.py",
        (("(StopReason.ENV_ERROR, StopReason.ENV_TIMEOUT, ", "("),),
        "tests/faults/test_environments.py",
    ),
    Bug(
        140,
        "give the card the last evaluation of the run for any weights",
        "hero_pl/export/results.py",
        (("if one.turns_used == turns)", "if one)"),),
        "tests/export/test_model_card.py",
        "does_not_get_the_result_of_another",
    ),
    Bug(
        141,
        "leave the end-of-turn ids out of the generation settings",
        "hero_pl/policy/generation.py",
        (('{"eos_token_id": ends, "pad', '{"pad'),),
        "tests/export/test_model_card.py",
        "acts_in_plain_transformers",
    ),
    Bug(
        150,
        "feed rows with padding between their tokens",
        "hero_pl/policy/cached_rows.py",
        (("            self._move_up()\n", "            pass\n"),),
        "tests/policy/check/test_settle.py",
    ),
    Bug(
        151,
        "share a trunk although the layers do not allow it beyond their chunks",
        BRANCHES,
        (("        if self.chosen in network.obstacles:\n", "        if False:\n"),),
        "tests/policy/check/test_settle.py",
    ),
    Bug(
        152,
        "let the longest row choose the rotary positions of all",
        "hero_pl/policy/network.py",
        (("        switches = self.rope_switches\n", "        switches: tuple[int, ...] = ()\n"),),
        "tests/policy/check/test_settle.py",
    ),
    Bug(
        153,
        "take every token that begins a prompt for BOS",
        "hero_pl/chat/template.py",
        (("int(self.bos_begins_texts and bool(ids)", "int(bool(ids)"),),
        "tests/chat/test_template.py",
    ),
    Bug(
        154,
        "leave a generation prompt that a template writes unasked inside the context",
        "hero_pl/chat/template.py",
        (("        self.renderer.unasked = traits.unasked_prompt(self.renderer)\n", ""),),
        "tests/chat/test_template.py",
    ),
    Bug(
        200,
        "let a domain import what reads it, inside a function",
        "envs/hero_envs/tau_bench/domain.py",
        (
            (
                "    def do_nothing_ids(self, split: str)",
                "    def read_again(self) -> None:\n        from hero_envs.tau_bench.importer import read_verified\n\n"
                "    def do_nothing_ids(self, split: str)",
            ),
        ),
        "tests/test_repository.py",
    ),
    Bug(
        201,
        "write text of the environment into a data set as it is",
        "hero_pl/export/defuse.py",
        (("        return self._break(self._outside, text)\n", "        return text\n"),),
        "tests/export/test_data.py",
        "no_control_token_of_a_real_tokenizer",
    ),
    Bug(
        202,
        "pair replies of two episodes whatever came before them",
        "hero_pl/export/data.py",
        (("        if context != other:", "        if False:"),),
        "tests/export/test_data.py",
        "first_difference_in_one_context",
    ),
    Bug(
        203,
        "take episodes of every stage",
        "hero_pl/export/data.py",
        (("        if stage not in (ALL, record.stage):", "        if False:"),),
        "tests/export/test_data.py",
        "only_replies_of_good_episodes",
    ),
    Bug(
        240,
        "wait for a worker without a limit",
        "hero_pl/rollout/workers.py",
        (("        if time.monotonic() < self.deadline:\n", "        if True:\n"),),
        "tests/faults/test_environments.py",
    ),
    Bug(
        241,
        "go on with episodes whose worker is gone",
        "hero_pl/rollout/workers.py",
        (("{**dict.fromkeys(self.hosted, others), guilty: fault}", "{guilty: fault}"),),
        "tests/rollout/test_workers.py",
    ),
    Bug(
        242,
        "blame all episodes of a worker for its end",
        "hero_pl/rollout/workers.py",
        ((", guilty=False)", ")"),),
        "tests/rollout/test_workers.py",
    ),
    Bug(
        243,
        "let a worker find an id that was registered here alone",
        "hero_pl/rollout/pool.py",
        (("        environments.register_again(self.registration)\n", ""),),
        "tests/rollout/test_workers.py",
    ),
    Bug(
        244,
        "keep workers that still answer what was given up",
        "hero_pl/rollout/workers.py",
        (("self._workers.pop(number).kill()\n            raise", "pass\n            raise"),),
        "tests/rollout/test_workers.py",
    ),
    Bug(
        245,
        "leave what environments of a killed worker have started",
        "hero_pl/rollout/workers.py",
        (("                    os.killpg(pid, signal.SIGKILL)\n", "                    pass\n"),),
        "tests/rollout/test_workers.py",
    ),
    Bug(
        246,
        "believe a server's reply whatever model drew it",
        "hero_pl/policy/server/dialect.py",
        (('if answer.get("model") != served.model:', "if False:"),),
        "tests/policy/server/test_dialect.py",
        "a_reply_of_another_adapter_is_of_wrong_weights",
    ),
    Bug(
        247,
        "believe a server's reply whatever version of the weights drew it",
        "hero_pl/policy/server/dialect.py",
        (("if served.label is not None:", "if False:"),),
        "tests/policy/server/test_dialect.py",
        "every_id_must_be_drawn_by_the_weights_of_the_label",
    ),
    Bug(
        248,
        "leave top_k of a request to the server",
        "hero_pl/policy/server/dialect.py",
        (('            "top_k": -1,\n', ""),),
        "tests/policy/server/test_sampler.py",
        "the_defaults_of_a_server_change_nothing",
    ),
    Bug(
        249,
        "send the seed of the first turn with every turn",
        "hero_pl/policy/server/session.py",
        (("reply_seed(row.seed, row.turns)", "reply_seed(row.seed, 1)"),),
        "tests/policy/server/test_sampler.py",
        "each_turn_has_random_numbers_of_its_own",
    ),
    Bug(
        250,
        "go on trusting a server after a failed request",
        "hero_pl/policy/server/session.py",
        (("place.ready = place.ready and calls.ended.is_set()", "place.ready = place.ready"),),
        "tests/policy/server/test_sampler.py",
        "a_restarted_server_gets_the_weights_again",
    ),
    Bug(
        251,
        "choose a server for every turn",
        "hero_pl/policy/server/session.py",
        (("if row.place is None or not row.place.ready:", "if True:"),),
        "tests/policy/server/test_sampler.py",
        "a_conversation_stays_on_its_server",
    ),
    Bug(
        252,
        "wait for replies of servers when the process ends",
        "hero_pl/policy/server/session.py",
        (("daemon=True", "daemon=False"),),
        "tests/policy/server/test_training.py",
        "a_signal_ends_a_session_that_waits",
    ),
    Bug(
        253,
        "accept any difference between server and trainer",
        "hero_pl/policy/server/canary.py",
        (("if gap <= tolerance:", "if gap <= 1e9:"),),
        "tests/policy/server/test_sampler.py",
        "a_server_with_another_model",
    ),
    Bug(
        254,
        "check servers at temperature 1 alone",
        "hero_pl/policy/server/canary.py",
        (("TEMPERATURE = 0.7", "TEMPERATURE = 1.0"),),
        "tests/policy/server/test_sampler.py",
        "a_wrong_server_is_noticed",
    ),
    Bug(
        255,
        "leave out the question before new weights",
        "hero_pl/policy/server/sampler.py",
        (("            canary.ask(server, Served(self.model, 0), prompt, policy.template.end_ids)\n", ""),),
        "tests/policy/server/test_sampler.py",
        "the_check_asks_a_prompt_whose_prefix_was_cached",
    ),
    Bug(
        256,
        "leave the prefix cache of a server as it is",
        "hero_pl/policy/server/client.py",
        (('if self._call("/reset_prefix_cache", {}).get("success") is not True:', "if False:"),),
        "tests/policy/server/test_sampler.py",
        "log_probabilities_are_those_of_the_trainer_over_turns",
    ),
    Bug(
        257,
        "name the weights on a server after their version alone",
        "hero_pl/policy/server/sampler.py",
        (("self._serial += 1", "self._serial = policy.version"),),
        "tests/policy/server/test_sampler.py",
        "weights_that_change_within_one_version",
    ),
    Bug(
        258,
        "name the weights on a server without the run",
        "hero_pl/policy/server/sampler.py",
        (("uuid.uuid4().hex[:8]", '"run"'),),
        "tests/policy/server/test_sampler.py",
        "a_second_run_on_the_same_server",
    ),
    Bug(
        259,
        "write weights for servers under their final name",
        "hero_pl/policy/server/folders.py",
        (('(root / f"{name}.partial").resolve()', "(root / name).resolve()"),),
        "tests/policy/server/test_sampler.py",
        "a_folder_has_its_name_only_when_it_is_whole",
    ),
    Bug(
        260,
        "wait a hundred times as long for a dead server",
        "hero_pl/policy/server/pool.py",
        (("self._clock() + self._timeout_s, 0.1", "self._clock() + 100 * self._timeout_s, 0.1"),),
        "tests/policy/server/test_sampler.py",
        "a_server_that_stays_dead_ends_the_run",
    ),
    Bug(
        261,
        "look for servers when the weights are sent",
        "hero_pl/module.py",
        (("        self.policy.sampler.check(self.policy)\n", ""),),
        "tests/policy/server/test_training.py",
        "what_cannot_work_is_refused_before_a_model_is_loaded",
    ),
    Bug(
        262,
        "keep the check of the policy from a wrapped reflector",
        "hero_pl/reflection/controls.py",
        (
            (
                "(maxlen=buffer_size)\n        self._calls = 0\n\n    def check_policy(",
                "(maxlen=buffer_size)\n        self._calls = 0\n\n    def check_nothing(",
            ),
        ),
        "tests/policy/server/test_training.py",
        "what_cannot_work_is_refused_before_a_model_is_loaded",
    ),
    Bug(
        290,
        "seed the episodes of every process alike",
        "hero_pl/datamodule.py",
        (("for i in range(rank * count, (rank + 1) * count)", "for i in range(count)"),),
        "tests/test_datamodule.py",
    ),
    Bug(
        291,
        "cut the files of a run back although nothing is left to do",
        "hero_pl/callbacks/run_checkpoint.py",
        (('        if 0 < trainer.max_steps <= int(checkpoint["global_step"]):', "        if False:"),),
        "tests/callbacks/test_progress.py",
        "complete_run_that_is_resumed",
    ),
    Bug(
        292,
        "count the time of evaluations as time of training",
        "hero_pl/callbacks/remaining.py",
        (("(self.elapsed - self.evaluating_s) /", "self.elapsed /"),),
        "tests/callbacks/test_progress.py",
        "estimated_from_steps",
    ),
    Bug(
        293,
        "search the folder of the user before the installed packages",
        "hero_pl/cli/main.py",
        (('sys.path.append("")', 'sys.path.insert(0, "")'),),
        "tests/cli/test_init.py",
        "takes_the_place_of",
    ),
    Bug(
        300,
        "compute powers of any size",
        "envs/hero_envs/tau_bench/calculator.py",
        (("        if (left.bit_length() - 1) * right > MAX_BITS:", "        if False:"),),
        "tests/envs/tau_bench/test_calculator.py",
        "all_of_them_together",
    ),
    Bug(
        301,
        "add up any number of large powers",
        "envs/hero_envs/tau_bench/calculator.py",
        (("                if work > MAX_WORK:", "                if False:"),),
        "tests/envs/tau_bench/test_calculator.py",
        "known_answers",
    ),
    Bug(
        302,
        "leave the records that were written after the checkpoint",
        "hero_pl/callbacks/run_folder.py",
        (("        if beyond > 0:\n", "        if False:\n"),),
        "tests/faults/test_kill.py",
        "twenty_random_instants",
    ),
    Bug(
        303,
        "write a checkpoint under its own name",
        "hero_pl/callbacks/checkpoints.py",
        (
            ('            with partial.open("wb") as file:', '            with target.open("wb") as file:'),
            ("            os.replace(partial, target)\n", ""),
        ),
        "tests/callbacks/test_checkpoints.py",
        "a_full_disk_keeps",
    ),
    Bug(
        304,
        "compare no checksum",
        "hero_pl/callbacks/checkpoints.py",
        (("    if digest.hexdigest() != seal.sha256:", "    if False:"),),
        "tests/callbacks/test_checkpoints.py",
        "any_flipped_bit",
    ),
    Bug(
        305,
        "load whatever a checkpoint holds",
        "hero_pl/callbacks/checkpoints.py",
        (
            (
                'map_location or "cpu", weights_only=True)\n            return state',
                'map_location or "cpu", weights_only=bool(weights_only))\n            return state',
            ),
        ),
        "tests/callbacks/test_checkpoints.py",
        "hid_code",
    ),
    Bug(
        306,
        "make the step of a gradient that is no number",
        "hero_pl/module.py",
        (("        if not math.isfinite(outputs.grad_norm):", "        if False:"),),
        "tests/faults/test_numbers_and_memory.py",
        "no_number_changes_no_weight",
    ),
    Bug(
        307,
        "go on for ever with gradients that are no numbers",
        "hero_pl/module.py",
        (("        if self.broken_steps >= self.max_broken_steps:", "        if False:"),),
        "tests/faults/test_numbers_and_memory.py",
        "so_many_of_them_in_a_row",
    ),
    Bug(
        308,
        "give up at the first micro-batch that does not fit",
        "hero_pl/module.py",
        (
            (
                "            self._halve_micro_batches(step, error)\n",
                "            raise self._out_of_memory() from error\n",
            ),
        ),
        "tests/faults/test_numbers_and_memory.py",
        "split_and_the_gradient_is_the_same",
    ),
    Bug(
        309,
        "end with success after a signal",
        "hero_pl/callbacks/interrupts.py",
        (("super().__init__(128 + number)", "super().__init__(0)"),),
        "tests/faults/test_signals.py",
        "has_its_own_status",
    ),
    Bug(
        310,
        "save nothing when a signal comes",
        "hero_pl/callbacks/run_checkpoint.py",
        (("        if savable and (", "        if False and ("),),
        "tests/faults/test_signals.py",
        "after_a_signal",
    ),
    Bug(
        311,
        "let a name lead out of the folder of all runs",
        "hero_pl/callbacks/run_logger.py",
        (('any(part in ("", ".", "..") or not', "any(not"),),
        "tests/callbacks/test_run_logger.py",
        "no_folder_below",
    ),
    Bug(
        312,
        "take any files for the published ones of WebShop",
        "envs/hero_envs/webshop/tasks.py",
        (("        if source.published:\n", "        if False:\n"),),
        "tests/faults/test_files.py",
        "not_the_published_ones",
    ),
    Bug(
        313,
        "leave out any line that cannot be read",
        "hero_pl/runs/jsonl.py",
        (('                    elif line.endswith(b"\\n"):', "                    elif False:"),),
        "tests/faults/test_files.py",
        "lines_are_named",
    ),
    Bug(
        314,
        "let the errors of libraries out",
        "hero_pl/policy/loading.py",
        (
            (
                "_DAMAGED = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError)",
                "_DAMAGED = (OSError, ValueError)",
            ),
        ),
        "tests/faults/test_files.py",
        "damaged_file_of_a_model",
    ),
    Bug(
        315,
        "read the data of TauBench without its manifest",
        "envs/hero_envs/tau_bench/importer.py",
        (
            (
                "    problems = _verify(name, content)\n    if problems:",
                "    problems = _verify(name, content)\n    if False:",
            ),
        ),
        "tests/envs/tau_bench/test_importer.py",
        "changed_after_the_import",
    ),
)
BUGS = tuple(
    sorted(
        (*BUGS, *(bug for path in Path(__file__).parent.glob("bugs/*.toml") for bug in read(path))),
        key=lambda bug: bug.number,
    )
)


def verdict(bug: Bug, tree: Path) -> str:
    """``noticed``, or what went wrong."""
    path = tree / bug.file
    source = changed = path.read_text(encoding="utf-8")
    for old, new in bug.changes:
        if changed.count(old) != 1:
            return f"DOES NOT APPLY: {bug.file} has {changed.count(old)} times {old!r}"
        changed = changed.replace(old, new)
    path.write_text(changed, encoding="utf-8")
    select = bug.select or f"bug_{bug.number:02} or and_{bug.number:02}"
    log = tree.parent / "log.txt"
    try:
        failed = run_tests(["-q", "-x", "--no-header", "-p", "no:cacheprovider", bug.tests, "-k", select], tree, log)
    finally:
        path.write_text(source, encoding="utf-8")
    said = log.read_text(encoding="utf-8")
    lines = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR")) and "::" in line]
    names = [line.partition("::")[2].partition(" ")[0] for line in lines]
    return f"noticed by {names[0]}" if failed and names else f"SURVIVED\n{said[-2000:]}"


def run_tests(arguments: list[str], tree: Path, log: Path) -> bool:
    """Whether a test fails in a process of its own, which finds the large libraries already imported."""
    child = os.fork()
    if child == 0:
        os.chdir(tree)
        sys.path[:0] = [str(tree), str(tree / "envs")]
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])  # for tests that start a process
        sys.dont_write_bytecode = True
        with log.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            code = int(pytest.main(arguments))
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == int(pytest.ExitCode.TESTS_FAILED)


def main(numbers: list[int]) -> int:
    torch.set_num_threads(1)
    transformers.Qwen3ForCausalLM  # noqa: B018 - imported when it is touched
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        for part in ("hero_pl", "envs", "tests", "configs", "docs", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
            tree.mkdir(exist_ok=True)
            copy(ROOT / part, tree / part)
        if (ROOT.parent / "shared").is_dir():  # where tests look for the vector files
            (Path(folder) / "shared").symlink_to(ROOT.parent / "shared", target_is_directory=True)
        wrong = 0
        for bug in BUGS:
            if not numbers or bug.number in numbers:
                found = verdict(bug, tree)
                wrong += not found.startswith("noticed")
                print(f"{bug.number:2} {bug.put_in_as}: {found}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main([int(word) for word in sys.argv[1:]]))
