"""Episodes in flight: each has an environment of its own, and the next episode takes its place as soon as it has ended.

An episode depends on its spec alone: on the task, on the seed, and on what the policy says to that, not on its
neighbors. So how many are in flight, and in which order they end, changes no result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hero_pl.chat.dialect import Dialect
from hero_pl.chat.history import History
from hero_pl.errors import EnvError
from hero_pl.policy.sampling import SampledAction, Session
from hero_pl.rollout import environments
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.types import FinishReason, Role, StopReason, Trajectory, Turn

UNREADABLE = "Your reply could not be read as an action: {reason}"

GIVE_UP = 8
"""Episodes in a row that could not be started; then the environment, or its user simulator, is taken for dead."""

Map = Callable[[Callable[["_Episode", SampledAction], None], Iterable["_Episode"], Iterable[SampledAction]], Any]
"""Applies a function to pairs, one after the other or in threads."""


@dataclass(slots=True)
class Starts:
    """How starting episodes of one environment has gone so far."""

    failed: int | None = None
    """Failures in a row; ``None`` before the first success."""

    def failure(self, error: EnvError) -> None:
        """Count a start that failed.

        Raises:
            EnvError: The very first one, or so many in a row: the environment starts nothing.
        """
        if self.failed is None or self.failed + 1 == GIVE_UP:
            raise error
        self.failed += 1


@dataclass(slots=True)
class _Episode:
    """An episode in flight."""

    number: int
    """Place of its spec."""
    spec: EpisodeSpec
    env: environments.Env
    system_prompt: str = ""
    tools: tuple[Any, ...] = ()
    first_observation: str = ""
    history: History | None = None
    """``None`` if the episode could not be started."""
    turns: list[Turn] = field(default_factory=list)
    reward: float = 0.0
    stop: StopReason | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The present decision context."""
        return self.history.prompt_ids if self.history else ()


