"""One HTML page that needs no other file: headings, lines of text, tables, figures."""

import base64
import io
from html import escape
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from utils import files

STYLE = """body { font: 15px/1.45 sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 0.8em 0; font-variant-numeric: tabular-nums }
td, th { border-bottom: 1px solid #ddd; padding: 0.2em 0.8em 0.2em 0; text-align: left; font-weight: normal }
th { color: #666 } img { max-width: 100% } pre { white-space: pre-wrap; color: #444 }"""


class HtmlPage:
    """Whatever is put on it is escaped: names of files and objects are somebody else's."""

    def __init__(self, title: str):
        self.title = title
        self.parts = [f"<h1>{escape(title)}</h1>"]

    def section(self, heading: str) -> None:
        self.parts.append(f"<h2>{escape(heading)}</h2>")

    def lines(self, lines: list[str]) -> None:
        self.parts.append(f"<pre>{escape(chr(10).join(lines))}</pre>")

    def table(self, table: pd.DataFrame) -> None:
        self.parts.append(
            table.to_html(
                index=False, border=0, na_rep="", float_format=lambda number: f"{number:.4g}", escape=True
            )
        )

    def figure(self, figure: Figure) -> None:
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=110)
        self.parts.append(
            f'<img src="data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}" alt="">'
        )

    def write(self, path: Path) -> None:
        title = f"<title>{escape(self.title)}</title>"
        style = f"<style>{STYLE}</style>"
        head = f'<!doctype html><html lang="en"><head><meta charset="utf-8">{title}{style}</head>'
        with files.whole(path) as temporary:
            temporary.write_text(f"{head}<body>{chr(10).join(self.parts)}</body></html>\n", encoding="utf-8")
