"""Python workers of ``kivi bench``: one fresh vLLM engine per cell of the matrix.

``python bench/cell.py SPEC.json`` runs one cell. It needs nothing but the environment that holds vLLM.
"""
