"""Reading what a reasoning model wrote: strictly for rewards, leniently for scores. No number is ever made up here."""

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
# the "3" of "3/5", "3.4.1", "3,4", "3 to 4" and "3 stars out of 10" is not a rating: no other number in the same clause
CLAUSE_END = r'[;{}\[\]]|,\s*["\']|[.!?]\s+[^\W\d]'
PART_OF_MORE = r'\w|\s*(?:[/%\u2044+\u00b1~]|(?:to|or|out)\b)'
PERHAPS_CUT_OFF = re.compile(rf'(?<![\d.]){NUMBER}(?:[eE][-+]?|[,/:-])?\s*\Z')  # more digits might have followed
LONE_NUMBER = re.compile(rf'\s*[*_"\']*({NUMBER})\s*[*_"\']*\s*[.]?\s*')
LONE_IN_LIST = re.compile(rf'\s*\[\s*["\']?({NUMBER})\s*["\']?\s*\]\s*')
# what models call a rating that they were asked for under another name; 'sharpness_score' is a rating of something else
USUAL_KEY = r'(?:(?:overall|final|predicted|image|picture|quality)[_ -]?)*(?:rating|score|quality|mos)'
MARKS = r'["\'*_`]*'
LABELLED = re.compile(rf'[\s{{]*{MARKS}(?:the )?{USUAL_KEY}{MARKS}\s*(?:is|=|:)\s*{MARKS}\s*({NUMBER})\s*{MARKS},?[\s}}]*\.?'
                      r'\s*', re.IGNORECASE)
# a number of its own in a sentence; a minus that is no ASCII, and a dash that may be one, makes no number positive
NO_MINUS = r'(?<![\w.\u2010-\u2015\u2212\ufe63\uff0d])(?<!\u2212\s)'
SINGLE_NUMBER = re.compile(rf'{NO_MINUS}{NUMBER}(?!\.?\d|{PART_OF_MORE})')
IMAGE = r'(?:it|(?:the|this) (?:image|picture|photo))'
# beginnings of sentences that end with a rating; only whole sentences, so that counts and ranges do not match
SENTENCE = (rf"(?:the (?:overall )?(?:image )?(?:quality(?: score)?|score)(?: of {IMAGE})? is"
            rf"|I(?: would|'d)? (?:rate {IMAGE}(?: at| as)?|give {IMAGE}(?: an?)?))")
