"""The study's page as one HTML file, made of its Markdown: pictures inside, no network, no scripts."""

import base64
from importlib import resources
from pathlib import Path

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup


def to_html(text: str, directory: Path) -> str:
    """The page.

    Args:
        text: Markdown with tables, whose pictures are files of `directory`.
    """
    markdown = MarkdownIt("commonmark").enable("table")
    tokens = markdown.parse(text)
    title = ""
    sections: list[tuple[str, str]] = []
    for opening, inline in zip(tokens, tokens[1:]):
        if opening.type == "heading_open" and opening.tag == "h1":
            title = inline.content
        elif opening.type == "heading_open":
            opening.attrSet("id", f"section-{len(sections)}")
            sections.append((inline.content, f"section-{len(sections)}"))
    for token in tokens:
        for part in token.children or ():
            if part.type == "image":
                picture = base64.b64encode((directory / str(part.attrGet("src"))).read_bytes()).decode()
                part.attrSet("src", f"data:image/png;base64,{picture}")
    body = markdown.renderer.render(tokens, markdown.options, {})
    # A wide table scrolls by itself.
    body = body.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace(
        "</table>", "</table></div>"
    )
    style = (resources.files("cord_jax.report") / "assets" / "style.css").read_text(encoding="utf-8")
    template = (resources.files("cord_jax.study") / "assets" / "page.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(
        title=title, sections=sections, style=Markup(style), body=Markup(body)
    )
