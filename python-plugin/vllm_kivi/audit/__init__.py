"""The audit: a sampled part of decode steps computed again by the reference, while the engine serves.

Off unless asked for (``--additional-config '{"kivi": {"audit": 0.01}}'``), and then nothing of it exists in a step. On,
one layer copies its rotated queries and its outputs into buffers of its own (:mod:`tap`), in a CUDA graph too; what it
costs beyond that is paid outside of graphs, after the sampled steps (:mod:`auditor`). Workers publish their figures in
files (:mod:`metrics`), from which the API server's ``/metrics`` reads them, whichever processes vLLM made of itself.
"""
