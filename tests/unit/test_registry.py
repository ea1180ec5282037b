"""Which functions are tasks: their names, and how they are found."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from django.core.exceptions import ImproperlyConfigured

from cq import DuplicateTask, InvalidCall, InvalidOption, UnknownTask, registry, task
from cq.api import AsyncTaskFunction, TaskFunction
from cq.options import Options
from tests.servers import ROOT


def plain(cqt, x, *, y=1):
    """What it says."""
    return x, y


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes modules below a folder on the path: `write(**{"name/__init__.py": "…"})`."""
    monkeypatch.syspath_prepend(tmp_path)
    known, loaded = dict(registry._definitions), set(sys.modules)

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()

    yield write
    registry._definitions.clear()
    registry._definitions.update(known)
    for name in set(sys.modules) - loaded:
        del sys.modules[name]


TASK = "from cq import task\n@task\ndef job(cqt): return 1\n"


def python(code, folder, **settings):
    """A process that has nothing but Django, cq and what is in `folder`."""
    lines = [f"{name} = {value!r}" for name, value in settings.items()]
    (folder / "own_settings.py").write_text("\n".join(["SECRET_KEY = 'x'", *lines]))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{folder}:{ROOT}", "DJANGO_SETTINGS_MODULE": "own_settings"},
        capture_output=True,
        text=True,
        check=False,
    )


# -- Names


def test_a_function_is_named_by_its_module_and_its_own_name():
    assert f"{__name__}.plain" == task(plain).name
    assert f"{__name__}.plain" == task()(plain).name
    assert f"{__name__}.plain" == task(priority=3)(plain).name


def test_a_name_can_be_given_in_two_ways():
    assert "registry.a" == task("registry.a")(plain).name
    assert "registry.b" == task(name="registry.b", priority=1)(plain).name


def test_aliases_find_the_same_function():
    made = task("registry.new", aliases=["registry.old", "registry.older"])(plain)
    for name in ("registry.new", "registry.old", "registry.older"):
        assert made.definition is registry.get(name)


def test_a_task_function_looks_like_its_function():
    made = task("registry.look")(plain)
    assert ("plain", "What it says.", __name__) == (made.__name__, made.__doc__, made.__module__)
    assert "<task function registry.look>" == repr(made)


def test_an_async_function_makes_another_kind():
    async def job(cqt): ...

    assert AsyncTaskFunction is type(task("registry.async")(job))
    assert TaskFunction is type(task("registry.sync")(plain))
    assert AsyncTaskFunction is type(task("registry.async")(job).using(priority=1))


def test_a_name_that_nobody_registered_is_unknown_and_never_imported(write):
    write({"never_imported.py": "raise SystemExit('imported')"})
    for name in ("never_imported.job", "os.system", "", "\x00"):
        with pytest.raises(UnknownTask, match="is registered; decorate the function with @task"):
            registry.get(name)
    assert "never_imported" not in sys.modules


@pytest.mark.parametrize("key", ["name", "aliases"])
def test_two_functions_cannot_have_one_name(key):
    def other(cqt): ...

    task("registry.taken", aliases=["registry.taken-too"])(plain)
    for taken in ("registry.taken", "registry.taken-too"):
        options = (
            {"name": taken} if key == "name" else {"name": "registry.free", "aliases": [taken]}
        )
        with pytest.raises(DuplicateTask, match=rf"{taken}.*plain and .*other\. Name one of them"):
            task(**options)(other)
        with pytest.raises(UnknownTask):
            registry.get("registry.free")
    assert plain is registry.get("registry.taken").function


def test_a_module_that_is_read_again_takes_its_own_place(write):
    write({"again.py": TASK})
    module = importlib.import_module("again")
    first = module.job
    importlib.reload(module)
    assert first.definition is not module.job.definition
    assert module.job.definition is registry.get("again.job")


# -- What can be a task


def test_a_task_function_takes_its_own_task_first():
    def none(): ...
    def only_keywords(*, cqt): ...
    def only_kwargs(**kwargs): ...

    for function in (none, only_keywords, only_kwargs):
        with pytest.raises(InvalidOption, match=rf"{function.__name__}.*own task first: def"):
            task(function)


def test_a_first_parameter_of_any_kind_will_do():
    def positional(cqt, /): ...
    def many(*args): ...
    def other_name(this, x): ...

    for function in (positional, many, other_name):
        assert function is task(function).definition.function


def test_a_generator_is_no_task():
    def generator(cqt):
        yield

    async def async_generator(cqt):
        yield

    for function in (generator, async_generator):
        with pytest.raises(InvalidOption, match="a generator can't be a task"):
            task(function)


def test_a_name_that_the_column_cannot_hold_is_refused():
    def job(cqt): ...

    job.__qualname__ = "j" * 200
    with pytest.raises(InvalidOption, match="too long: give @task a name"):
        task(job)


def test_what_is_no_task_function_cannot_be_called_later():
    made = task("registry.known")(plain)
    from cq.signature import signature

    assert made.definition is signature("registry.known", (1,), {}).definition
    with pytest.raises(UnknownTask):
        signature("registry.unknown", (), {})
    for given in (plain, None, 3):
        with pytest.raises(InvalidCall, match="is not a task function: decorate it with @task"):
            signature(given, (), {})


# -- Discovery


