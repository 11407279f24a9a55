/** KIVI's settings beside the preset; what is left out keeps the preset's value. */
export interface KiviSettings {
  readonly keyGroup?: number | undefined;
  readonly valueGroup?: number | undefined;
  readonly keyWindow?: number | undefined;
  readonly valueResidual?: number | undefined;
  readonly valueWindow?: number | undefined;
  readonly rotation?: boolean | undefined;
  readonly clipping?: boolean | undefined;
  /** Of the engine, not of the format: the part of decode steps that the reference computes again. */
  readonly audit?: number | undefined;
}

/** The settings that were given, as the plugin takes them: the `kivi` part of vLLM's `--additional-config`. */
export function pluginSettings(settings: KiviSettings): Record<string, unknown> {
  const named = {
    key_group: settings.keyGroup,
    value_group: settings.valueGroup,
    key_window: settings.keyWindow,
    value_residual: settings.valueResidual,
    value_window: settings.valueWindow,
    rotation: settings.rotation,
    clipping: settings.clipping,
    audit: settings.audit,
  };
  return Object.fromEntries(Object.entries(named).filter(([, value]) => value !== undefined));
}
