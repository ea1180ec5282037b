"""The tutorial, done as it says, in a new project with a real worker."""

from __future__ import annotations

from tests.docs.readme import blocks, of_file

PAGE = "docs/tutorial.md"
DRIVER = """
import doctest, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
import django
django.setup()
test = doctest.DocTestParser().get_doctest(open("calls.txt").read(), {}, "tutorial", "tutorial", 0)
flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
sys.exit(doctest.DocTestRunner(optionflags=flags).run(test).failed)
"""


def test_tutorial(project, tmp_path):
    shell = [line for b in blocks(PAGE) if b.language == "sh" for line in b.text.splitlines()]
    for line in shell:
        if line.startswith("echo") or "migrate" in line:
            project(line)
    (tmp_path / "mysite" / "tasks.py").write_text(of_file(PAGE, "mysite/tasks.py"))
    (worker,) = (line for line in shell if "cq_runworker" in line)
    project(f"exec {worker} --processes 1", background=True)
    (tmp_path / "calls.txt").write_text(
        "".join(b.text for b in blocks(PAGE) if b.language == "pycon")
    )
    (tmp_path / "drive.py").write_text(DRIVER)
    project("python drive.py")


def test_testing_howto(project, tmp_path):
    project("""echo 'INSTALLED_APPS += ["cq", "mysite"]' >> mysite/settings.py""")
    (tmp_path / "mysite" / "tasks.py").write_text(of_file("README.md", "tasks.py"))
    text = of_file("docs/howto/testing.md", "test_tasks.py")
    (tmp_path / "mysite" / "test_tasks.py").write_text(text)
    assert "Ran 1 test" in project("python manage.py test")


def test_settings_of_the_howto_without_redis(project, tmp_path):
    settings = tmp_path / "mysite" / "settings.py"
    given = of_file("docs/howto/without-redis.md", "settings.py")
    settings.write_text(f'{settings.read_text()}\nINSTALLED_APPS += ["cq"]\n{given}')
    assert "no issues" in project("python manage.py check")
    project("python manage.py migrate")
    project("python manage.py cq_runworker --burst --processes 1")
