"""``python -m vllm_kivi layout --preset k4v4 --head-size 128``: the page's arithmetic as JSON. Needs no torch."""

from __future__ import annotations

import argparse
import json
import sys

from vllm_kivi.config import DEFAULT_BLOCK_SIZE, DTYPE_PREFIX, PRESETS, ConfigError, parse_config
from vllm_kivi.layout import LayoutError

_SIZES = ("key_group", "value_group", "key_window", "value_residual", "value_window")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vllm_kivi", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    layout = commands.add_parser("layout", help="bytes of a page")
    layout.add_argument("--preset", choices=PRESETS, required=True)
    layout.add_argument("--head-size", type=int, required=True)
    layout.add_argument("--block-size", type=int)
    for name in _SIZES:
        layout.add_argument(f"--{name.replace('_', '-')}", type=int)
    args = parser.parse_args(argv)
    given = {name: getattr(args, name) for name in _SIZES if getattr(args, name) is not None}
    try:
        config = parse_config(DTYPE_PREFIX + args.preset, given)
        pages = config.layout(args.head_size, args.block_size or max(DEFAULT_BLOCK_SIZE, config.key_group))
    except (ConfigError, LayoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        json.dumps(
            {
                **config.describe(),
                "value_group": pages.value_group,
                "head_size": pages.head_size,
                "block_size": pages.block_size,
                "page_bytes_per_head": pages.record_bytes,
                "bytes_per_token_per_head": pages.bytes_per_token,
                "key_staging_tokens": config.key_staging_tokens(),
                "value_staging_tokens": config.value_staging_tokens(),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
