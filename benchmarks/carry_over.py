"""Does what was learned in the pocket shop carry over, and was anything else harmed?

    python benchmarks/carry_over.py --before models/smollm2-shop --after runs/smollm2-shop/version_0/huggingface

Compares two folders of weights: success and reward in the shop of the training (its test tasks), in a shop with other
categories and materials, in the generated WebShop with its longer pages, and in pocket retail; nats per token of a text
that ships with Python (its language reference); and instructions with checkable answers, greedy. All differences are
paired, with a 95 % interval by bootstrap over episodes, pieces of text or instructions.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import torch
import yaml
from methods import ROOT
from provenance import signed
from skills_probe import Values, compared, page

from hero_pl.cli.lightning import instantiate
from hero_pl.policy.sampling import Sampling
from hero_pl.runs.records import succeeded
from hero_pl.teacher.hint_check.measure import reply_logprobs

if TYPE_CHECKING:
    from hero_pl.cli.lightning import HeroCLI
    from hero_pl.policy.base import Policy

WORLDS: Mapping[str, Mapping[str, Any]] = {
    "the shop of the training": {},
    "a shop with other things": {"env_args": {"other_things": True}},
    "generated WebShop, easy": {
        "env": "hero_pl/WebShop-v0",
        "env_args": {"difficulty": "easy", "observation": "compact"},
    },
    "pocket retail": {
        "env": "hero_pl/PocketRetail-v0",
        "env_args": {
            "compact": True,
            "handles": True,
            "lookups": True,
            "max_goals": 1,
            "kinds": ["return", "cancel"],
            "tasks": 400,
        },
        "max_action_tokens": 24,
    },
}
"""Name of a world -> its differences from the configuration's data; other shops keep its system prompt."""

PIECE = 256
"""Tokens of a piece of text; the first half is context."""
REPLY = 48
"""Longest reply to an instruction, in tokens."""

Check = Callable[[str], bool]


def instructions() -> Iterator[tuple[str, Check]]:
    """Instructions of eight kinds, eight of each, and whether a reply follows them."""
    words = ("river", "blue", "seven", "apple", "north", "window", "green", "paper")
    things = ("stone", "feather", "brick", "leaf", "car", "hair", "truck", "petal")
    for i, word in enumerate(words):
        other, number = words[(i + 3) % 8], i + 3
        yield f"Reply with exactly one word: {word}", lambda said, word=word: said.strip(" .\"'\n").lower() == word
        yield (
            f'Repeat this text and write nothing else: "{word} and {other}"',
            lambda said, text=f"{word} and {other}": said.strip(" .\"'\n").lower() == text,
        )
        yield (
            f"Write the numbers from 1 to {number}, separated by commas, and nothing else.",
            lambda said, n=number: re.findall(r"\d+", said) == [str(k) for k in range(1, n + 1)],
        )
        yield (
            f"What is {number} + {i + 1}? Answer with the number only.",
            lambda said, n=number + i + 1: re.findall(r"\d+", said)[-1:] == [str(n)],
        )
        yield (
            f"Is a {things[i]} heavy? Answer yes or no.",
            lambda said, answer=("yes", "no")[i % 2]: said.strip(" \"'\n").lower().startswith(answer),
        )
        yield f"Write the word {word} in capital letters.", lambda said, word=word: word.upper() in said
        yield f"Ask one short question about the word {word}.", lambda said: said.strip().endswith("?")
        yield (
            f'Write a JSON object with the key "name" and the value "{word}", and nothing else.',
            lambda said, word=word: _json(said) == {"name": word},
        )


def _json(text: str) -> Any:
    try:
        return json.loads(text.strip().removeprefix("```json").removeprefix("```").removesuffix("```"))
    except ValueError:
        return None


