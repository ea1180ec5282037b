"""A call to make later: which function, with which arguments and options, checked when it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from cq import payload, registry
from cq.conf import settings
from cq.exceptions import InvalidCall, InvalidOption, UnknownTask
from cq.options import ContainerOptions, Options, changed, check_known, restored
from cq.registry import Definition

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, repr=False)
class Signature(Generic[R_co]):
    """A call to make later. Made by `f.s(1, 2)`; its result will be an `R_co`."""

    definition: Definition
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: Options
    takes_result: bool = False
    """Its predecessor's result, read when it runs, comes before its own arguments."""

    def using(self, **options: Any) -> Signature[R_co]:
        """A copy with other options."""
        return dataclasses.replace(self, options=self.options.using(options))

    def __repr__(self) -> str:
        names = self.definition.names[int(self.takes_result) :]
        args, kwargs = masked(self.args, self.kwargs, self.options.sensitive, names)
        given = [repr(value) for value in args]
        given += [f"{name}={value!r}" for name, value in kwargs.items()]
        return f"<{self.definition.name}.s({', '.join(given)})>"


@dataclass(frozen=True, repr=False)
class Container(Generic[R_co]):
    """A group or chain of calls to make later: one task that is never executed, over its members."""

    kind: Literal["group", "chain"]
    members: tuple[Signature[Any] | Container[Any], ...]
    options: Options = dataclasses.field(default_factory=Options)

    def __post_init__(self) -> None:
        for member in self.members:
            if not isinstance(member, Signature | Container):
                raise InvalidCall(
                    f"{self.kind}() takes signatures, f.s(1, 2), groups and chains; not {member!r}."
                )

    def __repr__(self) -> str:
        return f"<{self.kind} of {len(self.members)}>"

    def chosen(self, given: Mapping[str, Any]) -> Options:
        """Its options with what `using()` was given, checked. Raises InvalidOption."""
        known = ContainerOptions.__optional_keys__
        for name in given:
            if name not in known:
                raise InvalidOption(
                    f"{name!r} says nothing of a {self.kind}, which is never executed: give it to "
                    f"its members. A {self.kind} has {', '.join(sorted(known))}."
                )
        return self.options.using(given)


class Function(Protocol):
    """What stands for a function where a call is made later: a task function, with its options."""

    @property
    def definition(self) -> Definition: ...
    @property
    def options(self) -> Options: ...


Later = Function | Signature[Any] | Container[Any] | str


@dataclass(frozen=True, eq=False)
class Form:
    """What is the same for calls that differ in nothing but their arguments."""

    name: str
    options: Options
    kept: dict[str, Any]
    """Options that have no column and are not the function's own."""
    container: str = ""
    members: tuple[Call, ...] = ()
    passes_result: bool = False


class Call(NamedTuple):
    """A signature whose arguments were bound and checked: what a row can be made of."""

    form: Form
    args: list[Any]
    kwargs: dict[str, Any]

    def columns(self) -> dict[str, Any]:
        """What a row says wherever in the graph it stands; as JSON, a signature kept on a row.

        Besides columns, `expires` and `run_after`, which are counted from when the row is made.
        """
        form, options = self.form, self.form.options
        return {
            "func_name": form.name,
            "args": self.args,
            "kwargs": self.kwargs,
            "label": options.label,
            "meta": dict(options.meta),
            "queue": options.queue,
            "priority": options.priority,
            "atomic": options.atomic,
            "rerun_lost": options.rerun_lost,
            "fail_fast": options.fail_fast,
            "force_chain": options.force_chain,
            "retries": options.retries_allowed,
            "timeout": options.seconds_allowed,
            "result_ttl": options.kept_for,
            "options": form.kept,
            "container": form.container,
            "passes_result": form.passes_result,
            "members": [member.columns() for member in form.members],
            "run_after": options.run_after,
            "expires": options.expires,
        }


