// `vfio list --watch` on a host of the tests, told what the kernel would tell by the lines of a FIFO.
import { constants, openSync } from 'node:fs'
import { Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { follow } from '../../lib/cli/watch.js'
import { choose, type DeviceEvent, Host, survey } from '../../lib/index.js'
import type { HostTrees } from '../fixtures/host.js'

const { trees, fifo } = JSON.parse(process.argv[2] ?? '') as {
  readonly trees: HostTrees
  readonly fifo: string
}

process.exitCode = await follow({
  look: () => survey(new Host(trees).snapshot()),
  fits: (all) => choose(all, {}),
  style: { showsAll: false, isFiltered: false },
  isJson: false,
  listen: (listener) => {
    // Open for writing too, so that it never ends; a read that waits would hold back the end of the program.
    const input = new Socket({ fd: openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK), writable: false })
    createInterface(input).on('line', (line) => listener(JSON.parse(line) as DeviceEvent))
    return { hears: new Set(['devices', 'opens'] as const), unseen: [], close: () => input.destroy() }
  },
})
