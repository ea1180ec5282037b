"""Statements whose text is our own, since a measurement said so; all others are the ORM's.

Only `lifecycle` calls them, which knows what they mean.
"""

from cq.statements.claims import claim
from cq.statements.dialect import batches
from cq.statements.ends import End, finish_many
from cq.statements.inserts import insert, insert_many

__all__ = ["End", "batches", "claim", "finish_many", "insert", "insert_many"]