class Slots:
    """Plays episodes, as many at once as there are environments.

    Args:
        env_id: Gymnasium id, for the records.
        envs: One per slot.
        starts: Whether the environment starts at all; outlives the slots.
        session: Open, without rows.
        dialect: Of the policy that plays.
        max_turns: Assistant turns per episode at most.
        max_action_tokens: Room that a prompt has to leave in the context.
        temperature: Of sampling, for the records.
    """

    def __init__(
        self,
        env_id: str,
        envs: Sequence[environments.Env],
        starts: Starts,
        session: Session,
        dialect: Dialect,
        max_turns: int,
        max_action_tokens: int,
        temperature: float,
    ) -> None:
        self.env_id, self.session, self.dialect, self.starts = env_id, session, dialect, starts
        self.max_turns, self.temperature = max_turns, temperature
        self.room = dialect.max_length - max_action_tokens
        self.free = deque(envs)
        self.waiting: deque[tuple[int, EpisodeSpec]] = deque()
        """Episodes that have not begun, by the places of their specs."""
        self.playing: dict[int, _Episode] = {}
        """By row of the session."""
        self.replayed: set[int] = set()
        """Places of episodes that the sampler failed once."""

    def play(
        self, specs: Sequence[EpisodeSpec], on_episode: Callable[[Trajectory], None], step_all: Map
    ) -> list[Trajectory]:
        """Play every spec to its end.

        Args:
            specs: Begun in this order.
            on_episode: Called with each episode as soon as it has ended.
            step_all: Lets the environments answer.

        Returns:
            One trajectory per spec, in the order of ``specs``.

        Raises:
            EnvError: See :class:`Starts`.
        """
        ended: dict[int, Trajectory] = {}

        def end(episode: _Episode) -> None:
            self.free.append(episode.env)
            ended[episode.number] = self._trajectory(episode)
            on_episode(ended[episode.number])

        self.waiting.extend(enumerate(specs))
        self._fill(end)
        while self.playing:
            drawn = [(row, self.playing[row], action) for row, action in self.session.finished()]
            answered = [(row, e, a) for row, e, a in drawn if a.finish_reason is not FinishReason.ERROR]
            list(step_all(self._step, [e for _, e, _ in answered], [a for _, _, a in answered]))
            for row, episode, action in drawn:
                if action.finish_reason is FinishReason.ERROR and self._replay(episode, action):
                    self._leave(row)
                    self.free.append(episode.env)
                elif episode.stop is not None:
                    self._leave(row)
                    end(episode)
            going = [(row, episode) for row, episode, _ in drawn if row in self.playing]
            self.session.submit([row for row, _ in going], [episode.prompt_ids for _, episode in going])
            self._fill(end)
        return [ended[number] for number in range(len(specs))]

    # -- beginning and ending ----------------------------------------------------------------------------------

    def _fill(self, end: Callable[[_Episode], None]) -> None:
        """Begin the next episodes in the free slots; one that cannot be played ends at once and frees its slot."""
        begun: list[_Episode] = []
        while self.free and self.waiting:
            number, spec = self.waiting.popleft()
            episode = _Episode(number, spec, self.free.popleft())
            self._begin(episode)
            if episode.stop is None:
                begun.append(episode)
            else:
                end(episode)
        rows = self.session.open([episode.spec.seed for episode in begun])
        self.playing.update(zip(rows, begun, strict=True))
        self.session.submit(rows, [episode.prompt_ids for episode in begun])

    def _begin(self, episode: _Episode) -> None:
        """Reset the environment; an episode that cannot be started counts as broken."""
        try:
            observation, info = environments.begin(episode.env, episode.spec.task_id, episode.spec.seed)
        except EnvError as error:
            episode.stop, episode.info = environments.fault(error.__cause__ or error), {"error": str(error)}
            if episode.stop is StopReason.ENV_ERROR:
                self.starts.failure(error)
            return
        self.starts.failed = 0
        episode.system_prompt, episode.tools = str(info.get("system_prompt", "")), tuple(info.get("tools", ()))
        episode.first_observation = observation
        system_prompt, described = self.dialect.parser.describe(episode.system_prompt, episode.tools)
        role = info.get("role", "user")
        episode.history = History(self.dialect.template, system_prompt, observation, role, described)
        episode.info = environments.json_only({key: info[key] for key in environments.KEPT if key in info})
        self._check_room(episode)

    def _check_room(self, episode: _Episode) -> None:
        if len(episode.prompt_ids) > self.room:
            episode.stop = StopReason.CONTEXT_FULL

    def _leave(self, row: int) -> None:
        del self.playing[row]
        self.session.close([row])

    def _replay(self, episode: _Episode, action: SampledAction) -> bool:
        """Play an episode once more from its start, with its own seed; whoever fails twice is broken."""
        if episode.number in self.replayed:
            episode.stop = StopReason.SAMPLER_ERROR
            episode.info["error"] = action.error
            return False
        self.replayed.add(episode.number)
        self.waiting.appendleft((episode.number, episode.spec))
        return True

    def _trajectory(self, episode: _Episode) -> Trajectory:
        assert episode.stop is not None
        if episode.history is not None and episode.history.rewritten_tokens:
            episode.info["rewritten_tokens"] = episode.history.rewritten_tokens
        return Trajectory(
            task_id=episode.spec.task_id,
            env_id=self.env_id,
            seed=episode.spec.seed,
            group=episode.spec.group,
            system_prompt=episode.system_prompt,
            tools=episode.tools,
            first_observation=episode.first_observation,
            turns=tuple(episode.turns),
            reward=episode.reward,
            stop_reason=episode.stop,
            temperature=self.temperature,
            info=episode.info,
        )

    # -- one turn ----------------------------------------------------------------------------------------------

    def _step(self, episode: _Episode, sampled: SampledAction) -> None:
        """Let the environment answer one sampled reply and append the turn."""
        text = self.dialect.template.encoder.decode(sampled.ids)
        parsed = self.dialect.parser.parse(text, self.dialect.template.opens_reasoning)
        role: Role = "user"
        if parsed.malformed is not None:
            observation = UNREADABLE.format(reason=parsed.malformed)
        else:
            observation, role = self._answer(episode, parsed.action)
        number = len(episode.turns) + 1
        episode.turns.append(
            Turn(
                number=number,
                prompt_ids=episode.prompt_ids,
                action_ids=sampled.ids,
                action_logprobs=sampled.logprobs,
                text=text,
                action=parsed.action,
                observation=observation,
                role=role,
                finish_reason=sampled.finish_reason,
                malformed=parsed.malformed,
                policy_version=sampled.version,
                further_calls=parsed.further_calls,
            )
        )
        if episode.stop is None and number >= self.max_turns:
            episode.stop = StopReason.MAX_TURNS
        if episode.stop is None and episode.history is not None:
            episode.history.append(sampled.ids, observation, role)
            self._check_room(episode)

    @staticmethod
    def _answer(episode: _Episode, action: str) -> tuple[str, Role]:
        try:
            observation, reward, terminated, truncated, info = episode.env.step(action)
        except Exception as error:
            # An environment must answer mistakes with an observation. One that raises must not stop the run: the
            # episode ends, and the reason is in its record and in `rollout/env_error` or `rollout/endpoint_error`.
            episode.stop = environments.fault(error)
            episode.info["error"] = repr(error)
            return "", "user"
        episode.reward += float(reward)
        if terminated or truncated:
            episode.stop = StopReason.TERMINATED if terminated else StopReason.TRUNCATED
            episode.info |= environments.json_only(info)
        return str(observation), info.get("role", "user")
