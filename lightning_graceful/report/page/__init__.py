"""One self-contained HTML page of a comparison: no server, no network."""

from lightning_graceful.report.page.render import render_page, write_page

__all__ = ["render_page", "write_page"]
