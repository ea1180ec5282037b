"""The pages about repeating tasks: their code runs, what they say is printed is printed, the slots are those."""

from __future__ import annotations

import re

from tests.docs.readme import ROOT, blocks, of_file
from tests.docs.slot_tables import cells, every_slots, slots_of

CODE = "docs/howto/repeating-code.md"
MIGRATIONS = "docs/howto/repeating-migrations.md"
EXPLANATION = "docs/explanation/repeating.md"
CALLED = {  # the functions that the migrations name
    "a_task": "def a_task(cqt): ...",
    "report_sales": "def report_sales(cqt, region, days): ...",
}
NAMES = "from cq.models import RepeatingTask; print(*RepeatingTask.objects.values_list('name'), sep='\\n')"


def texts(page):
    return [line for b in blocks(page) if b.language == "text" for line in b.text.splitlines()]


def with_app(project, tmp_path, page, *names):
    """A project with an app `myapp`, whose migrations are those of the page."""
    project("python manage.py startapp myapp")
    project("""echo 'INSTALLED_APPS += ["cq", "myapp"]' >> mysite/settings.py""")
    functions = "".join(f"\n\n@task\n{CALLED[name]}\n" for name in names)
    (tmp_path / "myapp" / "tasks.py").write_text(f"from cq import task\n{functions}")
    written = [b for b in blocks(page) if b.file.startswith("myapp/migrations/")]
    for block in written:
        (tmp_path / block.file).write_text(block.text)
    return tmp_path / written[0].file


def test_readme_migration(project, tmp_path):
    """To the letter that of the original's README, and the dependency; without it, `migrate` says so."""
    migration = with_app(project, tmp_path, "README.md", "a_task")
    text = migration.read_text()
    dependencies = 'dependencies = [("cq", "0001_initial")]'
    migration.write_text(text.replace(dependencies, "dependencies = []"))
    assert dependencies in project("python manage.py migrate 2>&1 || true")
    migration.write_text(text)
    project("python manage.py migrate")
    assert "myapp.tasks.a_task * * * * *" in project(f'python manage.py shell -c "{NAMES}"')
    assert "No changes" in project("python manage.py makemigrations --check --dry-run")


def test_migrations_howto(project, tmp_path):
    first = (
        "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n    pass\n"
    )
    migration = with_app(project, tmp_path, MIGRATIONS, "report_sales")
    (migration.parent / "0001_initial.py").write_text(first)
    text = migration.read_text()
    missing, later = texts(MIGRATIONS)
    migration.write_text(text.replace('("cq", "0001_initial"), ', ""))
    assert missing in project("python manage.py migrate 2>&1 || true")
    migration.write_text(text.replace("timezone=", 'catch_up="SKIP", timezone='))
    plan = "python manage.py migrate cq 0001 && python manage.py migrate myapp"
    assert later in project(f"{plan} 2>&1 || true")
    migration.write_text(text)
    project("python manage.py migrate")
    (name,) = re.findall(
        r"`(myapp\.tasks\.report_sales [0-9a-f]{12} .*?)`", (ROOT / MIGRATIONS).read_text()
    )
    assert name in project(f'python manage.py shell -c "{NAMES}"')
    project("python manage.py migrate myapp 0001")
    assert name not in project(f'python manage.py shell -c "{NAMES}"')


def test_code_howto(project, tmp_path):
    project("""echo 'INSTALLED_APPS += ["cq", "mysite"]' >> mysite/settings.py""")
    tasks = tmp_path / "mysite" / "tasks.py"
    tasks.write_text(of_file(CODE, "mysite/tasks.py"))
    said = project("python manage.py migrate")
    for line in texts(CODE):
        assert line in said
    assert "Repeating task" not in project("python manage.py migrate")
    assert "says what code says" in project("python manage.py cq_schedule sync --check")
    assert "last reminder" in project("python manage.py cq_schedule list")
    changed = tasks.read_text().replace("0 8 * * mon-fri", "0 7 * * mon-fri")
    tasks.write_text(changed.replace("@task(repeat=timedelta(minutes=5), ", "@task("))
    said = project("python manage.py migrate")
    assert "Repeating task changed crontab: mysite.tasks.report_sales" in said
    assert "Repeating task disabled: mysite.tasks.poll_feed" in said


def test_slots_of_the_tables():
    """Each table's head says which zone and time it is of."""
    compared, found = 0, lambda text: []
    for line in (ROOT / EXPLANATION).read_text().splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if window := re.match(r"\| (\S+), ([\d :-]+) to ([\d :-]+) UTC \|", line):
            zone, *rest = window.groups()
            found = lambda text, zone=zone, rest=rest: slots_of(zone, *rest, text)  # noqa: E731
        elif beginning := re.match(r"\| (\S+), from ([\d :-]+), the first (\d) \|", line):
            zone, start, number = beginning.groups()
            found = lambda text, zone=zone, s=start, n=int(number): every_slots(zone, s, n, text)  # noqa: E731
        elif len(row) == 3 and re.match(r"\| `[\d*]", line):
            assert tuple(row[1:]) == cells(found(row[0].strip("`")), zone), line
            compared += 1
    assert compared > 35
