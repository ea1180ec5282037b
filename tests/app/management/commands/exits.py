"""Says something, and ends as many programs do."""

from __future__ import annotations

import sys

from django.core.management import BaseCommand


class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("code", type=int)

    def handle(self, *args, code, **options):
        self.stdout.write("to stdout\n\n")
        self.stderr.write("to stderr")
        sys.exit(code)
