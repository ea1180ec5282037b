#!/usr/bin/env python
"""Django's commands, with this project's settings: `python demo/manage.py count [folder]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(argv):
    os.environ["DJANGO_SETTINGS_MODULE"] = "demo.settings"
    from django.core.management import execute_from_command_line

    execute_from_command_line(argv)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    main(sys.argv)
