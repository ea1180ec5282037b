"""Random workflows: a program is JSON, which tasks interpret node by node.

A program has `acts`, done in one transaction by whoever starts it, and `later`: what is done to it
from outside. A node is a task, a group or a chain; what it leaves out is as usual:

    acts        in order: {"do": …, "node": …}, see `_Body`; `on` is the index of the act that made a
                task, or -1: the running task itself
    end         "ok"; "ring": returns itself, an error; "revoke_self", "revoke_parent"; or an index:
                returns what that act made
    fails       how many of its runs raise before that
    retries, loose (not atomic), again (rerun_lost), force (force_chain), fail_fast, asks (raises Retry)
    pause       milliseconds, before its acts and after them
    kind        "group" or "chain", then `members` instead of all these

A task is known by its label: `program:/act/act…`; what a later run of a task makes, as `…~run/act`.
`tests/faults/reference.py` says how each has to end.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from cq import Retry, chain, group, task
from cq.models import Task
from tests.app.models import Effect

COMMITTED = {"SUCCESS", "WAITING"}  # outcomes of a run
CUT = {"REVOKED", "LOST", "QUEUED"}  # of one that may not have come to its end


# Running them.


def start(program, name):
    """Begin the program: all its first tasks, in one transaction."""
    with transaction.atomic():
        _Body(None, f"{name}:").act(program["acts"])


def go_on(program, acts, name):
    """Do more acts, on what the program has made."""
    body = _Body(None, f"{name}:")
    for i in range(len(program["acts"])):
        body.made[i] = Task.objects.filter(label=f"{name}:/{i}").first()
    body.act(acts, len(program["acts"]))


@task("programs.step", retry_delay=0)
def step(cqt, node):
    return run(cqt, node)


@task("programs.loose_step", atomic=False, retry_delay=0)
def loose_step(cqt, node):
    return run(cqt, node)


@task("programs.given_step", retry_delay=0)
def given_step(cqt, given, node):
    """`given` is the predecessor's result, or the error of what failed."""
    return run(cqt, node, given)


@task("programs.loose_given_step", atomic=False, retry_delay=0)
def loose_given_step(cqt, given, node):
    return run(cqt, node, given)


def pause(milliseconds):
    time.sleep(milliseconds / 1000)


def run(cqt, node, *given):
    Effect.objects.create(name=str(cqt.id))
    before, after = node.get("pause", (0, 0))
    pause(before)
    outcomes = [attempt["outcome"] for attempt in cqt.attempts]
    body = _Body(cqt, _prefix(node, cqt.label, outcomes))
    body.act(node.get("acts", ()))
    pause(after)
    if sum(one in ("RETRY", "FAILURE") for one in outcomes) < node.get("fails", 0):
        raise Retry(0) if node.get("asks") else ValueError("as the program says")
    return body.end(node.get("end", "ok"), given)


class _Body:
    def __init__(self, cqt, name):
        self.cqt = cqt
        self.name = name
        self.made = {-1: cqt}

    def act(self, acts, start=0):
        for number, act in enumerate(acts, start):
            do = getattr(self, f"do_{act['do']}")
            self.made[number] = do(act, f"{self.name}/{number}")

    def on(self, act):
        return self.made[act["on"]]

    def do_subtask(self, act, label):
        """A child; of whoever starts the program, a task without a parent."""
        if self.cqt is None:
            return self.do_delay(act, label)
        return self.cqt.subtask(later(act["node"], label))

    def do_delay(self, act, label):
        """A task without a parent, unless it is returned."""
        signature = later(act["node"], label)
        if "kind" in act["node"]:
            return signature.delay()
        return function(act["node"], label).delay(act["node"])

    def do_chain(self, act, label):
        return self.on(act).chain(later(act["node"], label))

    def do_then(self, act, label):
        return self.on(act).then(function(act["node"], label, given=True), act["node"])

    def do_errorback(self, act, label):
        self.on(act).errorback(function(act["node"], label, given=True), act["node"])

    def do_late(self, act, label):
        """A subtask of its parent, made by a running child."""
        return self.cqt.parent.subtask(later(act["node"], label))

    def do_revoke(self, act, label):
        self.on(act).revoke()

    def do_revoke_sibling(self, act, label):
        """What another act of whoever made this one has made, if it is there."""
        wanted = f"{self.cqt.label.rpartition('/')[0]}/{act['to']}"
        for sibling in Task.objects.filter(label=wanted).order_by("id"):
            sibling.revoke()

    def end(self, end, given):
        if end == "revoke_self":
            self.cqt.revoke()
        if end == "revoke_parent":
            self.cqt.parent.revoke()
        if end == "ring":
            return self.cqt
        if isinstance(end, int):
            return self.made[end]
        if not given:
            return self.cqt.label
        if self.cqt.is_errorback:
            return [self.cqt.label, self.cqt.previous.label]
        return [self.cqt.label, given[0]]


