"""What the site has besides the pages in docs/: the README, the command line and the settings."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from typer.cli import get_docs_for_click

from proxyless_ext.cli import app
from proxyless_ext.config import Config
from proxyless_ext.documents import write_document

ROOT = Path(__file__).parent.parent.parent
LINK = re.compile(r"(?<=]\()(?!https?:|#)[^)#]+")
FORMULA = re.compile(r"<\w[^<>=]*,[^<>=]*>")

log = logging.getLogger("mkdocs.hooks")

SETTINGS = """# Settings

A configuration is a YAML file for `--config`; `--set SECTION.KEY=VALUE` sets one of its values, as
in `--set train.epochs=20`. What neither says has the default below. `configs/` has files to start
from, and a run's own `config.yaml` says all that it used.
"""
SECTION = """
## {title}

::: {kind}
    options:
      heading_level: 3
      show_root_heading: false
      show_root_toc_entry: false
      show_bases: false
      members: []

```yaml
{defaults}```
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and what the README links to beside docs/."""
    readme = (ROOT / "README.md").read_text()
    home = LINK.sub(lambda link: link[0].removeprefix("docs/"), readme)
    made = {
        "index.md": home,
        "reference/command_line.md": command_line(),
        "reference/settings.md": settings(),
    }
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    for path in {link for link in LINK.findall(readme) if not link.startswith("docs/")}:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_content(html: str, page: Page, **_: Any) -> None:
    """Warn of formulas such as <a, b> that a browser would take for tags and not show."""
    for formula in FORMULA.findall(html):
        log.warning(f"{page.file.src_uri}: '{formula}' is not shown; write it as code")


def command_line() -> str:
    """Every command and its options, as typer describes them."""
    command = typer.main.get_command(app)
    context = typer.Context(command)
    return get_docs_for_click(obj=command, ctx=context, name="proxyless", title="Command line")


def settings() -> str:
    """Every section of a configuration: what its class says about it, and its defaults."""
    config = Config()
    sections = {name: value for name, value in config if isinstance(value, BaseModel)}
    alone = config.model_dump(mode="json", exclude=set(sections))
    page = SETTINGS + section("Without a section", config, alone)
    for name, value in sections.items():
        page += section(name, value, {name: value.model_dump(mode="json")})
    return page


def section(title: str, settings: BaseModel, defaults: dict[str, Any]) -> str:
    """A section of the page: the docstring of the settings' class, and the defaults as YAML."""
    kind = f"{type(settings).__module__}.{type(settings).__name__}"
    return SECTION.format(title=title, kind=kind, defaults=write_document(defaults))
