"""Settings a user gives: every bad value has its message, and a good one has its effect."""

import json
import math
import subprocess
import sys

import pytest

from vllm_kivi import __main__ as command
from vllm_kivi.config import CACHE_DTYPES, PRESETS, ConfigError, is_kivi_dtype, parse_config
from vllm_kivi.layout import LayoutError


@pytest.mark.parametrize(
    ("cache_dtype", "message"),
    [
        (
            "kivi_k4v3",
            r"is no KIVI preset \(did you mean 'kivi_k4v\d'\?\); presets: kivi_k4v4, kivi_k4v2, kivi_k2v2",
        ),
        ("kivi_", "is no KIVI preset"),
        ("k4v4", "'k4v4' is no KIVI preset .*did you mean 'kivi_k4v4'"),
        ("fp8", "'fp8' is no KIVI preset; presets"),
        ("kivi_kivi_k4v4", "is no KIVI preset"),
    ],
)
def test_unknown_preset(cache_dtype: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(cache_dtype)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"key_window": "x"}, "key_window must be a whole number, found 'x'"),
        ({"key_window": -1}, "key_window must lie between 0 and 4096 tokens, found -1"),
        ({"key_window": 4097}, "key_window must lie between 0 and 4096 tokens, found 4097"),
        ({"value_residual": 24}, "value_residual must be 8, 16, 32, 64 or 128 tokens, found 24"),
        ({"value_window": -1}, "value_window must lie between 0 and 4096 tokens, found -1"),
        ({"value_window": 4097}, "value_window must lie between 0 and 4096 tokens, found 4097"),
        ({"value_window": 1.0}, "value_window must be a whole number, found 1.0"),
        ({"value_window": math.nan}, "value_window must be a whole number, found nan"),
        ({"value_window": None}, "value_window must be a whole number, found None"),
        ({"value_window": True}, "value_window must be a whole number, found True"),
        ({"window": 128}, "unknown setting 'window'"),
        ({"key_group": 96}, "key_group must be 32, 64, 128 or 256 tokens, found 96"),
        ({"key_group": 0}, "key_group must be 32, 64, 128 or 256 tokens, found 0"),
        ({"key_group": "128"}, "key_group must be a whole number, found '128'"),
        ({"value_group": 12}, "value_group must be a multiple of 8 channels, found 12"),
        ({"value_group": 0}, "value_group must be a multiple of 8 channels, found 0"),
        ({"value_group": -8}, "value_group must be a multiple of 8 channels, found -8"),
        ({"rotation": 1}, "rotation must be true or false, found 1"),
        ({"clipping": "yes"}, "clipping must be true or false, found 'yes'"),
        (
            {"key_grup": 64},
            r"unknown setting 'key_grup' \(did you mean 'key_group'\?\); settings: key_group",
        ),
        ({"key_bits": 4}, "unknown setting 'key_bits'"),
        ({"preset": "k2v2"}, "unknown setting 'preset'"),
        ({"value_group_given": True}, "unknown setting 'value_group_given'"),
        ({7: 1}, "unknown setting 7"),
        ([("key_window", 1)], "must be an object of settings, found"),
        ("key_window=1", "must be an object of settings, found 'key_window=1'"),
        (0, "must be an object of settings, found 0"),
    ],
)
def test_bad_setting_is_named(settings: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config("kivi_k4v4", settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("cache_dtype", CACHE_DTYPES)
def test_a_preset_is_itself_without_settings(cache_dtype: str) -> None:
    config = PRESETS[cache_dtype.removeprefix("kivi_")]
    assert parse_config(cache_dtype) is config
    assert parse_config(cache_dtype, {}) == config
    assert config.cache_dtype == cache_dtype
    assert f"k{config.key_bits}v{config.value_bits}" == config.preset


def test_every_setting_takes_effect() -> None:
    given = {
        "key_group": 64, "value_group": 16, "key_window": 5, "value_residual": 8, "value_window": 9, "rotation": True,
        "clipping": True,
    }  # fmt: skip
    config = parse_config("kivi_k4v4", given)
    assert {name: getattr(config, name) for name in given} == given
    assert config.describe() == {"preset": "k4v4", "key_bits": 4, "value_bits": 4, **given}
    assert config.key_staging_tokens() == 80  # 64 + 5, rounded up to 16
    assert config.key_staging_tokens(draft_tokens=12) == 96
    assert config.value_staging_tokens() == 32  # 8 + 9, rounded up to 16
    assert config.value_staging_tokens(draft_tokens=16) == 48
    assert config.staging_bytes_per_sequence(3, 128, layers=30) == (80 + 32) * 3 * 128 * 30
    assert config.staging_bytes_per_sequence(3, 128, layers=30, draft_tokens=16) == (96 + 48) * 3 * 128 * 30


@pytest.mark.parametrize("preset", PRESETS)
def test_a_prefix_hit_never_ends_inside_a_run_of_values(preset: str) -> None:
    config = PRESETS[preset]
    assert config.key_group % config.value_residual == 0
    with pytest.raises(ConfigError, match=r"value_residual 128 must divide key_group 64"):
        parse_config("kivi_k4v4", {"key_group": 64, "value_residual": 128})


@pytest.mark.parametrize(
    ("head_size", "fitting"), [(256, 128), (128, 128), (64, 64), (80, 80), (96, 96), (8, 8), (160, 80), (144, 72)]
)
def test_the_presets_value_group_shrinks_to_the_head_size(head_size: int, fitting: int) -> None:
    assert PRESETS["k4v4"].value_group_for(head_size) == fitting
    PRESETS["k4v4"].layout(head_size, 128)


def test_a_given_value_group_is_not_changed() -> None:
    config = parse_config("kivi_k4v4", {"value_group": 64})
    with pytest.raises(LayoutError, match=r"value_group 64 does not divide the head size 80"):
        config.layout(80, 128)


@pytest.mark.parametrize(("name", "ours"), [("kivi_k4v4", True), ("kivi_x", True), ("auto", False), (None, False)])
def test_which_names_are_ours(name: str | None, ours: bool) -> None:
    assert is_kivi_dtype(name) is ours


def test_command_prints_the_arithmetic(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["layout", "--preset", "k4v4", "--head-size", "128"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["bytes_per_token_per_head"] == 134
    assert printed["page_bytes_per_head"] == 134 * 128
    assert (printed["key_staging_tokens"], printed["value_staging_tokens"]) == (128, PRESETS["k4v4"].value_residual)


def test_command_reports_what_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["layout", "--preset", "k4v4", "--head-size", "100"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: head_size is 100")


def test_the_arithmetic_needs_neither_torch_nor_vllm() -> None:
    program = (
        "import sys, vllm_kivi.__main__ as m; "
        "code = m.main(['layout', '--preset', 'k2v2', '--head-size', '64']); "
        "sys.exit(code or ('torch' in sys.modules) or ('vllm' in sys.modules))"
    )
    path = command.__file__.removesuffix("vllm_kivi/__main__.py")
    subprocess.run([sys.executable, "-c", program], check=True, cwd=path, capture_output=True, timeout=60)