def function(node, label, *, given=False):
    """The task function of a node, with the node's options."""
    names = (loose_step, loose_given_step) if node.get("loose") else (step, given_step)
    return names[given].using(
        label=label,
        retries=node.get("retries", 0),
        rerun_lost=node.get("again", False),
        **_options(node),
    )


def later(node, label):
    """The call of a node, to be made later."""
    if "kind" not in node:
        return function(node, label).s(node)
    members = [later(member, f"{label}/{i}") for i, member in enumerate(node["members"])]
    container = group if node["kind"] == "group" else chain
    return container(*members).using(label=label, **_options(node))


def _options(node):
    return {"force_chain": node.get("force", False), "fail_fast": node.get("fail_fast", False)}


# Reading them.


@dataclass(frozen=True)
class Run:
    """One run of a task: the acts that it has done, or may have, where it is not whole."""

    prefix: str  # of the labels of what it made
    acts: dict[int, dict[str, Any]]
    outcome: str
    is_last: bool  # it was not to run again then
    returns: frozenset[int] = frozenset()
    """Where it returned what an act made: that act, and those that it stands behind."""

    @property
    def decides(self):
        return self.is_last and self.outcome in COMMITTED

    @property
    def is_whole(self):
        return self.outcome not in CUT


def runs(node, label, outcomes):
    """The runs of a task that left something behind. A failed one's errorbacks of itself are kept."""
    for i, outcome in enumerate(outcomes):
        prefix = _prefix(node, label, outcomes[:i])
        is_end = i == len(outcomes) - 1
        is_last = is_end and outcome not in {"RETRY", "QUEUED"}
        acts = dict(enumerate(node.get("acts", ())))
        made = {i: act for i, act in acts.items() if "node" in act}
        if outcome in COMMITTED:
            end = node.get("end")
            returns = frozenset(line(acts, end) if isinstance(end, int) else ())
            yield Run(prefix, made, outcome, is_last, returns)
        elif node.get("loose"):
            yield Run(prefix, made, outcome, is_last)
        elif is_end and "FAILURE" in outcomes:
            own = {
                i: act for i, act in made.items() if act["do"] == "errorback" and act["on"] == -1
            }
            yield Run(prefix, own, "FAILURE", is_last)


def _prefix(node, label, outcomes):
    """Of what a run makes, given those of the earlier ones: a number tells it from what they made."""
    number = sum(bool(node.get("loose")) or one in COMMITTED for one in outcomes)
    return f"{label}~{number}" if number else label


def effects(node, outcomes):
    """How many effects its runs have left, or may have."""
    if not node.get("loose"):
        committed = sum(one in COMMITTED for one in outcomes)
        return range(committed, committed + 1)
    return range(sum(one not in CUT for one in outcomes), len(outcomes) + 1)


def line(acts, i):
    """The act and those that it stands behind, back to the first that this task has made."""
    found = [i]
    while acts[found[-1]].get("on", -1) != -1:
        found.append(acts[found[-1]]["on"])
    return found


def threats(node, label):
    """What tasks of this program may revoke while it runs; labels without the numbers of runs."""
    for i, act in enumerate(node.get("acts", ())):
        if act["do"] == "revoke":
            yield f"{label}/{act['on']}"
        if act["do"] == "revoke_sibling":
            yield f"{label.rpartition('/')[0]}/{act['to']}"
        if "node" in act:
            yield from threats(act["node"], f"{label}/{i}")
    for i, member in enumerate(node.get("members", ())):
        yield from threats(member, f"{label}/{i}")


# Making them up.


def random_program(seed):
    """A program of about 3 to 25 tasks, up to 4 levels deep: always the same one for a seed."""
    return _Author(random.Random(seed)).program()


DEPTH = 4
MAKERS = ("subtask", "delay", "chain", "then")  # acts that others may refer to


