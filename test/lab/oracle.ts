import { execFileSync } from 'node:child_process'
import { join } from 'node:path'

/** What the kernel said of a device by its own node: see {@link Answer}. */
export interface CdevAnswer {
  readonly open: string
  readonly iommufd?: string
  readonly bind?: string
  /** Its id in the iommufd that it was bound to. */
  readonly devid?: number
  readonly functionReset?: boolean
  readonly hotInfo?: string
  /** `devid`: its id in that iommufd, 0 where it has none and is owned by it all the same, -1 where it is not owned. */
  readonly affected?: readonly { readonly address: string; readonly devid: number }[]
  /** Whether all of them are. */
  readonly owned?: boolean
  readonly hotReset?: string
}

/** What the kernel said of one device: `ok` or an errno name for each call; a call that was not reached is absent. */
export interface Answer {
  readonly group: number
  readonly address: string
  readonly open: string
  readonly viable?: boolean
  readonly setContainer?: string
  readonly setIommu?: string
  readonly device?: string
  readonly functionReset?: boolean
  readonly hotInfo?: string
  readonly affected?: readonly { readonly address: string; readonly group: number }[]
  readonly hotReset?: string
  /** Absent where the device has no node of its own. */
  readonly cdev?: CdevAnswer
}

/** The C program beside this file, compiled; it knows nothing of the library. */
export class Oracle {
  /** Compiled by the set-up, because a compiler takes seconds where the processor is emulated. */
  readonly #program = join(process.cwd(), `build/test/${process.arch}/oracle`)

  /** Opens, and so resets, each device by each way that there is; with `hot` does a hot reset as the owner of its group as well. */
  ask(questions: readonly { readonly group: number; readonly address: string }[], hot = true): Answer[] {
    const input = questions.map(({ group, address }) => `${group} ${address}\n`).join('')
    const output = execFileSync(this.#program, hot ? [] : ['no-hot-reset'], {
      input,
      encoding: 'utf8',
      maxBuffer: 1 << 28,
    })
    return output
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Answer)
  }
}
