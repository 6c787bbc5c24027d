"""The table of mixers and tasks: `python -m train.results`."""

from train.results.table import Claim, Column, Row, Table

__all__ = ["Claim", "Column", "Row", "Table"]