def test_all_submodules_of_a_tasks_package_are_found(write, settings):
    write(
        {
            "shop/__init__.py": "",
            "shop/tasks/__init__.py": TASK,
            "shop/tasks/mail.py": TASK,
            "shop/tasks/deep/__init__.py": "",
            "shop/tasks/deep/down.py": TASK,
            "shop/other.py": TASK,
        }
    )
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "shop"]
    found = {name for name in registry.names() if name.startswith("shop.")}
    assert {"shop.tasks.job", "shop.tasks.mail.job", "shop.tasks.deep.down.job"} == found


def test_modules_of_the_setting_are_found_with_their_submodules(write, settings):
    write({"jobs/__init__.py": "", "jobs/a.py": TASK, "more_jobs.py": TASK})
    settings.CQ_TASK_MODULES = ["jobs", "more_jobs"]
    registry.discover()
    assert {"jobs.a.job", "more_jobs.job"} <= set(registry.names())


def test_an_app_without_tasks_and_one_that_is_a_single_module_are_fine(write, settings):
    write({"bare/__init__.py": "", "single.py": ""})
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "bare", "single"]
    registry.discover()


def test_a_main_module_of_a_tasks_package_is_not_run(write, settings):
    write({"cli/__init__.py": "", "cli/__main__.py": "raise SystemExit('it was run')"})
    settings.CQ_TASK_MODULES = ["cli"]
    registry.discover()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        ("from os import no_such_name", "cannot import name 'no_such_name'"),
        ("raise ImportError('the real reason')", "the real reason"),
    ],
)
@pytest.mark.parametrize(
    "place", ["tasks.py", "tasks/__init__.py", "tasks/a.py", "tasks/a/__init__.py"]
)
def test_an_import_error_in_a_tasks_module_is_shown(write, settings, text, error, place):
    write(
        {"broken/__init__.py": "", "broken/tasks/__init__.py": ""}
        if "/" in place
        else {"broken/__init__.py": ""}
    )
    write({f"broken/{place}": text})
    with pytest.raises(ImportError, match=error):
        settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "broken"]


def test_a_module_of_the_setting_that_does_not_exist_is_shown(settings):
    settings.CQ_TASK_MODULES = ["no_such_tasks"]
    with pytest.raises(ImportError, match="No module named 'no_such_tasks'"):
        registry.discover()


def test_task_can_be_imported_and_used_before_setup(tmp_path):
    (tmp_path / "early.py").write_text(
        "from cq import task, Retry, Revoked, TaskFailed, ParentFinished\n"
        "@task('early', retries=3, queue='q', expires=5, meta={'a': 1}, sensitive=['x'])\n"
        "def job(cqt, x): return x\n"
        "later = job.using(priority=3).s(1)\n"
    )
    code = "import early, django; django.setup(); from cq import registry; print(registry.get('early'))"
    found = python(code, tmp_path, INSTALLED_APPS=["cq"])
    assert ("", 0) == (found.stderr, found.returncode)
    assert "early" in found.stdout


TWICE = "from cq import task\n@task{}\ndef job(cqt): ...\n@task{}\ndef job(cqt): ...\n"
LAMBDAS = "from cq import task\na = task(lambda cqt: 1)\nb = task(lambda cqt: 2)\n"
FACTORY = (
    "from cq import task\n"
    "def make(n):\n"
    "    @task\n"
    "    def job(cqt): return n\n"
    "    return job\n"
    "one, two = make(1), make(2)\n"
)


@pytest.mark.parametrize(
    "text", [TWICE.format("", ""), TWICE.format("('x')", "('x')"), LAMBDAS, FACTORY]
)
def test_two_functions_of_one_module_under_one_name_are_an_error_at_start_up(tmp_path, text):
    (tmp_path / "twice.py").write_text(text)
    found = python(
        "import django; django.setup()", tmp_path, INSTALLED_APPS=["cq"], CQ_TASK_MODULES=["twice"]
    )
    assert "Two functions are registered as the task" in found.stderr


def test_a_setting_of_a_wrong_type_is_an_error_at_start_up(tmp_path):
    found = python("import django; django.setup()", tmp_path, INSTALLED_APPS=["cq"], CQ_LEASE="x")
    assert ImproperlyConfigured.__name__ in found.stderr
    assert "CQ_LEASE must be a positive number of seconds or a timedelta, not 'x'" in found.stderr


def test_a_queue_is_known_once_a_function_names_it(write):
    assert "told-late" not in registry.queues()
    write({"late_queue.py": TASK.replace("@task", "@task(queue='told-late')")})
    importlib.import_module("late_queue")
    assert "told-late" in registry.queues()


def with_star(*args): ...
def with_both(cqt, x, /, y, z=1, *args, k=1, **kwargs): ...
def with_keyword(cqt, x, *, needed): ...
def with_defaults(cqt=None, x=1, y=2): ...
def with_none(cqt, **kwargs): ...


@pytest.mark.parametrize(
    "function", [plain, with_star, with_both, with_keyword, with_defaults, with_none]
)
def test_how_many_arguments_fit_is_known_without_binding_them(function):
    definition = registry.Definition(function, "some", Options())
    for number in range(8):
        try:
            definition.signature.bind(*range(number))
        except TypeError:
            fits = False
        else:
            fits = True
        assert fits == (number in definition.by_position)
