"""One server and its routes; an error names the server and the launch option that is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hero_envs.chat_http import MAX_BYTES, AnswerTooLong, Calls, ChatFailure, ChatRefusal, JsonServer
from hero_pl.errors import ConfigError, PolicyError
from hero_pl.policy.server.dialect import GENERATE
from hero_pl.policy.server.launch import FLAGS

ADAPTERS = "/v1/load_lora_adapter"
QUICK_S = 10.0
"""Time limit of a request that a server answers while it samples, in seconds."""
BYTES_PER_TOKEN = 1024
"""Room for one id and its log-probability in an answer, in bytes."""
NO_ROUTE = re.compile(r'"detail": ?"Not Found"')
"""Part of the answer of a server without the route; other answers with status 404 have other causes."""


class ServerError(PolicyError):
    """A server did not do what was requested."""


class ServerGone(ServerError):
    """A server does not answer or no longer has the weights; it may have been restarted."""


class _Refused(Exception):
    """A server answered with an error.

    Args:
        status: HTTP status.
        said: Status and the beginning of the answer.
    """

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status
        self.no_route = status == 404 and NO_ROUTE.search(said) is not None


class Server:
    """The routes of a vLLM server that sampling needs.

    Args:
        url: URL of the server, without ``/v1``.
        timeout_s: Time limit of one call, in seconds.

    Raises:
        ConfigError: The address is unusable.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url = url.rstrip("/")
        try:
            self._http = JsonServer(self.url, timeout_s)
            self._quick = JsonServer(self.url, min(timeout_s, QUICK_S))
        except ValueError as error:
            raise ConfigError(f"sampler url: {error}") from None
        if urlsplit(self.url).path:
            raise ConfigError(f"sampler url {url!r}: expected http://host:port, without a path such as /v1.")

    def models(self) -> dict[str, int | None]:
        """Context length by the name of each served model and adapter; ``None`` if the server does not report it."""
        try:
            listed = self._call("/v1/models").get("data")
        except _Refused as refusal:
            raise self._refused(refusal) from None
        found = {}
        for one in listed if isinstance(listed, list) else ():
            if isinstance(one, dict) and isinstance(one.get("id"), str):
                length = one.get("max_model_len")
                found[one["id"]] = length if type(length) is int else None
        return found

    def generate(self, body: Mapping[str, Any], calls: Calls | None = None) -> dict[str, Any]:
        """Sample one reply; see :mod:`hero_pl.policy.server.dialect`.

        Args:
            body: The request.
            calls: Lets another thread cancel the request.

        Raises:
            ServerGone: There is no answer, or the server does not have the weights.
            ServerError: The server refuses the request, or its answer is too long for the number of tokens.
        """
        most = MAX_BYTES + BYTES_PER_TOKEN * int(body["sampling_params"]["max_tokens"])
        try:
            return self._call(GENERATE, body, calls, most)
        except _Refused as refusal:
            if refusal.status == 403:
                raise self._lacks(FLAGS["routes"]) from None
            if refusal.no_route:
                raise ServerError(f"{self.url} has no route {GENERATE}: it needs vLLM 0.32 or newer.") from None
            if refusal.status == 404:
                raise ServerGone(f"{self.url} does not have {body['model']!r} any more: {refusal}.") from None
            raise self._refused(refusal) from None

    def load_adapter(self, name: str, folder: Path) -> None:
        """Serve the adapter of a folder under a new name.

        Raises:
            ServerError: The server cannot load it.
        """
        try:
            self._call(ADAPTERS, {"lora_name": name, "lora_path": str(folder)})
        except _Refused as refusal:
            if refusal.no_route:
                raise self._lacks(FLAGS["adapters"]) from None
            if name not in self.models():  # else another process of the run was faster
                raise self._not_taken(folder, refusal) from None

    def unload_adapter(self, name: str) -> None:
        """Unload an adapter if the server still has it."""
        with suppress(_Refused, ServerGone):  # it was restarted or will be: then there is nothing to unload
            self._call("/v1/unload_lora_adapter", {"lora_name": name})

    def load_weights(self, folder: Path, label: str) -> None:
        """Replace the weights of the model, and label every reply that is sampled from them.

        The prefix cache is emptied: its keys and values come from the former weights and would be used without a
        warning.

        Raises:
            ServerError: The server cannot load them.
        """
        try:
            self._call("/pause?mode=wait", {})
            try:
                self._call("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
                if self._call("/reset_prefix_cache", {}).get("success") is not True:
                    raise ServerError(f"{self.url} did not empty its prefix cache. Restart it.")
                self._call("/update_weight_version", {"new_version": label})
            finally:
                self._call("/resume", {})
        except _Refused as refusal:
            if refusal.no_route:
                raise self._lacks(FLAGS["weights"]) from None
            raise self._not_taken(folder, refusal) from None

    def weights_label(self) -> str:
        """The label of the latest :meth:`load_weights`."""
        try:
            return str(self._call("/weight_info").get("weight_version"))
        except _Refused as refusal:
            raise (self._lacks(FLAGS["weights"]) if refusal.no_route else self._refused(refusal)) from None

    # -- one call ----------------------------------------------------------------------------------------------

    def _call(
        self, path: str, body: Mapping[str, Any] | None = None, calls: Calls | None = None, max_bytes: int | None = None
    ) -> dict[str, Any]:
        """The JSON object of an answer; empty if the route answers with text or with nothing."""
        try:
            content = (self._quick if body is None else self._http).exchange(path, body, calls, max_bytes)
        except ChatRefusal as refusal:
            raise _Refused(refusal.status, str(refusal)) from None
        except AnswerTooLong as failure:
            raise ServerError(
                f"{self.url}{path}: {failure}, which a reply of that many tokens does not need. Start a vLLM server "
                "with the command from hero_pl serve-command."
            ) from None
        except ChatFailure as failure:
            if failure.status == 500:  # other temporary failures come from a proxy, or from a server that is starting
                raise _Refused(500, str(failure)) from None
            raise ServerGone(f"{self.url}{path}: {failure}.") from None
        try:
            answer = json.loads(content) if content else {}
        except (ValueError, RecursionError):
            answer = {}
        return answer if isinstance(answer, dict) else {}

    def _lacks(self, flag: str) -> ServerError:
        return ServerError(f"{self.url} was started without {flag}. Restart it with that, see hero_pl serve-command.")

    def _refused(self, refusal: _Refused) -> ServerError:
        return ServerError(f"{self.url} refused a request: {refusal}.")

    def _not_taken(self, folder: Path, error: Exception) -> ServerError:
        return ServerError(
            f"{self.url} did not load the weights in {folder} ({error}). It needs access to this folder under the "
            "same path, and must be started with the command from hero_pl serve-command."
        )
