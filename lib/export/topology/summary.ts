import type { HostTopology } from './model.js'

const counted = (count: number, one: string, many: string) => `${count} ${count === 1 ? one : many}`

/** All of a host in one sentence, for who hears a picture rather than sees it, and above the drawing. */
export function summaryOf({ devices, groups, resets, glance, mediated = [] }: HostTopology): string {
  const { free, unsure, inUse, blocked, together } = glance
  const parts = [
    counted(devices.length, 'function', 'functions'),
    ...(mediated.length > 0 ? [counted(mediated.length, 'mediated device', 'mediated devices')] : []),
    counted(groups.length, 'IOMMU group', 'IOMMU groups'),
    `${free.length} can go`,
    ...(unsure.length > 0 ? [`${unsure.length} can go if unused`] : []),
    ...(inUse.length > 0 ? [`${inUse.length} in use`] : []),
    ...(blocked.length > 0 ? [`${blocked.length} blocked`] : []),
    ...(together.length > 0 ? [`${counted(together.length, 'group goes', 'groups go')} together`] : []),
    ...(resets.length > 0 ? [`${counted(resets.length, 'reset hits', 'resets hit')} several`] : []),
  ]
  return parts.join(', ')
}
