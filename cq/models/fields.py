"""What tasks keep in columns of a special kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models.fields.related_descriptors import ReverseManyToOneDescriptor
from django.utils.functional import cached_property

from cq import serial, workflow
from cq.payload import Decoder, Encoder
from cq.signature import Later

_EMPTY: dict[str, Callable[[], Any]] = {"[]": list, "{}": dict, "null": lambda: None}
_decode = Decoder().decode


class PayloadField(models.JSONField):
    """JSON plus datetime, date, time, timedelta, Decimal and UUID, which come back as they went."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("encoder", Encoder)
        kwargs.setdefault("decoder", Decoder)
        super().__init__(*args, **kwargs)

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        """As inherited, without a decoder of its own for each value: a row has six, most of them empty."""
        if type(value) is not str or self.decoder is not Decoder:
            return super().from_db_value(value, expression, connection)
        if value in _EMPTY:
            return _EMPTY[value]()
        try:
            return _decode(value)
        except json.JSONDecodeError:
            return value

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "cq.models.PayloadField", args, kwargs


if TYPE_CHECKING:
    from django.db.models.fields.related_descriptors import RelatedManager

    from cq.models.task import Task

    class Subtasks(RelatedManager[Task[Any]]):
        """`task.subtasks`, as type checkers see it."""

        def __call__(  # type: ignore[override]  # Django's own takes a manager's name alone
            self, f: Later, items: Iterable[Any]
        ) -> int:
            """A child for each item, in batches; a tuple is an argument list. Returns their number."""


class SubtasksDescriptor(ReverseManyToOneDescriptor):  # type: ignore[type-arg]  # not at run time
    """`task.subtasks` are its subtasks; `task.subtasks(f, iterable)` makes more of them."""

    @cached_property
    def related_manager_cls(self) -> type[Any]:
        base: type[Any] = super().related_manager_cls

        class Subtasks(base):  # type: ignore[misc]  # made at run time
            def __call__(
                self, f: Later | None = None, items: Iterable[Any] = (), *, manager: Any = None
            ) -> Any:
                if f is None:
                    return super().__call__(manager=manager)
                return serial.door(workflow.subtasks, self.instance, f, items)

        return Subtasks


class ParentKey(models.ForeignKey):  # type: ignore[type-arg]  # not at run time
    """A ForeignKey whose other side can be called; to migrations, a ForeignKey."""

    related_accessor_class = SubtasksDescriptor

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.ForeignKey", args, kwargs
