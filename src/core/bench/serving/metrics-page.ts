/** What a vLLM server says of itself at `/metrics`, in Prometheus' text form. */

/** The values of all series of a name, with their labels; vLLM has one for each engine. */
function series(page: string, name: string): { labels: string; value: number }[] {
  return page.split("\n").flatMap((line) => {
    const match = /^([^\s{]+)(?:\{(.*)\})?\s+(\S+)/.exec(line);
    return match?.[1] === name ? [{ labels: match[2] ?? "", value: Number(match[3]) }] : [];
  });
}

function label(labels: string, name: string): string | undefined {
  return new RegExp(`(?:^|,)${name}="([^"]*)"`).exec(labels)?.[1];
}

/** Preemptions since the start, of all engines; undefined where the server does not count them. */
export function preemptions(page: string): number | undefined {
  const found = series(page, "vllm:num_preemptions_total");
  return found.length === 0 ? undefined : found.reduce((sum, { value }) => sum + value, 0);
}

export interface ServedCache {
  /** Of all engines. */
  readonly tokens: number | undefined;
  readonly blockSize: number | undefined;
  readonly prefixCaching: boolean;
}

export function servedCache(page: string): ServedCache {
  const engines = series(page, "vllm:cache_config_info").map(({ labels }) => labels);
  const number = (labels: string, name: string): number => Number(label(labels, name));
  const tokens = engines.reduce((sum, labels) => sum + number(labels, "kv_cache_size_tokens"), 0);
  const blockSize = number(engines[0] ?? "", "block_size");
  return {
    tokens: engines.length > 0 && Number.isFinite(tokens) ? tokens : undefined,
    blockSize: Number.isFinite(blockSize) ? blockSize : undefined,
    prefixCaching: label(engines[0] ?? "", "enable_prefix_caching") === "True",
  };
}
