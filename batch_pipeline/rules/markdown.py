"""Emails for providers that take Markdown: values that can't be read as marks, and the HTML and plain text of one.

A little of CommonMark: paragraphs, headings, lists, emphasis, links. No HTML, pictures, code or references: what they
would take out of sight stays in the text. A patient's value is escaped where it is put in, so that a name with a star
in it is sent with the star, in the HTML as in the plain text (SPEC 2.6).
"""

import html
import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, blockquote, list_block
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

_MARKS = re.compile(r"[\\*_\[\]<>()#+.-]")
"""What has a meaning in a value; the dot, the dash and the bracket at the beginning of a line."""
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_ADDRESS = re.compile(r"https?://[^\s<>\"]*[^\s<>\".,;:!?)'\]]")
_ALLOWED_LINK = re.compile(r"(?:https?|mailto|tel):", re.IGNORECASE)
_WITHOUT = (
    "html_block", "html_inline", "image", "entity", "reference", "code", "fence", "backticks", "lheading", "hr", "autolink",
)  # fmt: skip
"""An ``autolink`` (``<https://…>``) knows no escapes: a value in it would lead elsewhere. Bare addresses become links."""
_DEEPEST = 12
"""Lists and quotations within one another, a list counting twice. Where the parser finds too many it leaves all out that follows."""
_LINE_OF_MARKS = re.compile(r"(?:[-*+][ \t]*){2,}")
_PAGE = """\
<!DOCTYPE html>
<html lang="en-GB">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
</head>
<body style="margin: 0 auto; padding: 16px; max-width: 38em; font-family: Arial, sans-serif; font-size: 19px; line-height: 1.5;">
{body}</body>
</html>
"""


def escaped(value: str) -> str:
    """A value as it is put into Markdown: all of it is words."""
    return _MARKS.sub(r"\\\g<0>", value)


def escaped_sql(expression: str) -> str:
    """``escaped`` of a VARCHAR expression."""
    return rf"regexp_replace({expression}, '([\\*_\[\]<>()#+.-])', '\\\1', 'g')"


def plain(text: str) -> str:
    """Markdown as it is read without being set: as it was written, values as they are."""
    return _ESCAPED.sub(r"\1", text)


def page(text: str, title: str) -> str:
    """Markdown as an HTML page that loads nothing from anywhere."""
    return _PAGE.format(title=html.escape(title), body=_MARKDOWN.render(text))


def _list(state: StateBlock, start: int, end: int, silent: bool) -> bool:  # noqa: FBT001 - the parser's own
    """But no list of a line of marks, such as ``* * * *``: it is there to be seen."""
    line = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
    if state.level >= _DEEPEST or _LINE_OF_MARKS.fullmatch(line):
        return False
    return list_block(state, start, end, silent)


def _blockquote(state: StateBlock, start: int, end: int, silent: bool) -> bool:  # noqa: FBT001 - the parser's own
    return state.level < _DEEPEST and blockquote(state, start, end, silent)


def _link_addresses(state: StateCore) -> None:
    """Makes links of bare addresses, which not every mail program does in HTML. What is seen is where it leads.

    An item of a numbered list keeps the number that is written: HTML would count anew, past those that a condition left out.
    """
    for token in state.tokens:
        if token.type == "list_item_open" and token.info:
            token.attrSet("value", token.info)
        if token.children:
            token.children = list(_linked(state.md, token.children))


def _linked(markdown: MarkdownIt, tokens: list[Token]) -> Iterator[Token]:
    inside = 0
    for token in tokens:
        inside += token.nesting if token.type.startswith("link_") else 0
        if token.type == "text" and not inside:
            yield from _parts(markdown, token.content)
        else:
            yield token


def _parts(markdown: MarkdownIt, words: str) -> Iterator[Token]:
    end = 0
    for found in _ADDRESS.finditer(words):
        yield Token("text", "", 0, content=words[end : found.start()])
        address = markdown.normalizeLink(found.group())
        yield Token("link_open", "a", 1, attrs={"href": address})
        yield Token("text", "", 0, content=found.group())
        yield Token("link_close", "a", -1)
        end = found.end()
    yield Token("text", "", 0, content=words[end:])


def _parser() -> MarkdownIt:
    """Ready for any number of threads: its tables are made at their first use, and found empty by who comes meanwhile."""
    markdown = MarkdownIt("commonmark", {"html": False, "breaks": True}).disable(list(_WITHOUT))
    markdown.validateLink = lambda url: _ALLOWED_LINK.match(url) is not None
    others = ["paragraph", "reference", "blockquote"]
    markdown.block.ruler.at("list", _list, {"alt": others})
    markdown.block.ruler.at("blockquote", _blockquote, {"alt": [*others, "list"]})
    markdown.core.ruler.push("addresses", _link_addresses)
    markdown.render("[a](https://a.example)")
    return markdown


_MARKDOWN = _parser()
