/** Set by the code that starts the server, from the plan's own fields. */
const ELSEWHERE = ["model", "additional_config"];

/** The words of a server for what `vllm.LLM` takes as keyword arguments. Prefix caching is off, as in every suite. */
export function serverArguments(engine: Readonly<Record<string, unknown>>): string[] {
  const words = Object.entries(engine).flatMap(([name, value]): string[] => {
    if (ELSEWHERE.includes(name)) return [];
    const flag = name.replaceAll("_", "-");
    if (typeof value === "boolean") return [value ? `--${flag}` : `--no-${flag}`];
    return [`--${flag}`, String(value)];
  });
  return [...words, "--no-enable-prefix-caching"];
}
