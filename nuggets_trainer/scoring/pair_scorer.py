"""Scores pairs of candidates and anchors into the store; each process those of the candidates that it rendered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from nuggets_trainer.engine.log_probs import PATHS
from nuggets_trainer.prompts.segment import PrefixedSegments
from nuggets_trainer.scoring.blocks import blocks
from nuggets_trainer.scoring.rendering import Rendered
from nuggets_trainer.scoring.session import ScoringSession
from nuggets_trainer.scoring.timing import Workload
from nuggets_trainer.scoring.watch import Watch
from nuggets_trainer.store.score_store import ZERO_SHOT, PartWriter

CALL_BATCHES = 8  # forward passes of one call of the engine, so that the last one's gaps do not count

Wanted = Iterable[tuple[int, npt.NDArray[np.int64]]]  # candidates, and the anchors to score each on
Result = tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float32]]  # candidate, anchor positions, log-probs
Item = tuple[int, npt.NDArray[np.int64], PrefixedSegments]  # candidate, anchor positions, what the engine takes


class PairScorer:
    """Scores what a schedule asks for.

    Args:
        session: open session.
        rendered: anchors and candidates.
        watch: counts and times what is scored.

    Attributes:
        key_of: content hashes of the candidates that this process rendered, by number.
        num_pairs: number of pairs that this process has scored.
    """

    def __init__(self, session: ScoringSession, rendered: Rendered, watch: Watch) -> None:
        self._session, self._rendered, self._watch = session, rendered, watch
        self._path_chosen = False
        keys = zip(rendered.candidates, rendered.keys, strict=True)
        self.key_of = {i: key for i, key in keys if i in rendered.prompts}
        self._columns_of_text: dict[str, list[int]] = {}
        for j, anchor in enumerate(rendered.anchor_set.rows):
            self._columns_of_text.setdefault(anchor.text_key, []).append(j)
        self.num_pairs = 0

    def find_budget(self) -> None:
        """Find the tokens of a forward pass, on all ranks together: it may take some passes."""

        def find() -> list[int]:
            with self._session.passes.in_step():
                return [self._session.engine.find_tokens_per_batch()]

        self._session.ranks.gather_from(find)

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
        sample = self._sample_for_path()
        if session.passes.sharded:
            # The same passes on all ranks: a path that fails does so everywhere at once.
            sample = session.ranks.on_main(lambda: sample)
        anchor_tokens = sum(len(segment.ids) for segment in self._rendered.shared.suffixes.values())
        num_tokens = sum(prompt.prefix_tokens() + anchor_tokens for prompt in prompts.values())
        engine = session.engine

        def choose() -> list[tuple[str, bool]]:
            with session.passes.in_step():
                path = engine.choose_path(sample, num_tokens)
                return [(path, engine.compiles)]

        choices = session.ranks.gather_from(choose)
        # One choice for all ranks: the slowest path that one of them needs.
        engine.path = max((path for path, _ in choices), key=list(PATHS).index)
        engine.compiles = all(compiles for _, compiles in choices)
        self._watch.restart_clock()

    def _sample_for_path(self) -> list[PrefixedSegments]:
        """Pairs to compare the paths on: the longest and the shortest prefix, the longest anchors."""
        rendered = self._rendered
        sample: list[PrefixedSegments] = [([], rendered.anchor_set.segments[:3])]
        by_length = sorted(rendered.prompts, key=lambda i: (-rendered.prompts[i].num_tokens(), i))
        for i in by_length[:1] + by_length[-1:]:
            prompt = rendered.prompts[i]
            for prefix, positions in prompt.prefixes[:3]:
                segments = rendered.shared.suffixes if prefix else prompt.unshared
                by_size = [segments[j] for j in sorted(positions, key=lambda j: (-len(segments[j].ids), j))]
                sample.append((prefix, by_size[:1] + by_size[-2:]))
        return sample

    def score_zero_shot(self) -> None:
        """Score the anchors alone, on the main process, as far as they are not stored."""
        session, anchor_set = self._session, self._rendered.anchor_set
        keys, store = anchor_set.keys, session.store
        missing = session.ranks.on_main(lambda: np.flatnonzero(~store.read([ZERO_SHOT], keys)[1][0]))
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

    def score(self, pairs: Wanted, writer: PartWriter, stoppable: bool = False) -> Iterator[Result]:
        """Score pairs of this rank's candidates into the store.

        Args:
            pairs: candidates, and the anchors to score each on.
            writer: writes into the store.
            stoppable: whether to stop once the watch has seen enough.

        Yields:
            The log-probs of a candidate, as they come.
        """
        anchor_keys = self._rendered.anchor_set.keys
        for batch in self._batches(pairs):
            if stoppable and self._watch.stopped:
                break
            log_probs = self._session.engine.score_prefixed([item for _, _, item in batch])
            for (i, anchors, _), values in zip(batch, log_probs, strict=True):
                writer.add(self.key_of[i], [anchor_keys[j] for j in anchors], values)
                self.num_pairs += len(anchors)
                yield i, anchors, values
            writer.end_candidates(len({i for i, _, _ in batch}))
            num_pairs = sum(len(anchors) for _, anchors, _ in batch)
            self._watch.scored(num_pairs, sum(_num_tokens(item) for _, _, item in batch))

    def _batches(self, pairs: Wanted) -> Iterator[list[Item]]:
        """Yield candidates with their anchors, as many as fill some forward passes; each candidate whole."""
        batch: list[Item] = []
        num_tokens = 0
        for i, anchors in pairs:
            for item in self._items(i, anchors):
                batch.append(item)
                num_tokens += _num_tokens(item[2])
            if num_tokens >= CALL_BATCHES * self._session.engine.find_tokens_per_batch():
                yield batch
                batch, num_tokens = [], 0
        if batch:
            yield batch

    def _items(self, i: int, anchors: npt.NDArray[np.int64]) -> Iterator[Item]:
        """Yield a candidate once for each of its prefixes, with those of the anchors that share the prefix."""
        prompt, wanted = self._rendered.prompts[i], set(anchors.tolist())
        for prefix, positions in prompt.prefixes:
            own = [j for j in positions if j in wanted]
            if own:
                segments = self._rendered.shared.suffixes if prefix else prompt.unshared
                yield i, np.array(own), (prefix, [segments[j] for j in own])

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


def _num_tokens(prefixed: PrefixedSegments) -> int:
    prefix, segments = prefixed
    return len(prefix) + sum(len(segment.ids) for segment in segments)
