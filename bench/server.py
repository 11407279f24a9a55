"""vLLM's server, ended with the kivi that started it: ``python server.py (-m MODULE | PROGRAM) ARGUMENTS``.

Module or program run in this very process as they would by themselves: what vLLM spawns imports them, not this file.
"""

import runpy
import sys

from kivi_bench import orphan

if __name__ == "__main__":
    orphan.follow_parent()
    # Modules that lie here are no part of vLLM's path.
    del sys.path[0]
    del sys.argv[0]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
