"""Configuration files: each begins with its command, and no two overlays train the same."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_configuration_begins_with_its_command(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# hero_pl fit --config configs/")
    assert f"--config {path.relative_to(ROOT)}" in first
    for word in first.split():
        assert not word.startswith("configs/") or (ROOT / word).is_file(), word


def test_no_two_overlays_train_the_same_thing():
    seen = {}
    for path in FILES:
        if path.parent.name in ("baselines", "controls"):
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
            key = yaml.safe_dump({name: values[name] for name in ("model", "data") if name in values})
            key = key.replace("mode: batch", "")  # the default
            key = "\n".join(line for line in key.splitlines() if line.strip())
            assert key not in seen, f"{path} and {seen[key]}"
            seen[key] = path
