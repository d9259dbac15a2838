"""Text environments for language-model agents; importing this package registers their ids with Gymnasium.

Entry points are strings, so an environment's module is imported only when one of its ids is made.
"""

from typing import Any

from gymnasium.envs.registration import register, registry

_IDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("hero_pl/WebShop-v0", "hero_envs.webshop.env:WebShopEnv", {}),
    (
        "hero_pl/WebShopPocket-v0",
        "hero_envs.webshop.env:WebShopEnv",
        {"catalog": "pocket", "observation": "compact", "max_steps": 12, "max_noops": 3},
    ),
    ("hero_pl/TauBenchRetail-v0", "hero_envs.tau_bench.env:TauBenchEnv", {"domain": "retail"}),
    ("hero_pl/TauBenchAirline-v0", "hero_envs.tau_bench.env:TauBenchEnv", {"domain": "airline"}),
    ("hero_pl/PocketRetail-v0", "hero_envs.tau_bench.env:TauBenchEnv", {"domain": "pocket_retail"}),
    ("hero_pl/TextWorld-v0", "hero_envs.bridges.textworld:TextWorldEnv", {}),
    ("hero_pl/TextArena-v0", "hero_envs.bridges.textarena:TextArenaEnv", {}),
    ("hero_pl/ReasoningGym-v0", "hero_envs.bridges.reasoning_gym:ReasoningGymEnv", {}),
    ("hero_pl/Verifiers-v0", "hero_envs.bridges.verifiers:VerifiersEnv", {}),
    ("hero_pl/Tau2-v0", "hero_envs.bridges.tau2:Tau2Env", {}),
    ("hero_pl/Toy-v0", "hero_envs.toy:ToyEnv", {}),
)

for _id, _entry_point, _kwargs in _IDS:
    if _id not in registry:  # the package may be imported twice, for example after importlib.reload
        register(id=_id, entry_point=_entry_point, kwargs=_kwargs, order_enforce=False, disable_env_checker=True)
