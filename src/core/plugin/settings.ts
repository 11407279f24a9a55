/** KIVI's settings beside the preset; what is left out keeps the preset's value. */
export interface KiviSettings {
  readonly keyGroup?: number | undefined;
  readonly valueGroup?: number | undefined;
  readonly window?: number | undefined;
  readonly rotation?: boolean | undefined;
  readonly clipping?: boolean | undefined;
}

/** The settings that were given, as the plugin takes them: the `kivi` part of vLLM's `--additional-config`. */
export function pluginSettings(settings: KiviSettings): Record<string, unknown> {
  const { keyGroup, valueGroup, window, rotation, clipping } = settings;
  const named = { key_group: keyGroup, value_group: valueGroup, window, rotation, clipping };
  return Object.fromEntries(Object.entries(named).filter(([, value]) => value !== undefined));
}
