import { isOfMachine } from '../sysfs/class-names.js'
import type { HostUse } from './host-use.js'
import type { SurveyedDevice } from './survey.js'

/** What is said of a device in a word is said by these, of a survey as of one assessment. */
type Used = Partial<Pick<SurveyedDevice, 'uses'>>

/** Bridges and parts of the machine: nobody gives them away, but what is with VFIO already counts whatever it is. */
export const isInfrastructure = (device: Pick<SurveyedDevice, 'verdict' | 'headerType' | 'class'>) =>
  device.verdict !== 'ready' && (device.headerType !== 'normal' || isOfMachine(device.class))

/** What harms the host when it goes, as far as is known. */
export const harmsOf = ({ uses = [] }: Used) =>
  uses.filter(({ severity, unknown }) => severity === 'blocks' && unknown === undefined)

/** Uses take no part in the verdict; but nobody is to read "bindable" of the disk that the host runs on. */
export const verdictWord = (
  device: Used & Pick<SurveyedDevice, 'verdict'>,
): SurveyedDevice['verdict'] | 'in use' =>
  device.verdict === 'bindable' && harmsOf(device).length > 0 ? 'in use' : device.verdict

/** The gravest first. */
const KINDS: readonly HostUse['kind'][] = ['vfio', 'mount', 'swap', 'holder', 'network', 'display', 'other']

/** What `--force` names, and of VFIO what is never forced. */
export const kindWord = (kind: HostUse['kind']) => (kind === 'vfio' ? 'open' : kind)

/** The gravest kind of use, and a question mark where there may be some that could not be seen. */
export function useWord(device: Used): string {
  const kinds = new Set(harmsOf(device).map(({ kind }) => kind))
  const [first] = KINDS.filter((kind) => kinds.has(kind))
  if (first !== undefined) return kindWord(first)
  return device.uses?.some(({ unknown }) => unknown) ? '?' : ''
}

/** How it is reset; a star where that is so once all of its group is bound. */
export const resetWord = ({
  resetScope,
  resetOnceBound,
}: Pick<SurveyedDevice, 'resetScope'> & { readonly resetOnceBound?: 'hot' | undefined }) =>
  resetOnceBound ? `${resetOnceBound}*` : resetScope

/** It can be given away, and nobody would miss it or what has to come along; what is not known to be free is not. */
export const isFree = ({ verdict, uses }: Used & Pick<SurveyedDevice, 'verdict'>) =>
  verdict !== 'blocked' && uses !== undefined && !uses.some(({ severity }) => severity === 'blocks')
