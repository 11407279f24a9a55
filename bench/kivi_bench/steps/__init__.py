"""Where an engine's time goes: the first token of a long prompt, one decode step after another, kernels of a layer."""
