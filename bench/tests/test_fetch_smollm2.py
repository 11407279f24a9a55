"""The converter on GGUF files of its own making; the real model is fetched by the demo and by the engine tests."""

import json
from pathlib import Path
from typing import Any

import fetch_smollm2
import pytest

gguf = pytest.importorskip("gguf")
np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

HIDDEN, HEADS, KV_HEADS, LAYERS, FEED = 32, 4, 2, 2, 64
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdehlo0123456789", "Ġ", "he"]


def permuted(weight: Any, heads: int) -> Any:
    """Rows as llama.cpp's own converter from Hugging Face orders them (`LlamaModel.permute`)."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A small Llama as GGUF (32-bit floats), and the Hugging Face tensors that it was made from."""
    generator = np.random.default_rng(0)

    def rows(*shape: int) -> Any:
        return generator.standard_normal(shape, dtype=np.float32)

    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_embedding_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED)
    writer.add_context_length(256)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(["h e"])
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    for kind, number in (("bos", 1), ("eos", 2), ("unk", 0), ("pad", 2)):
        getattr(writer, f"add_{kind}_token_id")(number)
    writer.add_chat_template("{{ messages }}")

    expected: dict[str, Any] = {}
    shapes = {
        "attn_norm": (HIDDEN,),
        "ffn_norm": (HIDDEN,),
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (HIDDEN // HEADS * KV_HEADS, HIDDEN),
        "attn_v": (HIDDEN // HEADS * KV_HEADS, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (FEED, HIDDEN),
        "ffn_up": (FEED, HIDDEN),
        "ffn_down": (HIDDEN, FEED),
    }
    heads = {"attn_q": HEADS, "attn_k": KV_HEADS}
    for name, hf in fetch_smollm2.GLOBAL_TENSORS.items():
        expected[hf] = rows(HIDDEN) if "norm" in name else rows(len(TOKENS), HIDDEN)
        writer.add_tensor(name, expected[hf])
    for layer in range(LAYERS):
        for part, shape in shapes.items():
            weight = rows(*shape)
            expected[f"model.layers.{layer}.{fetch_smollm2.BLOCK_TENSORS[part]}.weight"] = weight
            stored = permuted(weight, heads[part]) if part in heads else weight
            writer.add_tensor(f"blk.{layer}.{part}.weight", np.ascontiguousarray(stored))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, expected


def test_weights_config_and_tokenizer_survive(checkpoint: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    source, expected = checkpoint
    folder = tmp_path / "out"
    folder.mkdir()
    fetch_smollm2.convert(source, folder)

    tensors = load_file(folder / "model.safetensors")
    assert tensors.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(tensors[name], torch.from_numpy(weight).to(torch.bfloat16)), name

    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["head_dim"], config["rms_norm_eps"], config["rope_theta"]) == (8, 1e-5, 1e5)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode("<|im_start|>hello 42").tokens
    assert ids == ["<|im_start|>", "he", "l", "l", "o", "Ġ", "4", "2"]
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert (settings["eos_token"], settings["chat_template"]) == ("<|im_end|>", "{{ messages }}")


def test_a_finished_folder_is_found_and_a_damaged_one_is_not(
    checkpoint: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    assert not fetch_smollm2.is_current(folder)
    fetch_smollm2.convert(checkpoint[0], folder)
    assert fetch_smollm2.is_current(folder)
    assert fetch_smollm2.fetch(folder, uv="/nowhere/uv") is False
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert not fetch_smollm2.is_current(folder)


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.0.attn_qkv.weight", "output.weight"])
def test_an_unknown_tensor_is_refused(name: str) -> None:
    with pytest.raises(fetch_smollm2.FetchError, match=name):
        fetch_smollm2.target_name(name)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(fetch_smollm2.FetchError, match="was not made by this script"):
        fetch_smollm2.fetch(tmp_path, uv=None)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_failed_download_leaves_nothing_and_keeps_the_older_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho no such host >&2\nexit 2\n")
    uv.chmod(0o755)
    older = tmp_path / "models" / "m"
    older.mkdir(parents=True)
    (older / fetch_smollm2.MARKER).write_text("{}")
    monkeypatch.setattr("sys.argv", ["fetch_smollm2.py", str(older), "--uv", str(uv)])
    assert fetch_smollm2.main() == 3
    assert "no such host" in capsys.readouterr().err
    assert [path.name for path in older.parent.iterdir()] == ["m"]
    assert (older / fetch_smollm2.MARKER).read_text() == "{}"
