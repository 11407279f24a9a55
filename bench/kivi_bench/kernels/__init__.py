"""The kernel benchmark: time and bytes/s of decode attention over packed and plain KV caches, side by side.

Each implementation runs in a process of its own (``worker.py``), so that one which crashes, or leaves its CUDA context
unusable, costs the others nothing. ``session.py`` asks them in turn for one shape after another.
"""
