"""Cases 6 to 10 in a whole run: a fault of an endpoint costs at most one step; a run that it ends is saved first."""

import json

import pytest

from hero_pl.callbacks.checkpoints import verify
from hero_pl.cli.main import main
from hero_pl.errors import EndpointError
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.reflection.chat_reflector import ChatReflector
from tests.chat_server import answers, fails, hangs_up, says, serving
from tests.faults.conftest import episodes, same_weights

REVIEW = {f"turn{i}": {"diagnosis": "Look for the color first.", "confidence": "high"} for i in range(1, 13)}
COST = 10_020  # far more than the rest of a request is taken to cost
REVIEWS = says(json.dumps(REVIEW), prompt=COST - 20, reply=20)


def hero(server, **options):
    options = {"backoff_s": 0.0, "concurrency": 2, "max_retries": 6, **options}
    return SelfDistillation(reflector=ChatReflector(server.url, "judge", **options))


FAULTS = [fails(429, Retry_After="0"), fails(500), hangs_up, answers("{", Content_Length="99"), answers("no JSON")]
ENDS = {
    "refused": (fails(401), {}, "answered 401"),
    "dead": (fails(503), {"max_retries": 3, "max_failures": 1}, "1 questions in a row"),
    "too dear": (REVIEWS, {"max_total_tokens": 5 * COST + 100}, "50100 of max_total_tokens=50200 are spent"),
}


def test_faults_that_pass_change_nothing_and_an_end_is_saved_so_that_the_resumed_run_is_the_same(run, newest, tmp_path):
    with serving(REVIEWS) as server:  # two requests a step
        whole = run("whole", hero(server))
    with serving(REVIEWS, *FAULTS, REVIEWS, fails(503), REVIEWS) as server:
        assert same_weights(whole, run("faulty", hero(server)))
    assert episodes(tmp_path / "faulty") == episodes(tmp_path / "whole")
    for folder, (fault, options, reason) in ENDS.items():
        with serving(*[REVIEWS] * 5, fault) as server, pytest.raises(EndpointError, match=reason):
            run(folder, hero(server, concurrency=1, **options))
        assert verify(newest(folder)).step == 2
        with serving(REVIEWS) as server:
            resumed = run(folder, hero(server, concurrency=1), resume=newest(folder))
        assert resumed.objective.reflector.endpoint.spent_tokens == (5 + 4) * COST  # the interrupted step was paid, too
        assert same_weights(whole, resumed)
        assert episodes(tmp_path / folder) == episodes(tmp_path / "whole")


def test_a_dead_endpoint_ends_the_run_before_its_steps_do(run, newest):
    with serving(*[REVIEWS] * 4, fails(503)) as server:
        with pytest.raises(EndpointError, match=r"5 questions in a row.*max_failures"):
            run("run", hero(server, max_retries=1, max_failures=5, concurrency=1), steps=1000)
        assert len(server.bodies) == 4 + 5 * 2
    assert verify(newest()).step == 2


def test_the_command_ends_with_the_status_of_the_cap_and_resumes_with_a_higher_cap(config, tmp_path, capsys):
    def fit(cap):
        settings = {"base_url": server.url, "model": "judge", "max_total_tokens": cap}
        reflector = {"class_path": "ChatReflector", "init_args": settings}
        path = config(model__objective__init_args__reflector=reflector, trainer__max_steps=3)
        main(["fit", "--config", path, "--resume", "auto", "--held_out.episodes", "0"])

    with serving(REVIEWS) as server:
        with pytest.raises(SystemExit) as ended:
            fit(2 * COST + 100)
        assert ended.value.code == 3
        assert "hero_pl: 20040 of max_total_tokens=20140 are spent" in capsys.readouterr().err
        fit(100_000)
        assert len(server.bodies) == 3
    (folder,) = (tmp_path / "runs" / "tiny").iterdir()
    assert verify(folder / "checkpoints" / "last.ckpt").step == 3
