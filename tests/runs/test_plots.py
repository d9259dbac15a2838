"""Curves are drawn against training turns, one line per method."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hero_pl.errors import ConfigError, HeroError
from hero_pl.runs import plots
from hero_pl.runs.plots import (
    PANELS,
    Curve,
    Panel,
    band,
    best_column,
    draw_methods,
    find_metrics,
    method_name,
    plot_run,
    plot_runs,
    read_curves,
    smooth,
)

SPARSE = """\
new,step,train/loss,train/turns,val/success,rollout/success
,0,,,0.25,
,0,1.0,8,,0.5
,1,0.9,16,,
,3,0.8,32,,nan
,2,,,0.5,
,3,,,0.75,
1,3,,32,,
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_sparse_rows_are_placed_at_the_turns_used_by_then(tmp_path: Path) -> None:
    curves = read_curves(write(tmp_path / "metrics.csv", SPARSE))
    # Before the first training row: 0 turns. Step 2 lies half way between 16 and 32 turns. Step 3 has 32.
    assert curves["val/success"].turns.tolist() == [0, 24, 32]
    assert curves["val/success"].values.tolist() == [0.25, 0.5, 0.75]
    assert curves["train/loss"].turns.tolist() == [8, 16, 32]
    assert curves["rollout/success"].values.tolist() == [0.5]  # NaN is no point


def test_a_step_repeated_after_a_resume_counts_once(tmp_path: Path) -> None:
    text = "step,train/turns,train/loss\n0,8,3\n1,16,2\n1,16,1\n"
    loss = read_curves(write(tmp_path / "metrics.csv", text))["train/loss"]
    assert (loss.turns.tolist(), loss.values.tolist()) == ([8, 16], [3, 1])


def test_files_that_are_no_metrics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HeroError, match="no column 'step'"):
        read_curves(write(tmp_path / "metrics.csv", "a,b\n1,2\n"))
    with pytest.raises(HeroError, match="line 3: b is 'x'"):
        read_curves(write(tmp_path / "metrics.csv", "step,b\n1,2\n2,x\n"))
    with pytest.raises(HeroError, match=r"There is no folder .*gone"):
        find_metrics([tmp_path / "gone"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(HeroError, match=r"no metrics\.csv"):
        find_metrics([tmp_path / "empty"])
    with pytest.raises(HeroError, match="No runs"):
        find_metrics([])


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("runs/hero-seed3/version_0", "hero"),
        ("runs/hero_s12", "hero"),
        ("runs/grpo/seed1/version_11", "grpo"),
        ("runs/webshop2", "webshop2"),
        *((f"runs/{name}", name) for name in ("tokens2", "ours3", "loss1", "reseed4")),
    ],
)
def test_bug_878_runs_that_differ_in_seed_and_version_are_one_method(tmp_path: Path, folder: str, name: str) -> None:
    assert method_name(tmp_path / folder / "metrics.csv") == name


def test_the_band_covers_what_all_runs_have_reached() -> None:
    one = Curve(np.array([0.0, 10.0, 20.0]), np.array([0.0, 0.5, 1.0]))
    other = Curve(np.array([10.0, 30.0]), np.array([0.3, 0.5]))
    line = band([one, other])
    assert line.turns.tolist() == [10, 20]
    assert line.mean.tolist() == pytest.approx([0.4, 0.7])  # (0.5 + 0.3) / 2 and (1.0 + 0.4) / 2
    # Student's t of two runs: 12.706 times half their distance.
    assert line.low.tolist() == pytest.approx([0.4 - 1.2706, 0.7 - 3.8119], abs=1e-3)
    assert line.high.tolist() == pytest.approx([0.4 + 1.2706, 0.7 + 3.8119], abs=1e-3)


def test_one_run_and_runs_that_are_all_alike_have_no_band() -> None:
    curve = Curve(np.array([0.0, 4.0]), np.array([0.2, 0.4]))
    other = Curve(np.array([0.0, 4.0]), np.array([0.2, 0.6]))
    for curves, drawn in (([curve], [False, False]), ([curve, other], [False, True])):
        line = band(curves)
        assert np.isfinite(line.low).tolist() == np.isfinite(line.high).tolist() == drawn
        assert line.mean[0] == 0.2


def test_the_moving_mean_keeps_every_point_and_leaves_short_runs_alone() -> None:
    curve = Curve(np.arange(30.0), np.tile([0.0, 1.0], 15))
    assert smooth(curve).values.tolist() == pytest.approx([0.5, *[1 / 3, 2 / 3] * 14, 0.5])
    short = Curve(np.arange(19.0), np.tile([0.0, 1.0], 10)[:19])
    assert smooth(short).values.tolist() == short.values.tolist()


def test_held_out_success_is_drawn_before_training_rollouts_unless_it_is_a_single_point() -> None:
    line, point = Curve(np.array([0.0, 9.0]), np.zeros(2)), Curve(np.array([9.0]), np.zeros(1))
    columns = ("val/success", "test/success", "rollout/success")
    assert best_column(columns, [{"rollout/success": line, "test/success": line}]) == "test/success"
    assert best_column(columns, [{"rollout/success": line, "test/success": point}]) == "rollout/success"
    assert best_column(columns, [{"test/success": point}, {}]) == "test/success"
    assert best_column(columns, [{}]) is None


