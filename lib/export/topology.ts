import type { Snapshot } from '../sysfs/snapshot.js'
import { topologyDot } from './topology/dot.js'
import { topologyHtml } from './topology/html.js'
import { describeTopology, type HostTopology } from './topology/model.js'
import { type SvgOptions, topologySvg } from './topology/svg.js'
import { type TextOptions, topologyText } from './topology/text.js'

/** `text`: for a terminal. `svg`: a picture. `html`: a page in one file. `dot`: for Graphviz. */
export type TopologyFormat = 'text' | 'svg' | 'html' | 'dot'

/** What the picture is, and for `text` and `svg` how it looks. */
export interface TopologyOptions extends TextOptions, SvgOptions {
  /** Default: `text`. */
  readonly format?: TopologyFormat | undefined
}

/** A host as a picture, and as what it was drawn from. */
export interface TopologyExport {
  readonly format: TopologyFormat
  readonly text: string
  readonly topology: HostTopology
}

/**
 * Draws a whole host as a tree: what hangs where, what can be given away, what only together, what resets together, and
 * what the host would lose. Names that devices and drivers have show in it and do nothing. What the host uses shows only where the
 * snapshot has looked at it.
 */
export function exportTopology(seen: Snapshot, options: TopologyOptions = {}): TopologyExport {
  const { format = 'text' } = options
  const topology = describeTopology(seen)
  const draw = {
    text: () => topologyText(topology, options),
    svg: () => topologySvg(topology, options),
    html: () => topologyHtml(topology),
    dot: () => topologyDot(topology),
  }[format]
  return { format, text: draw(), topology }
}
