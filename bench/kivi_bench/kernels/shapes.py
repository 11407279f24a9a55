"""Loads of the benchmark, the ones that matter most first."""

from __future__ import annotations

from dataclasses import dataclass

HEAD_SIZE = 128
KV_HEADS = 8

BATCHES = (1, 4, 16, 64, 256)
CONTEXTS = (512, 2048, 8192, 32768, 131072)
RATIOS = (4, 8, 1)
"""Query heads of a KV head: Llama-8B's first."""

MAX_MODEL_LEN = 131072
"""Tokens: what an engine that serves all contexts has, and so what a plan of splits may count on."""

COPY_BYTES = 2 << 30
"""Of the copy that the bandwidth is measured with."""

# Short and long contexts, one row and many: what the goals are about.
_HEADLINE = ((16, 512), (64, 2048), (256, 2048), (16, 32768), (1, 131072), (1, 8192), (4, 2048), (64, 8192))


@dataclass(frozen=True)
class Shape:
    """A decode step: `batch` rows of one query token over `context` tokens (its own included).

    `ratio` is query heads of a KV head; there are KV_HEADS of HEAD_SIZE channels.
    """

    batch: int
    context: int
    ratio: int

    @property
    def tokens(self) -> int:
        """Tokens in the cache."""
        return self.batch * self.context

    @property
    def query_heads(self) -> int:
        return KV_HEADS * self.ratio

    @property
    def name(self) -> str:
        return f"{self.batch}x{self.context} gqa {self.ratio}"


def grid(batches: tuple[int, ...], contexts: tuple[int, ...], ratios: tuple[int, ...]) -> list[Shape]:
    """All combinations, each once: a run that is cut short has measured what matters."""
    shapes = {Shape(batch, context, ratio) for batch in batches for context in contexts for ratio in ratios}
    return sorted(shapes, key=_rank)


def _rank(shape: Shape) -> tuple[int, int, int, int, int]:
    load = (shape.batch, shape.context)
    headline = _HEADLINE.index(load) if load in _HEADLINE else len(_HEADLINE)
    first = shape.ratio == RATIOS[0]
    stage = 0 if first else 1 if headline < len(_HEADLINE) else 2
    ratio = RATIOS.index(shape.ratio) if shape.ratio in RATIOS else len(RATIOS)
    return stage, ratio, headline, shape.tokens, shape.batch


def parse_numbers(text: str, what: str) -> tuple[int, ...]:
    """``1,4,16`` as numbers; raises ValueError that names `what`. ``k`` stands for 1024: ``32k``."""
    numbers = []
    for word in text.split(","):
        digits, factor = (word.strip()[:-1], 1024) if word.strip().endswith("k") else (word.strip(), 1)
        if not digits.isdecimal() or int(digits) == 0:
            raise ValueError(f"{what}: expected whole numbers of at least 1, found {word!r}")
        numbers.append(int(digits) * factor)
    return tuple(dict.fromkeys(numbers))
