"""A report as one self-contained HTML page."""

import base64
import re
from collections.abc import Callable
from html import escape
from importlib import resources
from typing import Any

from pyiqa_rali.report.blocks import (
    NOT_DEFINED,
    Aspect,
    Block,
    Case,
    Cases,
    Commands,
    Figure,
    Report,
    Section,
    Table,
    Text,
)

_NUMBER = re.compile(rf'^[-+~]?(\d[\d.,]*(e[-+]?\d+)?( ?%)?|{NOT_DEFINED}|\.\d+)( ?[±/(\[].*)?$')


def page(report: Report) -> str:
    """Return the whole page."""
    sections = [(f's{position}', section) for position, section in enumerate(report.sections, start=1)]
    facts = ''.join(f'<p class="facts">{escape(fact)}</p>' for fact in report.facts)
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(report.title)}</title>'
            f'<link rel="icon" href="data:,"><style>{_asset("palette.css", "figures")}{_asset("page.css")}</style></head>'
            '<body>\n'
            f'<div class="layout">'
            f'<header><h1>{escape(report.title)}</h1>{facts}</header>\n{_contents(sections)}\n<main>\n'
            + '\n'.join(_section(anchor, section, 2) for anchor, section in sections)
            + f'\n</main></div><div id="peek" aria-hidden="true"></div><script>{_asset("page.js")}</script></body></html>\n')


def _asset(name: str, room: str = 'report') -> str:
    return (resources.files('pyiqa_rali') / room / name).read_text(encoding='utf-8')


def _contents(sections: list[tuple[str, Section]]) -> str:
    items = []
    for anchor, section in sections:
        parts = ''.join(f'<li><a href="#{anchor}-{position}">{escape(part.title)}</a></li>'
                        for position, part in enumerate(section.sections, start=1))
        items.append(f'<li><a href="#{anchor}">{escape(section.title)}</a>{f"<ol>{parts}</ol>" if parts else ""}</li>')
    return f'<nav aria-label="Contents"><details open><summary>Contents</summary><ol>{"".join(items)}</ol></details></nav>'


def _section(anchor: str, section: Section, level: int) -> str:
    parts = ''.join(_section(f'{anchor}-{position}', part, level + 1)
                    for position, part in enumerate(section.sections, start=1))
    return (f'<section id="{anchor}"><h{level}>{escape(section.title)}</h{level}>'
            + '\n'.join(_block(block) for block in section.blocks) + parts + '</section>')


def _block(block: Block) -> str:
    makers: dict[type, Callable[[Any], str]] = {Text: _text, Table: _table, Figure: _figure, Cases: _cases,
                                                Commands: _commands}
    return makers[type(block)](block)


def _text(block: Text) -> str:
    return f'<p>{escape(block.text)}</p>'


def _table(block: Table) -> str:
    numeric = [bool(block.rows) and all(_NUMBER.match(row[column].strip()) for row in block.rows if row[column].strip())
               for column in range(len(block.headers))]
    header = ''.join(f'<th scope="col"{_class(is_number)}>{escape(name)}</th>'
                     for name, is_number in zip(block.headers, numeric, strict=True))
    rows = ''.join('<tr>' + ''.join(f'<td{_class(is_number, cell)}>{escape(cell)}</td>'
                                    for cell, is_number in zip(row, numeric, strict=True)) + '</tr>' for row in block.rows)
    return (f'<figure><figcaption>{escape(block.caption)}</figcaption><div class="wide"><table>'
            f'<thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div></figure>{_again(block.command)}')


def _class(is_number: bool, cell: str = '') -> str:
    return ' class="number"' if is_number else ' class="text"' if len(cell) > 60 else ''


def _figure(block: Figure) -> str:
    image = f'<img alt="{escape(block.caption)}" src="{_data_uri(block.png, "png")}">'
    inside = f'<div class="wide">{block.svg}</div>' if block.svg else image
    return f'<figure><figcaption>{escape(block.caption)}</figcaption>{inside}</figure>{_again(block.command)}'


def _cases(block: Cases) -> str:
    return (f'<p>{escape(block.caption)}</p><div class="cases">' + ''.join(_case(each) for each in block.items)
            + '</div>')


def _case(item: Case) -> str:
    if item.jpeg:
        shown = f'<img alt="{escape(item.title)}" loading="lazy" src="{_data_uri(item.jpeg, "jpeg")}">'
    else:
        shown = f'<div class="missing">{escape(item.problem)}</div>'
    lines = ''.join(f'<span>{escape(line)}</span>' for line in item.lines)
    aspects = f'<dl class="aspects">{"".join(map(_aspect, item.aspects))}</dl>' if item.aspects else ''
    kind = f'<span class="kind kind-{escape(item.kind)}">{escape(item.kind)}</span>' if item.kind else ''
    return (f'<div class="case" id="{escape(item.anchor)}">{shown}<div class="words">{kind}<b>{escape(item.title)}</b>{lines}'
            f'{aspects}</div></div>')


def _aspect(aspect: Aspect) -> str:
    bar = f'<dd class="bar" aria-hidden="true"><i style="width: {aspect.value:.0%}"></i></dd>'
    fault = f'<dd class="fault">{escape(aspect.remark)}</dd>' if aspect.remark else ''
    return (f'<div{" class=wrong" if aspect.fault else ""}><dt>{escape(aspect.name)}</dt>{bar}<dd>{aspect.value:.2f}</dd>'
            f'{fault}</div>')


def _commands(block: Commands) -> str:
    return f'<pre>{escape(chr(10).join(block.lines))}</pre>'


def _again(command: str) -> str:
    return f'<details><summary>How to make this again</summary><pre>{escape(command)}</pre></details>' if command else ''


def _data_uri(content: bytes, kind: str) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'
