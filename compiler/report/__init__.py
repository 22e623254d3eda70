"""The report of a compressed model: one page that needs no other file, for a browser or a screen reader."""

from ._page import report_page, write_report

__all__ = ["report_page", "write_report"]
