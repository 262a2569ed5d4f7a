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
# a number of its own in a sentence; a minus that is no ASCII, and a dash that may be one, makes no number positive
SINGLE_NUMBER = re.compile(rf'(?<![\w.\u2010-\u2015\u2212\ufe63\uff0d])(?<!\u2212\s){NUMBER}(?!\.?\d|{PART_OF_MORE})')
IMAGE = r'(?:it|(?:the|this) (?:image|picture|photo))'
# the beginnings of sentences that end with a rating; whole sentences alone, so that counts and ranges are none
SENTENCE = (rf"(?:the (?:overall )?(?:image )?(?:quality(?: score)?|score)(?: of {IMAGE})? is"
            rf"|I(?: would|'d)? (?:rate {IMAGE}(?: at| as)?|give {IMAGE}(?: an?)?))")
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
    kind, severity = ('null' if values[name] is None else values[name] for name in ('distortion_class', 'severity'))
    if not isinstance(kind, str) or not isinstance(severity, str):
        return None
    return kind.strip().lower(), severity.strip().lower()


def lenient_rating(completion: str, rating_range: tuple[float, float], key: str = 'rating') -> float | None:
    """Return the rating that a completion plainly states, or None.

    Nothing is read between the think tags, or after one that is not closed. Looked at are the last answer tag (all the rest
    without one), there its JSON (in a code fence, nested, or with the number as a string), then the key followed by a number,
    then a number that stands alone. The first of them that is there decides: NaN, infinity, booleans, fractions such as 3/5,
    percentages, ranges, values out of range, and numbers that an unfinished answer ends with are failures.
    """
    spoken, _ = _spoken(completion)
    answers = ANSWER.findall(spoken)
    answer, end = answers[-1] if answers else (spoken, '')
    if _is_unfinished(answer, bool(answers), bool(end)) and PERHAPS_CUT_OFF.search(answer):
        return None
    fenced = FENCE.findall(answer)
    text = fenced[-1] if fenced else answer
    sentence = _sentence(text, rating_range)
    if sentence is not None and (sentence['scale'] or sentence['of']):
        return as_rating(float(sentence['number']), rating_range)
    text = _without_highest(text, rating_range)
    values = strict_json(text.strip())
    if values is not None:
        found = list(_values_of(values, _key_in(values, key)))
        return _as_lenient_rating(found[0], rating_range) if len(found) == 1 else None
    if re.search(_whole(key), text, re.IGNORECASE):
        stated = _stated(text, key)
        return as_rating(float(stated[0]), rating_range) if len(set(stated)) == 1 else None
    return _as_lenient_rating(text, rating_range)


def rating_position(completion: str, key: str = 'rating', rating_range: tuple[float, float] | None = None) -> int | None:
    """Return where the number begins that a completion plainly gives as its rating, or None.

    It is looked for as by `lenient_rating`, but here it may be out of range or cut off; and in an answer tag, a sentence
    with one number in it counts as well. "3.5 out of 5" and "on a scale of 1 to 5" count where they name the range.
    """
    spoken, places = _spoken(completion)
    answers = list(ANSWER.finditer(spoken))
    begin, end = answers[-1].span(1) if answers else (0, len(spoken))
    fenced = list(FENCE.finditer(spoken, begin, end))
    begin, end = fenced[-1].span(1) if fenced else (begin, end)
    text = _without_highest(spoken[begin:end], rating_range)
    sentence = _sentence(spoken[begin:end], rating_range)
    if sentence is not None:
        return places[begin + sentence.start('number')]
    found = _number_in(text, key, tagged=bool(answers))
    return None if found is None else places[begin + found]


def _number_in(text: str, key: str, tagged: bool) -> int | None:
    """Return where the rating of an answer begins in its text."""
    values = strict_json(text.strip())
    key = key if values is None else _key_in(values, key)
    stated = list(_stated_pattern(key).finditer(text))
    if values is not None:
        in_json = [_json_number(value) for value in _values_of(values, key)]
        stated = [match for match in stated if len(in_json) == 1 and float(match[1]) == in_json[0]][-1:]
    if values is not None or re.search(_whole(key), text, re.IGNORECASE):
        return stated[0].start(1) if len({match[1] for match in stated}) == 1 else None
    alone = LONE_NUMBER.fullmatch(text)
    if alone:
        return alone.start(1)
    numbers = list(SINGLE_NUMBER.finditer(text)) if tagged else []
    return numbers[0].start() if len(numbers) == 1 and len(re.findall(r'\d+(?:\.\d+)?', text)) == 1 else None


