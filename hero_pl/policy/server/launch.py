"""The command that starts a server for a configuration."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from hero_pl.errors import ConfigError
from hero_pl.policy import gguf

if TYPE_CHECKING:
    from hero_pl.policy.huggingface import HuggingFacePolicy

Device = Literal["gpu", "cpu"]
Sync = Literal["adapter", "folder"]

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM accepts for ``--max-lora-rank``."""

ADAPTERS = 3
"""Adapters at the same time: that of the trained weights, the former one, and one for the initial weights."""

MEMORY = 0.4
"""Default share of the memory of a GPU that the trainer uses too."""

FLAGS = {
    "routes": "--enable-scale-out",
    "adapters": "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
    "weights": "VLLM_SERVER_DEV_MODE=1",
    "logprobs": "--logprobs-mode processed_logprobs",
    "defaults": "--generation-config vllm",
}
"""Options that a launch needs, by their purpose."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Settings to start a server with.

    Args:
        pretrained: Folder or hub id of the model.
        tokenizer: Folder or hub id of the tokenizer.
        dtype: Data type of the weights.
        max_length: Context length in tokens; ``None``: from the model's configuration.
        rank: Rank of the adapter; ``None`` if all weights are sent.
        name: Name of the model.
    """

    pretrained: str
    tokenizer: str
    dtype: str
    max_length: int | None
    rank: int | None
    name: str

    @classmethod
    def of(cls, policy: HuggingFacePolicy, name: str, weights: bool = True) -> Launch:
        """The launch for the settings of a policy.

        Args:
            policy: Policy; it need not be loaded.
            name: Name of the model on the server.
            weights: Whether weights are sent to the server.

        Raises:
            ConfigError: A server cannot read the model.
        """
        if policy.pretrained is None or gguf.is_gguf(policy.pretrained):
            made = "a GGUF file" if policy.pretrained else "config:"
            raise ConfigError(
                f"A server cannot start from {made}. Write the model to a folder with hero_pl export, and set it in "
                "model.policy.init_args.pretrained."
            )
        rank = policy.lora.rank if policy.lora and weights else None
        if rank is not None and rank > RANKS[-1]:
            raise ConfigError(f"lora.rank={rank}: servers take adapters up to rank {RANKS[-1]}.")
        length = policy.max_length if policy.network is not None else policy.configured_length
        tokenizer = policy.tokenizer_source or policy.pretrained
        return cls(policy.pretrained, tokenizer, policy.dtype, length, rank, name)

    def command(self, url: str, device: Device = "gpu", memory: float = MEMORY) -> str:
        """The shell command that starts the server.

        Args:
            url: URL of the server.
            device: Device of the server; on a CPU it uses one core and 1 GiB for keys and values.
            memory: Share of the memory of a GPU that the server uses.
        """
        environment, flags = [], ["--served-model-name", self.name, "--dtype", self.dtype]
        if self.rank is not None:
            environment.append(FLAGS["adapters"])
            rank = next(rank for rank in RANKS if rank >= self.rank)
            flags += ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", str(ADAPTERS)]
        else:
            environment.append(FLAGS["weights"])
        if device == "cpu":
            environment += ["VLLM_CPU_KVCACHE_SPACE=1", "VLLM_CPU_OMP_THREADS_BIND=nobind", "OMP_NUM_THREADS=1"]
            # on a CPU, a request with a seed ends the server if its prompt is processed in parts
            flags += ["--enforce-eager", "--no-enable-chunked-prefill"]
        else:
            flags += ["--gpu-memory-utilization", f"{memory:g}"]
        if self.max_length is not None:
            flags += ["--max-model-len", str(self.max_length)]
        if self.tokenizer != self.pretrained:
            flags += ["--tokenizer", self.tokenizer]
        flags += [*FLAGS["defaults"].split(), *FLAGS["logprobs"].split(), FLAGS["routes"]]
        place = urlsplit(url)
        host = "127.0.0.1" if place.hostname in ("localhost", "127.0.0.1") else "0.0.0.0"
        words = ["vllm", "serve", self.pretrained, "--host", host, "--port", str(place.port or 80), *flags]
        return " ".join([*environment, shlex.join(words)])
