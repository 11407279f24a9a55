export { DISTRIBUTION } from "./distribution.js";
export { type GenerateReport, planGenerate } from "./generate.js";
export { type InstallReport, installPlugin, planInstall } from "./install.js";
export { damageOf, findInstalled, type InstalledPlugin } from "./installed.js";
export { planUninstall } from "./uninstall.js";
export { type PluginStatus, verifyPlugin } from "./verify.js";
