"""Times decode attention kernels on a GPU: ``python kernels.py --out FILE`` (see ``--help``); needs no engine."""

import sys

from kivi_bench.kernels.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
