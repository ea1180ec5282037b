"""`python -m demo` starts everything; `python -m demo COMMAND …` is `manage.py COMMAND …`."""

from __future__ import annotations

import sys

from demo import launcher, manage

if __name__ == "__main__":
    sys.exit(manage.main(sys.argv) if sys.argv[1:] else launcher.main())
