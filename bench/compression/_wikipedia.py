"""Articles of the English Wikipedia (CC BY-SA), as text, from what gensim's tests carry: 206 pages of a dump of 2016, of which few are articles."""

from __future__ import annotations

import bz2
import html
import re
import zipfile
from functools import cache
from xml.etree import ElementTree

from ._downloads import downloaded

PACKAGE = "gensim==4.4.0"
_MEMBER = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_LEAST = 12000  # characters of text that make a page an article

_GONE = (
    r"<!--.*?-->", r"<ref[^>/]*/>", r"<(ref|math|gallery|timeline|code|source|sub|sup|table|div)\b[^>]*>.*?</\1>", r"<[^>]+>",
    r"__[A-Z]+__", r"^[*#:;|!].*$", r"^=+.*=+\s*$",
)  # fmt: skip
_LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")


@cache
def articles() -> tuple[tuple[str, str], ...]:
    """(title, text) in the dump's order: paragraphs, without headings, lists, tables, notes and formulas."""
    with zipfile.ZipFile(downloaded(PACKAGE)) as wheel:
        dump = ElementTree.fromstring(bz2.decompress(wheel.read(_MEMBER)))
    found = []
    for page in dump.iterfind("{*}page"):
        text = plain(page.findtext("{*}revision/{*}text") or "")
        if len(text) >= _LEAST:
            found.append((page.findtext("{*}title") or "", text))
    return tuple(found)


def plain(markup: str) -> str:
    """The text of a page's markup."""
    text = markup
    for pattern in _GONE[:4]:
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    for opening, closing in (("{{", "}}"), ("{|", "|}")):
        text = _without(text, opening, closing)
    text = re.sub(r"\[\[(?:File|Image|Category|[a-z-]+):(?:[^\[\]]|\[\[[^\[\]]*\]\])*\]\]", "", text)
    text = _LINK.sub(r"\1", text)
    text = re.sub(r"\[\w+://\S+ ?([^\]]*)\]", r"\1", text)
    for pattern in _GONE[4:]:
        text = re.sub(pattern, "", text, flags=re.MULTILINE)
    text = html.unescape(text.replace("'''", "").replace("''", "")).replace("\xa0", " ")
    text = re.sub(r"\( *[;,]? *\)", "", text)
    text = re.sub(r"[ \t]+", " ", re.sub(r" +([,.;:)])", r"\1", text))
    return "\n".join(line.strip() for line in text.splitlines() if len(line.strip()) > 80)


def _without(text: str, opening: str, closing: str) -> str:
    """Without what stands between the two, which may be nested: from within."""
    inner = re.compile(f"{re.escape(opening)}(?:(?!{re.escape(opening)}|{re.escape(closing)}).)*{re.escape(closing)}", re.DOTALL)  # fmt: skip
    count = 1
    while count:
        text, count = inner.subn("", text)
    return text