def test_bug_829_methods_with_gaps_are_drawn_and_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write(tmp_path / "hero-seed1/version_0/metrics.csv", SPARSE)
    write(tmp_path / "hero-seed2/version_0/metrics.csv", "step,train/turns,train/loss\n0,8,1\n")
    write(tmp_path / "late-seed1/metrics.csv", "step,train/turns,val/success\n0,8,0.1\n")
    write(tmp_path / "late-seed2/metrics.csv", "step,train/turns,val/success\n0,90,0.2\n")
    out = tmp_path / "new" / "curves.png"
    plot_runs([tmp_path], out)
    assert out.read_bytes().startswith(b"\x89PNG")
    plot_run(tmp_path / "hero-seed1", out)
    (tmp_path / "folder.svg").mkdir()
    for name, message in (
        ("curves.pdf", r"curves\.pdf: expected a name that ends with"),
        ("folder.svg", "is a folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            plot_run(tmp_path / "hero-seed1", tmp_path / name)
    assert not (tmp_path / "curves.pdf").exists()


def test_bug_47_equal_seeds_of_one_method_are_not_two_trials(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for number, seed in enumerate((0, 1, 1)):
        write(tmp_path / f"hero/version_{number}/metrics.csv", SPARSE)
        write(tmp_path / f"hero/version_{number}/config.yaml", f"seed_everything: 7\ndata:\n  seed: {seed}\n")
    runs = [tmp_path / f"hero/version_{number}" for number in range(3)]
    plot_runs(runs[:2], tmp_path / "curves.png")
    with pytest.raises(HeroError, match=r"version_1 and .*version_2 are both runs of 'hero' with seed 1"):
        plot_runs(runs, tmp_path / "curves.png")
    write(runs[2] / "config.yaml", "data: {}\n")  # a run that names no seed is taken for another trial
    plot_runs(runs, tmp_path / "curves.png")


def test_bug_775_two_methods_in_one_folder_are_two_lines_and_mixed_settings_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    drawn: dict[str, int] = {}
    monkeypatch.setattr(
        plots, "draw_methods", lambda methods, out: drawn.update({k: len(v) for k, v in methods.items()})
    )
    settings = [("hero", 0, "JensenShannon"), ("robust", 0, "JensenShannon"), ("robust", 1, "ForwardKL")]
    for number, (method, seed, loss) in enumerate(settings):
        write(tmp_path / f"quick/version_{number}/metrics.csv", SPARSE)
        text = f"data: {{seed: {seed}}}\nheld_out: {{method: {method}}}\nmodel: {{divergence: {loss}}}\n"
        write(tmp_path / f"quick/version_{number}/config.yaml", text)
    notes = plot_runs([tmp_path], tmp_path / "curves.png")
    assert drawn == {"quick (hero)": 1, "quick (robust)": 2}
    assert notes == ["Averaged runs differ: quick (robust): model.divergence is 'JensenShannon' and 'ForwardKL'."]
    assert plot_runs([tmp_path / "quick/version_0"], tmp_path / "curves.png") == []
    assert "quick" in drawn  # one method needs no second name


def test_without_matplotlib_the_extra_is_named(tmp_path: Path) -> None:
    write(tmp_path / "metrics.csv", SPARSE)
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pathlib import Path; from hero_pl.runs.plots import plot_run\n"
        f"plot_run(Path({str(tmp_path)!r}), Path({str(tmp_path / 'x.png')!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'hero_pl[plot]'" in done.stderr


def test_bands_stay_within_what_is_possible_and_lines_differ_without_color(tmp_path):
    from matplotlib.figure import Figure

    from hero_pl.runs.plots import STYLES, Curve, Panel, _draw

    turns = np.array([0.0, 10.0])
    runs = [{"val/success": Curve(turns, np.array(values))} for values in ([0.0, 1.0], [0.3, 0.6])]
    axes = Figure().subplots()
    _draw(axes, Panel("success", ("val/success",), 0.0, 1.0), {"a": runs, "b": runs})
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.0, 1.0)  # Student's t with two runs reaches far beyond both
    assert [line.get_linestyle() for line in axes.lines] == list(STYLES[:2])


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn."""
    import matplotlib.figure

    drawn = []

    class Figure(matplotlib.figure.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            drawn.append(self)

    monkeypatch.setattr(matplotlib.figure, "Figure", Figure)
    return drawn


def test_a_panel_per_logged_metric_in_the_format_of_the_suffix(tmp_path, figures):
    write(tmp_path / "metrics.csv", "step,train/turns,train/loss,train/entropy\n0,8,1,0.5\n1,16,0.5,0.4\n")
    plot_run(tmp_path, tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").read_text().startswith("<?xml")
    assert [axes.get_title("left") for axes in figures[0].axes] == ["loss", "entropy"]
    write(tmp_path / "metrics.csv", "step,train/turns\n0,8\n")
    plot_run(tmp_path, tmp_path / "curves.png")
    assert [axes.get_title("left") for axes in figures[1].axes] == ["success"]
    assert figures[1].axes[0].texts[0].get_text() == "not logged"


@pytest.mark.parametrize(("methods", "length"), [(5, 12), (7, 40), (3, 90)])
def test_a_legend_is_no_wider_than_its_figure(methods, length, tmp_path, figures):
    run = {"val/success": Curve(np.array([0.0, 8.0]), np.array([0.1, 0.5]))}
    shown = {f"{number} {'method ' * 20}"[:length]: [run] for number in range(methods)}
    draw_methods(shown, tmp_path / "curves.png", [*PANELS[:1], Panel("more", ("val/success",))])
    (legend,) = figures[0].legends
    frame, whole = legend.get_window_extent(), figures[0].bbox
    assert whole.x0 <= frame.x0 < frame.x1 <= whole.x1
    assert len(legend.texts) == methods
