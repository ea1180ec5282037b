"""Django's admin: tasks and workers to look at, repeating tasks to make and change."""

from cq.admin import outcomes, repeating, tasks

__all__ = ("outcomes", "repeating", "tasks")