def _sentence(text: str, rating_range: tuple[float, float] | None) -> re.Match[str] | None:
    """Return the match of a text that is one sentence which ends with a rating; a scale in it must be the range."""
    low, high = ('(?!)', '(?!)') if rating_range is None else (_bound(rating_range[0]), _bound(rating_range[1]))
    return re.fullmatch(rf'\s*(?P<scale>on a scale (?:of|from) {low} to {high},? )?{SENTENCE} (?P<number>{NUMBER})'
                        rf'(?P<of> out of {high})?\.?\s*', text, re.IGNORECASE)


def _without_highest(text: str, rating_range: tuple[float, float] | None) -> str:
    """Return a text of the same length, in which "4 out of 5" in quotes is "4" where ratings end at 5."""
    if rating_range is None:
        return text
    pattern = rf'(?<=")({NUMBER})( out of {_bound(rating_range[1])})(?=")'
    return re.sub(pattern, lambda match: match[1] + ' ' * len(match[2]), text)


def _bound(value: float) -> str:
    """Return the pattern of an end of the range."""
    return re.escape(f'{value:g}') + (r'(?:\.0+)?' if float(value).is_integer() else '')


def _key_in(values: dict[str, Any], key: str) -> str:
    """Return the key of the rating in JSON: the one asked for, or "overall_" before it where that alone is there."""
    return f'overall_{key}' if [name.lower() for name in values] == [f'overall_{key}'.lower()] else key


def _json_number(value: Any) -> float | None:
    """Return a number of JSON, or of a string in it."""
    if isinstance(value, str):
        match = LONE_NUMBER.fullmatch(value)
        return float(match[1]) if match else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def reasoning_text(completion: str) -> str:
    """Return the text between the think tags; without them, what comes before the answer. May be empty."""
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


def _spoken(completion: str) -> tuple[str, list[int]]:
    """Return what is outside the thoughts, and the place of each of its characters in the completion."""
    places = list(range(len(completion)))
    for thought in reversed(list(THOUGHT.finditer(completion))):
        del places[thought.start():thought.end()]
    spoken = ''.join(completion[place] for place in places)
    end = spoken.rfind('</think>')
    begin = end + len('</think>') if end >= 0 else 0
    stop = spoken.find('<think>', begin)
    return spoken[begin:stop if stop >= 0 else None], places[begin:stop if stop >= 0 else None]


def _is_unfinished(answer: str, in_tag: bool, closed: bool) -> bool:
    """Whether an answer's tag is open, or without a tag its JSON."""
    return not closed if in_tag else answer.count('{') > answer.count('}')


def _stated(text: str, key: str) -> list[str]:
    """Return the numbers that follow the key, without those that have another number in their clause."""
    return _stated_pattern(key).findall(text)


def _stated_pattern(key: str) -> re.Pattern[str]:
    another = rf'(?:(?!{CLAUSE_END}|{_whole(key)}).)*\d'
    return re.compile(rf'["\']?{_whole(key)}["\']?\s*(?:is|of|=|:)?\s*["\']?({NUMBER})(?!{PART_OF_MORE}|{another})',
                      re.IGNORECASE)


def _whole(key: str) -> str:
    return rf'\b{re.escape(key)}\b'


def _as_lenient_rating(value: Any, rating_range: tuple[float, float]) -> float | None:
    if isinstance(value, str):
        match = LONE_NUMBER.fullmatch(value)
        return as_rating(float(match[1]), rating_range) if match else None
    return as_rating(value, rating_range)


def _values_of(value: Any, key: str, depth: int = 0):
    """Yield what is under a key anywhere in nested JSON."""
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
        raise ValueError('a key appears twice')
    return dict(pairs)


def _refuse(constant: str) -> None:
    raise ValueError(f'{constant} is not a number')
