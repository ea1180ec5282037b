"""What a whole tree shows, its progress and its log; runs that count no more; adoption; pruning; the admin."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cq import chain, execution, group, lifecycle, logs, maintenance, registry, task
from cq.models import LogLine, Task
from tests.app.models import Effect
from tests.unit.flow import fan, forced, job, numbers, total
from tests.unit.running import claim, renewed, run_all, statuses

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)


@pytest.fixture(params=["Redis", "no shared cache"])
def _store(request, settings, clean_redis):
    if request.param == "no shared cache":
        backend = "django.core.cache.backends.locmem.LocMemCache"
        settings.CACHES = {"default": {"BACKEND": backend}}
    yield
    logs.stop()


@task("trees.works")
def works(cqt, done, total=None, fails=False):
    cqt.set_progress(done, total)
    cqt.log(f"works {done}")
    if fails and not cqt.attempts:
        raise ValueError


@task("trees.tree")
def tree(cqt, levels, fails=False):
    cqt.log(f"tree {levels}")
    if levels:
        cqt.subtask(tree, levels - 1, fails)
        cqt.subtask(group(works.s(levels), chain(works.s(-levels), works.s(levels * 10))))
    else:
        cqt.subtask(works, 0, fails=fails)
    cqt.log(f"sent {levels}")


@task("trees.adopts", atomic=False)
def adopts(cqt, kind):
    cqt.log("top")
    if kind == "group":
        return group(works.s(1), chain(works.s(2), group(works.s(3)))).delay()
    return works.delay(1).chain(fan, 2).chain(group(works.s(3))).then(total)


@task("trees.makes_more", atomic=False)
def makes_more(cqt, when):
    Effect.objects.create(name="makes_more")
    cqt.subtask(fan, 1)
    if when == "adopted":
        top = Task.objects.get(func_name="trees.returns_running")
        Task.objects.filter(id=cqt.id).update(parent=top, parent_run=1, depth=1, root_id=top.id)
        lifecycle.move_tree(cqt.id, top.id, 1)
    cqt.subtask(fan, 2)
    cqt.chain(job, 3)


@task("trees.makes_more_atomic")
def makes_more_atomic(cqt):
    cqt.subtask(fan, 1).chain(job, 2)


@task("trees.returns_running")
def returns_running(cqt): ...


@task("trees.for_ever")
def for_ever(cqt, deeper=True):
    return for_ever.delay() if deeper else cqt.subtask(for_ever) and None


@task("trees.attempts", atomic=False, retries=1, retry_delay=0)
def attempts(cqt):
    number = len(cqt.attempts)
    cqt.subtask(works, number, 4)
    cqt.subtask(group(job.s(number)))
    if number == 0:
        execution.execute(claim()[0])
        cqt.chain(job, 10).chain(forced, 11)
        raise ValueError
    cqt.chain(job, 20)


@task("trees.attempts_above", fail_fast=True)
def attempts_above(cqt):
    cqt.subtask(attempts)
    cqt.subtask(job.using(priority=-9), 30)


def messages(made):
    return [line["message"] for line in renewed(made).logs]


def due():
    lifecycle.make_due()
    return run_all()


# -- Progress


def test_progress_goes_down_through_containers():
    made = group(
        chain(works.s(1, 4), works.s(1, 4)), group(works.s(1, 2), group(works.s(1, 2))), group()
    ).delay()
    assert (1.0, 3.0, "") == made.progress  # of the empty one
    rows = {t.member_no: t for t in made.subtasks.all()}
    assert (0.0, 2.0, "") == rows[0].progress
    running = claim(3)
    for one in running:
        Task.objects.filter(id=one.id).update(progress_done=1, progress_total=4)
    # 1 + (1/4 of the first link of 2) + (1/4 and 1/4 of 1 in 1, of 2)
    assert (1 + 0.125 + 0.25, 3.0, "") == made.progress
    for one in running:
        execution.execute(one)
    assert (1 + 0.5 + 1, 3.0, "") == made.progress
    run_all()
    assert (3.0, 3.0, "") == renewed(made).progress


def test_progress_of_odd_numbers_stays_within_bounds():
    made = group(works.s(9, 2), works.s(-5, 2), works.s(3)).delay()
    for one, (done, whole) in zip(claim(3), ((9, 2), (-5, 2), (3, None)), strict=True):
        Task.objects.filter(id=one.id).update(progress_done=done, progress_total=whole)
    assert (1.0, 3.0, "") == made.progress


def test_progress_of_a_large_tree_costs_a_few_queries(django_assert_max_num_queries):
    made = group(*(group(works.s(n), works.s(n)) for n in range(100))).delay()
    with django_assert_max_num_queries(8):
        assert (0.0, 100.0, "") == made.progress


def test_progress_of_a_failed_or_revoked_subtask_is_done():
    made = group(works.s(1), job.s(2), job.s(3)).delay()
    made.subtasks.get(member_no=1).revoke()
    assert (1.0, 3.0, "") == made.progress


# -- Logs


@pytest.mark.usefixtures("_store")
def test_the_log_of_a_tree_has_all_lines_in_one_order():
    made = tree.delay(2)
    run_all()
    found = renewed(made).logs
    expected = {f"tree {n}" for n in range(3)} | {f"sent {n}" for n in range(3)}
    expected |= {f"works {n}" for n in (0, 1, 2, -1, -2, 10, 20)}
    assert (expected, len(expected)) == ({line["message"] for line in found}, len(found))
    assert sorted(line["timestamp"] for line in found) == [line["timestamp"] for line in found]
    origins = {line["message"]: line["origin"] for line in found}
    for one in Task.objects.filter(root=made, func_name="trees.works"):
        assert str(one.id) == origins[f"works {one.args[0]}"]
        assert [f"works {one.args[0]}"] == messages(one)
    assert found == made.log_lines


@pytest.mark.usefixtures("_store")
def test_after_retry_older_lines_are_there_and_none_twice():
    made = tree.delay(1, fails=True)
    run_all()
    before = renewed(made).logs
    assert ("INCOMPLETE", 8) == (made.status, len(before))
    made.retry()
    assert before == renewed(made).logs
    run_all()
    found = renewed(made).logs
    assert ("SUCCESS", 9, before) == (made.status, len(found), found[:8])
    assert "works 0" == found[8]["message"]
    logs.store(made.id)  # again, as a settle that comes late does
    assert found == renewed(made).logs == made.log_lines


@pytest.mark.usefixtures("_store")
@pytest.mark.parametrize("kind", ["group", "chain"])
def test_what_was_adopted_has_its_root_depth_and_lines(kind):
    made = adopts.delay(kind)
    run_all()
    assert "SUCCESS" == renewed(made).status
    assert {made.id} == set(Task.objects.values_list("root_id", flat=True))
    for one in Task.objects.exclude(parent=None):
        assert one.depth == one.parent.depth + 1
    expected = ["top", "works 1", "works 3"] + (["works 2"] if kind == "group" else [])
    assert sorted(expected) == sorted(messages(made))
    assert 0 == LogLine.objects.count()


# -- Adoption


@pytest.mark.parametrize("when", ["alone", "adopted"])
def test_what_is_made_after_an_adoption_belongs_to_the_new_tree(when):
    top = returns_running.using(priority=-9).delay()
    Task.objects.filter(id=top.id).update(status="WAITING", claim_no=1)
    made = makes_more.delay(when)
    run_all()
    root = top.id if when == "adopted" else made.id
    below = Task.objects.exclude(id__in=[made.id, top.id]).exclude(func_name="flow.job", args=[3])
    assert {root} == set(below.values_list("root_id", flat=True))
    for one in below:
        assert one.depth == one.parent.depth + 1
    after = Task.objects.get(func_name="flow.job", args=[3])
    assert (top.id if when == "adopted" else None) == after.parent_id
    assert ["SUCCESS"] == statuses(made)


def test_what_an_atomic_run_made_before_it_was_adopted_follows_it():
    top = returns_running.using(priority=-9).delay()
    Task.objects.filter(id=top.id).update(status="WAITING", claim_no=1)
    made = makes_more_atomic.delay()
    (claimed,) = claim()  # a snapshot from before
    Task.objects.filter(id=made.id).update(parent=top, parent_run=1, depth=1, root_id=top.id)
    execution.execute(claimed)
    run_all()
    assert {top.id} == set(Task.objects.values_list("root_id", flat=True))
    for one in Task.objects.exclude(parent=None):
        assert one.depth == one.parent.depth + 1
    assert ["SUCCESS", "SUCCESS"] == statuses(top, made)


@pytest.mark.parametrize("returned", [True, False])
def test_nobody_goes_deeper_than_he_may(settings, returned):
    settings.CQ_MAX_DEPTH = 4
    made = for_ever.delay(deeper=returned)
    if not returned:
        Task.objects.filter(id=made.id).update(kwargs={"deeper": False})
        registry.get("trees.for_ever").function.__defaults__ = (False,)
    try:
        runs = run_all()
    finally:
        registry.get("trees.for_ever").function.__defaults__ = (True,)
    deepest = Task.objects.order_by("depth").last()
    assert (5, 4, "FAILURE") == (runs, deepest.depth, deepest.status)
    assert "TooDeep: trees.for_ever would be 5 levels below its top task" in deepest.error
    assert ["INCOMPLETE"] == statuses(made)


# -- Runs that count no more


def test_what_a_failed_attempt_made_is_revoked_and_counts_no_more():
    made = attempts_above.delay()
    execution.execute(claim()[0])
    execution.execute(claim()[0])
    one = made.subtasks.get(func_name="trees.attempts")
    assert ["RETRY", "WAITING"] == statuses(one, made)
    old = list(one.subtasks.all())
    assert {"SUCCESS", "REVOKED"} == set(statuses(*old))
    behind = one.successors.get()
    assert ["REVOKED", "REVOKED"] == statuses(behind, behind.successors.get())
    assert ((0.0, None, ""), (0.0, 2.0, "")) == (one.progress, made.progress)
    due()
    assert ["SUCCESS", "SUCCESS"] == statuses(one, made)
    assert ([1, 20, 30], 2) == (numbers(), one.progress[1])
    assert 0 == Task.objects.active().count()


@pytest.mark.parametrize("runs_again", [True, False])
def test_what_a_rescued_run_made_is_revoked(runs_again):
    @task("trees.dies", atomic=False, rerun_lost=runs_again)
    def dies(cqt):
        cqt.subtask(job, 1)
        cqt.subtask(group(job.s(2), chain(job.s(3), job.s(4))))
        cqt.chain(job, 5)

    made = dies.delay()
    after = made.chain(job, 6)
    (claimed,) = claim()
    run = execution._Attempt(claimed, "worker", 0)
    run.open()
    execution._call(run)  # and dies
    below = list(Task.objects.filter(root=made).exclude(id=made.id))
    own = Task.objects.get(args=[5])
    maintenance.rescue_silent()
    assert {"REVOKED"} == set(statuses(*below))
    if not runs_again:
        assert ["LOST", "SKIPPED", "SKIPPED"] == statuses(made, own, after)
        return
    assert ["QUEUED", "REVOKED", "PENDING"] == statuses(made, own, after)
    run_all()
    assert ["SUCCESS", "SUCCESS"] == statuses(made, after)
    assert [1, 2, 3, 4, 5, 6] == sorted(numbers())


def test_a_subtask_made_from_outside_counts_for_every_run(failing):
    @task("trees.again", retries=1, retry_delay=0)
    def again(cqt):
        if not cqt.attempts:
            raise ValueError

    failing.add(1)
    made = again.using(priority=5).delay()
    one = made.subtask(job, 1)
    run_all()
    assert ["RETRY", "FAILURE"] == statuses(made, one)
    due()
    assert ["INCOMPLETE"] == statuses(made)
