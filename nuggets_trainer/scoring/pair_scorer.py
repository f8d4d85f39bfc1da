"""Scores pairs of candidates and anchors into the store; each process those of the candidates that it rendered."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from nuggets_trainer.engine.compiled import MIN_TOKENS
from nuggets_trainer.engine.log_probs import PATHS
from nuggets_trainer.prompts.segment import CandidatePrompt, PrefixedSegments, Segment
from nuggets_trainer.prompts.shared_prefix import AnchorSet, SharedPrefix
from nuggets_trainer.racing.scored_pairs import Result
from nuggets_trainer.scoring.blocks import blocks
from nuggets_trainer.scoring.rendering import Rendered
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.scoring.stored_pairs import check_stored_pairs
from nuggets_trainer.scoring.timing import Workload
from nuggets_trainer.scoring.watch import Watch
from nuggets_trainer.store.score_store import ZERO_SHOT, PartWriter

CALL_BATCHES = 8  # forward passes of one call of the engine: the last one may be half empty

COMPILED = {"compiled_layers": "used"}  # note in the store: pairs of it were computed with compiled layers

Wanted = Iterable[tuple[int, npt.NDArray[np.int64]]]  # candidates, and the anchors to score each on


class PairScorer:
    """Scores what a schedule asks for.

    Args:
        session: open session.
        rendered: anchors and candidates.
        watch: counts and times what is scored.
        inner: whether another run of this session is under way: what it has chosen and checked stays.

    Attributes:
        key_of: content hashes of the candidates that this process rendered, by number.
        num_pairs: number of pairs that this process has scored.
    """

    def __init__(self, session: ScoringSession, rendered: Rendered, watch: Watch, inner: bool = False) -> None:
        self._session, self._rendered, self._watch = session, rendered, watch
        self._inner = inner
        self._path_chosen = inner and session.engine.path is not None
        self.key_of: dict[int, str] = {}
        for i, key in zip(rendered.candidates, rendered.keys, strict=True):
            if i in rendered.prompts:
                self.key_of[i] = key
        self._columns_of_text: dict[str, list[int]] = {}
        for j, anchor in enumerate(rendered.anchor_set.rows):
            self._columns_of_text.setdefault(anchor.text_key, []).append(j)
        self.num_pairs = 0

    @contextlib.contextmanager
    def writing(self) -> Iterator[PartWriter]:
        """Open a run: find the tokens of a forward pass, and write this rank's pairs. All ranks must call it."""

        def find() -> list[int]:
            with self._session.passes.in_step():  # it may take some passes
                return [self._session.engine.find_tokens_per_batch()]

        self._session.ranks.gather_from(find)
        with PartWriter(self._session.store) as writer:
            yield writer

    def workload(self, num_needed: int, tokens: float) -> Workload:
        """Return the sizes of the work.

        Args:
            num_needed: number of pairs that are not stored, of all processes.
            tokens: forward tokens of these.
        """
        n, m = len(self._rendered.candidates), len(self._rendered.anchor_set.keys)
        return Workload(n, m, n * m, n * m - num_needed, tokens)

    def choose_path(self) -> None:
        """Have the engine choose its path, once and for all ranks; time counts from then on."""
        if self._path_chosen:
            return
        self._path_chosen = True
        session, prompts = self._session, self._rendered.prompts
        sample = pairs_to_compare(self._rendered.anchor_set, self._rendered.shared, prompts)
        if session.passes.sharded:
            # The same passes on all ranks: a path that fails does so everywhere at once.
            sample = session.ranks.on_main(lambda: sample)
        anchor_tokens = int(self._rendered.shared.suffix_tokens.sum())
        num_tokens = sum(map(CandidatePrompt.prefix_tokens, prompts.values())) + anchor_tokens * len(prompts)
        engine, store = session.engine, session.store
        # A job that goes on with a store rounds as the one that filled it, although less may be left.
        if session.ranks.on_main(lambda: store.read_note(COMPILED)):
            num_tokens = max(num_tokens, MIN_TOKENS)

        def choose() -> list[tuple[str, bool]]:
            with session.passes.in_step():
                path = engine.choose_path(sample, num_tokens)
                return [(path, engine.compiles)]

        # One choice for all ranks: the slowest path that one of them needs.
        slowness = list(PATHS).index
        for path, compiles in session.ranks.gather_from(choose):
            engine.path = path if engine.path is None else max(engine.path, path, key=slowness)
            engine.compiles = engine.compiles and compiles
        if engine.compiles:
            session.ranks.on_main(lambda: store.write_note(COMPILED, True))
        self._watch.restart_clock()

    def score_zero_shot(self) -> None:
        """Score the anchors alone, on the main process, as far as they are not stored."""
        session, anchor_set = self._session, self._rendered.anchor_set
        keys, store = anchor_set.keys, session.store
        missing = session.ranks.on_main(lambda: np.flatnonzero(~store.read([ZERO_SHOT], keys)[1][0]))
        if len(missing) < len(keys) and not self._inner:
            self._check_stored()
        if not len(missing):
            return
        self.choose_path()

        def score() -> list[None]:
            with session.passes.in_step():
                if session.ranks.is_main:
                    log_probs = session.engine.score([], [anchor_set.segments[j] for j in missing])
                    store.write([None] * len(missing), [keys[j] for j in missing], log_probs)
            return []

        session.ranks.gather_from(score)

    def _check_stored(self) -> None:
        """Compute some stored pairs again, on the main process; all ranks must call it."""
        session = self._session

        def check() -> list[None]:
            with session.passes.in_step():
                if session.ranks.is_main:
                    check_stored_pairs(session, self._rendered, self.key_of)
            return []

        session.ranks.gather_from(check)

    def score(self, pairs: Wanted, writer: PartWriter, stoppable: bool = False) -> Iterator[Result]:
        """Score pairs of this rank's candidates into the store.

        Args:
            pairs: candidates, and the anchors to score each on.
            writer: writes into the store.
            stoppable: whether the watch may stop it.

        Yields:
            The log-probs of a candidate, as they come.
        """
        anchor_keys = self._rendered.anchor_set.keys
        for batch in self._batches(pairs):
            if stoppable and self._watch.stopped:
                break
            log_probs = self._session.engine.score_prefixed(batch.prefixed)
            self.num_pairs += batch.num_pairs
            self._watch.scored(
                batch.num_pairs, batch.num_tokens
            )  # at once: who reads the results may pause in between
            for (i, anchors), values in zip(batch.pairs, log_probs, strict=True):
                writer.add(self.key_of[i], [anchor_keys[j] for j in anchors], values)
                yield i, anchors, values
            writer.end_candidates(len(batch.candidates))

    def _batches(self, pairs: Wanted) -> Iterator[Batch]:
        """Yield candidates with their anchors, as many as fill some forward passes; each candidate whole."""
        batch = Batch()
        for i, anchors in pairs:
            self._add(batch, i, anchors)
            if batch.num_tokens >= CALL_BATCHES * self._session.engine.find_tokens_per_batch():
                yield batch
                batch = Batch()
        if batch.pairs:
            yield batch

    def _add(self, batch: Batch, i: int, anchors: npt.NDArray[np.int64]) -> None:
        """Add a candidate to a batch, once for each prefix, with those of the anchors that share the prefix."""
        wanted = set(anchors.tolist())
        for prefix, positions, segments in self._rendered.shared.parts(self._rendered.prompts[i]):
            own = [j for j in positions if j in wanted]
            if own:
                batch.add(i, own, prefix, [segments[j] for j in own])

    def excluded(self, keys: list[str]) -> npt.NDArray[np.bool_]:
        """Find pairs of a candidate and an anchor with the same text, where `exclude_self` holds.

        Args:
            keys: content hashes of candidates.

        Returns:
            Whether each pair is left out, `(len(keys), m)`.
        """
        excluded = np.zeros((len(keys), len(self._rendered.anchor_set.keys)), dtype=np.bool_)
        exclude_self = self._session.config.exclude_self
        if exclude_self is None:
            exclude_self = self._session.template.name != "nuggets"
        if exclude_self:
            for row, key in enumerate(keys):
                text_key = self._rendered.text_keys[key]
                excluded[row, self._columns_of_text.get(text_key, [])] = True
        return excluded

    def all_excluded(self, keys: list[str]) -> npt.NDArray[np.bool_]:
        """Do what `excluded` does for more candidates than may fit in memory."""
        found = self._session.scratch.full((len(keys), len(self._rendered.anchor_set.keys)), False, np.bool_)
        for some, block in blocks(keys):
            found[block] = self.excluded(some)
        return found


