"""A sampler that uses vLLM servers with the newest weights, and rejects replies from other weights."""

from __future__ import annotations

import functools
import math
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from hero_pl.errors import ConfigError, PolicyError
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.sampling import SampledPolicy, Sampler, Sampling
from hero_pl.policy.server import canary
from hero_pl.policy.server.client import Server, ServerError, ServerGone
from hero_pl.policy.server.dialect import Served
from hero_pl.policy.server.folders import remove_weights, write_weights
from hero_pl.policy.server.launch import MEMORY, Device, Launch, Sync
from hero_pl.policy.server.pool import Pool
from hero_pl.policy.server.session import ServerSession, Workers


class ServerSampler(Sampler):
    """Samples on vLLM servers, many conversations at once, and sends them the weights after each batch.

    ``hero_pl serve-command`` prints the commands that start them.

    Args:
        url: URL of the server, for example ``http://localhost:8000``, or a list of URLs. A conversation stays on one.
        folder: Folder for the weights; trainer and servers need the same path to it.
        model: Name of the model on the servers (``--served-model-name``).
        sync: ``adapter`` sends the adapter of a policy with ``lora``; ``folder`` sends all weights.
        timeout_s: Maximum time in seconds for one reply, for an update of the weights, and for a server to restart.
        parallel: Maximum number of concurrent requests.
        tolerance: Maximum difference between the log-probabilities of server and trainer, in nats, in the check after
            each update of the weights; default: 1e-3 for float32, else 0.1.
        initial_url: Servers that keep the initial weights, for a reflector with ``weights: initial`` while all weights
            are trained. With an adapter the same servers have them.

    Raises:
        ConfigError: A setting is invalid.
    """

    in_process = False

    def __init__(
        self,
        url: str | list[str],
        folder: str,
        model: str = "student",
        sync: Sync = "adapter",
        timeout_s: float = 300.0,
        parallel: int = 64,
        tolerance: float | None = None,
        initial_url: str | list[str] | None = None,
    ) -> None:
        if sync not in ("adapter", "folder"):
            raise ConfigError(f"sampler sync={sync!r}: expected adapter or folder.")
        if not 0.0 < timeout_s < math.inf or parallel < 1 or (tolerance is not None and not tolerance > 0.0):
            raise ConfigError(
                f"sampler timeout_s={timeout_s}, parallel={parallel}, tolerance={tolerance}: expected a positive "
                "number of seconds, at least 1, and a positive number of nats or none."
            )
        self.servers = _servers(url, timeout_s)
        self.initial_servers = _servers(initial_url or [], timeout_s)
        places = [server.url for server in (*self.servers, *self.initial_servers)]
        if not self.servers or len(set(places)) < len(places):
            raise ConfigError(f"sampler url={url}, initial_url={initial_url}: expected at least one, and none twice.")
        self.folder, self.model, self.mode = Path(folder), model, sync
        self.timeout_s, self.tolerance = timeout_s, tolerance
        self.workers = Workers(parallel)
        self.gap = 0.0
        """Largest difference between log-probabilities in the latest check, in nats."""
        self._run, self._serial, self._greeted = "", 0, False
        self._weights: Path | None = None
        """Folder of the live weights."""
        self._reviewed = False
        """Whether the initial weights will be sampled from, too."""
        self._prompt: tuple[int, ...] = ()
        """Prompt of the check."""
        self._pools: dict[str, Pool] = {}
        """Pools by the name of the weights."""

    # -- interface of Sampler ------------------------------------------------------------------------------------

    def check(self, policy: SampledPolicy, weights: str = "live", constrained: bool = False) -> None:
        """See :meth:`Sampler.check`; the first call requires an answer from every server.

        Raises:
            PolicyError: A server does not answer, or was started with other settings.
        """
        policy = _with_model(policy)
        if (self.mode == "adapter") != (policy.lora is not None):
            trained, fitting = ("an adapter", "adapter") if policy.lora else ("all weights", "folder")
            raise ConfigError(
                f"sampler sync={self.mode}: this policy trains {trained} (model.policy.init_args.lora). Set "
                f"sampler.init_args.sync: {fitting}."
            )
        if constrained:
            raise ConfigError(
                "constrained: true is not possible on servers: the constraint needs the logits of every token. Set the "
                "reflector's constrained: false with on_invalid: retry, or leave the sampler out."
            )
        if weights != "live" and self.mode == "folder" and not self.initial_servers:
            raise ConfigError(
                "A reflector with weights: initial needs a server that keeps them: with sync: folder the others get "
                "the trained weights. Set sampler.init_args.initial_url, train an adapter (lora), or set the "
                "reflector's weights: live."
            )
        self._reviewed |= weights != "live"
        Launch.of(policy, self.model)
        if not self._greeted:
            for server in (*self.servers, *self.initial_servers):
                self._greet(server, policy)
            self._greeted = True

    def sync(self, policy: SampledPolicy) -> None:
        """Write the live weights, send them to the servers, and check that the servers use them.

        Raises:
            PolicyError: No server accepts the weights, or a server uses other weights.
        """
        self.check(policy)
        policy = _with_model(policy)
        self._run = self._run or _of_rank_0(uuid.uuid4().hex[:8])
        self._serial += 1  # weights of the same version can differ, because a run may be rolled back
        name = f"hero-{self._run}-{self._serial}"
        former, self._weights = self._weights, (self.folder / name).resolve()
        if self.mode == "adapter":
            served = Served(name, policy.version)
        else:
            served = Served(self.model, policy.version, label=name)
        if "live" not in self._pools:
            self._pools["live"] = self._pool(policy, "live", self.servers, self.model)
        failure: PolicyError | None = None
        first = not distributed.is_initialized() or distributed.get_rank() == 0
        model = policy.need_network("a sampler with servers").plain()
        with policy.gathered():
            if first:
                try:
                    write_weights(self.folder, name, model)
                    self._pools["live"].renew(served)
                    if self._reviewed and self.mode == "adapter":
                        self._initial(policy, model).pick()
                except PolicyError as error:
                    failure = error
            told = _of_rank_0(failure and str(failure))
            if told is not None:
                raise failure or PolicyError(told)
            if not first:  # the servers have the weights now; this compares them with those of this process
                self._pools["live"].renew(served)
            elif former is not None:
                self._forget(former)

    def open(
        self, policy: SampledPolicy, sampling: Sampling, seeds: Sequence[int] = (), weights: str = "live"
    ) -> ServerSession:
        """See :meth:`Sampler.open`; a reply can differ by rounding, depending on what else the server samples.

        Raises:
            ConfigError: See :meth:`check`.
            PolicyError: No server has the weights.
        """
        self.check(policy, weights, sampling.constraint is not None)
        if "live" not in self._pools:
            self.sync(policy)
        pool = self._pools["live"] if weights == "live" else self._initial(_with_model(policy))
        return ServerSession(pool, self.workers, sampling, policy.template.end_ids, seeds)

    def launch_lines(
        self, policy: SampledPolicy, device: Device, memory: float = MEMORY, gpus: Sequence[str] = ()
    ) -> list[str]:
        """A comment and a command for each server.

        Args:
            policy: Policy; it need not be loaded.
            device: Device of the servers.
            memory: Share of the memory of a GPU that each uses.
            gpus: Number of the GPU of each server; default: not set.

        Raises:
            ConfigError: A server cannot read the model, or there is not one GPU for each server.
        """
        policy, lines = _with_model(policy), []
        servers = (*self.servers, *self.initial_servers)
        if gpus and len(gpus) != len(servers):
            raise ConfigError(f"{len(gpus)} devices for {len(servers)} servers (url, initial_url): give one for each.")
        for number, server in enumerate(servers):
            kept = "the initial weights" if server in self.initial_servers else f"new weights from {self.folder}"
            on = f"CUDA_VISIBLE_DEVICES={gpus[number]} " if gpus else ""
            command = self._launch(policy, server).command(server.url, device, memory)
            lines += [f"# {server.url}: {kept}", on + command]
        return lines

    # -- the weights of a server -------------------------------------------------------------------------------

    def _pool(self, policy: HuggingFacePolicy, weights: str, servers: list[Server], name: str) -> Pool:
        give = functools.partial(self._give, policy=policy, weights=weights)
        return Pool(servers, Served(name, 0), give, self.timeout_s, functools.partial(self._hint, policy))

    def _initial(self, policy: HuggingFacePolicy, model: Any = None) -> Pool:
        """The servers with the initial weights.

        With an adapter these are the model with an adapter that adds zero, not the model alone: vLLM 0.32 on a CPU runs
        the model alone with any adapter, if it computes it together with replies of adapters.
        """
        if "initial" not in self._pools:
            if self.mode == "folder":
                self._pools["initial"] = self._pool(policy, "initial", self.initial_servers, self.model)
            else:
                name = f"hero-{self._run}-initial"
                if not (self.folder / name).exists():  # the first process has written it when it sent the live weights
                    model = policy.need_network("a sampler with servers").model if model is None else model
                    write_weights(self.folder, name, model, initial=True)
                self._pools["initial"] = self._pool(policy, "initial", self.servers, name)
        return self._pools["initial"]

    def _greet(self, server: Server, policy: HuggingFacePolicy) -> None:
        """Check that a server answers and has the right model."""
        try:
            self._known(server, policy)
        except ServerGone as gone:
            raise PolicyError(f"No server for sampling: {gone} {self._hint(policy, server)}") from None

    def _known(self, server: Server, policy: HuggingFacePolicy) -> dict[str, int | None]:
        """Models and adapters of a server; refuses a server with another model or with a shorter context."""
        known = server.models()
        if self.model not in known:
            raise ServerError(
                f"{server.url} serves {', '.join(known) or 'nothing'} and no model {self.model!r}. Set "
                "sampler.init_args.model, or restart it with --served-model-name."
            )
        room, wanted = known[self.model], policy.configured_length if policy.network is None else policy.max_length
        if room is not None and wanted is not None and room < wanted:
            raise ServerError(
                f"{server.url} has a context of {room} tokens, the policy one of {wanted}. Restart it with "
                f"--max-model-len {wanted}, or set model.policy.init_args.max_length: {room}."
            )
        return known

    def _give(self, server: Server, policy: HuggingFacePolicy, weights: str) -> None:
        """Send the weights to a server unless it has them already, and check its replies."""
        served = self._pools[weights].served
        prompt = self._prompt = self._prompt or canary.canary_prompt(policy.dialect)
        known = self._known(server, policy)
        there = served.model in known and (served.label is None or server.weights_label() == served.label)
        if not there:
            assert self._weights is not None
            folder = self._weights if weights == "live" else self._weights.with_name(served.model)
            # fills the prefix cache with the former weights, so that the check notices if the server does not empty it
            canary.ask(server, Served(self.model, 0), prompt, policy.template.end_ids)
            if served.label is None:
                server.load_adapter(served.model, folder)
            else:
                server.load_weights(folder, served.label)
        self.gap = canary.check(server, served, prompt, policy, weights, self.tolerance)

    def _forget(self, former: Path) -> None:
        """Delete weights that are no longer used."""
        if self.mode == "adapter":
            for place in self._pools["live"].places:
                if place.ready:
                    place.server.unload_adapter(former.name)
        remove_weights(former)

    def _hint(self, policy: HuggingFacePolicy, server: Server) -> str:
        device: Device = "gpu" if torch.cuda.is_available() else "cpu"
        return f"Start it with: {self._launch(policy, server).command(server.url, device)}"

    def _launch(self, policy: HuggingFacePolicy, server: Server) -> Launch:
        return Launch.of(policy, self.model, weights=server in self.servers)


def _servers(url: str | list[str], timeout_s: float) -> list[Server]:
    return [Server(one, timeout_s) for one in ([url] if isinstance(url, str) else url)]


def _with_model(policy: SampledPolicy) -> HuggingFacePolicy:
    if not isinstance(policy, HuggingFacePolicy):
        raise ConfigError(
            f"ServerSampler sends the weights of a HuggingFacePolicy to servers, not those of a "
            f"{type(policy).__name__}. Remove the setting sampler to use the policy's own."
        )
    return policy


def _of_rank_0(value: Any) -> Any:
    """The value of the first process."""
    if not distributed.is_initialized():
        return value
    shared = [value]
    distributed.broadcast_object_list(shared, src=0)
    return shared[0]
