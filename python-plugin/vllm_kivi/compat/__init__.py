"""Every place where KIVI meets vLLM's internals: what is touched, why, what differs between versions.

A difference is found by a probe for the thing itself, never by comparing version strings (forks and nightly builds have
any), and lives in a file of this package; ``releases`` alone reads them, to tell whether a release was tried. Versions
seen, all as vLLM's CPU build: 0.16.0, 0.20.2, 0.22.1, 0.24.0, 0.26.0, 0.28.0, 0.30.0 and 0.32.0; 0.18.1 was read but
does not start (it wants libraries preloaded). GPUs were run with 0.26.0.

Ledger of what is replaced:

================================  ======================================================  ==============================
symbol                            why                                                     goes away with
================================  ======================================================  ==============================
config.cache.CacheDType           ``kivi_*`` must pass the closed list of cache dtypes    register_kv_cache_dtype (0.33)
STR_DTYPE_TO_TORCH_DTYPE          a KIVI page is uint8                                    the same
Platform.check_and_update_config  settings are checked once, when the engine is set up    -
Platform.get_attn_backend_cls     a layer whose cache dtype is ours gets our backend      open backend choice
Platform.update_block_size_for_…  it would align block sizes to a page it cannot know     -
Platform.register_triton_kernel…  a second engine of a process fails at llvmlite (0.32)   a fix in vLLM
Attention.get_kv_cache_spec       such a layer reports our page bytes                     a backend that builds its spec
GPUModelRunner.get_kv_cache_spec  pages of the other layers fit ours (V1 and V2)          -
GPUModelRunner (two methods)      who starts and who ended: owners of open groups         CircularBufferSpec (0.30)
  of both model runners, V1 and V2
DefaultModelState.prepare_attn    whose row is whose (V2; V1 keeps it on the runner)      req_idx in the metadata (0.30)
Worker.determine_available_…      staging is paid from the memory a user gives the cache  -
Worker.wake_up                    sleep at level 2 drops rings and scratch with the       -
                                  weights, and wakes with anything in their place
================================  ======================================================  ==============================

Ledger of what differs:

================================  ========================================  ============================================
what                              versions                                  where
================================  ========================================  ============================================
who manages a spec's blocks       map of classes to 0.22, registry 0.24 on  specs.managed_as_full_attention
what page bytes are read from     real_page_size_bytes to 0.26, then        specs.PackedPage
                                  unpadded_page_size_bytes
who shapes a page                 the backend to 0.28, the spec 0.30 on     specs.PackedPage, specs.pages_of
what a cache tensor's size is     its own to 0.28, the whole pool 0.30 on   specs.pool_bytes
tokens held                       get_kv_cache_capacity 0.24 on             specs.token_capacity
update_block_size_for_backend     0.18 on                                   platforms.hook_platform
layers that keep vLLM's cache     0.20 on                                   facts.keeps_skipped_layers
prefix_match_unit                 0.26 on                                   facts.prefix_match_unit
calculate_kv_scales               to 0.26                                   facts.calculates_kv_scales
num_speculative_tokens            of the configuration 0.18 on              facts.draft_tokens
the model runner's choice         variable to 0.20, configuration 0.22 on   facts.uses_v2_runner
kv_cache_memory_bytes on the CPU  counts 0.20 on                            facts.honour_cache_memory
pinned memory                     on the CPU too in 0.22, as the platform   platforms.pin_where_possible
                                  says 0.24 on
a block size that was given       None if not in 0.16, marked 0.18 on       facts.given_block_size
kernel block sizes by spec        0.32                                      KiviBackend takes and ignores it
output buffers on request         accept_output_buffer in 0.16 and 0.18     KiviBackend has it
has_sliding_window, non-causal    asked for each layer 0.26, 0.20 on        gate.backend_path; a layer refuses either
================================  ========================================  ============================================

Each wrapper calls straight through when the engine does not ask for KIVI. The V1 ``GPUModelRunner`` is also the base of
the CPU runner. :func:`install` is idempotent and runs in every process, from ``vllm.general_plugins``.
"""

from __future__ import annotations

from vllm_kivi.compat.wrap import IncompatibleError

__all__ = ["IncompatibleError", "install", "is_installed"]


def install() -> None:
    """Hook KIVI into this process's vLLM; safe to call again.

    A vLLM that was never tried only learns our names, so that the gate can refuse them with the reason.

    Raises:
        IncompatibleError: a symbol of the ledger is missing.
    """
    import vllm
    from vllm.platforms import current_platform

    from vllm_kivi.compat.dtypes import add_cache_dtypes
    from vllm_kivi.compat.layers import hook_layers
    from vllm_kivi.compat.platforms import hook_platform
    from vllm_kivi.compat.releases import why_untried
    from vllm_kivi.compat.runners import hook_runners

    add_cache_dtypes()
    hook_platform(type(current_platform))
    if why_untried(vllm.__version__, current_platform.is_cpu()):
        return  # the gate refuses our caches there; for all others nothing of such a vLLM is touched
    hook_layers()
    hook_runners(current_platform.is_cpu())


def is_installed() -> bool:
    """Whether this process's vLLM accepts our cache dtypes and has our hooks."""
    from vllm.platforms import current_platform

    from vllm_kivi.compat.dtypes import has_cache_dtypes
    from vllm_kivi.compat.wrap import is_wrapped

    return has_cache_dtypes() and is_wrapped(type(current_platform).get_attn_backend_cls)
