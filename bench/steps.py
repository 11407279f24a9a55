"""Times single steps of an engine from inside: ``python steps.py MODEL CACHE --out FILE`` (see ``--help``)."""

import sys

from kivi_bench.steps.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
