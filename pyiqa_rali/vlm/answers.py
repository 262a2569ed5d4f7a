"""Reading what a reasoning model wrote: strictly for rewards, leniently for scores. Nothing here ever makes up a number."""

import json
import math
import re
from typing import Any

COMPLETION = re.compile(r'\s*<think>(?P<reasoning>.*?)</think>\s*<answer>(?P<answer>.*?)</answer>\s*', re.DOTALL)
TAG = re.compile(r'</?(?:think|answer)>')
THOUGHT = re.compile(r'<think>.*?</think>', re.DOTALL)
ANSWER = re.compile(r'<answer>(.*?)(</answer>|\Z)', re.DOTALL)
FENCE = re.compile(r'```(?:json)?\s*(.*?)```', re.DOTALL | re.IGNORECASE)
NUMBER = r'[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?'
# "3" of "3/5", "3.4.1", "3,4", "60 %", "3 to 4" and "3 stars out of 10" is no rating: no other number in the same clause
CLAUSE_END = r'[;{}\[\]]|,\s*["\']|[.!?]\s+[^\W\d]'
PART_OF_MORE = r'\w|\s*(?:[/%\u2044+\u00b1~]|(?:to|or|out)\b)'
PERHAPS_CUT_OFF = re.compile(rf'(?<![\d.]){NUMBER}(?:[eE][-+]?|[,/:-])?\s*\Z')  # more digits might have followed
LONE_NUMBER = re.compile(rf'\s*[*_"\']*({NUMBER})[*_"\']*\s*[.]?\s*')
DEEPEST_JSON = 20


def split_completion(completion: str) -> tuple[str, str] | None:
    """Return (reasoning text, answer) of a completion in the exact format, or None.

    The format is <think>...</think><answer>...</answer>, once each, neither empty, any whitespace around the tags and
    nothing else outside them.
    """
    match = COMPLETION.fullmatch(completion)
    if match is None or len(TAG.findall(completion)) != 4:
        return None
    reasoning, answer = match['reasoning'].strip(), match['answer'].strip()
    return (reasoning, answer) if reasoning and answer else None


def strict_json(answer: str) -> dict[str, Any] | None:
    """Return the answer's JSON object, or None: no duplicate keys, no NaN or infinity, nothing around it."""
    try:
        value = json.loads(answer, object_pairs_hook=_without_duplicates, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def strict_rating(completion: str, rating_range: tuple[float, float], key: str = 'rating') -> float | None:
    """Return the rating of a completion for a reward: exact format, {"rating": number} alone, in range; or None."""
    parts = split_completion(completion)
    values = strict_json(parts[1]) if parts else None
    if values is None or set(values) != {key}:
        return None
    return as_rating(values[key], rating_range)


def strict_degradation(completion: str) -> tuple[str, str] | None:
    """Return (class, severity) of a completion for a reward, lower case, or None; JSON's null is 'null', as in tables."""
    parts = split_completion(completion)
    values = strict_json(parts[1]) if parts else None
    if values is None or set(values) != {'distortion_class', 'severity'}:
        return None
    found = ['null' if values[name] is None else values[name] for name in ('distortion_class', 'severity')]
    return tuple(value.strip().lower() for value in found) if all(isinstance(value, str) for value in found) else None


def lenient_rating(completion: str, rating_range: tuple[float, float], key: str = 'rating') -> float | None:
    """Return the rating that a completion plainly states, or None.

    Nothing is read between the think tags, or behind one that is not closed. Looked at are the last answer tag (all the rest
    without one), there its JSON (in a code fence, nested, or with the number as a string), then the key followed by a number,
    then a number that stands alone. The first of them that is there decides: NaN, infinity, booleans, fractions such as 3/5,
    percentages, ranges, values out of range, and numbers that an unfinished answer ends with are failures.
    """
    spoken = THOUGHT.sub('', completion).rpartition('</think>')[2].partition('<think>')[0]
    answers = ANSWER.findall(spoken)
    answer, end = answers[-1] if answers else (spoken, '')
    if _is_unfinished(answer, bool(answers), bool(end)) and PERHAPS_CUT_OFF.search(answer):
        return None
    fenced = FENCE.findall(answer)
    text = fenced[-1] if fenced else answer
    values = strict_json(text.strip())
    if values is not None:
        found = list(_values_of(values, key))
        return _as_lenient_rating(found[0], rating_range) if len(found) == 1 else None
    if re.search(_whole(key), text, re.IGNORECASE):
        stated = _stated(text, key)
        return as_rating(float(stated[0]), rating_range) if len(set(stated)) == 1 else None
    return _as_lenient_rating(text, rating_range)


def reasoning_text(completion: str) -> str:
    """Return the text between the think tags; without them, what stands before the answer. May be empty."""
    _, opened, rest = completion.partition('<think>')
    text = rest if opened else completion
    text = text.partition('</think>')[0].partition('<answer>')[0]
    return TAG.sub('', text).strip()


def as_rating(value: Any, rating_range: tuple[float, float]) -> float | None:
    """Return a number as a rating when it is one and lies in the range, otherwise None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    low, high = rating_range
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and low <= number <= high else None


def _is_unfinished(answer: str, in_tag: bool, closed: bool) -> bool:
    """Whether an answer's tag is open, or without a tag its JSON."""
    return not closed if in_tag else answer.count('{') > answer.count('}')


def _stated(text: str, key: str) -> list[str]:
    """Return the numbers that follow the key, without those that have another number in their clause."""
    another = rf'(?:(?!{CLAUSE_END}|{_whole(key)}).)*\d'
    return re.findall(rf'["\']?{_whole(key)}["\']?\s*(?:is|of|=|:)?\s*["\']?({NUMBER})(?!{PART_OF_MORE}|{another})', text,
                      re.IGNORECASE)


def _whole(key: str) -> str:
    return rf'\b{re.escape(key)}\b'


def _as_lenient_rating(value: Any, rating_range: tuple[float, float]) -> float | None:
    if isinstance(value, str):
        match = LONE_NUMBER.fullmatch(value)
        return as_rating(float(match[1]), rating_range) if match else None
    return as_rating(value, rating_range)


def _values_of(value: Any, key: str, depth: int = 0):
    """Yield what stands under a key anywhere in nested JSON."""
    if depth > DEEPEST_JSON:
        return
    children = list(value.items()) if isinstance(value, dict) else [(None, item) for item in value]
    for name, child in children:
        if isinstance(name, str) and name.lower() == key.lower():
            yield child
        elif isinstance(child, dict | list):
            yield from _values_of(child, key, depth + 1)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError('a key stands twice')
    return dict(pairs)


def _refuse(constant: str) -> None:
    raise ValueError(f'{constant} is no number')
