"""The names of our cache dtypes, in a list that vLLM keeps closed."""

from __future__ import annotations

from typing import Any, Literal, get_args

from vllm_kivi.compat.wrap import IncompatibleError
from vllm_kivi.config import CACHE_DTYPES


def add_cache_dtypes() -> None:
    """Make vLLM's configuration and command line accept our cache dtype names (nonsense is still rejected).

    Raises:
        IncompatibleError: vLLM's list is not the ``Literal`` that it was in every version seen, 0.16 to 0.32.
    """
    import torch
    from pydantic.dataclasses import rebuild_dataclass
    from vllm.config import cache
    from vllm.engine import arg_utils
    from vllm.utils import torch_utils
    from vllm.v1.attention import selector

    known = get_args(cache.CacheDType)
    if not known:
        raise IncompatibleError("KIVI: vllm.config.cache.CacheDType is not a Literal in this vLLM")
    if has_cache_dtypes():
        return
    names = (*known, *CACHE_DTYPES)
    widened: Any = Literal[names]
    for module in (cache, selector, arg_utils):
        module.CacheDType = widened  # type: ignore[attr-defined]
    config = cache.CacheConfig
    config.__annotations__["cache_dtype"] = widened
    config.__dataclass_fields__["cache_dtype"].type = widened
    config.__pydantic_fields__["cache_dtype"].annotation = widened  # type: ignore[attr-defined]
    rebuild_dataclass(config, force=True)  # type: ignore[arg-type]
    torch_utils.STR_DTYPE_TO_TORCH_DTYPE.update(dict.fromkeys(CACHE_DTYPES, torch.uint8))


def has_cache_dtypes() -> bool:
    """Whether this process's vLLM accepts our names."""
    from vllm.config import cache

    return set(CACHE_DTYPES) <= set(get_args(cache.CacheDType))
