"""One cell from start to end: start the engine once, run every suite on it, write one result."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import arguments, capacity, fill, harness, machine, orphan, perplexity, quality, refusal, text, throughput
from .events import Events, open_events
from .spec import CellSpec, LmEvalSpec, Shape, SpecError, load_spec

EXIT_OK, EXIT_NOT_RUN, EXIT_USAGE = 0, 1, 2


def main(argv: list[str]) -> int:
    """Runs the cell that ``argv[0]`` describes; the exit status is 0 when its result says ``ok``."""
    if len(argv) != 1:
        print("usage: cell.py SPEC.json", file=sys.stderr)
        return EXIT_USAGE
    try:
        spec = load_spec(Path(argv[0]))
    except SpecError as error:
        print(f"cell.py: {error}", file=sys.stderr)
        return EXIT_USAGE
    orphan.follow_parent()
    events = open_events(Path(spec.log))
    result = run(spec, events)
    try:
        write_atomically(Path(spec.result), result)
    except OSError as error:
        # A full disk has no room for the log either.
        events.say(f"cell.py: the result could not be written: {error}")
        return EXIT_NOT_RUN
    events.emit("done", status=result["status"])
    return EXIT_OK if result["status"] == "ok" else EXIT_NOT_RUN


def run(spec: CellSpec, events: Events) -> dict[str, Any]:
    """The cell's result; never raises for what happens in vLLM, since a cell that failed is a result too."""
    result: dict[str, Any] = {"cache": spec.cache, "cache_dtype": spec.cache_dtype, "status": "failed"}
    try:
        events.emit("phase", phase="import", detail="importing vLLM")
        reason = refusal.unknown_dtype(spec.cache_dtype)
        result["machine"] = machine.describe()
        if reason:
            return {**result, "status": "unsupported", "reason": reason}
        if not spec.suites:
            # kivi itself starts the cell's only engine, in a server.
            return {**result, "status": "ok"}
        # What lm-eval cannot load is told before the engine has been waited for.
        tasks = harness.load(spec.lm_eval.tasks) if spec.lm_eval else {}
        events.emit("phase", phase="start", detail="starting the engine")
        started = time.perf_counter()
        try:
            llm = start(spec)
        except Exception as error:
            traceback.print_exc()
            status, reason = refusal.classify(Path(spec.log).read_text(encoding="utf-8", errors="replace"))
            return {**result, "status": status, "reason": reason or str(error)}
        result["start_seconds"] = time.perf_counter() - started
        result.update(suites(llm, spec, tasks, events))
        result["status"] = "ok"
    except Exception as error:
        traceback.print_exc()
        result["reason"] = f"{type(error).__name__}: {error}"
    return result


def start(spec: CellSpec) -> Any:
    """The cell's engine. Prefix caching is off: every prompt must be computed, in every suite and repeat."""
    from vllm import LLM

    listing = quality.engine_arguments(spec.quality) if spec.quality else {}
    ours = {
        "kv_cache_dtype": spec.cache_dtype,
        "enable_prefix_caching": False,
        "worker_extension_cls": f"{capacity.CacheFacts.__module__}.{capacity.CacheFacts.__qualname__}",
        # The suite fill asks for its counts.
        **({"disable_log_stats": False} if "fill" in spec.suites else {}),
        **listing,
        **spec.engine,
    }
    return LLM(**ours, **arguments.keywords(spec.vllm_args, list(ours)))


def suites(llm: Any, spec: CellSpec, tasks: dict[str, Any], events: Events) -> dict[str, Any]:
    """Runs the suites in one order, quick ones first, and returns their results by name; `tasks` are lm-eval's."""
    found: dict[str, Any] = {}
    config = llm.llm_engine.vllm_config
    cache = config.cache_config
    kivi = spec.cache_dtype.startswith("kivi_")
    reports = capacity.reports(Path(spec.log).read_text(encoding="utf-8", errors="replace")) if kivi else []
    if kivi and not reports:
        raise RuntimeError("KIVI was asked for, but no worker reported it: vLLM ran with its own cache")
    tokens = int(getattr(cache, "kv_cache_size_tokens", None) or cache.num_gpu_blocks * cache.block_size)
    found["engine"] = {
        "block_size": cache.block_size,
        "max_model_len": config.model_config.max_model_len,
        "max_num_seqs": config.scheduler_config.max_num_seqs,
        "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
        "enforce_eager": config.model_config.enforce_eager,
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "prefix_caching": cache.enable_prefix_caching,
        "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
    }
    found["kivi"] = reports[0] if reports else None
    # vLLM's own count is taken in any case: throughput needs it to say whether a load fits.
    if "capacity" in spec.suites:
        events.emit("phase", phase="capacity", detail="asking the workers for their cache")
        facts = llm.collective_rpc("bench_cache_facts")[0]
        found["capacity"] = capacity.capacity(tokens, cache.block_size, spec.context, facts, found["kivi"])
    if "fill" in spec.suites:
        found["fill"] = run_fill(llm, spec, tokens, events)
    if "throughput" in spec.suites and spec.throughput:
        found["throughput"] = run_throughput(llm, spec, tokens, events)
    if "perplexity" in spec.suites and spec.perplexity:
        found["perplexity"] = run_perplexity(llm, spec, events)
    if "quality" in spec.suites:
        found["quality"] = quality.run(llm, spec, events)
    if spec.lm_eval:
        found["lm_eval"] = run_lm_eval(llm, spec.lm_eval, tasks, events)
    return found


