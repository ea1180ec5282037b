"""The sequential reference: which tasks a program (tests/app/programs.py) makes, and how they end.

Where a revoke, fail_fast or a kill races with a run, several ends are right: what was seen is taken,
if it is one of them, and what follows is computed from that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from tests.app.programs import COMMITTED, effects, line, runs, threats

ANSWERED = {"FAILURE", "INCOMPLETE", "LOST"}  # by errorbacks
ERROR = {*ANSWERED, "REVOKED"}


@dataclass(eq=False)
class Job:
    """A task that the program makes. It `counts` for its parent if the run that decides made it."""

    label: str
    node: dict
    do: str
    parent: Job | None = None
    previous: Job | None = None
    counts: bool = True
    is_void: bool = False  # behind a run of a task that ran again
    together: bool = True  # made in one transaction with what it stands behind
    seen: object = None
    returned: Job | None = None
    ahead: str = "SUCCESS"  # the status of what it stands behind
    under: list[Job] = field(default_factory=list)


class Reference:
    """`before`: what was seen before `retried` was; `slack`: seconds that fail_fast may take."""

    def __init__(self, program, seen, *, before=(), retried="", revoked=(), killed=False, slack=0):
        self.seen, self.before, self.retried = seen, dict(before), retried
        self.revoked, self.killed, self.slack = set(revoked), killed, slack
        self.jobs, self.problems, self.threatened = {}, [], {*revoked, *threats(program, "")}
        self.walk(Job("", program, "start"), ("SUCCESS",))
        self.problems += [f"{label} should not exist" for label in set(seen) - set(self.jobs)]
        for job in self.jobs.values():
            self.check(job)

    def differs(self, label, what, found, wanted):
        if found != wanted:
            self.problems.append(f"{label}: {what} is {found}, and not {wanted}")

    def walk(self, maker, outcomes):
        for one in runs(maker.node, maker.label, outcomes):
            run = replace(one, is_last=one.is_last and not self.waits_anew(maker))
            made = {-1: maker}
            for i, act in run.acts.items():
                if "on" not in act or made.get(act["on"]) is not None:
                    made[i] = self.act(maker, run, i, made.get(act.get("on")))
            maker.returned = made.get(maker.node["end"]) if run.returns else None

    def act(self, maker, run, i, on):
        act, parent = run.acts[i], maker if maker.do != "start" else None
        job = Job(f"{run.prefix}/{i}", act["node"], act["do"], parent, counts=run.decides)
        job.together = not maker.node.get("loose")
        job.previous, like = on, maker if act["do"] == "late" else on
        if like is not None:
            job.parent, job.counts = like.parent, like.counts
        if act["do"] == "errorback":
            return self.errorbacks(job, run.is_whole, is_meant=run.is_last or on is not maker)
        if run.acts[line(run.acts, i)[-1]]["do"] == "delay":
            job.parent = maker if i in run.returns else None
        job.is_void = (on is maker and not run.is_last) or (on is not None and on.is_void)
        job.is_void &= getattr(self.before.get(job.label), "status", "") != "SUCCESS"
        job.counts &= not job.is_void
        return self.add(job, run.is_whole)

    def errorbacks(self, job, is_sure, *, is_meant):
        """One for each final failure; from the second on, their labels have numbers."""
        labels = [label for label in self.seen if label.partition("#")[0] == job.label]
        old, failed = sum(label in self.before for label in labels), job.previous
        is_new = is_meant and failed.seen.status in ANSWERED
        most = old + (is_new and (not old or self.runs_anew(failed)))
        if not (most if is_sure else old) <= len(labels) <= most:
            self.differs(job.label, f"errorbacks of {failed.label}", len(labels), most)
        for label in labels:
            self.add(replace(job, label=label, under=[]), True)

    def add(self, job, is_sure):
        if (seen := self.seen.get(job.label)) is None:
            return self.differs(job.label, "being there", not is_sure, True)
        self.jobs[job.label], job.seen = job, seen
        (job.parent.under if job.parent else []).append(job)
        if job.previous and job.do != "errorback":
            job.ahead = job.previous.seen.status
        behind, is_filled = None, seen.status in {"SUCCESS", "INCOMPLETE"}
        for i, node in enumerate(job.node.get("members", ())):
            made = self.add(Job(f"{job.label}/{i}", node, "member", job, behind), is_filled)
            behind = made if job.node["kind"] == "chain" else None
        self.walk(job, seen.outcomes)
        return job

    def runs_anew(self, job):
        """It was not there before; or it is, or follows from, what was retried, and ended badly."""
        before, above = self.before.get(job.label), job.parent
        if before is None or job.label == self.retried:
            return True
        if before.status == "SKIPPED" and self.runs_anew(job.previous):
            return True
        counted = above is not None and (job.counts or job.is_void)
        if not counted or before.status not in {*ERROR, "SKIPPED"}:
            return False
        is_kept = "kind" in above.node or self.before[above.label].status == "INCOMPLETE"
        return is_kept and not above.is_void and self.runs_anew(above)

    def waits_anew(self, job):
        """It was to run again, and has not begun: no run that it had is its last."""
        before = self.before.get(job.label)
        if before is None or before.status == "INCOMPLETE" or not self.runs_anew(job):
            return False
        return len(job.seen.outcomes) == len(before.outcomes)

    def expect(self, job, *, fail_fast=True):
        """The right statuses, the outcomes of new attempts, and the statuses that come of a race."""
        may, is_over = self.may(job, fail_fast), job.is_void
        if job.ahead == "REVOKED" and job.together and self.runs_anew(job.previous):
            right, outcomes, others = self.expect(job.previous, fail_fast=fail_fast)
            is_over |= right == {"REVOKED"} and outcomes != [] and not others  # by itself
        if is_over or (job.ahead != "SUCCESS" and not job.node.get("force")):
            return {"REVOKED"} if is_over else {"SKIPPED", *may}, [], may
        outcomes = _outcomes(job.node, self.before.get(job.label))
        if outcomes and outcomes[-1] != "DONE":
            return {outcomes[-1], *may}, outcomes, may
        ends = [one.seen.status in ERROR for one in job.under if one.counts]
        ends += [job.returned.seen.status != "SUCCESS"] if job.returned else []
        return {"INCOMPLETE" if any(ends) else "SUCCESS", *may}, outcomes, may

    def may(self, job, fail_fast):
        causes = [
            one.node.get("end")
            for one in job.under
            if "REVOKED" in one.seen.outcomes or (self.killed and one.seen.status == "REVOKED")
        ]
        is_revoked = (
            (job.parent and (not job.counts or job.parent.seen.status == "REVOKED"))
            or job.ahead == "REVOKED"
            or {job.label, re.sub(r"~\d+", "", job.label)} & self.threatened
            or "revoke_parent" in causes
            or (fail_fast and self.first_error(job) is not None)
        )
        is_lost = self.killed and job.node.get("loose") and not job.node.get("again")
        return {*(["REVOKED"] if is_revoked else []), *(["LOST"] if is_lost else [])}

    def first_error(self, job):
        """When a sibling ended badly for which fail_fast revokes the job."""
        is_spared = job.do == "errorback" or (job.previous and job.node.get("force"))
        fails = not is_spared and job.parent is not None and job.parent.node.get("fail_fast")
        bad = [one for one in (job.parent.under if fails else ()) if one.seen.status in ERROR]
        bad = [one for one in bad if one.counts and one is not job]
        bad = [one for one in bad if one.seen.status in self.expect(one, fail_fast=False)[0]]
        return min((one.seen.finished for one in bad), default=None)

    def check(self, job):
        label, seen, before = job.label, job.seen, self.before.get(job.label)
        if not self.runs_anew(job):
            return self.differs(label, "what had ended", seen, before)
        right, outcomes, may = self.expect(job)
        right = {"REVOKED"} if before is None and label in self.revoked else right
        if seen.status not in right:
            return self.differs(label, f"with {seen.error!r}, it", seen.status, right)
        found = ["DONE" if one in COMMITTED else one for one in seen.outcomes]
        found = [one for one in found[len(before.outcomes) if before else 0 :] if one != "QUEUED"]
        if seen.status in may:  # somewhere on its way
            cut = found[-1:] == [seen.status]
            outcomes = outcomes[: len(found) - cut] + [seen.status] * cut
        if self.killed and seen.status == "REVOKED" and [*found, "REVOKED"] == outcomes:
            outcomes = found  # by itself, and killed before it could note that
        self.differs(label, "its attempts", found, outcomes)
        wanted = effects(job.node, seen.outcomes)
        if self.killed and job.node.get("loose"):
            wanted = range(wanted.start, wanted.stop + self.unnoted(job))
        self.differs(label, "right effects", seen.effects in wanted, True)
        if not before or before.status != "INCOMPLETE" or "kind" in job.node:
            self.check_result(job)
        error = self.first_error(job) if job.counts and job.do in {"subtask", "member"} else None
        if error is not None and (seen.started or 0) > error + self.slack:
            self.differs(label, "its beginning", seen.started, f"before fail_fast, {error}")
        if job.node.get("end") == "revoke_parent" and found[-1:] == ["REVOKED"] and not may:
            self.differs(label, "its parent", job.parent.seen.status, "REVOKED")
        return None

    def unnoted(self, job):
        """How many runs of it a kill may have left without an attempt.

        One of what was revoked by then; and one that may run again and so was claimed ahead, where all
        who could tell that it had begun died with it: it is claimed by itself from then on.
        """
        revoked = sum(
            one.status == "REVOKED" for one in (self.before.get(job.label), job.seen) if one
        )
        return revoked + bool(job.node.get("again"))

    def check_result(self, job):
        wanted, is_group = job.label, job.node.get("kind") == "group"
        if "kind" in job.node:
            members = [one.seen for one in job.under if one.do == "member"]
            wanted = [one.result if one.status == "SUCCESS" else None for one in members]
            wanted = wanted if is_group else [None, *wanted][-1]
        elif job.returned is not None:
            wanted = job.returned.seen.result
        elif job.do == "then":
            wanted = [job.label, job.previous.seen.result]
        elif job.do == "errorback":
            wanted = [job.label.partition("#")[0], job.previous.label]
        if job.seen.status == "SUCCESS" or (is_group and job.seen.status == "INCOMPLETE"):
            self.differs(job.label, "its result", job.seen.result, wanted)


def _outcomes(node, before):
    """Of new attempts of a task that may have failed before; a finished function is not run again."""
    if "kind" in node or (before is not None and before.status == "INCOMPLETE"):
        return []
    failed = sum(one in {"RETRY", "FAILURE"} for one in before.outcomes) if before else 0
    found = []
    for left in range(node.get("retries", 0), -1, -1):
        if node.get("end") != "ring" and failed + len(found) >= node.get("fails", 0):
            return [*found, "REVOKED" if str(node.get("end")).startswith("revoke") else "DONE"]
        found.append("RETRY" if left else "FAILURE")
    return found
