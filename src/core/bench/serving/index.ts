/** The suite `serve`: a real HTTP server under vLLM's own load client. */
export {
  median,
  runAtLimit,
  SERVE_FIGURES,
  type ServeFigure,
  samples,
  serveFigure,
  serveSetup,
  usersSetup,
} from "./figures.js";
export { NotServing, type Served, type ServingPlan, serveAndMeasure, serverLog } from "./run.js";
export { type Concurrency, concurrencySchema, type Serve, type ServeRun, serveSchema } from "./schema.js";
export {
  byRate,
  completeServing,
  parseRate,
  type Rate,
  rateName,
  type ServingSettings,
} from "./settings.js";
export { completeUsers, type UserSettings } from "./user-settings.js";
