"""Pages of one size for layers of several kinds, on vLLM's own specs and grouping; and the blocks that change hands."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_configs import LLAMA, engine_config
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.attention import Attention
from vllm.v1.core.kv_cache_utils import get_kv_cache_groups
from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs
from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec, UniformTypeKVCacheSpecs

from vllm_kivi.cache.fresh import FreshBlocks
from vllm_kivi.cache.pages import block_size_beside_windows, fit_pages, plain_block_size
from vllm_kivi.cache.spec import KiviFullAttentionSpec
from vllm_kivi.config import PRESETS

# The Llama class of vLLM reads layer_types too; another would be inspected in a process of its own.
WINDOWED = {**LLAMA, "num_hidden_layers": 3, "sliding_window": 100,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}  # fmt: skip


pytestmark = pytest.mark.usefixtures("registered")


def groups_of(config: VllmConfig, specs: dict[str, Any]) -> list[Any]:
    register_all_kvcache_specs(config)  # as an engine does
    return get_kv_cache_groups(config, specs)


def layers(config: VllmConfig, windows: dict[int, int | None], heads: int = 1, size: int = 64) -> dict[str, Any]:
    """Specs of layers, by name, each with a window or None."""
    specs = {}
    with set_current_vllm_config(config):
        for number, window in windows.items():
            layer = Attention(
                3 * heads, size, 0.125, num_kv_heads=heads, cache_config=config.cache_config,
                per_layer_sliding_window=window, prefix=f"layers.{number}.attn",
            )  # fmt: skip
            specs[layer.layer_name] = layer.get_kv_cache_spec(config)
    return specs


@pytest.mark.parametrize(
    ("preset", "head_size", "element_bytes", "step", "block_size", "plain"),
    [
        ("k4v4", 128, 2, 16, 128, 32),  # 4 % of the other layers' pages is padding
        ("k4v4", 64, 2, 32, 128, 32),
        ("k4v4", 64, 4, 32, 256, 32),  # float32 on the CPU
        ("k4v4", 256, 2, 16, 128, 32),
        ("k4v2", 128, 2, 16, 384, 64),  # 23 %; of 128 it would be 42 %
        ("k2v2", 128, 2, 16, 192, 32),  # 3 %; of 128 it would be 27 %
    ],
)
def test_block_size_beside_windows(
    preset: str, head_size: int, element_bytes: int, step: int, block_size: int, plain: int
) -> None:
    config, token = PRESETS[preset], 2 * head_size * element_bytes
    assert block_size_beside_windows(config, head_size, element_bytes, step) == block_size
    record = config.layout(head_size, block_size).record_bytes
    assert plain_block_size(record, token, block_size, step) == plain
    assert 1 - plain * token / record <= 0.25


def test_windows_and_kivi_share_a_pool(tmp_path: Path) -> None:
    config = engine_config(tmp_path / "model", WINDOWED, kv_cache_dtype="kivi_k4v4")
    specs = fit_pages(layers(config, {0: 100, 1: None, 2: 100}), config)
    assert [type(spec) for spec in specs.values()] == [SlidingWindowSpec, KiviFullAttentionSpec, SlidingWindowSpec]
    assert [(spec.block_size, spec.page_size_bytes) for spec in specs.values()] == [(32, 8768), (128, 8768), (32, 8768)]
    assert specs["layers.0.attn"].dtype == torch.bfloat16
    assert len(groups_of(config, specs)) == 3  # of one layer each


def test_named_layers_share_a_group_without_padding(tmp_path: Path) -> None:
    config = engine_config(tmp_path / "model", kv_cache_dtype="kivi_k4v4", kv_cache_dtype_skip_layers=["0"])
    specs = fit_pages(layers(config, {0: None, 1: None}), config)
    assert [type(spec) for spec in specs.values()] == [FullAttentionSpec, KiviFullAttentionSpec]
    (group,) = groups_of(config, specs)
    assert isinstance(group.kv_cache_spec, UniformTypeKVCacheSpecs)
    assert group.kv_cache_spec.page_size_bytes == 128 * 2 * 64 * 2 + 8768


def test_named_layers_beside_windows_fit_the_page_too(tmp_path: Path) -> None:
    config = engine_config(tmp_path / "model", WINDOWED, kv_cache_dtype="kivi_k4v4", kv_cache_dtype_skip_layers=["5"])
    specs = fit_pages(layers(config, {0: 100, 1: None, 5: None}), config)
    assert [type(spec) for spec in specs.values()] == [SlidingWindowSpec, KiviFullAttentionSpec, FullAttentionSpec]
    assert {spec.page_size_bytes for spec in specs.values()} == {8768}
    assert [spec.block_size for spec in specs.values()] == [32, 128, 32]
    groups_of(config, specs)


def test_kivi_layers_alone_are_left_as_they_are(tmp_path: Path) -> None:
    config = engine_config(tmp_path / "model", kv_cache_dtype="kivi_k4v4")
    specs = layers(config, {0: None, 1: None})
    assert fit_pages(dict(specs), config) == specs
    assert len(groups_of(config, specs)) == 1


def test_kivi_layers_of_two_head_sizes_share_a_group(tmp_path: Path) -> None:
    config = engine_config(tmp_path / "model", kv_cache_dtype="kivi_k4v4")
    specs = layers(config, {0: None}) | layers(config, {1: None}, size=128)
    (group,) = groups_of(config, fit_pages(specs, config))
    assert group.kv_cache_spec.page_size_bytes == 8768 + 134 * 128
    specs |= layers(config, {2: 100})
    with pytest.raises(ValueError, match=r"KIVI refuses: its layers have pages of \[8768, 17152\] bytes"):
        fit_pages(specs, config)


def test_no_layer_left_for_kivi_is_refused(tmp_path: Path) -> None:
    """Where the model's configuration does not say so itself, and the gate let it pass."""
    config = engine_config(tmp_path / "model", kv_cache_dtype="kivi_k4v4")
    with pytest.raises(ValueError, match="KIVI refuses: every attention layer of this model has a sliding window"):
        fit_pages(layers(config, {0: 100, 1: 100}), config)


