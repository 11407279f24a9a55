import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { temporaryFolder } from "../helpers/cli.js";
import { complete, realVenv, serveTiny } from "../helpers/real-server.js";

/** vLLM's own way to give workers a method: it changes the pages of every KIVI layer, as a stray write would. */
const CORRUPTOR = `
class Corruptor:
    def corrupt_pages(self):
        from vllm_kivi.settings import built_layers
        for layer in built_layers(self.vllm_config):
            layer.kv_cache.random_()
`;

async function metrics(url: string): Promise<Map<string, number>> {
  const page = await (await fetch(`${url}/metrics`)).text();
  const lines = page.split("\n").filter((line) => /^(kivi_|vllm:num_requests_running)/.test(line));
  return new Map(
    lines.map((line) => {
      const [, name = "", bound = "", value] =
        /^([^\s{]+)(?:\{.*?(?:le="([^"]*)")?.*?\})?\s+(\S+)$/.exec(line) ?? [];
      return [name + bound, Number(value)];
    }),
  );
}

describe.skipIf(realVenv === undefined)("kivi serve --kivi-audit, with real vLLM (KIVI_TEST_VENV)", () => {
  it("shows small errors on /metrics, and a large one once pages have changed", async () => {
    const home = temporaryFolder();
    const scratch = temporaryFolder("ka-"); // a short name: vLLM's sockets are below it
    writeFileSync(join(home, "corruptor.py"), CORRUPTOR);
    const server = await serveTiny(home, {
      flags: ["--kivi-audit", "1"],
      words: ["--worker-extension-cls", "corruptor.Corruptor"],
      env: { VLLM_SERVER_DEV_MODE: "1", PYTHONPATH: home, TMPDIR: scratch },
    });
    try {
      expect((await complete(server.url, 200, 100)).status).toBe(200);
      const sound = await metrics(server.url);
      expect(sound.get("vllm:num_requests_running")).toBe(0);
      expect(sound.get("kivi_audit_steps_total")).toBeGreaterThanOrEqual(98);
      expect(sound.get("kivi_audit_error_ratio_count")).toBe(sound.get("kivi_audit_steps_total"));
      expect(sound.get("kivi_audit_error_ratio_max")).toBeLessThan(0.01);
      expect(sound.get("kivi_audit_failures_total")).toBe(0);
      expect(sound.get("kivi_groups_closed_total")).toBe(2);
      expect(sound.get("kivi_staging_slots")).toBe(4);

      const answer = complete(server.url, 250, 600);
      for (;;) {
        const now = await metrics(server.url);
        if ((now.get("kivi_audit_steps_total") ?? 0) > 150 && now.get("kivi_tokens_held")) break;
      }
      const rpc = { method: "POST", body: JSON.stringify({ method: "corrupt_pages" }) };
      expect((await fetch(`${server.url}/collective_rpc`, rpc)).status).toBe(200);
      expect((await answer).status).toBe(200);
      const changed = await metrics(server.url);
      expect(changed.get("kivi_audit_error_ratio_max")).toBeGreaterThan(0.05);
      expect(changed.get("kivi_audit_failures_total")).toBe(0);
    } finally {
      server.child.kill("SIGTERM");
    }
    expect((await server.ended).code).toBe(143);
    expect(readdirSync(scratch).filter((name) => !name.startsWith("torchinductor_"))).toEqual([]);
  }, 400_000);
});