def token_range(llm: Any, spec: CellSpec) -> tuple[int, set[int]]:
    """How many token ids a random prompt may choose from, and those among them that mean something special."""
    vocabulary = int(llm.llm_engine.vllm_config.model_config.get_vocab_size())
    if spec.engine.get("skip_tokenizer_init"):
        return vocabulary, set()
    tokenizer = llm.get_tokenizer()
    # An embedding may be padded past the last real token.
    return min(vocabulary, len(tokenizer)), set(getattr(tokenizer, "all_special_ids", ()))


def run_fill(llm: Any, spec: CellSpec, tokens_held: int, events: Events) -> dict[str, Any]:
    """Fills the cache to the brim with random prompts."""
    vocabulary, special = token_range(llm, spec)
    seed = int(spec.engine.get("seed", 0))

    def prompt(length: int) -> list[int]:
        return throughput.random_prompts(Shape(1, length, 1), vocabulary, seed, special)[0]

    return fill.run(llm, tokens_held, prompt, lambda detail: events.emit("phase", phase="fill", detail=detail))


def run_throughput(llm: Any, spec: CellSpec, tokens_held: int, events: Events) -> list[dict[str, Any]]:
    """Times every shape; tokens/s of the whole engine."""
    from vllm import SamplingParams
    from vllm.platforms import current_platform

    assert spec.throughput is not None
    least = throughput.GPU_SECONDS if current_platform.is_cuda() else 0.0
    vocabulary, special = token_range(llm, spec)

    def generate(prompts: list[list[int]], tokens: int) -> None:
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)

    results = []
    for index, shape in enumerate(spec.throughput.shapes):
        events.emit("phase", phase="throughput", detail=shape.name, step=index + 1, steps=len(spec.throughput.shapes))
        prompts = throughput.random_prompts(shape, vocabulary, spec.throughput.seed, special)
        warmup, samples = throughput.measure(shape, prompts, spec.throughput.repeats, generate, least)
        summary = throughput.summarize(shape, warmup, samples, tokens_held)
        results.append({**summary, "host": machine.load()})
    return results


def prompt_scorer(llm: Any) -> Callable[[list[int]], Any]:
    """Gives a prompt's log-probabilities as vLLM lists them, those of its own tokens alone."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)

    def logprobs_of(window: list[int]) -> Any:
        return llm.generate([{"prompt_token_ids": window}], params, use_tqdm=False)[0].prompt_logprobs

    return logprobs_of


def run_perplexity(llm: Any, spec: CellSpec, events: Events) -> dict[str, Any]:
    """Scores the text window by window with prompt log-probabilities."""
    assert spec.perplexity is not None
    content = text.read(spec.perplexity.text)
    tokenizer = llm.get_tokenizer()
    tokens = tokenizer.encode(content, add_special_tokens=False)

    def progress(index: int, count: int) -> None:
        events.emit("phase", phase="perplexity", detail=f"window {index + 1}", step=index + 1, steps=count)

    chosen = perplexity.windows(tokens, spec.perplexity.window, spec.perplexity.max_windows, text.opening(tokenizer))
    return perplexity.score(content, chosen, prompt_scorer(llm), progress)


def run_lm_eval(llm: Any, spec: LmEvalSpec, tasks: dict[str, Any], events: Events) -> dict[str, Any]:
    """Perplexities of lm-eval's tasks."""

    def progress(index: int, count: int) -> None:
        events.emit("phase", phase="lm-eval", detail=f"document {index + 1}", step=index + 1, steps=count)

    found = harness.evaluate(tasks, llm.get_tokenizer(), spec.window, spec.limit, prompt_scorer(llm), progress)
    return {"version": harness.version(), "window": spec.window, "limit": spec.limit, "tasks": found}


def write_atomically(path: Path, document: dict[str, Any]) -> None:
    """Writes the whole document or nothing: a reader never sees half a result."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as out:
            json.dump(document, out, indent=1, allow_nan=False)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
