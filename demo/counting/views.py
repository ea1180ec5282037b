"""Two pages, a JSON endpoint and two buttons. No view waits for a task."""

from __future__ import annotations

from contextlib import suppress

from django.core.paginator import Paginator
from django.http import Http404, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from cq import NotRetryable
from cq.models import Task
from demo.counting import tasks
from demo.counting.forms import FolderForm
from demo.counting.models import BrokenFile, Report
from demo.counting.watching import State, latest

PAGE = 50
ORDERS = {
    "name": ["name"],
    "lines": ["-lines", "name"],
    "words": ["-words", "name"],
    "definitions": ["-definitions", "name"],
}


@never_cache
def home(request):
    form = FolderForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        counting = tasks.start(form.cleaned_data["folder"])
        return redirect("counting:count", counting.id)
    return render(request, "counting/home.html", {"form": form, "counts": latest()})


@require_safe
@never_cache
def count(request, task_id):
    counting, report = _find(task_id)
    context = {
        "task_id": task_id,
        "folder": report.folder if report else counting.args[0],
        "counting": counting,
        "state": State.of(counting) if counting else None,
        "report": report,
    }
    if report:
        order = request.GET.get("sort", "lines")
        rows = report.counts.order_by(*ORDERS.get(order, ORDERS["lines"]))
        context |= {
            "order": order if order in ORDERS else "lines",
            "orders": list(ORDERS),
            "page": Paginator(rows, PAGE).get_page(request.GET.get("page")),
            "failures": BrokenFile.objects.filter(task_id=task_id)[:20],
        }
    return render(request, "counting/count.html", context)


@require_safe
@never_cache
def state(request, task_id):
    counting, _ = _find(task_id)
    if counting is None:
        raise Http404
    return JsonResponse(State.of(counting).as_json())


@require_POST
def revoke(request, task_id):
    counting, _ = _find(task_id)
    if counting:
        counting.revoke()
    return redirect("counting:count", task_id)


@require_POST
def retry(request, task_id):
    counting, _ = _find(task_id)
    with suppress(NotRetryable):  # somebody else was quicker
        if counting:
            tasks.retry(counting)
    return redirect("counting:count", task_id)


def _find(task_id):
    counting = Task.objects.filter(id=task_id, func_name="demo.count_folder").first()
    report = Report.objects.filter(task_id=task_id).first()
    if counting is None and report is None:
        raise Http404
    return counting, report