def test_a_window_of_many_more_heads_is_refused_with_what_is_enough(tmp_path: Path) -> None:
    config = engine_config(tmp_path / "model", WINDOWED, kv_cache_dtype="kivi_k4v4")
    specs = layers(config, {1: None}) | layers(config, {0: 100}, heads=4)
    with pytest.raises(
        ValueError, match=r"32 tokens take 32768 bytes, and a KIVI page of 128 .* has 8768; use"
    ) as caught:
        fit_pages(specs, config)
    enough = int(str(caught.value).split("--block-size ")[1].split()[0])
    config = engine_config(tmp_path / "model", WINDOWED, kv_cache_dtype="kivi_k4v4", block_size=enough)
    fitted = fit_pages(layers(config, {1: None}) | layers(config, {0: 100}, heads=4), config)
    assert len({spec.page_size_bytes for spec in fitted.values()}) == 1


def test_only_new_blocks_are_emptied() -> None:
    """Groups of 128 and of 32 tokens a block; what a hit brought stays, and what a running request had."""
    pages = torch.full((24, 2, 16), 7, dtype=torch.uint8)
    fresh = FreshBlocks([128, 32], [SimpleNamespace(kv_cache=pages)] * 2)
    new = SimpleNamespace(block_ids=([1, 2], [0, 0, 3, 4, 5]), num_computed_tokens=128)
    again = SimpleNamespace(
        req_ids=["running", "resumed", "waiting"],
        new_block_ids=[([6], [7]), ([8, 9], [0, 0, 0, 10, 11]), None],
        num_computed_tokens=[500, 128, 40],
        resumed_req_ids={"resumed"},
    )
    fresh.empty(SimpleNamespace(scheduled_new_reqs=[new], scheduled_cached_reqs=again))
    emptied = {block for block in range(24) if not pages[block].any()}
    assert emptied == {0, 2, 5, 6, 7, 9, 11}
    assert pages.unique().tolist() == [0, 7]
