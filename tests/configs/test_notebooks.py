"""The cells of the notebooks run, in order, with two steps of training."""

import json
from pathlib import Path

import gymnasium
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_of_a_notebook_run(notebook, monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    try:
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                source = "".join(cell["source"]).replace("STEPS = 12", "STEPS = 2").replace('"test", 50', '"test", 8')
                exec(compile(source, notebook.name, "exec"), names)
    finally:
        gymnasium.registry.pop("Capitals-v0", None)
    assert names["trainer"].global_step == 2
    assert names["module"].last_metrics["hero/hinted_turns"] == 1.0
    assert capsys.readouterr().out
