"""The two reflectors of TextWorld, on an episode written by hand."""

from hero_pl.pocket.textworld.reflector import TextWorldOracle, TextWorldRules
from hero_pl.types import StopReason, Trajectory, Turn

START = (
    "Open the box. Then, take the hat from the box.\n"
    "-= Attic =- You are in an attic. You can see a closed box.\nYou are carrying nothing."
)
TURNS = [
    ("take hat from box", "You can't see any such thing."),
    ("", "Your reply could not be read as an action: empty"),
    ("open box", "You open the box, revealing a hat."),
    ("close box", "You close the box."),
    ("open box", "You open the box, revealing a hat."),
    ("take hat from box", "You take the hat from the box. Your score has just gone up by one point."),
]
WHOLE, REST = ["open box", "take hat from box"], ["take hat from box"]
SOLUTIONS = [WHOLE, WHOLE, REST, WHOLE, REST, []]  # the environment does not see the empty reply


def episode(turns=TURNS, first=START, **info):
    made = [
        Turn(number, (1,), (2,), (0.0,), action, action, reply, "user", malformed=None if action else "empty")
        for number, (action, reply) in enumerate(turns, 1)
    ]
    return Trajectory("t", "e", 0, 0, "", (), first, tuple(made), 1.0, StopReason.TERMINATED, info=info)


def blamed(reflection):
    targets = [one.next_action_target if one else None for one in reflection.diagnoses]
    return [target["action"] if target else None for target in targets]


def test_rules_and_oracle_blame_the_same_turns():
    (rules,) = TextWorldRules().reflect([episode()], None)
    (oracle,) = TextWorldOracle().reflect([episode(solutions=SOLUTIONS, success=True)], None)
    assert blamed(rules) == blamed(oracle) == ["open box", "open box", None, "take hat from box", None, None]
    assert rules.status == oracle.status == "ok"


def test_bug_612_a_turn_after_which_the_game_cannot_be_won_is_an_error():
    """The solution is then empty, as it is after a win."""
    turns = [("open box", "You open the box, revealing a pie."), ("eat pie", "You eat the pie."), ("look", "An attic.")]
    (oracle,) = TextWorldOracle().reflect([episode(turns, solutions=[WHOLE, REST, [], []], success=False)], None)
    assert blamed(oracle) == [None, "take hat from box", None]
    assert oracle.diagnoses[2] is None, "no command is right"


def test_an_episode_without_solutions_has_no_oracle():
    (oracle,) = TextWorldOracle().reflect([episode()], None)
    assert oracle.status == "rejected"
    assert oracle.issues == (("no_solution", 0),)


def test_another_environment_has_no_rules():
    (rules,) = TextWorldRules().reflect([episode(first="find: buy a mug")], None)
    assert rules.issues == (("not_a_textworld_game", 0),)


def test_bug_613_an_error_without_a_correction_is_no_confirmation():
    turns = [("sing", "That's not a verb I recognise.")]
    (rules,) = TextWorldRules().reflect([episode(turns, first=START.replace("Open the box", "Do it"))], None)
    assert rules.diagnoses[0].next_action_target is None
    assert rules.diagnoses[0].was_failure
    (without,) = TextWorldRules(targets=False).reflect([episode()], None)
    assert [one.was_failure for one in without.diagnoses] == [True, True, False, True, False, False]
