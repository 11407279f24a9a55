/** Whether an environment is fit to serve with the KIVI cache: a list of checks. */
export type { CheckResult, Status } from "./check.js";
export { type DoctorReport, examine } from "./doctor.js";
