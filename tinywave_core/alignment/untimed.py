"""Words that an aligner could not place -> times between their neighbours'.

They share the gap that was left for them by their numbers of letters. Where their neighbours took that gap too, which
aligners do with speech that they have no word for, all of them share the time from the first neighbour to the last.
"""

from collections.abc import Sequence
from itertools import groupby

from tinywave_core.alignment.words import Word

SAMPLES_PER_LETTER = 480  # 30 ms: faster is not spoken


def interpolate(texts: Sequence[str], words: Sequence[Word | None], num_samples: int) -> list[Word]:
    """The words of `texts`; those that are None get a time and no confidence. At least one must be there."""
    timed = list(words)
    runs = [list(run) for missing, run in groupby(range(len(timed)), lambda n: timed[n] is None) if missing]
    for run in runs:
        before, after = timed[run[0] - 1] if run[0] else None, timed[run[-1] + 1] if run[-1] + 1 < len(timed) else None
        start, end = before.end_samples if before else 0, after.start_samples if after else num_samples
        sharing = list(run)
        if end - start < SAMPLES_PER_LETTER * sum(len(texts[n]) for n in run):
            sharing = [*([run[0] - 1] if before else []), *run, *([run[-1] + 1] if after else [])]
            start, end = before.start_samples if before else 0, after.end_samples if after else num_samples
        letters, passed = sum(len(texts[n]) for n in sharing), 0
        for n in sharing:
            edges = [start + (end - start) * part // letters for part in (passed, passed + len(texts[n]))]
            passed += len(texts[n])
            timed[n] = Word(texts[n], edges[0], edges[1], _confidence(timed[n]))
    return [word for word in timed if word is not None]


def _confidence(word: Word | None) -> float | None:
    return word.confidence if word else None
