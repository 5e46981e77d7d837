"""The published tables beside what has been run here."""

from studies.published.published import TABLES, Group, PublishedTable, Row
from studies.published.results import RunResult, read_results
from studies.published.table import Filled, fill

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