def pieces(policy: Policy, count: int) -> list[tuple[int, ...]]:
    """Ids of different pieces of the language reference of Python, spread over its topics; fewer if it has fewer."""
    encode = policy.dialect.template.encoder.encode_untrusted
    ids = [encode(" ".join(topics[name].split())) for name in sorted(topics)]
    long = list(dict.fromkeys(tuple(one[:PIECE]) for one in ids if len(one) >= PIECE))  # two topics can begin alike
    count = min(count, len(long))
    return [long[i * len(long) // count] for i in range(count)]


def opened(config: str, folder: str, data: Mapping[str, Any], more: Sequence[str]) -> HeroCLI:
    """The configuration with these weights and settings of its data."""
    env_args = dict(data.get("env_args", {}))
    if "Shop" in data.get("env", "Shop"):
        own = yaml.safe_load(Path(config).read_text(encoding="utf-8"))["data"].get("env_args", {})
        env_args = {**own, **env_args}
    policy: dict[str, Any] = {"pretrained": folder, "lora": None}
    if "Retail" in data.get("env", ""):
        policy["parser"] = "RetailCommands"
    overlay = {"model": {"policy": {"init_args": policy}}, "data": {**data, "env_args": env_args}}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "overlay.yaml"
        path.write_text(yaml.safe_dump(overlay), encoding="utf-8")
        cli = instantiate(["--config", config, "--config", str(path), "--trainer.logger=false", *more])
    cli.model.policy.load()
    return cli


def in_world(config: str, folder: str, world: str, episodes: int, more: Sequence[str]) -> dict[str, Values]:
    """Success, reward and turns per episode of the test tasks, sampled as in training."""
    cli = opened(config, folder, WORLDS[world], more)
    played = cli.datamodule.evaluate(cli.model.policy, "test", episodes, sampling=cli.datamodule.sampling)
    return {
        f"{world}: success": [(i, float(succeeded(one))) for i, one in enumerate(played)],
        f"{world}: reward": [(i, one.reward) for i, one in enumerate(played)],
        f"{world}: turns": [(i, float(len(one.turns))) for i, one in enumerate(played)],
    }


def at_large(config: str, folder: str, count: int) -> dict[str, Values]:
    """Nats per token of text, and instructions followed."""
    policy = opened(config, folder, {}, []).model.policy
    half = PIECE // 2
    texts = [(ids[:half], ids[half:]) for ids in pieces(policy, count)]
    asked = list(instructions())
    prompts = [policy.template.first_prompt("You are a helpful assistant.", text) for text, _ in asked]
    with torch.no_grad(), policy.sampling():
        nats = [-value / half for value in reply_logprobs(policy, texts)]
        session = policy.sampler.open(policy, Sampling(0.0, REPLY), list(range(len(asked))))
        replies = session.act(range(len(asked)), prompts)
    said = [policy.template.encoder.decode(one.ids) for one in replies]
    return {
        "language reference: nats per token": list(enumerate(nats)),
        "instructions followed": [(i, float(asked[i][1](text))) for i, text in enumerate(said)],
    }


def measured(folder: str, args: argparse.Namespace) -> dict[str, Values]:
    """All measures of one folder of weights."""
    more = [f"--{word}" for word in args.set]
    found: dict[str, Values] = {}
    for world, data in WORLDS.items():
        found |= in_world(args.config, folder, world, args.far_episodes if "env" in data else args.episodes, more)
    return found | at_large(args.config, folder, args.texts)


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="folder of the weights before training")
    parser.add_argument("--after", required=True, help="folder after training; with all weights, not an adapter alone")
    parser.add_argument("--config", default=str(ROOT / "configs/smollm2_shop.yaml"))
    parser.add_argument("--episodes", type=int, default=96, help="in each pocket shop")
    parser.add_argument("--far-episodes", type=int, default=24, help="in each other world; their episodes are long")
    parser.add_argument("--texts", type=int, default=64, help="pieces of text")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the configuration")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON and, beside it, the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    first, second = (measured(one, args) for one in (args.before, args.after))
    found = {name: compared(first[name], second[name], "higher", "lower") for name in first}
    text = signed(page(found, "measure"))
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        args.out.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
