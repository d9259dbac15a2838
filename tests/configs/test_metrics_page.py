"""``docs/metrics.md`` has every metric of the code, and no other (the runs of test_dry_run.py look too)."""

import re
from pathlib import Path

import hero_pl
from hero_pl.types import StopReason

SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in Path(hero_pl.__file__).parent.rglob("*.py"))
GROUPS = (
    "train|rollout|hero|loss|clip|topk|schedule|reflection|teacher|mismatch|policy_gradient|credit|sampled|sft|guard"
)


def test_every_metric_that_the_code_names_is_described(described):
    written = set(re.findall(rf'"((?:{GROUPS})/[a-z_0-9/]+)"', SOURCE)) - {"guard/valid_actions"}  # of its limits only
    assert len(written) > 40
    assert not {name for name in written if not described(name)}
    assert all(described(f"rollout/{reason}") for reason in StopReason)


def test_every_described_metric_is_one_of_the_code(described):
    ends = {name.rpartition("/")[2] for name in described.names if "<" not in name}
    dynamic = {"action_tokens_p50", "action_tokens_p95", *StopReason}
    assert not {end for end in ends - dynamic if f'{end}"' not in SOURCE}
