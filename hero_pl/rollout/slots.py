"""Play episodes concurrently: each has its own environment, and the next episode starts as soon as one has ended.

An episode depends only on its spec (task and seed) and on the replies of the policy, not on other episodes. So their
number, the place of their environments and the order in which they end do not change results. This is also true for an
episode that is restarted because its environment or the sampler failed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hero_pl.chat.actions import ParsedAction
from hero_pl.chat.dialect import Dialect
from hero_pl.chat.history import History
from hero_pl.policy.sampling import Session
from hero_pl.rollout import environments
from hero_pl.rollout.answers import Answer
from hero_pl.rollout.pool import EnvPool, Fault, Reset, Step
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.types import FinishReason, SampledAction, StopReason, Trajectory, Turn

UNREADABLE = "Your reply could not be read as an action: {reason}"


@dataclass(slots=True)
class _Episode:
    """An attempt at an episode."""

    number: int
    """Index of its spec."""
    spec: EpisodeSpec
    seat: int
    """Seat of its environment."""
    system_prompt: str = ""
    tools: tuple[Any, ...] = ()
    first: Answer = Answer("")  # noqa: RUF009 (frozen)
    history: History | None = None
    """``None`` if the episode could not be started."""
    turns: list[Turn] = field(default_factory=list)
    reward: float = 0.0
    stop: StopReason | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The current decision context."""
        return self.history.prompt_ids if self.history else ()