def pairs_to_compare(
    anchor_set: AnchorSet, shared: SharedPrefix, prompts: Mapping[int, CandidatePrompt]
) -> list[PrefixedSegments]:
    """Return pairs to compare the engine's paths on: the longest and the shortest prefix, with long and usual anchors.

    Args:
        anchor_set: the anchors.
        shared: renders a candidate before these anchors.
        prompts: prompts of candidates, by number; may be empty.
    """
    sample: list[PrefixedSegments] = [([], _longest_and_usual(anchor_set.segments))]
    by_length = sorted(prompts, key=lambda i: (-prompts[i].num_tokens(), i))
    for i in by_length[:1] + by_length[-1:]:
        for prefix, positions, segments in itertools.islice(shared.parts(prompts[i]), 3):
            sample.append((prefix, _longest_and_usual([segments[j] for j in positions])))
    return sample


def _longest_and_usual(segments: Sequence[Segment]) -> list[Segment]:
    """Return the longest segment and two of about the median length: the shortest have the most noise in bfloat16."""
    by_length = sorted(segments, key=lambda segment: -len(segment.ids))
    middle = len(by_length) // 2
    return by_length[:1] + by_length[1:][max(middle - 1, 0) :][:2]


class Batch:
    """What one call of the engine scores.

    Attributes:
        pairs: candidates and positions of their anchors.
        prefixed: prefix and segments of each entry of `pairs`.
        candidates: the different candidates.
        num_pairs: number of pairs of a candidate and an anchor.
        num_tokens: number of forward tokens.
    """

    def __init__(self) -> None:
        self.pairs: list[tuple[int, npt.NDArray[np.int64]]] = []
        self.prefixed: list[PrefixedSegments] = []
        self.candidates: set[int] = set()
        self.num_pairs, self.num_tokens = 0, 0

    def add(self, candidate: int, positions: list[int], prefix: list[int], segments: list[Segment]) -> None:
        """Add a candidate with the anchors that share one of its prefixes."""
        self.pairs.append((candidate, np.array(positions)))
        self.prefixed.append((prefix, segments))
        self.candidates.add(candidate)
        self.num_pairs += len(positions)
        self.num_tokens += len(prefix) + sum(len(segment.ids) for segment in segments)