def signature(
    f: Later, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Signature[Any] | Container[Any]:
    """What `subtask(f, …)` and its like were given, in either style.

    `f, *args, **kwargs`; or `f, args_tuple, kwargs_dict`: a tuple in second place *is* the
    argument list. With a signature for `f`, further arguments stand before its own.
    """
    args, kwargs = _styles(args, kwargs)
    if isinstance(f, Container):
        _check_none(f, args or kwargs)
        return f
    if isinstance(f, Signature):
        return dataclasses.replace(f, args=(*args, *f.args), kwargs={**f.kwargs, **kwargs})
    if isinstance(f, str):
        definition = registry.get(f)
        return Signature(definition, tuple(args), kwargs, definition.options)
    if not isinstance(getattr(f, "definition", None), Definition):
        raise InvalidCall(f"{f!r} is not a task function: decorate it with @task.")
    return Signature(f.definition, tuple(args), kwargs, f.options)


def call(signed: Signature[Any] | Container[Any], before: int = 0) -> Call:
    """Bind and check the arguments, and look whether somebody listens to the queue.

    `before` is the number of arguments that are put in front when it is made (errorbacks: 1).
    Raises InvalidCall where they do not fit, NotSerializable where JSON can't hold them,
    UnknownQueue.
    """
    if before and isinstance(signed, Container):
        raise no_arguments(signed)
    return Call(_form(signed), *_arguments(signed, (), before))


def calls(f: Later, items: Iterable[Any]) -> Iterator[Call]:
    """One `call()` for each item: a tuple is an argument list, anything else the one argument."""
    signed = form = None
    for item in items:
        if signed is None or form is None:
            signed = signature(f, (), {})
            form = _form(signed)
        args = item if isinstance(item, tuple) else (item,)
        yield Call(form, *_arguments(signed, args))


def _form(signed: Signature[Any] | Container[Any]) -> Form:
    if isinstance(signed, Container):
        members = tuple(call(member) for member in signed.members)
        return Form(f"cq.{signed.kind}", signed.options, {}, signed.kind, members)
    definition = signed.definition
    check_known(signed.options.queue, registry.queues())
    kept = changed(signed.options, definition.options)
    return Form(definition.name, signed.options, kept, passes_result=signed.takes_result)


def _arguments(
    signed: Signature[Any] | Container[Any], first: tuple[Any, ...], before: int = 0
) -> tuple[list[Any], dict[str, Any]]:
    """Those of a call, of which `first` are given only now."""
    if isinstance(signed, Container):
        _check_none(signed, first)
        return [], {}
    args, kwargs, definition = (*first, *signed.args), signed.kwargs, signed.definition
    before += signed.takes_result
    if kwargs or 1 + before + len(args) not in definition.by_position:
        try:
            definition.signature.bind(None, *[None] * before, *args, **kwargs)
        except TypeError as error:
            by = ("errorback() gives it the error", "then() gives it the result")
            hint = f" ({by[signed.takes_result]} first.)" if before else ""
            raise InvalidCall(f"{definition.name}: {error}.{hint}") from None
    return payload.arguments(args, kwargs, definition.names[before:], settings().max_payload)


def _check_none(container: Container[Any], given: Any) -> None:
    if given:
        raise InvalidCall(f"A {container.kind} takes no arguments: give them to its members.")


def taking_result(signed: Signature[Any] | Container[Any]) -> Signature[Any]:
    """The same call with its predecessor's result as first argument. Raises InvalidCall."""
    if isinstance(signed, Container):
        raise no_arguments(signed)
    return dataclasses.replace(signed, takes_result=True)


def no_arguments(container: Container[Any]) -> InvalidCall:
    """What is wrong with giving a group or chain a result, or an error."""
    return InvalidCall(
        f"then() and errorback() give an argument, and a {container.kind} takes none: use "
        "chain(), or a task function that makes it."
    )


def has_secrets(call_or_task: Any, sensitive: Iterable[str], names: Sequence[str]) -> bool:
    """Whether a sensitive argument was given."""
    given = (*names[: len(call_or_task.args)], *call_or_task.kwargs)
    return any(name in given for name in sensitive)


def hidden(call_or_task: Any, sensitive: Iterable[str], names: Sequence[str]) -> list[str]:
    """The values of the sensitive arguments, as text: what must not appear in errors and logs."""
    wanted = set(sensitive)
    return [
        str(leaf)
        for name, value in _named(call_or_task.args, call_or_task.kwargs, names)
        if name in wanted
        for leaf in _leaves(value)
    ]


def _leaves(value: Any) -> Iterable[Any]:
    """What a person would recognise in `value`: its text and numbers, not its keys."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            yield from _leaves(entry)
    elif value is not None and not isinstance(value, bool):
        yield value


def masked(
    args: Sequence[Any], kwargs: Mapping[str, Any], sensitive: Iterable[str], names: Sequence[str]
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments with the sensitive ones shown as `***`."""
    wanted = set(sensitive)
    shown = [
        "***" if i < len(names) and names[i] in wanted else value for i, value in enumerate(args)
    ]
    return shown, {name: "***" if name in wanted else value for name, value in kwargs.items()}


def shown(
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    before: int = 0,
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a row with the sensitive ones as `***`; `before` of them come when it runs."""
    try:
        definition = registry.get(name)
    except UnknownTask:
        # Nobody knows the names of the positional ones, nor, unless the row keeps them, which
        # names are sensitive.
        hides = options.get("sensitive", list(kwargs))
        return ["***"] * len(args), masked((), kwargs, hides, ())[1]
    sensitive = restored(definition.options, options).sensitive
    return masked(args, kwargs, sensitive, definition.names[before:])


def without_secrets(kept: Mapping[str, Any], before: int = 0) -> dict[str, Any]:
    """A signature that is kept on a row, and its members, with the sensitive arguments as `***`."""
    before += kept["passes_result"]
    args, kwargs = shown(kept["func_name"], kept["args"], kept["kwargs"], kept["options"], before)
    members = [without_secrets(member) for member in kept["members"]]
    return {**kept, "args": args, "kwargs": kwargs, "members": members}


def lacks_secrets(kept: Mapping[str, Any], before: int = 0) -> bool:
    """Whether a sensitive argument of it, or of a member, was overwritten: it can't run as it is."""
    try:
        definition = registry.get(kept["func_name"])
    except UnknownTask:  # or a group or chain
        return any(lacks_secrets(member) for member in kept["members"])
    wanted = restored(definition.options, kept["options"]).sensitive
    names = definition.names[before + kept["passes_result"] :]
    given = _named(kept["args"], kept["kwargs"], names)
    values = [value for name, value in given if name in wanted]
    return bool(values) and all(value == "***" for value in values)


def _named(
    args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]
) -> Iterable[tuple[str, Any]]:
    yield from zip(names, args, strict=False)
    yield from kwargs.items()


def _styles(
    args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    if args and isinstance(args[0], tuple):
        if len(args) == 1:
            return args[0], kwargs
        if len(args) == 2 and isinstance(args[1], Mapping) and not kwargs:
            return args[0], args[1]
    return args, kwargs