class Slots:
    """Plays episodes concurrently, one per seat.

    Args:
        env_id: Gymnasium id, for the records.
        pool: Pool of the environments.
        seats: Numbers of the seats to use.
        session: An open session without rows.
        dialect: Dialect of the policy.
        max_action_tokens: Number of tokens in the context that a prompt has to leave free.
        temperature: Sampling temperature, for the records.
        on_episode: Called with each episode when it has ended.
    """

    def __init__(
        self,
        env_id: str,
        pool: EnvPool,
        seats: Sequence[int],
        session: Session,
        dialect: Dialect,
        max_action_tokens: int,
        temperature: float,
        on_episode: Callable[[Trajectory], None],
    ) -> None:
        self.env_id, self.pool, self.session, self.dialect = env_id, pool, session, dialect
        self.limits, self.temperature, self.on_episode = pool.limits, temperature, on_episode
        self.room = dialect.max_length - max_action_tokens
        self.free = deque(seats)
        self.waiting: deque[tuple[int, EpisodeSpec]] = deque()
        """Indices of the specs of episodes that have not started."""
        self.playing: dict[int, _Episode] = {}
        """Episodes by row of the session."""
        self.failures: dict[int, list[str]] = {}
        """Errors of earlier attempts, by index of the spec."""
        self.ended: dict[int, Trajectory] = {}
        """Results by index of the spec."""

    def play(self, specs: Sequence[EpisodeSpec]) -> list[Trajectory]:
        """Play every spec to its end.

        Args:
            specs: Started in this order.

        Returns:
            One trajectory per spec, in the order of ``specs``.
        """
        self.waiting.extend(enumerate(specs))
        self._fill()
        while self.playing:
            drawn = [(row, self.playing[row], action) for row, action in self.session.finished()]
            self._answer(drawn)
            going = [(row, episode) for row, episode, _ in drawn if row in self.playing]
            self.session.submit([row for row, _ in going], [episode.prompt_ids for _, episode in going])
            self._fill()
        return [self.ended[number] for number in range(len(specs))]

    # -- beginning and ending ----------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Start the next episodes on the free seats; an episode that ends at its start frees its seat."""
        while self.free and self.waiting:
            begun = []
            while self.free and self.waiting:
                begun.append(_Episode(*self.waiting.popleft(), self.free.popleft()))
            calls = {episode.seat: Reset(episode.spec.task_id, episode.spec.seed) for episode in begun}
            answers = self._ask(calls)
            for episode in begun:
                self._begin(episode, answers[episode.seat])
            going = [episode for episode in begun if episode.history is not None and episode.stop is None]
            rows = self.session.open([episode.spec.seed for episode in going])
            self.playing.update(zip(rows, going, strict=True))
            self.session.submit(rows, [episode.prompt_ids for episode in going])

    def _ask(self, calls: Mapping[int, Reset | Step]) -> dict[int, Answer | Fault]:
        """Call the environments; restart episodes that lost their environment through another seat."""
        answers = self.pool.ask(calls)
        for row, episode in list(self.playing.items()):
            answer = answers.get(episode.seat)
            if isinstance(answer, Fault) and episode.seat not in calls:
                self._fail(episode, answer, row)
        return answers

    def _begin(self, episode: _Episode, answer: Answer | Fault) -> None:
        if isinstance(answer, Fault):
            self._fail(episode, answer)
            return
        info = answer.info
        episode.first = answer
        episode.system_prompt, episode.tools = info.get("system_prompt", ""), tuple(info.get("tools", ()))
        system_prompt, described = self.dialect.parser.describe(episode.system_prompt, episode.tools)
        episode.history = History(self.dialect.template, system_prompt, answer.observation, answer.role, described)
        episode.info = {key: info[key] for key in environments.KEPT if key in info}
        self._check_room(episode)
        if episode.stop is not None:
            self._end(episode)

    def _check_room(self, episode: _Episode) -> None:
        if len(episode.prompt_ids) > self.room:
            episode.stop = StopReason.CONTEXT_FULL

    def _fail(self, episode: _Episode, fault: Fault, row: int | None = None) -> None:
        """Restart an episode with its seed, or end it as broken after ``limits.retries``."""
        at_turn = len(episode.turns) + (fault.reason is StopReason.SAMPLER_ERROR)
        where = "start" if episode.history is None else f"turn {at_turn}"
        error = f"{self.env_id}, task {episode.spec.task_id!r}, {where}: {fault.error}"
        failures = self.failures.setdefault(episode.number, [])
        # requests to a server were already retried
        retries = 0 if fault.reason is StopReason.ENDPOINT_ERROR else self.limits.retries
        if fault.own and len(failures) >= retries:
            episode.stop = fault.reason
            episode.info["error"] = error
            self._end(episode, row)
            return
        if fault.own:
            failures.append(f"{fault.reason}: {error}")
        self.waiting.appendleft((episode.number, episode.spec))
        self._leave(episode, row)

    def _leave(self, episode: _Episode, row: int | None) -> None:
        self.free.append(episode.seat)
        if row is not None:
            del self.playing[row]
            self.session.close([row])

    def _end(self, episode: _Episode, row: int | None = None) -> None:
        self._leave(episode, row)
        assert episode.stop is not None
        if episode.history is not None and episode.history.rewritten_tokens:
            episode.info["rewritten_tokens"] = episode.history.rewritten_tokens
        self.ended[episode.number] = Trajectory(
            task_id=episode.spec.task_id,
            env_id=self.env_id,
            seed=episode.spec.seed,
            group=episode.spec.group,
            system_prompt=episode.system_prompt,
            tools=episode.tools,
            first_observation=episode.first.observation,
            turns=tuple(episode.turns),
            reward=episode.reward,
            stop_reason=episode.stop,
            temperature=self.temperature,
            info=episode.info,
            cut_chars=episode.first.cut_chars,
            failures=tuple(self.failures.get(episode.number, ())),
        )
        self.on_episode(self.ended[episode.number])

    # -- one turn ----------------------------------------------------------------------------------------------

    def _answer(self, drawn: Sequence[tuple[int, _Episode, SampledAction]]) -> None:
        """Send sampled replies to the environments; replies that could not be parsed are answered here."""
        read: dict[int, tuple[str, ParsedAction]] = {}
        calls: dict[int, Reset | Step] = {}
        answers: dict[int, Answer | Fault] = {}
        for row, episode, sampled in drawn:
            if sampled.finish_reason is FinishReason.ERROR:
                answers[row] = Fault(StopReason.SAMPLER_ERROR, sampled.error)
                continue
            text = self.dialect.template.encoder.decode(sampled.ids)
            parsed = self.dialect.parser.parse(text, self.dialect.template.opens_reasoning, episode.tools)
            read[row] = text, parsed
            if parsed.malformed is not None:
                answers[row] = Answer(UNREADABLE.format(reason=parsed.malformed))
            else:
                calls[episode.seat] = Step(parsed.action)
        outcomes = self._ask(calls)
        for row, episode, sampled in drawn:
            if row not in self.playing:
                continue  # lost its environment through another seat
            answer = answers[row] if row in answers else outcomes[episode.seat]
            if row in read:
                self._append(episode, sampled, *read[row], answer)
            if isinstance(answer, Fault):
                self._fail(episode, answer, row)
            elif episode.stop is not None:
                self._end(episode, row)

    def _append(
        self, episode: _Episode, sampled: SampledAction, text: str, parsed: ParsedAction, answer: Answer | Fault
    ) -> None:
        """Add the turn to its episode; a turn without an answer is the last one."""
        given = Answer("") if isinstance(answer, Fault) else answer
        number = len(episode.turns) + 1
        episode.turns.append(
            Turn(
                number=number,
                prompt_ids=episode.prompt_ids,
                action_ids=sampled.ids,
                action_logprobs=sampled.logprobs,
                text=text,
                action=parsed.action,
                observation=given.observation,
                role=given.role,
                finish_reason=sampled.finish_reason,
                malformed=parsed.malformed,
                policy_version=sampled.version,
                further_calls=parsed.further_calls,
                cut_chars=given.cut_chars,
            )
        )
        episode.reward += given.reward
        if given.terminated or given.truncated:
            episode.stop = StopReason.TERMINATED if given.terminated else StopReason.TRUNCATED
            episode.info |= environments.kept(given.info)
        elif number >= self.limits.max_turns:
            episode.stop = StopReason.MAX_TURNS
        elif episode.history is not None and not isinstance(answer, Fault):
            episode.history.append(sampled.ids, given.observation, given.role)
            self._check_room(episode)
