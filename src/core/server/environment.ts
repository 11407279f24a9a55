/** What a server's environment has beside kivi's own; undefined takes a name away. */
export function serverEnvironment(env: NodeJS.ProcessEnv): Record<string, string | undefined> {
  return {
    // The report is a line of level INFO.
    VLLM_LOGGING_LEVEL: env.VLLM_LOGGING_LEVEL === "DEBUG" ? "DEBUG" : "INFO",
    // Byte code spares every later start half of its imports.
    PYTHONDONTWRITEBYTECODE: undefined,
    PYTHONUNBUFFERED: "1",
    NO_COLOR: "1",
    // Ray takes lines of several workers that differ in numbers only for one, and so would swallow reports.
    RAY_DEDUP_LOGS: "0",
  };
}
