"""The steps of a real run: their commands are understood, and time and memory are those of the process."""

from pathlib import Path

import pytest
from laptop import command, estimated, steps

from hero_pl.cli.lightning import instantiate


def test_every_command_is_one_that_the_program_understands() -> None:
    for words, options in steps("models/smollm2", "runs/laptop").values():
        cut = [i for i, word in enumerate(words) if word in ("--out", "--episodes", "--stage")]
        own = {0, *cut, *(i + 1 for i in cut)}
        given = [word for i, word in enumerate(words) if i not in own and word != "--no-drop"]
        for some in (given, options):  # the model need not be there
            assert not some or instantiate([word for word in some if "pretrained" not in word])


def test_time_and_memory_are_those_of_the_command(tmp_path: Path) -> None:
    seconds, resident = command(["--help"], tmp_path / "log")
    assert seconds > 0.0
    assert resident > 1 << 20
    with pytest.raises(SystemExit, match="ended with"):
        command(["no-such-command"], tmp_path / "log")


def test_the_estimate_is_the_peak_in_bytes() -> None:
    assert estimated(["--config", "hero_pl:quickstart"]) > 1 << 20
