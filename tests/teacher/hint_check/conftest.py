"""A policy that reads hints as it is told, and episodes to try them on."""

import pytest
import torch

from hero_pl.chat.actions import PlainText
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.types import Diagnosis, Reflection, StopReason, Trajectory, Turn


class Reader(ScriptedPolicy):
    """Uniform over its ids, but for the reply that ``reads`` finds in the context: each id has 3 nats more."""

    strength = 3.0

    def __init__(self, reads):
        super().__init__(parser=PlainText())
        self.reads = reads
        self.load()

    def score(self, rows, weights="live"):
        """See Policy.score."""
        logits = super().score(rows, weights).detach().clone()
        place = 0
        for row in rows:
            for start, stop in row.spans:
                reply = self.reads(str(self.template.tokenizer.decode(list(row.ids[:start]))))
                for k, wanted in enumerate(self.ids(reply)[: stop - start] if reply is not None else ()):
                    logits[place + k, wanted] += self.strength
                place += stop - start
        return logits

    def ids(self, text):
        """A reply as it would be sampled."""
        return (*self.template.encoder.encode_untrusted(text), int(self.template.tokenizer.eos_token_id))


def after(*words):
    """Reads the text after the last of these words, up to the end of the line or of the message."""

    def reads(context):
        for word in words:
            if word in context:
                return context.rpartition(word)[2].partition("<|im_end|>")[0].partition("\n")[0]
        return None

    return reads


def call(element):
    return {"name": "click", "arguments": {"element": element}}


def episode(policy, number, actions):
    """One trajectory."""
    prompt, turns = policy.template.first_prompt("", f"task {number}"), []
    for k, action in enumerate(actions, 1):
        ids = policy.ids(action)
        turns.append(Turn(k, prompt, ids, (0.0,) * len(ids), action, action, "seen", "user"))
        prompt = policy.template.next_prompt(prompt, ids, "seen")
    return Trajectory(
        f"t{number}", "e", number, number, "", (), f"task {number}", tuple(turns), 0.0, StopReason.TERMINATED
    )


@pytest.fixture
def reader():
    """Makes a policy of this class."""
    return lambda *words: Reader(after(*words))


@pytest.fixture
def batch():
    """Makes four episodes with reflections; each has a turn that was called wrong and one that was called right."""

    def make(policy, count=4):
        played = [episode(policy, i, ("click[bad]", "click[ok]")) for i in range(count)]
        blamed = [Diagnosis("wrong: bad", "high", call(f"good{i}")) for i in range(count)]
        return played, [Reflection((one, Diagnosis("right: ok", "high")), "ok") for one in blamed]

    return make


@pytest.fixture
def uniform():
    """Log-probability of a reply of a number of ids under a uniform policy."""
    return lambda policy, ids: -ids * float(torch.tensor(float(len(policy.template.tokenizer))).log())
