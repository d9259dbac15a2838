import pytest

from hero_pl.errors import ReflectionError
from hero_pl.reflection.none import NoReflector
from hero_pl.reflection.scripted import ScriptedReflector
from hero_pl.types import Diagnosis, Reflection, Trajectory

SCRIPT = [Reflection((Diagnosis(f"Number {i}.", "high"), None, None), "ok") for i in range(3)]


def test_no_reflector_gives_no_diagnosis(trajectory: Trajectory) -> None:
    (reflection,) = NoReflector().reflect([trajectory], None)
    assert (reflection.diagnoses, reflection.status, reflection.issues) == ((None, None, None), "ok", ())


def test_the_script_is_read_in_order(trajectory: Trajectory) -> None:
    reflector = ScriptedReflector(SCRIPT)
    assert reflector.reflect([trajectory], None) == SCRIPT[:1]
    assert reflector.reflect([trajectory] * 2, None) == SCRIPT[1:]
    with pytest.raises(ReflectionError, match="3 are used"):
        reflector.reflect([trajectory], None)


def test_a_resumed_script_continues_where_it_stopped(trajectory: Trajectory) -> None:
    reflector = ScriptedReflector(SCRIPT)
    reflector.reflect([trajectory], None)
    resumed = ScriptedReflector(SCRIPT)
    resumed.load_state_dict(reflector.state_dict())
    assert resumed.reflect([trajectory], None) == SCRIPT[1:2]


def test_a_script_for_another_episode_is_refused(trajectory: Trajectory) -> None:
    with pytest.raises(ReflectionError, match=r"task-a has 3 turns, its scripted reflection 1 entries"):
        ScriptedReflector([Reflection((None,), "ok")]).reflect([trajectory], None)
