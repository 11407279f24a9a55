"""What a user may ask of KIVI, and the checks on it. Imports neither torch nor vLLM: the CLI uses it too."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from vllm_kivi.layout import CacheLayout, whole_tiles

DTYPE_PREFIX = "kivi_"
SETTINGS_KEY = "kivi"
"""Key of our settings in vLLM's ``--additional-config``."""

AUDIT = "audit"
"""Among the settings, but of the engine, not of the format: part of decode steps that the reference computes again."""

DEFAULT_BLOCK_SIZE = 128
"""Tokens; one key group of the default preset is one block."""


class ConfigError(ValueError):
    """A setting that cannot be met: the message says which, what was found and what fits."""


@dataclass(frozen=True)
class KiviConfig:
    """The format of a KIVI cache.

    Args:
        preset: name of the preset this started from.
        key_bits, value_bits: bits of a code.
        key_group: tokens that share a key scale (per channel); they close, and are quantized, together.
        value_group: channels that share a value scale (per token); unless given, shrunk to fit the head size.
        key_window: tokens before the open group whose keys are still read unquantized.
        value_residual: values are read unquantized until a run of this many tokens is complete; divides the key
            group, so that a prefix hit never ends inside a run.
        value_window: tokens before the open run whose values are still read unquantized.
        rotation: Hadamard rotation of queries, keys and values over the head dimension.
        clipping: codes of two bits cover the middle :data:`vllm_kivi.reference.CLIP_RATIO` of a group's range.
    """

    preset: str
    key_bits: int
    value_bits: int
    key_group: int
    value_group: int
    key_window: int
    value_residual: int
    value_window: int
    rotation: bool
    clipping: bool
    value_group_given: bool = False

    @property
    def cache_dtype(self) -> str:
        """The name vLLM knows this cache by."""
        return DTYPE_PREFIX + self.preset

    def value_group_for(self, head_size: int) -> int:
        """Channels per value scale at this head size.

        A value group that the user gave must divide the head size; the preset's own is shrunk to the largest multiple
        of 8 that does (80 channels: 40 for 64).
        """
        if self.value_group_given:
            return self.value_group
        fitting = [g for g in range(8, min(self.value_group, head_size) + 1, 8) if head_size % g == 0]
        return fitting[-1] if fitting else head_size

    def layout(self, head_size: int, block_size: int) -> CacheLayout:
        """The page layout at a head size and block size.

        Raises:
            LayoutError: a group that does not divide what it has to.
        """
        return CacheLayout(
            head_size=head_size,
            block_size=block_size,
            key_bits=self.key_bits,
            value_bits=self.value_bits,
            key_group=self.key_group,
            value_group=self.value_group_for(head_size),
        )

    def key_staging_tokens(self, draft_tokens: int = 0) -> int:
        """Tokens of the key ring of one sequence: the open group, the window and unverified drafts, in whole tiles."""
        return whole_tiles(self.key_group + self.key_window + draft_tokens)

    def value_staging_tokens(self, draft_tokens: int = 0) -> int:
        """Tokens of the value ring of one sequence: the open run, the window and drafts, in whole tiles."""
        return whole_tiles(self.value_residual + self.value_window + draft_tokens)

    def staging_bytes_per_sequence(
        self, num_kv_heads: int, token_bytes: int, layers: int = 1, draft_tokens: int = 0
    ) -> int:
        """Bytes of both rings of one sequence in all layers.

        Args:
            token_bytes: of one head's key or value in a ring; on a GPU :func:`vllm_kivi.layout.staged_bytes`.
        """
        tokens = self.key_staging_tokens(draft_tokens) + self.value_staging_tokens(draft_tokens)
        return tokens * num_kv_heads * token_bytes * layers

    def describe(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        settings = asdict(self)
        del settings["value_group_given"]
        return settings


# Measured on SmolLM2-135M. Rotation halves k4v4's loss for no bytes. Clipping takes a quarter to a third off the KL
# divergence of codes of 2 bits and adds to that of 4 (8 % with a ratio of 0.97). At 2 bits the windows halve the loss,
# those of keys too. Unquantized newest values matter at 4 bits as well: +0.4 % with runs of 128, +0.55 % of 16 to 64,
# +1.1 % without. k4v4 has no window, so that a prefix hit gives exactly what a miss gives.
PRESETS: dict[str, KiviConfig] = {
    "k4v4": KiviConfig("k4v4", 4, 4, 128, 128, 0, 128, 0, rotation=True, clipping=False),
    "k4v2": KiviConfig("k4v2", 4, 2, 128, 64, 128, 128, 128, rotation=True, clipping=True),
    "k2v2": KiviConfig("k2v2", 2, 2, 32, 32, 128, 32, 128, rotation=True, clipping=True),
}
CACHE_DTYPES = tuple(DTYPE_PREFIX + name for name in PRESETS)

_SETTINGS = ("key_group", "value_group", "key_window", "value_residual", "value_window", "rotation", "clipping")
assert set(_SETTINGS) <= {f.name for f in fields(KiviConfig)}


def is_kivi_dtype(cache_dtype: str | None) -> bool:
    """Whether a vLLM KV cache dtype name is one of ours."""
    return cache_dtype is not None and cache_dtype.startswith(DTYPE_PREFIX)


def parse_config(cache_dtype: str, settings: Mapping[str, Any] | None = None) -> KiviConfig:
    """The format that ``--kv-cache-dtype`` and the ``kivi`` part of ``--additional-config`` ask for.

    Args:
        cache_dtype: ``kivi_k4v4``, ``kivi_k4v2`` or ``kivi_k2v2``.
        settings: any of key_group, value_group, key_window, value_residual, value_window, rotation, clipping; and
            audit, see :func:`parse_audit`.

    Raises:
        ConfigError: unknown preset or setting, or a value out of range.
    """
    preset = cache_dtype.removeprefix(DTYPE_PREFIX)
    if not is_kivi_dtype(cache_dtype) or preset not in PRESETS:
        raise ConfigError(
            f"--kv-cache-dtype {cache_dtype!r} is no KIVI preset{_nearest(cache_dtype, CACHE_DTYPES)}; "
            f"presets: {', '.join(CACHE_DTYPES)}"
        )
    config = PRESETS[preset]
    if settings is None:
        return config
    where = f"--additional-config {SETTINGS_KEY!r}"
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{where} must be an object of settings, found {settings!r}")
    parse_audit(settings)
    settings = {name: value for name, value in settings.items() if name != AUDIT}
    for name, value in settings.items():
        if name not in _SETTINGS:
            known = (*_SETTINGS, AUDIT)
            raise ConfigError(f"{where}: unknown setting {name!r}{_nearest(name, known)}; settings: {', '.join(known)}")
        if name in ("rotation", "clipping"):
            if not isinstance(value, bool):
                raise ConfigError(f"{where}: {name} must be true or false, found {value!r}")
        elif isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{where}: {name} must be a whole number, found {value!r}")
        elif name in ("key_window", "value_window") and not 0 <= value <= 4096:
            raise ConfigError(f"{where}: {name} must lie between 0 and 4096 tokens, found {value}")
        elif name == "key_group" and value not in (32, 64, 128, 256):
            raise ConfigError(f"{where}: key_group must be 32, 64, 128 or 256 tokens, found {value}")
        elif name == "value_residual" and value not in (8, 16, 32, 64, 128):
            raise ConfigError(f"{where}: value_residual must be 8, 16, 32, 64 or 128 tokens, found {value}")
        elif name == "value_group" and (value < 8 or value % 8):
            raise ConfigError(f"{where}: value_group must be a multiple of 8 channels, found {value}")
    chosen = replace(config, **settings, value_group_given="value_group" in settings)
    if "value_residual" not in settings:
        chosen = replace(chosen, value_residual=min(chosen.value_residual, chosen.key_group))
    if chosen.key_group % chosen.value_residual:
        raise ConfigError(
            f"{where}: value_residual {chosen.value_residual} must divide key_group {chosen.key_group}: a prefix hit "
            "ends at a key group, and must not end inside a run of values"
        )
    return chosen


def parse_audit(settings: Mapping[str, Any] | None) -> float:
    """The part of decode steps to audit, between 0 (none, unless given) and 1.

    Raises:
        ConfigError: anything else.
    """
    rate = (settings or {}).get(AUDIT, 0)
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
        raise ConfigError(
            f"--additional-config {SETTINGS_KEY!r}: {AUDIT} must be a number between 0 and 1, found {rate!r}"
        )
    return float(rate)


def _nearest(word: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(word), known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
