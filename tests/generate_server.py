"""A small server on this machine that speaks vLLM's dialect and draws from a real model; it misbehaves on request."""

import copy
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from hero_pl.policy.cache_input import cache_input

BLOCK = 16
"""Tokens whose keys and values are cached together."""


class Refused(Exception):
    """An answer with another status than 200."""

    def __init__(self, status: int, message: str = "", missing: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"detail": "Not Found"} if missing else {"error": {"message": message, "code": status}}


@dataclass
class Launch:
    """Launch options of the server, and its faults."""

    model: Path
    name: str = "student"
    context: int = 512
    scale_out: bool = True
    adapters: bool = True
    dev_mode: bool = True
    processed_logprobs: bool = True
    defaults: dict[str, Any] = field(default_factory=dict)
    """For sampling parameters that a request leaves out."""
    keeps_cache: bool = False
    """The prefix cache outlives the weights, whatever it says."""
    keeps_weights: bool = False
    """New weights are not read, whatever it says."""
    mixes: bool = False
    """The model alone runs with the newest adapter, as vLLM 0.32 does on a CPU in a batch with replies of adapters."""
    keeps_label: bool = False
    """Replies go on naming the first weights."""


class Engine:
    """Weights, adapters, and keys and values of prompts by whole blocks."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.base: Any = AutoModelForCausalLM.from_pretrained(launch.model, dtype=torch.float32).eval()
        self.adapters: dict[str, Any] = {}
        self.label = "default"
        self.cache: OrderedDict[tuple[str, tuple[int, ...]], Any] = OrderedDict()
        self.lock = threading.Lock()

    def load_adapter(self, name: str, folder: str) -> None:
        from peft import PeftModel

        if name in self.adapters:
            raise Refused(400, f"The lora adapter '{name}' has already been loaded.")
        if not (Path(folder) / "adapter_model.safetensors").is_file():
            raise Refused(404, f"Loading lora {name} failed: No adapter found for {folder}")
        if self.launch.keeps_weights and self.adapters:
            self.adapters[name] = next(iter(self.adapters.values()))
        else:
            self.adapters[name] = PeftModel.from_pretrained(copy.deepcopy(self.base), folder).eval()

    def reload(self, folder: str) -> None:
        if not self.launch.keeps_weights:
            self.base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def generate(self, name: str, prompt: list[int], wanted: dict[str, Any]) -> dict[str, Any]:
        if name != self.launch.name and name not in self.adapters:
            raise Refused(404, f"The model `{name}` does not exist.")
        if len(prompt) >= self.launch.context:
            raise Refused(400, "The decoder prompt is longer than the maximum model length.")
        settings = {"top_k": -1, "max_tokens": 16, "temperature": 1.0, "ignore_eos": False, "stop_token_ids": []}
        settings |= self.launch.defaults | wanted
        alone = [self.base, *self.adapters.values()][-1] if self.launch.mixes else self.base
        model = self.adapters.get(name, alone)
        past, known = self._cached(name, prompt)
        logits, past = self._run(model, prompt[known:], past)
        self._remember(name, prompt, past)
        generator = torch.Generator().manual_seed(settings["seed"])
        ids: list[int] = []
        logprobs: list[float] = []
        reason = "length"
        while len(ids) < settings["max_tokens"] and len(prompt) + len(ids) < self.launch.context:
            token, logprob = self._draw(logits, settings, generator)
            ids.append(token)
            logprobs.append(logprob)
            if token in settings["stop_token_ids"] or (
                token == self.base.config.eos_token_id and not settings["ignore_eos"]
            ):
                reason = "stop"
                break
            logits, past = self._run(model, [token], past)
        label = "default" if self.launch.keeps_label else self.label
        content = [
            {"token_id": i, "logprob": x, "rank": 1, "top_logprobs": []} for i, x in zip(ids, logprobs, strict=True)
        ]
        choice = {"index": 0, "finish_reason": reason, "token_ids": ids, "logprobs": {"content": content}}
        return {"model": name, "choices": [{**choice, "weight_versions": _span(label, len(ids))}]}

    def _draw(self, logits: torch.Tensor, settings: dict[str, Any], generator: torch.Generator) -> tuple[int, float]:
        if settings["top_k"] > 0:
            logits = logits.masked_fill(logits < logits.topk(settings["top_k"]).values[-1], -torch.inf)
        tempered = logits / (settings["temperature"] or 1.0)
        if settings["temperature"]:
            token = int(torch.multinomial(tempered.softmax(-1), 1, generator=generator))
        else:
            token = int(tempered.argmax())
        shown = tempered if self.launch.processed_logprobs else logits
        return token, float(shown.log_softmax(-1)[token])

    @staticmethod
    def _run(model: Any, ids: list[int], past: Any) -> tuple[torch.Tensor, Any]:
        past = past if past is not None else DynamicCache(config=model.config)
        out = model(input_ids=torch.tensor([ids]), use_cache=True, **cache_input(model, past))
        return out.logits[0, -1], past

    def _cached(self, name: str, prompt: list[int]) -> tuple[Any, int]:
        """Keys and values of the longest cached prefix, and its length."""
        fitting = [key for key in self.cache if key[0] == name and tuple(prompt[: len(key[1])]) == key[1]]
        best = max(fitting, key=lambda key: len(key[1]), default=None)
        return (None, 0) if best is None else (copy.deepcopy(self.cache[best]), len(best[1]))

    def _remember(self, name: str, prompt: list[int], past: Any) -> None:
        length = (len(prompt) - 1) // BLOCK * BLOCK
        if length:
            kept = copy.deepcopy(past)
            kept.crop(length - len(prompt))
            self.cache[name, tuple(prompt[:length])] = kept
            while len(self.cache) > 200:
                self.cache.popitem(last=False)


def _span(label: str, count: int) -> list[dict[str, Any]]:
    return [{"version": label, "start": 0, "end": count}]


Tamper = Callable[[str, dict[str, Any]], None]


class GenerateServer:
    """A server that can die and restart at the same port, without the weights that it had.

    Args:
        launch: How it is started.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.paths: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        """Requests for replies."""
        self.tamper: Tamper = lambda path, answer: None
        """May change an answer, or raise :class:`Refused`."""
        self.over = threading.Event()
        """Set when the test is over, for replies that wait."""
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start or restart with the model's own weights and no adapter."""
        self.engine = Engine(self.launch)
        self.dead = threading.Event()
        self._http = _Http(self)
        self.port = self._http.server_port
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
        self._thread.start()

    def die(self) -> None:
        """Stop: all clients, including those that wait, get no answer."""
        self.dead.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, path: str, body: dict[str, Any] | None) -> dict[str, Any] | None:
        route = path.partition("?")[0]
        launch, engine = self.launch, self.engine
        if route == "/v1/models":
            names = [launch.name, *engine.adapters]
            return {
                "data": [
                    {"id": name, "max_model_len": launch.context if name == launch.name else None} for name in names
                ]
            }
        if route == "/inference/v1/generate":
            if not launch.scale_out:
                raise Refused(403, "Scale-out endpoints are disabled.")
            assert body is not None
            self.bodies.append(body)
            return engine.generate(body["model"], body["token_ids"], body["sampling_params"])
        if route in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter") and launch.adapters:
            assert body is not None
            if route == "/v1/load_lora_adapter":
                engine.load_adapter(body["lora_name"], body["lora_path"])
            elif engine.adapters.pop(body["lora_name"], None) is None:
                raise Refused(404, "The lora adapter cannot be found.")
            return None
        if launch.dev_mode:
            if route in ("/pause", "/resume"):
                return {"status": route[1:]}
            if route == "/weight_info":
                return {"weight_version": engine.label}
            if route == "/collective_rpc":
                assert body is not None
                assert body["method"] == "reload_weights"
                engine.reload(body["kwargs"]["weights_path"])
                return {"results": [None]}
            if route == "/reset_prefix_cache":
                if not launch.keeps_cache:
                    engine.cache.clear()
                return {"success": True}
            if route == "/update_weight_version":
                assert body is not None
                engine.label = body["new_version"]
                return {"success": True, "new_version": engine.label}
        raise Refused(404, missing=True)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, owner: GenerateServer) -> None:
        super().__init__(("127.0.0.1", owner.port), _Handler)
        self.owner, self.dead = owner, owner.dead

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores errors of clients that disconnect, which some tests cause."""


class _Handler(BaseHTTPRequestHandler):
    server: _Http

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: dict[str, Any] | None) -> None:
        owner, status = self.server.owner, 200
        owner.paths.append(self.path)
        try:
            with owner.engine.lock:
                answer = owner.answer(self.path, body)
            if answer is not None:
                owner.tamper(self.path, answer)
        except Refused as refused:
            status, answer = refused.status, refused.body
        except Exception as error:  # of the test, or of this file: told, so that it is found
            status, answer = 500, {"error": {"message": repr(error), "code": 500}}
        if self.server.dead.is_set():
            self.close_connection = True
            return
        data = b"Success." if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(model: Path, **launch: Any) -> Iterator[GenerateServer]:
    server = GenerateServer(Launch(model, **launch))
    try:
        yield server
    finally:
        server.over.set()
        if not server.dead.is_set():
            server.die()
