"""The expectation of a rating over everything that a model might write in its place.

A rating is followed token by token. What a token does depends on its text alone, so that single digits ("4", ".", "2") and
merged ones ("4.", "42") are the same to it, and whatever comes after a number ends it, but for a slash: "4/5" is 4 where
ratings end at 5, and no rating elsewhere. Ratings outside the range are left out before the probabilities are normalised.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEAST_SHARE = 1e-3  # branches with less of a picture's probability are not followed
LEAST_MASS = 1e-6  # with less probability than this on ratings in the range, the model has no rating
DIGITS = '0123456789'
NO_RATING = '%'  # after a number
NUMBER_BEGUN = re.compile(r'[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]*)?')
_RUN = re.compile(r'[0-9.]*(?:/[0-9.]*)?')
_SIGNED_RUN = re.compile(r'[-+]?[0-9.]*(?:(?<=[0-9.])/[0-9.]*)?')

Ask = Callable[[list['Node']], Iterable[np.ndarray]]


@dataclass(frozen=True)
class Node:
    """The beginning of a rating.

    Attributes:
        picture: its number.
        path: tokens after the prefix of that picture.
        lead: text that must come before the number, such as a space that the number's first token may include.
        number: its text so far.
        mass: the probability of the path.
    """

    picture: int
    path: tuple[int, ...]
    lead: str
    number: str
    mass: float


@dataclass(frozen=True)
class _Table:
    """What tokens do to a number: those that leave it open, one by one, and those that end it, by what they add.

    Attributes:
        open_ids: (n,).
        open_runs: what each of them adds.
        closing_ids: (m,), of tokens with more text after what they add to the number.
        closing_group: (m,), the place of each in `closing_runs`.
        closing_runs: what the tokens of each group add.
    """

    open_ids: np.ndarray
    open_runs: list[str]
    closing_ids: np.ndarray
    closing_group: np.ndarray
    closing_runs: list[str]

    @functools.cached_property
    def ids(self) -> np.ndarray:
        """All tokens of the table."""
        return np.concatenate([self.open_ids, self.closing_ids])

    def outcomes(self, chances: np.ndarray) -> tuple[list[tuple[int, str, float]], list[tuple[str, float]]]:
        """Return (token, what it adds, probability) of open numbers, and (what is added, probability) of ended ones."""
        kept = list(zip(self.open_ids.tolist(), self.open_runs, chances[self.open_ids].tolist(), strict=True))
        masses = np.bincount(self.closing_group, chances[self.closing_ids], len(self.closing_runs))
        return kept, list(zip(self.closing_runs, masses.tolist(), strict=True))


class NumberTokens:
    """What each token of a vocabulary does to a number that is being written.

    Args:
        texts: the text that each token adds when it is not the first; tokens without any character that a number or
            `NO_RATING` has may be missing.
        every: returns the same for all tokens; it is called when there is a lead that any of them may include.
    """

    def __init__(self, texts: Mapping[int, str], every: Callable[[], Mapping[int, str]] | None = None):
        self.texts, self._every = texts, every
        self.going_on = _table({token: run for token, text in texts.items() if (run := _run(_RUN, text))}, texts, 0)
        self.no_rating = np.array([token for token, text in texts.items() if text.startswith(NO_RATING)], dtype=np.int64)
        self._beginnings: dict[str, tuple[_Table, list[tuple[int, str]]]] = {}

    def asked_about(self, leads: Iterable[str]) -> np.ndarray:
        """Return the tokens (n,) whose probabilities are wanted where numbers come after some leads, or after ends of these."""
        found = [self.going_on.ids, self.no_rating]
        for left in {lead[start:] for lead in leads for start in range(len(lead) + 1)}:
            table, alone = self.beginning(left)
            found += [table.ids, np.array([token for token, _ in alone], dtype=np.int64)]
        return np.unique(np.concatenate(found))

    def beginning(self, lead: str) -> tuple[_Table, list[tuple[int, str]]]:
        """Return what tokens do where a number begins, and (token, lead that is left) of those that are lead alone."""
        if lead not in self._beginnings:
            texts = self._every() if lead and self._every is not None else self.texts
            runs = {token: run for token, text in texts.items()
                    if text.startswith(lead) and (run := _run(_SIGNED_RUN, text[len(lead):]))}
            alone = [(token, lead[len(text):]) for token, text in texts.items() if text and lead.startswith(text)]
            self._beginnings[lead] = _table(runs, texts, len(lead)), alone
        return self._beginnings[lead]


def _run(pattern: re.Pattern[str], text: str) -> str:
    """Return what a text begins with, as far as it can belong to a number."""
    match = pattern.match(text)
    return match.group() if match else ''


def _table(runs: dict[int, str], texts: Mapping[int, str], skipped: int) -> _Table:
    """Return the table of tokens whose text, after `skipped` characters, begins with a part of a number."""
    kept = [(token, run) for token, run in runs.items() if len(texts[token]) == skipped + len(run)]
    closing = [(token, run) for token, run in runs.items() if len(texts[token]) > skipped + len(run)]
    groups = {run: place for place, run in enumerate(dict.fromkeys(run for _, run in closing))}
    return _Table(np.array([token for token, _ in kept], dtype=np.int64), [run for _, run in kept],
                  np.array([token for token, _ in closing], dtype=np.int64),
                  np.array([groups[run] for _, run in closing], dtype=np.int64), list(groups))


def expectations(ask: Ask, tokens: NumberTokens, leads: Sequence[str], rating_range: tuple[float, float]) -> list[float]:
    """Return the expected rating of each picture; see `moments`."""
    return [expected for expected, _ in moments(ask, tokens, leads, rating_range)]


def moments(ask: Ask, tokens: NumberTokens, leads: Sequence[str],
            rating_range: tuple[float, float]) -> list[tuple[float, float]]:
    """Return the expected rating of each picture, and the standard deviation of what the model might write.

    Args:
        ask: returns the probabilities (V,) of the next token at each of some nodes; those of tokens that are not in
            `tokens.asked_about(leads)` are ignored.
        tokens: the vocabulary.
        leads: for each picture, what must come before its number.
        rating_range: lowest and highest rating.

    Returns:
        Two numbers for each picture, the first in the range; NaN when the model's own numbers are NaN, or when it has less than
        `LEAST_MASS` of its probability on ratings in the range.
    """
    # E[rating] is the sum over ratings r in the range of r P(r), over that of P(r). P(r) adds up all token paths that spell r
    # and then end it, so the expectation is that of sampling (up to the branches below `LEAST_SHARE`), however the
    # tokenizer cuts numbers. All begun numbers of one length are asked about together, level by level of this tree.
    weighted, squared, settled = [0.0] * len(leads), [0.0] * len(leads), [0.0] * len(leads)
    frontier = [Node(picture, (), lead, '', 1.0) for picture, lead in enumerate(leads)]
    while frontier:
        following = []
        for node, chances in zip(frontier, ask(frontier), strict=True):
            more, ratings = _step(node, chances, tokens, rating_range)
            following += more
            for rating, mass in ratings:
                weighted[node.picture] += mass * rating
                squared[node.picture] += mass * rating ** 2
                settled[node.picture] += mass
        frontier = _likely(following, settled)
    return [_moments_of(*each, rating_range) for each in zip(weighted, squared, settled, strict=True)]


def _moments_of(weighted: float, squared: float, mass: float, rating_range: tuple[float, float]) -> tuple[float, float]:
    """Return mean and standard deviation for the sums of p r, p r^2 and p over ratings r."""
    if not mass >= LEAST_MASS:  # NaN too
        return math.nan, math.nan
    mean = weighted / mass
    if math.isnan(mean):
        return math.nan, math.nan
    return min(max(mean, rating_range[0]), rating_range[1]), math.sqrt(max(squared / mass - mean ** 2, 0.0))


def _step(node: Node, chances: np.ndarray, tokens: NumberTokens,
          rating_range: tuple[float, float]) -> tuple[list[Node], list[tuple[float, float]]]:
    """Return the nodes that follow one, and the ratings that end after it, with their probabilities."""
    alone: list[tuple[int, str]] = []
    if node.number:
        table = tokens.going_on
        # whatever neither continues the number nor shows that it is no rating ends it here: the rest of the probability
        ended = [(node.number, 1 - chances[table.ids].sum() - chances[tokens.no_rating].sum())]
    else:
        table, alone = tokens.beginning(node.lead)
        ended = []
    following = [Node(node.picture, (*node.path, token), left, '', node.mass * float(chances[token])) for token, left in alone]
    going_on, closing = table.outcomes(chances)
    for token, run, chance in going_on:
        number = node.number + run
        if _is_open(number, rating_range):
            following.append(Node(node.picture, (*node.path, token), '', number, node.mass * chance))
        else:
            ended.append((number, chance))
    ended += [(node.number + run, chance) for run, chance in closing]
    ratings = [(rating, node.mass * float(chance)) for text, chance in ended
               if (rating := _rating_of(text, rating_range)) is not None]
    return following, ratings


@functools.lru_cache(maxsize=4096)
def _is_open(number: str, rating_range: tuple[float, float]) -> bool:
    """Whether what follows a begun number is asked about: not after the second dot of "4..", nor where no rating can result."""
    rating, slash, highest = number.partition('/')
    if slash:
        return _is_rating(rating, rating_range) and _may_become_highest(highest, rating_range[1])
    return not is_settled(number, rating_range) and may_become(number, rating_range)


@functools.lru_cache(maxsize=4096)
def _rating_of(text: str, rating_range: tuple[float, float]) -> float | None:
    """Return the number that a text begins with, when it is a rating in the range.

    Example:
        >>> _rating_of('4.', (1, 5)), _rating_of('4.5.', (1, 5)), _rating_of('-', (-1, 1)), _rating_of('05', (1, 5))
        (4.0, 4.5, None, None)
        >>> _rating_of('4/5', (1, 5)), _rating_of('4.5/5.', (1, 5)), _rating_of('4/10', (1, 5)), _rating_of('4/', (1, 5))
        (4.0, 4.5, None, None)
    """
    text, slash, highest = text.partition('/')
    if slash and not (_is_rating(text, rating_range) and _is_highest(highest, rating_range[1])):
        return None
    begun = _run(NUMBER_BEGUN, text)
    if not any(character in DIGITS for character in begun) or text[len(begun):len(begun) + 1] in tuple(DIGITS):
        return None
    rating = float(begun)
    return rating if rating_range[0] <= rating <= rating_range[1] else None


def _is_rating(text: str, rating_range: tuple[float, float]) -> bool:
    """Whether a text is a rating in the range and nothing else."""
    return NUMBER_BEGUN.fullmatch(text) is not None and _rating_of(text, rating_range) is not None


def _is_highest(text: str, highest: float) -> bool:
    """Whether a text is the highest rating, as it may follow a slash."""
    return NUMBER_BEGUN.fullmatch(text) is not None and text.strip('.') != '' and float(text) == highest


def _may_become_highest(text: str, highest: float) -> bool:
    """Whether what follows a slash may become the highest rating, or end there: '', '1', '10', '100', '100.', '100.0'."""
    return f'{highest:g}'.startswith(text) or (_is_highest(text, highest) and len(text.partition('.')[2]) < 2)


def is_settled(number: str, rating_range: tuple[float, float]) -> bool:
    """Whether a number has as many decimals as are followed; further ones are cut off."""
    whole, dot, decimals = number.partition('.')
    return bool(dot) and whole.strip('+-') + decimals != '' and len(decimals) >= most_decimals(rating_range)


def may_become(number: str, rating_range: tuple[float, float]) -> bool:
    """Whether more characters can make a begun number a rating in the range.

    Example:
        >>> [text for text in ('', '-', '0', '6', '4.', '5.5', '10', '05') if may_become(text, (1, 5))]
        ['', '4.']
        >>> [text for text in ('-', '-1', '-0.', '10', '1', '0') if may_become(text, (-1, 1))]
        ['-', '-1', '-0.', '1', '0']
    """
    low, high = rating_range
    if number.startswith('-'):
        low, high = -high, -low
    body = number.lstrip('+-')
    if NUMBER_BEGUN.fullmatch(number) is None or high < 0:
        return False
    whole, dot, decimals = body.partition('.')
    start, width = float(f'0{body}'), 10.0 ** -len(decimals)
    if dot or whole.startswith('0'):
        return start <= high and start + width > low
    if not whole:
        return True
    longer = ((start * 10 ** more, (start + 1) * 10 ** more) for more in itertools.count())  # digits of the whole part
    return any(end > low for _, end in itertools.takewhile(lambda part: part[0] <= high, longer))


def _likely(nodes: list[Node], settled: Sequence[float]) -> list[Node]:
    """Leave out nodes with a small share of their picture's remaining probability."""
    total = list(settled)
    for node in nodes:
        total[node.picture] += node.mass
    return [node for node in nodes if node.mass >= LEAST_SHARE * total[node.picture] and node.mass > 0]


def most_decimals(rating_range: tuple[float, float]) -> int:
    """Return how many decimals of a rating are followed: the fewest whose step is below a three-hundredth of the range.

    Example:
        >>> most_decimals((0, 1)), most_decimals((1, 5)), most_decimals((0, 10)), most_decimals((0, 100))
        (3, 2, 2, 1)
    """
    return max(0, math.ceil(2.5 - math.log10(rating_range[1] - rating_range[0])))


@functools.lru_cache(maxsize=8)
def number_tokens(tokenizer: Any) -> NumberTokens:
    """Return what each token of a tokenizer does to a number."""
    written = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    likely = [token for token, text in enumerate(written) if re.search(r'[-+.0-9/%]', str(text))]
    return NumberTokens(token_texts(tokenizer, likely), lambda: token_texts(tokenizer, range(len(tokenizer))))


def token_texts(tokenizer: Any, tokens: Iterable[int]) -> dict[int, str]:
    """Return the text that each token adds after another one; decoded alone, some would lose their leading space."""
    anchor = tokenizer.encode('"', add_special_tokens=False)[-1]
    begin = len(tokenizer.decode([anchor]))
    return {token: tokenizer.decode([anchor, token], skip_special_tokens=False)[begin:] for token in tokens}
