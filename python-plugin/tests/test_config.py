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
        ({"window": "x"}, "window must be a whole number, found 'x'"),
        ({"window": -1}, "window must lie between 0 and 4096 tokens, found -1"),
        ({"window": 4097}, "window must lie between 0 and 4096 tokens, found 4097"),
        ({"window": 1.0}, "window must be a whole number, found 1.0"),
        ({"window": math.nan}, "window must be a whole number, found nan"),
        ({"window": None}, "window must be a whole number, found None"),
        ({"window": True}, "window must be a whole number, found True"),
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
        ([("window", 1)], "must be an object of settings, found"),
        ("window=1", "must be an object of settings, found 'window=1'"),
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
    given = {"key_group": 64, "value_group": 16, "window": 5, "rotation": True, "clipping": True}
    config = parse_config("kivi_k4v4", given)
    assert {name: getattr(config, name) for name in given} == given
    assert config.describe() == {"preset": "k4v4", "key_bits": 4, "value_bits": 4, **given}
    assert config.staging_tokens == 72  # 64 + 5, rounded up to 8
    assert config.staging_bytes_per_sequence(3, 64, 2, layers=30) == 72 * 2 * 3 * 64 * 2 * 30


@pytest.mark.parametrize(("head_size", "fitting"), [(128, 64), (64, 64), (80, 40), (96, 48), (8, 8), (72, 24)])
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
    assert printed["bytes_per_token_per_head"] == 137
    assert printed["page_bytes_per_head"] == 137 * 128
    assert printed["staging_tokens"] == 128


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
