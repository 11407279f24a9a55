"""Runs one cell of the matrix: ``python cell.py SPEC.json`` (see kivi_bench/spec.py for the keys)."""

import sys

from kivi_bench.runner import main

# vLLM spawns its engine and workers, and a spawned process imports this file again.
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
