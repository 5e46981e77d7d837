"""The published tables beside what has been run here."""

from dfmamba.reproduce.published import TABLES, Group, PublishedTable, Row
from dfmamba.reproduce.results import RunResult, read_results
from dfmamba.reproduce.table import Filled, fill

__all__ = [
    "TABLES",
    "Filled",
    "Group",
    "PublishedTable",
    "Row",
    "RunResult",
    "fill",
    "read_results",
]
