import { readBatch } from './tree.js'
import { readPlaces } from './use-paths.js'

/** What shows something: frame buffers, consoles drawn by the kernel, connected screens. */
export interface DisplayFacts {
  /** `fb0`, …; without functions where the firmware set it up and the kernel does not say on what. */
  readonly frameBuffers: readonly { readonly name: string; readonly functions: readonly string[] }[]
  /** What draws the virtual terminals, for instance `frame buffer device` or `VGA+`. */
  readonly terminals: readonly string[]
  /** Connectors of graphics cards that are in use by a mode, for instance `HDMI-A-1`. */
  readonly screens: readonly { readonly connector: string; readonly functions: readonly string[] }[]
}

export function readDisplay(
  sysfs: string,
  names: {
    readonly graphics: readonly string[]
    readonly vtconsole: readonly string[]
    readonly drm: readonly string[]
  },
): DisplayFacts {
  const frames = names.graphics.filter((name) => /^fb\d+$/.test(name))
  const connectors = names.drm.filter((name) => /^card\d+-./.test(name))
  const states = readBatch(`${sysfs}/class/drm`, connectors, { files: ['enabled'] })
  const terminals = readBatch(`${sysfs}/class/vtconsole`, names.vtconsole, { files: ['bind', 'name'] })
  return {
    frameBuffers: readPlaces(sysfs, 'class/graphics', frames).map(({ name, functions }) => ({
      name,
      functions,
    })),
    terminals: names.vtconsole.flatMap((_name, row) => {
      // `(S) VGA+`, `(M) frame buffer device`: the letter says whether it is the system's or a module's.
      const driver = /^\(.\) (.*)$/.exec(terminals.text(row, 'name') ?? '')?.[1]
      return terminals.text(row, 'bind') === '1' && driver !== undefined ? [driver] : []
    }),
    screens: readPlaces(sysfs, 'class/drm', connectors).flatMap(({ name, functions }, row) =>
      states.text(row, 'enabled') === 'enabled'
        ? [{ connector: name.slice(name.indexOf('-') + 1), functions }]
        : [],
    ),
  }
}
