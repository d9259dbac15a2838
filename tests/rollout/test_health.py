"""Tasks that always break are put in quarantine; an environment that breaks too often ends the run."""

import dataclasses

import pytest

from hero_pl.errors import EnvError
from hero_pl.rollout.health import WINDOW, Health
from hero_pl.types import StopReason, Trajectory, Turn

FINE, RAISES, HANGS = StopReason.TERMINATED, StopReason.ENV_ERROR, StopReason.ENV_TIMEOUT


def episode(task, stop=RAISES):
    info = {} if stop is FINE else {"error": f"{task} broke"}
    return Trajectory(task, "Test-v0", 0, 0, "", (), "", (), 0.0, stop, info=info)


def health(tasks=100, share=0.5):
    return Health("Test-v0", tasks, share)


@pytest.mark.parametrize("stop", [RAISES, HANGS])
def test_a_task_that_cannot_be_started_is_named_once_and_kept_out(stop, recwarn):
    monitor = health()
    monitor.judge([episode("a", FINE), episode("b", stop), episode("b", stop), episode("c", FINE), episode("c")])
    (warning,) = recwarn
    assert str(warning.message) == "Task 'b' of Test-v0 always breaks and is no longer played: b broke"
    assert monitor.quarantined == {"b": "b broke"}


def later(task, stop=RAISES):
    return dataclasses.replace(episode(task, stop), turns=(Turn(1, (), (), (), "", "", "", "user"),))


@pytest.mark.filterwarnings("ignore:Task")
def test_a_task_that_breaks_later_has_to_do_so_in_two_batches_in_a_row():
    monitor = health()
    monitor.judge([later("a"), later("a"), later("b"), later("b", FINE), later("c")])
    monitor.judge([later("b"), later("c", FINE)])
    assert monitor.quarantined == {}
    again = health()
    again.load_state_dict(monitor.state_dict())
    for one in (monitor, again):
        one.judge([later("a"), later("b", FINE), later("c")])
        assert one.quarantined == {"a": "a broke"}


def test_what_the_sampler_breaks_is_no_fault_of_the_task():
    monitor = health()
    monitor.judge([episode("a", StopReason.SAMPLER_ERROR)])
    assert monitor.quarantined == {}


def feed(monitor, episodes):
    for one in episodes:
        monitor.ended(one)


def test_a_resumed_run_ends_at_the_same_broken_episode():
    monitor, again = health(), health()
    feed(monitor, [episode("a"), episode("b"), episode("c"), episode("d")])
    again.load_state_dict(monitor.state_dict())
    for one in (monitor, again):
        with pytest.raises(EnvError, match="5 of the latest 5 episodes"):
            one.ended(episode("e"))


def test_an_environment_that_starts_nothing_ends_the_run_soon():
    monitor = health()
    feed(monitor, map(episode, "abca"))
    with pytest.raises(EnvError, match=r"5 of the latest 5 episodes.*b broke.*broken_share=0\.5.*check-env Test-v0"):
        monitor.ended(episode("b"))


def test_one_task_that_breaks_however_often_does_not_end_the_run():
    monitor = health()
    for _ in range(WINDOW):
        monitor.ended(episode("a"))
        monitor.ended(episode("b"))


def test_the_share_is_of_the_latest_episodes():
    monitor = health(share=0.25)
    for i in range(200):
        monitor.ended(episode(str(i), RAISES if i % 4 == 3 else FINE))
    with pytest.raises(EnvError, match=f"17 of the latest {WINDOW} "):
        monitor.ended(episode("again"))


def test_a_share_of_one_allows_any():
    feed(health(share=1.0), (episode(str(i)) for i in range(WINDOW)))


@pytest.mark.parametrize(("tasks", "share"), [(4, 0.25), (2, 1.0), (9, 0.0)])
@pytest.mark.filterwarnings("ignore:Task")
def test_too_many_tasks_in_quarantine_end_the_run(tasks, share):
    with pytest.raises(EnvError, match=rf"2 of {tasks} tasks.*'b': b broke"):
        health(tasks, share).judge([episode("a"), episode("b")])


@pytest.mark.parametrize(("tasks", "share"), [(4, 0.5), (3, 1.0)])
@pytest.mark.filterwarnings("ignore:Task")
def test_as_many_as_are_allowed_do_not(tasks, share):
    health(tasks, share).judge([episode("a"), episode("b")])


def test_processes_agree_on_what_each_of_them_found():
    before = {"b", "c", "d"}
    one, other = health(), health()
    states = [{"quarantined": {"a": "x"}, "suspects": ["b", "c", "e"]}, {"quarantined": {"d": "y"}, "suspects": ["b"]}]
    for monitor, mine in zip((one, other), states, strict=True):
        monitor.load_state_dict(mine)
        monitor.agree(before, states)
        assert monitor.quarantined == {"a": "x", "d": "y"}
        assert monitor.suspects == {"b", "e"}
