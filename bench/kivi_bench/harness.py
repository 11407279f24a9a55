"""Perplexity as EleutherAI's ``lm-eval`` defines it, of its tasks, in the cell's own engine."""

import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

from .perplexity import window_nll
from .text import sha256

DISTRIBUTION = "lm-eval"

# The one kind of task whose figure is a perplexity.
_KIND = "loglikelihood_rolling"

_METRICS = ("word_perplexity", "byte_perplexity", "bits_per_byte")

Logprobs = Callable[[list[int]], Sequence[Any]]


class LmEvalError(ValueError):
    """lm-eval is missing, or a task is not one of perplexity; the message says which."""


def version() -> str:
    """Of the installed lm-eval.

    Raises:
        LmEvalError: there is none.
    """
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise LmEvalError(f"{DISTRIBUTION} is not installed") from error


def load(names: Sequence[str]) -> dict[str, Any]:
    """The tasks by their names in lm-eval, their data loaded.

    Args:
        names: of lm-eval's own tasks, or paths of YAML files in its form.

    Raises:
        LmEvalError: a task is unknown, its data cannot be had, or it measures something other than perplexity.
    """
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    tasks: dict[str, Any] = {}
    for name in names:
        try:
            tasks.update(manager.load(name)["tasks"])
        except Exception as error:
            # lm-eval and the libraries of data sets below it raise whatever they like.
            reason = str(error).strip().split("\n")[0]
            raise LmEvalError(f"the task {name} cannot be loaded: {type(error).__name__}: {reason}") from error
    for name, task in tasks.items():
        if task.OUTPUT_TYPE != _KIND:
            raise LmEvalError(f"the task {name} is of the kind {task.OUTPUT_TYPE}; only {_KIND} gives a perplexity")
    return tasks


def rolling_nll(tokens: list[int], first: int, window: int, logprobs_of: Logprobs) -> float:
    """Negative log-likelihood in nats of all `tokens`, in windows as lm-eval's own models make them.

    `first` stands before the first token. Windows have at most `window` tokens, the first of which is not predicted;
    the last one overlaps with the one before.
    """
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    total = 0.0
    for pair in get_rolling_token_windows(tokens, prefix_token=first, max_seq_len=window - 1, context_len=1):
        context, predicted = make_disjoint_window(pair)
        sequence = [*context, *predicted]
        logprobs = logprobs_of(sequence)
        total += window_nll(sequence[len(context) - 1 :], [None, *logprobs[len(context) :]])
    return total


def evaluate(
    tasks: dict[str, Any],
    tokenizer: Any,
    window: int,
    limit: int | None,
    logprobs_of: Logprobs,
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """Perplexities of every task; `limit` is how many of its documents are read at most."""
    from lm_eval.api.model import LM
    from lm_eval.evaluator import evaluate as run

    # As lm-eval's own models choose it.
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        raise LmEvalError("the tokenizer has neither a beginning nor an end of text, one of which stands before a text")

    class Engine(LM):  # type: ignore[misc]
        """The running engine as lm-eval asks for it."""

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            found = []
            for index, request in enumerate(requests):
                progress(index, len(requests))
                tokens = tokenizer.encode(request.args[0], add_special_tokens=False)
                found.append(-rolling_nll(tokens, first, window, logprobs_of))
            return found

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            raise LmEvalError(f"only tasks of the kind {_KIND} are measured")

        def generate_until(self, requests: list[Any]) -> list[str]:
            raise LmEvalError(f"only tasks of the kind {_KIND} are measured")

    answer = run(lm=Engine(), task_dict={"tasks": tasks}, limit=limit, log_samples=True, bootstrap_iters=0)
    return [summary(name, answer) for name in tasks]


def summary(task: str, answer: dict[str, Any]) -> dict[str, Any]:
    """What lm-eval says of a task: its figures, how many documents they are of, and the hash of those."""
    figures = answer["results"][task]
    return {
        "task": task,
        "documents": int(answer["n-samples"][task]["effective"]),
        "sha256": sha256("".join(sample["doc_hash"] for sample in answer["samples"][task])),
        **{name: float(figures[f"{name},none"]) for name in _METRICS if f"{name},none" in figures},
    }
