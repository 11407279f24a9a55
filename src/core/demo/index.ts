/** `kivi demo`: the whole product on a machine without a GPU. */
export type { Answer } from "./ask.js";
export { type DemoOptions, type DemoResult, type DemoView, runDemo } from "./demo.js";
export { DEFAULT_QUESTION } from "./question.js";