OUT_OF = r'(?: out of |\s*[/\u2044]\s*)'  # before the highest rating
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
    without one), there a sentence that says the rating and nothing else, then its JSON (in a code fence, nested, with the
    number as a string or alone in a list; the only usual name such as "score" or "overall_quality" stands for a missing key),
    then the key followed by a number, then such a name with a number and nothing else, then a number that stands alone, in a
    list or not.
    The first of them that is there decides: NaN, infinity, booleans, percentages, ranges, two numbers, values out of range,
    and numbers that an unfinished answer ends with are failures. "3.5/5" and "3.5 out of 5" are 3.5 where ratings end at 5;
    anything else of which a number is said to be a part ("3.5/10") tells another scale, and is a failure too.
    """
    spoken, _ = _spoken(completion)
    answers = ANSWER.findall(spoken)
    answer, end = answers[-1] if answers else (spoken, '')
    if _is_unfinished(answer, bool(answers), bool(end)) and PERHAPS_CUT_OFF.search(answer):
        return None
    fenced = FENCE.findall(answer)
    text = fenced[-1] if fenced else answer
    sentence = _sentence(text, rating_range)
    if sentence is not None:
        return as_rating(float(sentence['number']), rating_range)
    text = _without_highest(text, rating_range)
    values = strict_json(text.strip())
    if values is not None:
        found = list(_values_of(values, _key_in(values, key)))
        return as_rating(_json_number(found[0]), rating_range) if len(found) == 1 else None
    if re.search(_whole(key), text, re.IGNORECASE):
        stated = _stated(text, key)
        return as_rating(float(stated[0]), rating_range) if len(set(stated)) == 1 else None
    alone = _alone(text)
    return as_rating(float(alone[1]), rating_range) if alone else None


def rating_position(completion: str, key: str = 'rating', rating_range: tuple[float, float] | None = None) -> int | None:
    """Return where the number begins that a completion plainly gives as its rating, or None.

    It is looked for as by `lenient_rating`, but here it may be out of range or cut off; and in an answer tag, a sentence
    with one number in it counts as well. Without a range, "3.5/5" and "on a scale of 1 to 5" have none.
    """
    spoken, places = _spoken(completion)
    answers = list(ANSWER.finditer(spoken))
    begin, end = answers[-1].span(1) if answers else (0, len(spoken))
    fenced = list(FENCE.finditer(spoken, begin, end))
    begin, end = fenced[-1].span(1) if fenced else (begin, end)
    written = spoken[begin:end]
    sentence = _sentence(written, rating_range)
    if sentence is not None:
        return places[begin + sentence.start('number')]
    found = _number_in(_without_highest(written, rating_range), key)
    if found is None and answers and not _has_form(written, key):
        found = _only_number(written)
    return None if found is None else places[begin + found]


def _number_in(text: str, key: str) -> int | None:
    """Return where the rating of an answer begins in its text."""
    values = strict_json(text.strip())
    if values is not None:
        key = _key_in(values, key)
        in_json = [_json_number(value) for value in _values_of(values, key)]
        stated = [match for match in _stated_pattern(key, may_be_list=True).finditer(text)
                  if len(in_json) == 1 and float(match[1]) == in_json[0]][-1:]
        return stated[0].start(1) if stated else None
    if re.search(_whole(key), text, re.IGNORECASE):
        stated = list(_stated_pattern(key).finditer(text))
        return stated[0].start(1) if len({match[1] for match in stated}) == 1 else None
    alone = _alone(text)
    return alone.start(1) if alone else None


def _has_form(text: str, key: str) -> bool:
    """Whether an answer is JSON or has the key in it, so that its rating is there or nowhere."""
    return strict_json(text.strip()) is not None or re.search(_whole(key), text, re.IGNORECASE) is not None


def _only_number(text: str) -> int | None:
    """Return where the only number of a text begins."""
    numbers = list(SINGLE_NUMBER.finditer(text))
    return numbers[0].start() if len(numbers) == 1 and len(re.findall(r'\d+(?:\.\d+)?', text)) == 1 else None


def _alone(text: str) -> re.Match[str] | None:
    """Return the match of a text that is a number and nothing else, or one with a usual name or in a list."""
    return LONE_NUMBER.fullmatch(text) or LABELLED.fullmatch(text) or LONE_IN_LIST.fullmatch(text)


def _sentence(text: str, rating_range: tuple[float, float] | None) -> re.Match[str] | None:
    """Return the match of a text that is one sentence which ends with a rating; a scale in it must be the range."""
    low, high = ('(?!)', '(?!)') if rating_range is None else (_bound(rating_range[0]), _bound(rating_range[1]))
    return re.fullmatch(rf'\s*(?:on a scale (?:of|from) {low} to {high},? )?{SENTENCE} (?P<number>{NUMBER})'
                        rf'(?:{OUT_OF}{high})?\.?\s*', text, re.IGNORECASE)


def _without_highest(text: str, rating_range: tuple[float, float] | None) -> str:
    """Return a text of the same length, in which "4 out of 5" and "4/5" are "4" where ratings end at 5."""
    if rating_range is None:
        return text
    pattern = rf'(?<![-+~/\u2044\u00b1]){NO_MINUS}({NUMBER})({OUT_OF}{_bound(rating_range[1])})(?!\.?\d|{PART_OF_MORE})'
    return re.sub(pattern, lambda match: match[1] + ' ' * len(match[2]), text)


def _bound(value: float) -> str:
    """Return the pattern of an end of the range."""
    return re.escape(f'{value:g}') + (r'(?:\.0+)?' if float(value).is_integer() else '')


def _key_in(values: dict[str, Any], key: str) -> str:
    """Return the key of the rating in JSON: the one asked for, or without it the only usual one at the top."""
    usual = [name for name, value in values.items()
             if re.fullmatch(USUAL_KEY, name, re.IGNORECASE) and _json_number(value) is not None]
    return usual[0] if len(usual) == 1 and not list(_values_of(values, key)) else key


def _json_number(value: Any) -> float | None:
    """Return a number of JSON, or of a string or a list in which it is alone."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        match = LONE_NUMBER.fullmatch(value)
        return float(match[1]) if match else None
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:
        return None


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
    """Return what is outside the reasoning, and the position of each of its characters in the completion."""
    places = list(range(len(completion)))
    for thought in reversed(list(THOUGHT.finditer(completion))):
        del places[thought.start():thought.end()]
    spoken = ''.join(completion[place] for place in places)
    end = spoken.rfind('</think>')
    begin = end + len('</think>') if end >= 0 else 0
    stop = spoken.find('<think>', begin)
    return spoken[begin:stop if stop >= 0 else None], places[begin:stop if stop >= 0 else None]


def _is_unfinished(answer: str, in_tag: bool, closed: bool) -> bool:
    """Whether an answer's tag or, without a tag, its JSON is left open."""
    return not closed if in_tag else answer.count('{') > answer.count('}')


def _stated(text: str, key: str) -> list[str]:
    """Return the numbers that follow the key, except those with another number in their clause."""
    return _stated_pattern(key).findall(text)


def _stated_pattern(key: str, may_be_list: bool = False) -> re.Pattern[str]:
    another = rf'(?:(?!{CLAUSE_END}|{_whole(key)}).)*\d'
    begin = r'(?:\[\s*)?' if may_be_list else ''
    return re.compile(rf'["\']?{_whole(key)}["\']?\s*(?:is|of|=|:)?\s*{begin}["\']?({NUMBER})(?!{PART_OF_MORE}|{another})',
                      re.IGNORECASE)


def _whole(key: str) -> str:
    return rf'\b{re.escape(key)}\b'


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
