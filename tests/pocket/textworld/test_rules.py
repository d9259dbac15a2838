"""The rules of TextWorld, on texts in the form of the game."""

import pytest

from hero_pl.pocket.textworld.objective import Step, read_steps
from hero_pl.pocket.textworld.rules import Player

START = (
    "First off, retrieve the iron key from the shelf. And then, make sure that the iron chest in the attic is "
    "unlocked. Then, open the iron chest. After that, take the hat from the iron chest. Having taken the hat, put the "
    "hat on the shelf inside the attic.\n"
    "-= Attic =- You are in an attic. You can see a locked iron chest and a shelf. On the shelf is an iron key.\n"
    "You are carrying: a coin and a lamp."
)
TAKE, UNLOCK = "take iron key from shelf", "unlock iron chest with iron key"
TAKEN = "You take the iron key from the shelf."
UNLOCKED = "You unlock the iron chest. Your score has just gone up by one point."


def played(*turns):
    player = Player.open(START)
    for action, reply in turns:
        player = player.after(action, reply)
    return player


@pytest.mark.parametrize(
    ("sentence", "command"),
    [
        ("Recover the fly from the floor of the attic.", "take fly"),
        ("First of all, you could, like, pick up the disk from the case inside the attic.", "take disk from case"),
        ("First, it would be great if you could take the pie from the attic.", "take pie"),
        ("And then, check that the safe within the attic is unlocked with the old key.", "unlock safe with old key"),
        ("Insert the old key into the safe inside the attic's lock to unlock it.", "unlock safe with old key"),
        ("Then, doublecheck that the safe in the attic is wide open.", "open safe"),
        ("Once you have opened the safe, look and see that the box is shut.", "close box"),
        ("After that, Place the old key into the box within the attic to lock it.", "lock box with old key"),
        ("I need you to lock the box with the old key.", "lock box with old key"),
        (
            "After you have set down the cup on the bench, you can deposit the pen inside the box.",
            "insert pen into box",
        ),
        ("Put the hat on the shelf inside the attic.", "put hat on shelf"),
        ("With the pie, eat the pie.", "eat pie"),
        ("Next, ditch the pie on the floor of the attic.", "drop pie"),
        ("That done, make an attempt to travel south.", "go south"),
        ("If you can do that, head through the north door.", "go north"),
    ],
)
def test_a_sentence_of_the_objective_is_a_command(sentence, command):
    (step,) = read_steps(sentence, ["Attic"])
    assert step.command == command


def test_a_sentence_that_is_not_understood_gives_no_target():
    assert read_steps("Sing a song.") == (Step(""),)
    assert Player.open(START.replace("retrieve the iron key from the shelf", "sing")).target() is None


def test_other_environments_are_not_covered():
    assert Player.open("find: buy a wool kettle") is None


@pytest.mark.parametrize(
    ("before", "action", "reply", "text", "target"),
    [
        ((), TAKE, TAKEN, f"right: {TAKE}", None),
        ((), "take key", TAKEN, "right: take key", None),
        ((), "dance", "That's not a verb I recognise.", "refused: dance", TAKE),
        ((), "open iron chest", "It seems to be locked.", "refused: open iron chest", TAKE),
        ((), "", "Your reply could not be read as an action: empty", "refused: nothing", TAKE),
        ((), "examine shelf", "The shelf is stable. On the shelf is an iron key.", "idle: examine shelf", TAKE),
        ((), "look", "-= Attic =- You are in an attic.", "idle: look", TAKE),
        ((), "drop coin", "You drop the coin on the ground.", "other: drop coin", TAKE),
        (((TAKE, TAKEN),), UNLOCK, UNLOCKED, f"right: {UNLOCK}", None),
        (((TAKE, TAKEN),), "drop iron key", "You drop the iron key on the ground.", "undone: drop iron key", UNLOCK),
        (((TAKE, TAKEN),), TAKE, "You already have that.", f"refused: {TAKE}", UNLOCK),
        (((TAKE, TAKEN), (UNLOCK, UNLOCKED)), "lock iron chest", "You lock the iron chest.", None, "open iron chest"),
        # not seen yet: the hat is somewhere in the closed chest, but the objective says where
        (((TAKE, TAKEN), (UNLOCK, UNLOCKED)), "take hat", "You can't see any such thing.", None, "open iron chest"),
        ((), "go west", "You can't go that way.", "refused: go west", TAKE),
        ((), "go west", "-= Hall =- You are in a hall.", "other: go west", TAKE),
        ((("go west", "-= Hall =- A hall."),), "look", "-= Hall =- A hall.", "idle: look", "go east"),
        ((("go west", "-= Hall =- A hall."),), "go east", "-= Attic =- An attic.", "right: go east", None),
    ],
)
def test_a_turn_is_judged_by_what_the_agent_saw(before, action, reply, text, target):
    said, right = played(*before).judge(action, "", reply)
    assert text is None or said == text
    assert right == (None if target is None else {"action": target})


def test_what_was_undone_has_to_be_done_again():
    player = played((TAKE, TAKEN), ("drop iron key", "You drop the iron key on the ground."))
    assert player.steps[0] == Step("take", "iron key", "shelf")
    assert player.judge("take iron key", "", "You pick up the iron key from the ground.")[0] == "right: take iron key"


def test_bug_610_a_point_of_the_game_makes_a_turn_right():
    """Even if the objective does not name the command."""
    said, target = played().judge("eat coin", "", "You eat the coin. Your score has just gone up by one point.")
    assert (said, target) == ("right: eat coin", None)


def test_the_key_of_a_lock_is_inferred_only_if_it_is_clear():
    def target(carried, seen=""):
        player = Player.open(START.replace("First off, retrieve the iron key from the shelf. And then, m", "M"))
        return Player(player.steps, seen=player.seen + seen, carried=carried).target()

    assert target(("coin", "iron passkey", "gold passkey")) == "unlock iron chest with iron passkey"
    assert target(("coin", "old latchkey")) == "unlock iron chest with old latchkey"
    assert target(("old latchkey", "big keycard")) is None
    told = "\nyou have to unlock the iron chest with the big keycard first."
    assert target(("old latchkey", "big keycard"), told) == "unlock iron chest with big keycard"


def test_a_room_is_left_when_its_steps_are_done():
    hall = "-= Hall =- You are in a hall."
    player = Player.open("Take the key. After that, go west.\n-= Attic =- A key is here.\nYou are carrying nothing.")
    assert player.judge("go west", "", hall) == ("other: go west", {"action": "take key"})
    later = player.after("take key", "You pick up the key from the ground.")
    assert later.judge("go west", "", hall) == ("right: go west", None)


def test_a_refusal_that_names_the_key_gives_the_target_of_its_own_turn():
    start = (
        "Unlock the box. Then, open the box.\n-= Attic =- A box is here.\nYou are carrying: a big key and a red key."
    )
    refusal = "You have to unlock the box with the red key first."
    assert Player.open(start).judge("open box", "", refusal)[1] == {"action": "unlock box with red key"}
    assert Player.open(start).judge("open box", "", "It seems to be locked.")[1] is None


def test_bug_611_a_target_is_given_only_for_things_that_were_seen():
    """The objective names things that are still hidden; a command for them would be refused."""
    step = Step("take", "hat", "chest")
    assert Player((step,), seen="a chest").target() is None
    assert Player((step,), seen="a chest, in which is a hat").target() == "take hat from chest"
