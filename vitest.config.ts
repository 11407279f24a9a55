import { defineConfig } from "vitest/config";

// Faults of real servers and of every step of an install take minutes: npm run test:faults.
const faults = process.env.KIVI_TEST_FAULTS !== undefined;

export default defineConfig({
  test: {
    include: faults ? ["test/faults/*.test.ts"] : ["test/**/*.test.ts", "src/**/*.test.ts"],
    exclude: faults ? [] : ["test/faults/**", "node_modules/**"],
    testTimeout: 60_000,
    hookTimeout: 120_000,
    pool: "forks",
    maxWorkers: 2,
  },
});
