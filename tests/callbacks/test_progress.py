"""Output of a run in a terminal and in a file: one line per step, and no wrong warning."""

import re
from types import SimpleNamespace

import pytest
import rich
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console

from hero_pl.callbacks.held_out import HeldOut
from hero_pl.callbacks.progress import RunProgress
from hero_pl.callbacks.remaining import Remaining, evaluations_left, how_it_ended, share_done
from hero_pl.callbacks.turn_budget import TurnBudget
from hero_pl.cli.main import main
from hero_pl.objectives.policy_gradient import GRPO


def test_lines_that_the_module_prints_go_above_the_bar(tiny_module, capsys):
    module, progress = tiny_module(), RunProgress()
    module.trainer = SimpleNamespace(is_global_zero=True, progress_bar_callback=progress)
    shown = []
    progress.print = lambda *words: shown.append(words)
    module.print("a remark")
    progress.disable()
    module.print("without a bar")
    assert shown == [("a remark",)]
    assert capsys.readouterr().out == "without a bar\n"


@pytest.fixture
def drawn(monkeypatch, tiny_module, tiny_data, fit):
    """Runs two steps on a recorded console; returns what was drawn in every frame."""

    def run(terminal=True, objective=None, callbacks=(), **data):
        monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "160")
        frames = []

        class Watch(RunProgress):
            def _keep(self):
                if self._bar is not None:
                    console = Console(record=True, width=160, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
                    console.print(self._bar.get_renderable())
                    frames.append(console.export_text())

            def _work_on(self, *work):
                super()._work_on(*work)
                self._keep()

            def on_train_batch_end(self, *args):
                super().on_train_batch_end(*args)
                self._keep()

        callbacks = [Watch(), HeldOut(5), *callbacks]
        settings = {"tasks_per_step": 3, **data}
        fit(tiny_module(objective), tiny_data(**settings), 2, callbacks=callbacks, enable_progress_bar=True)
        return frames

    yield run
    rich.reconfigure()


def test_a_terminal_names_the_work_of_the_moment_and_counts_it(drawn):
    frames = drawn()
    for expected in (
        r"evaluating .* 0/5 episodes",
        r"rolling out .* 2/3 episodes",
        r"reviewing",
        r"learning .* 0/\d+ mic",
    ):
        assert any(re.search(expected, frame) for frame in frames), expected
    assert not any("Pass 1" in frame or "it/s" in frame or "v_num" in frame for frame in frames)


def test_an_objective_without_a_reviewer_reviews_nothing(drawn):
    frames = drawn(objective=GRPO(), group_size=2)
    assert any("preparing" in frame for frame in frames)
    assert not any("reviewing" in frame for frame in frames)


def test_a_step_shows_turns_success_and_what_is_left_and_hides_the_work(drawn):
    frames = drawn(callbacks=[TurnBudget(40)])
    (first, *_) = [frame for frame in frames if "success" in frame]
    assert re.search(
        r"training +.* 9/40 turns 0:00:0\d, about 0:0\d:\d\d left, success 0\.000, loss -?\d\.\d{3}", first
    )
    assert "learning" not in first


def test_a_file_gets_one_line_per_step_and_per_evaluation_and_how_it_ended(drawn, capsys):
    assert drawn(terminal=False) == []
    lines = [line for line in capsys.readouterr().out.splitlines() if re.match(r"step|Eval|Trained", line)]
    assert [line.split(",")[0] for line in lines] == [
        "Evaluated 5 test episodes after 0 turns: success 0.000 (0.000 to 0.434)",
        "step 1",
        "step 2",
        "Trained for 2 steps and 18 turns",
        "Evaluated 5 test episodes after 18 turns: success 0.000 (0.000 to 0.434)",
    ]
    assert re.fullmatch(
        r"step 1, 9 turns, success 0\.000, loss -?\d\.\d{3}, 0:\d\d:\d\d, about 0:\d\d:\d\d left", lines[1]
    )
    assert lines[3].endswith("max_steps is reached")


# -- the estimate ------------------------------------------------------------------------------------------------------


def a_trainer(*callbacks, max_steps=-1, step=0):
    return SimpleNamespace(callbacks=list(callbacks), max_steps=max_steps, max_epochs=-1, global_step=step)


def test_the_limit_that_is_reached_first_counts():
    assert share_done(a_trainer(TurnBudget(100), max_steps=10, step=4), 20) == 0.4
    assert share_done(a_trainer(TurnBudget(100), max_steps=10, step=1), 20) == 0.2
    assert share_done(a_trainer(TurnBudget(100)), 130) == 1.0
    assert share_done(a_trainer(), 20) is None
    assert how_it_ended(a_trainer(TurnBudget(100)), 104) == ": the turn budget is used"
    assert how_it_ended(a_trainer(TurnBudget(100)), 99) == ""


def test_the_rest_is_estimated_from_steps_and_evaluations_apart():
    now = 0.0
    remaining = Remaining(lambda: now)
    assert remaining.left(0.0, 3) is None
    remaining.evaluation(0, 2)
    now = 10.0
    remaining.evaluation(2, 2)  # before training: 10 s
    remaining.begin(0.5)  # a resumed run
    assert remaining.left(0.5, 2) is None
    now = 30.0
    remaining.evaluation(0, 2)
    now = 60.0
    remaining.evaluation(2, 2)  # 30 s
    # 50 s since training began, 30 of them evaluating: 20 s for a tenth, so 80 s for the other 0.4, and two times 20 s
    assert remaining.left(0.6, 2) == pytest.approx(80.0 + 40.0)
    assert remaining.elapsed == 50.0


def test_the_evaluations_that_are_left_are_the_marks_ahead_and_the_last_one():
    assert evaluations_left(a_trainer(HeldOut(5, at_turns=[10, 20, 30])), 20) == 2
    assert evaluations_left(a_trainer(HeldOut(0, at_turns=[10])), 0) == 0
    assert evaluations_left(a_trainer(), 0) == 0


# -- the command -------------------------------------------------------------------------------------------------------

NOISE = re.compile(
    "Pass 1|TPU|GPU|Tip|Stopped by|weights_only|not resumable|Restoring|Restored|stopped:|Loading weights"
)


@pytest.fixture
def output_of(config, capfd, caplog, recwarn):
    """Output and warnings of the command of a short run."""

    caplog.set_level("INFO")

    def run(*words, **changes):
        caplog.clear()
        main(["fit", "--config", config(trainer__enable_progress_bar=True, held_out__episodes=2, **changes), *words])
        out, err = capfd.readouterr()
        text = (
            out
            + err
            + caplog.text
            + "".join(str(one.message) for one in recwarn if "deprecated" not in str(one.message))
        )
        assert not (match := NOISE.search(text)), match
        return text

    return run


def test_a_run_and_its_resumption_say_nothing_that_is_wrong(output_of, tmp_path):
    text = output_of(trainer__max_steps=2)
    assert len(re.findall(r"^step \d", text, re.MULTILINE)) == 2
    text = output_of("--resume", "auto", trainer__max_steps=3)
    assert "Resuming the run in" in text
    assert re.findall(r"^step (\d)", text, re.MULTILINE) == ["3"]
    checkpoint = tmp_path / "runs" / "tiny" / "version_0" / "checkpoints" / "last.ckpt"
    assert f"version_1 from {checkpoint}" in output_of("--ckpt_path", str(checkpoint), trainer__max_steps=4)


def test_a_complete_run_that_is_resumed_keeps_its_last_evaluation(output_of, tmp_path):
    output_of(trainer__max_steps=1)
    run = tmp_path / "runs" / "tiny" / "version_0"
    before = {name: (run / name).read_bytes() for name in ("eval.jsonl", "trajectories.jsonl", "metrics.csv")}
    assert before["eval.jsonl"].count(b"\n") == 4
    assert "The run is complete: it has made its 1 steps" in output_of("--resume", "auto", trainer__max_steps=1)
    assert {name: (run / name).read_bytes() for name in before} == before


def test_a_bar_of_ones_own_takes_the_place_of_ours_and_none_is_made_when_it_is_switched_off(config, capsys):
    from hero_pl.cli.lightning import instantiate

    own = [{"class_path": "lightning.pytorch.callbacks.RichProgressBar"}]
    for changes, kinds in (
        ({"trainer__enable_progress_bar": True}, [RunProgress]),
        ({"trainer__enable_progress_bar": True, "trainer__callbacks": own}, [RichProgressBar]),
        ({"trainer__enable_progress_bar": False}, []),
    ):
        bar = instantiate(["--config", config(**changes)]).trainer.progress_bar_callback
        assert [type(bar)] * bool(bar) == kinds
