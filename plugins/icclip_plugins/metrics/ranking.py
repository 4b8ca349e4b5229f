"""Metrics that look at every right answer, not only at the best one.

Who is a right answer is the relevance's business (`icclip.retrieval.relevance`). A right answer stands
after the wrong ones that it is tied with. An entry of the lists that the ranks hold stands for all copies
of an answer, which take consecutive places; sums over them have closed forms in running sums.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icclip import hookimpl
from icclip.plugins.specs import MetricSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from icclip.retrieval.ranking import Answers, RetrievalRanks

    ByQuery = Callable[[RetrievalRanks], Mapping[str, np.ndarray]]

CUTOFF = 10


@hookimpl
def icclip_metrics() -> list[MetricSpec]:
    """What is reported beside recall."""
    return [
        MetricSpec(name=name, summary=summary, compute=compute, by_query=by_query)
        for name, summary, compute, by_query in (
            ("map", "mean average precision over all right answers", mean_average_precision, average_precisions),
            ("ndcg-at-10", "normalised discounted cumulative gain of the first ten", ndcg, normalised_gains),
            (
                "map-at-r",
                "average precision over the first R answers (R: number of right answers)",
                map_at_r,
                average_precisions_at_r,
            ),
            (
                "r-precision",
                "share of right answers among the first R (R: number of right answers)",
                r_precision,
                r_precisions,
            ),
            ("mrr", "mean reciprocal rank of the best right answer", reciprocal_rank, reciprocal_ranks),
            ("precision-at-10", "share of right answers among the first ten", precision, precisions),
        )
    ]


def _mean_of(by_query: ByQuery) -> Callable[[RetrievalRanks], dict[str, float]]:
    """The metric that is the mean of values by query."""
    return lambda ranks: {key: float(values.mean()) for key, values in by_query(ranks).items()}


def average_precisions(ranks: RetrievalRanks) -> dict[str, np.ndarray]:
    """For each query the mean, over its right answers, of the precision at the answer's place.

    The r-th right answer, at place p, contributes r / p.
    """
    return _both("mAP", ranks, lambda answers: _precisions(answers, answers.sizes) / answers.relevant)


def average_precisions_at_r(ranks: RetrievalRanks) -> dict[str, np.ndarray]:
    """As mean average precision, with the answers after the R-th place counting nothing, R being the number of right ones.

    Musgrave et al., "A Metric Learning Reality Check", 2020; Chun et al., "ECCV Caption", 2022.
    """
    return _both("mAP@R", ranks, lambda answers: _precisions(answers, _within_r(answers)) / answers.relevant)


def r_precisions(ranks: RetrievalRanks) -> dict[str, np.ndarray]:
    """The share of right answers among the first R, R being the number of right ones."""
    return _both("R-Precision", ranks, lambda answers: answers.summed(_within_r(answers)) / answers.relevant)


def reciprocal_ranks(ranks: RetrievalRanks) -> dict[str, np.ndarray]:
    """For each query 1 / rank of the best right answer."""
    return {f"{direction}_MRR": 1 / own for direction, own in (("i2t", ranks.i2t), ("t2i", ranks.t2i))}


def precisions(ranks: RetrievalRanks) -> dict[str, np.ndarray]:
    """The share of right answers among the first ten, of ten, also where a query has fewer right answers."""
    return _both(f"P@{CUTOFF}", ranks, lambda answers: answers.summed(_within(answers, CUTOFF)) / CUTOFF)


def normalised_gains(ranks: RetrievalRanks) -> dict[str, np.ndarray]:
    """For each query DCG@10 / best possible DCG@10, with gain grade / log2(1 + place).

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002; the grade is 1 where
    there are none.
    """
    return _both(f"nDCG@{CUTOFF}", ranks, lambda answers: _gained(answers) / _possible(answers))


mean_average_precision = _mean_of(average_precisions)
map_at_r = _mean_of(average_precisions_at_r)
r_precision = _mean_of(r_precisions)
reciprocal_rank = _mean_of(reciprocal_ranks)
precision = _mean_of(precisions)
ndcg = _mean_of(normalised_gains)


def _both(name: str, ranks: RetrievalRanks, of_lists: Callable[[Answers], np.ndarray]) -> dict[str, np.ndarray]:
    """float64 [queries] for each direction, of what `of_lists` makes of the lists."""
    directions = {"i2t": ranks.i2t_answers, "t2i": ranks.t2i_answers}
    return {f"{direction}_{name}": of_lists(answers)[answers.lists] for direction, answers in directions.items()}


def _precisions(answers: Answers, counted: np.ndarray) -> np.ndarray:
    """float64 [lists]: sums of r / place over the first `counted` copies of each entry, int64 [entries].

    With a wrong ones before, r / place is r / (r + a) = 1 - a / (r + a): a sum over consecutive r is a
    difference of harmonic numbers.
    """
    import numpy as np

    start = answers.before + answers.ahead
    harmonic = np.concatenate(([0.0], np.cumsum(1 / np.arange(1, (start + answers.sizes).max() + 1))))
    return answers.summed(counted - answers.ahead * (harmonic[start + counted] - harmonic[start]))


def _within_r(answers: Answers) -> np.ndarray:
    """int64 [entries]: how many copies of each stand at the places up to R, the number of right answers of its list."""
    import numpy as np

    return _within(answers, np.repeat(answers.relevant, np.diff(answers.offsets)))


def _within(answers: Answers, places: np.ndarray | int) -> np.ndarray:
    """int64 [entries]: how many copies of each stand at the first `places` places."""
    import numpy as np

    within: np.ndarray = np.clip(places - answers.before - answers.ahead, 0, answers.sizes)
    return within


def _gained(answers: Answers) -> np.ndarray:
    """float64 [lists]: the DCG."""
    return _discounted(answers, answers.grades, answers.sizes, answers.before + answers.ahead)


def _possible(answers: Answers) -> np.ndarray:
    """float64 [lists]: the DCG of the right answers alone, the best grades first."""
    import numpy as np

    lists = np.repeat(np.arange(len(answers.offsets) - 1), np.diff(answers.offsets))
    order = np.lexsort((-answers.grades, lists))
    sizes = answers.sizes[order]
    starts = np.cumsum(sizes) - sizes
    before = starts - np.repeat(starts[answers.offsets[:-1]], np.diff(answers.offsets))
    return _discounted(answers, answers.grades[order], sizes, before)


def _discounted(answers: Answers, grades: np.ndarray, sizes: np.ndarray, before: np.ndarray) -> np.ndarray:
    """float64 [lists]: discounted gains of entries that take the `sizes` places after the first `before`."""
    import numpy as np

    discounts = np.concatenate(([0.0], np.cumsum(1 / np.log2(np.arange(2, CUTOFF + 2)))))
    ends = discounts[np.minimum(before + sizes, CUTOFF)]
    return answers.summed(grades * (ends - discounts[np.minimum(before, CUTOFF)]))
