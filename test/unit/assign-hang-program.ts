// A program whose write to sysfs never returns: started by the tests, which end it in every way.
import { once } from 'node:events'
import { AssignError, assign, type Plan } from 'vfio'

/** What the program is told on its command line, as JSON. */
export interface HangTask {
  readonly plan: Plan
  readonly journal: string
  readonly deadline: number
}

const { plan, journal, deadline } = JSON.parse(process.argv[2] ?? '') as HangTask

const assigning = assign(plan, { journal, deadline, kernel: { isOpen: () => false } } as object)
assigning.catch((error: unknown) => {
  const { message, failures } = error as AssignError
  process.stdout.write(`${JSON.stringify({ message, failures, isOurs: error instanceof AssignError })}\n`)
})

/** How it is to end, once the write hangs: told in a line. */
const [line] = (await once(process.stdin, 'data')) as [Buffer]
const how = line.toString().trim()
process.stdin.destroy()
switch (how) {
  case 'process.exit':
    process.exit(7)
    break
  case 'an error that nobody catches':
    setImmediate(() => {
      throw new Error('uncaught')
    })
    break
  case 'a rejection that nobody handles':
    void Promise.reject(new Error('unhandled'))
    break
  case 'abort':
    process.abort()
    break
  case 'staying':
    await assigning.catch(() => {})
    process.stdout.write('here\n')
    setInterval(() => {}, 1000)
    break
  default:
    // The deadline passes, and then there is nothing left to do.
    break
}
