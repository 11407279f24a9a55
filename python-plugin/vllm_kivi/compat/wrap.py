"""Replacing a method of vLLM by a wrapper of ours, once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_MARK = "__vllm_kivi__"


class IncompatibleError(RuntimeError):
    """This vLLM lacks a seam that KIVI needs; the message names it."""


def wrap(owner: type, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace ``owner.name`` by ``wrapper(original, *args, **kwargs)``, once; class methods stay class methods.

    Raises:
        IncompatibleError: there is no such method.
    """
    try:
        original = getattr(owner, name)
    except AttributeError:
        raise IncompatibleError(f"KIVI: this vLLM has no {owner.__module__}.{owner.__qualname__}.{name}") from None
    bound = getattr(original, "__self__", None) is owner
    if is_wrapped(original):
        return

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *(args[1:] if bound else args), **kwargs)

    setattr(call, _MARK, True)
    setattr(owner, name, classmethod(call) if bound else call)


def is_wrapped(method: Any) -> bool:
    """Whether a method, or the function of a class method, is one of our wrappers."""
    return hasattr(getattr(method, "__func__", method), _MARK)
