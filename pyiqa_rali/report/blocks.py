"""What a report consists of, whatever its format: sections of tables, figures, pictures, texts and commands."""

from collections.abc import Sequence
from dataclasses import dataclass, field

NOT_DEFINED = '\N{EN DASH}'  # shown in a table in place of an undefined number


@dataclass
class Text:
    """A paragraph."""

    text: str


@dataclass
class Table:
    """Rows of plain text under headers.

    Attributes:
        caption: what it shows.
        headers: one for each column.
        rows: cells as they are shown; numbers are aligned to the right.
        command: the command that reproduces these numbers; empty when the section's does.
    """

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    command: str = ''


@dataclass
class Figure:
    """A drawing.

    Attributes:
        caption: what it shows.
        svg: for the page; its colours follow the page's.
        png: for Markdown; empty when the SVG is written instead.
        command: the command that reproduces it.
    """

    caption: str
    svg: str = ''
    png: bytes = b''
    command: str = ''


@dataclass(frozen=True)
class Aspect:
    """How good one aspect of a picture is.

    Attributes:
        name: such as 'focus'.
        value: in [0, 1], 1 the best.
        fault: what is wrong, such as 'motion blur'; empty where nothing is.
    """

    name: str
    value: float
    fault: str = ''

    @property
    def remark(self) -> str:
        """The fault, where its name says more than that of the aspect."""
        return '' if self.fault == self.name else self.fault


@dataclass
class Case:
    """One picture with remarks on it.

    Attributes:
        anchor: its name within the page; a point of a scatter plot leads to it.
        kind: such as 'worst'.
        title: such as the file's name.
        lines: scores and texts.
        jpeg: a small version of the picture; empty when the file no longer exists.
        problem: why it is not shown.
        aspects: what is good and bad about it; empty where nothing tells.
    """

    anchor: str
    kind: str
    title: str
    lines: Sequence[str] = ()
    jpeg: bytes = b''
    problem: str = ''
    aspects: Sequence[Aspect] = ()


@dataclass
class Cases:
    """A sheet of pictures."""

    caption: str
    items: Sequence[Case]


@dataclass
class Commands:
    """How to reproduce all of this."""

    lines: Sequence[str]


Block = Text | Table | Figure | Cases | Commands


@dataclass
class Section:
    """A heading and what is under it.

    Attributes:
        title: the heading.
        blocks: in order.
        sections: the parts of a long section, one level deep.
    """

    title: str
    blocks: list[Block] = field(default_factory=list)
    sections: list['Section'] = field(default_factory=list)


@dataclass
class Report:
    """A whole report.

    Attributes:
        title: of the page.
        sections: in order, one for each run.
        facts: lines under the title, such as versions.
    """

    title: str
    sections: list[Section]
    facts: Sequence[str] = ()


def number(value: float | None, digits: int = 3) -> str:
    """Return a number for a table; an undefined one is a dash.

    Example:
        >>> number(0.87654), number(float('nan')) == number(None) == NOT_DEFINED
        ('0.877', True)
    """
    return NOT_DEFINED if value is None or value != value else f'{value:.{digits}f}'