class _Author:
    def __init__(self, rng):
        self.rng = rng
        self.left = rng.randint(3, 25)
        self.later = rng.choices(["", "retry", "add"], [4, 4, 2])[0]

    def often(self, chance):
        return self.rng.random() < chance

    def program(self):
        acts = self.acts({}, 0, "top", self.rng.randint(1, 5))
        program = {"acts": acts, "later": []}
        if self.often(0.2):
            program["later"].append({"do": "revoke", "when": self.rng.random(), **self.pick()})
        if self.later == "retry":
            program["later"].append({"do": "retry", **self.pick()})
        if self.later == "add":
            on = self.rng.choice([i for i, act in enumerate(acts) if act["do"] in MAKERS])
            more = [{"do": do, "on": on, "node": self.leaf()} for do in ("chain", "errorback")]
            program["later"].append({"do": "add", "acts": more})
        return program

    def pick(self):
        return {"pick": self.rng.randrange(1000) / 1000}

    def leaf(self):
        """A task that makes nothing."""
        node = self.options({}, behind=True)
        self.left -= 1
        return self.failures(node)

    def node(self, depth, place, *, behind=False):
        """`place`: "top" has no parent; "below" has one; "apart": nobody knows whether it has."""
        if depth < DEPTH and self.left > 2 and self.often(0.15):
            return self.container(depth, place, behind=behind)
        self.left -= 1
        node = self.options({}, behind=behind)
        if self.often(0.3):
            node["loose"] = True
            if self.often(0.3):
                node["again"] = True
        self.failures(node)
        if self.often(0.5):
            node["pause"] = [self.rng.choice([0, 1, 5, 20]), self.rng.choice([0, 1, 5, 20])]
        if depth < DEPTH and self.left > 0 and self.often(0.9 - 0.1 * depth):
            if self.often(0.25):
                node["fail_fast"] = True
            node["acts"] = self.acts(node, depth, place, self.rng.randint(1, 5))
        self.ending(node, place)
        return node

    def options(self, node, *, behind):
        if behind and self.often(0.35):
            node["force"] = True
        return node

    def failures(self, node):
        if self.often(0.3):
            node["fails"] = self.rng.randint(1, 2)
            node["retries"] = self.rng.choice([0, 0, 1, 2])
            node["asks"] = self.often(0.3)
        return node

    def container(self, depth, place, *, behind):
        self.left -= 1
        node = self.options({"kind": self.rng.choice(["group", "chain"])}, behind=behind)
        if self.often(0.25):
            node["fail_fast"] = True
        is_chain = node["kind"] == "chain"
        members = range(self.rng.choice([0, 1, 2, 2, 3]))
        node["members"] = [
            self.node(depth + 1, "below", behind=is_chain and i > 0) for i in members
        ]
        return node

    def ending(self, node, place):
        made = [
            i
            for i, act in enumerate(node.get("acts", ()))
            if act["do"] in MAKERS and first(node["acts"], i) != -1
        ]
        apart = [i for i in made if node["acts"][first(node["acts"], i)]["do"] == "delay"]
        if (apart and self.often(0.8)) or (made and self.often(0.1)):
            node["end"] = self.rng.choice(apart or made)
        elif self.often(0.03):
            node["end"] = self.rng.choice(["ring", "revoke_self"])
        elif place == "below" and self.often(0.03):
            node["end"] = "revoke_parent"

    def acts(self, node, depth, place, count):
        acts = []
        for _ in range(count):
            if self.left > 0 or not acts:
                acts.append(self.act(node, acts, depth, place))
        return acts

    def act(self, node, acts, depth, place):
        is_start = depth == 0 and not node and place == "top"  # of the program
        made = [i for i, act in enumerate(acts) if act["do"] in MAKERS]
        if node.get("loose"):  # only one link behind itself, which is what it can take back
            made = [i for i in made if first(acts, i) != -1]
        self_too = [] if is_start or place == "apart" else [-1]
        weights = {
            "subtask": 15 if node.get("fail_fast") else 6,
            "chain": 4 if made or self_too else 0,
            "then": 2 if made or self_too else 0,
            "errorback": 3 if made or not is_start else 0,
            "delay": 0 if is_start else 0.8,
            "late": 1.2 if place == "below" else 0,
            "revoke": 0.5 if made else 0,
            "revoke_sibling": 0 if is_start else 0.6,
        }
        do = self.rng.choices(list(weights), list(weights.values()))[0]
        if do in ("subtask", "delay", "late"):
            below = {"subtask": "top" if is_start else "below", "delay": "apart", "late": "below"}
            made = self.node(depth + 1, below[do])
            if node.get("fail_fast") and "kind" not in made and self.often(0.3):
                made |= {"fails": 2, "retries": 0}
            return {"do": do, "node": made}
        if do == "revoke_sibling":
            return {"do": do, "to": self.rng.randrange(4)}
        if do == "revoke":
            return {"do": do, "on": self.rng.choice(made)}
        if do == "errorback":
            on = self.rng.choice(made or [-1]) if is_start or self.often(0.6) else -1
            if self.later or self.often(0.6):
                return {"do": do, "on": on, "node": self.leaf()}
            return {"do": do, "on": on, "node": self.task(depth + 1, "apart")}
        on = (
            self.rng.choice(made) if made and self.often(0.8) else self.rng.choice(self_too or made)
        )
        below = self.place_behind(acts, on, place, is_start=is_start)
        make = self.task if do == "then" else self.node
        return {"do": do, "on": on, "node": make(depth + 1, below, behind=True)}

    def task(self, depth, place, *, behind=False):
        """No group or chain."""
        while "kind" in (node := self.node(depth, place, behind=behind)):
            pass
        return node

    def place_behind(self, acts, on, place, *, is_start):
        begin = first(acts, on)
        if begin == -1:
            return place
        if acts[begin]["do"] == "delay":
            return "apart"
        return "top" if is_start else "below"


def first(acts, on):
    """The act that the line of successors of `on` begins with; -1: the running task itself."""
    if on == -1:
        return -1
    begin = line(acts, on)[-1]
    return acts[begin].get("on", begin)
