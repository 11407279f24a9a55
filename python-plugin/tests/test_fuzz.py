"""The settings that a user gives: any of them makes a format whose layout holds together, or is refused by name."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_kivi.config import CACHE_DTYPES, ConfigError, KiviConfig, parse_config
from vllm_kivi.layout import LayoutError

NUMBERS = ("key_group", "value_group", "key_window", "value_residual", "value_window")
anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.lists(st.integers())
fitting = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.sampled_from([0, 8, 16, 32, 64, 128, 256]) for name in NUMBERS},
        "rotation": st.booleans(),
        "clipping": st.booleans(),
    },
)
names = st.sampled_from([*NUMBERS, "rotation", "clipping", "preset", "key_bits"]) | st.text(max_size=6)


@settings(max_examples=300)
@given(
    st.sampled_from(CACHE_DTYPES) | st.text(max_size=12).map(lambda text: f"kivi_{text}"),
    fitting | anything | st.dictionaries(names, anything | st.sampled_from([8, 64, 128]), max_size=3),
    st.sampled_from([64, 80, 96, 128, 256]),
)
def test_settings_make_a_format_or_are_refused(cache_dtype: str, given_settings: Any, head_size: int) -> None:
    try:
        config = parse_config(cache_dtype, given_settings)
    except ConfigError:
        return
    assert isinstance(config, KiviConfig)
    assert config.key_group % config.value_residual == 0
    assert config.cache_dtype == cache_dtype
    try:
        layout = config.layout(head_size, 2 * config.key_group)
    except LayoutError:
        assert config.value_group_given, "a preset's own group fits every head size"
        return
    assert head_size % layout.value_group == 0
    assert layout.page_bytes(1) > 0
