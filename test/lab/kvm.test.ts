import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Host } from 'vfio'
import { skip } from '../fixtures/skip.js'
import { inUse, load, put } from './binding.js'
import { overModes } from './modes.js'
import { since } from './spare.js'

const PROGRAM = fileURLToPath(new URL('kvm-program.js', import.meta.url))

overModes('a KVM machine', function ({ backend }) {
  this.timeout(120_000)
  const preload = join(process.cwd(), 'build/test/kvm-vm.so')

  before(function () {
    load(['kvm_amd', 'kvm_intel'])
    if (!existsSync('/dev/kvm')) skip(this, 'the processor of this guest cannot run machines')
  })

  it('is told of what is opened, and forgets it before that closes', () => {
    const used = inUse()
    const seen = new Host().snapshot()
    const group = seen.groups.find(
      ({ members }) =>
        members.length === 1 &&
        members.every((address) => !used.has(address) && seen.device(address).headerType === 'normal'),
    )
    const address = group?.members[0]
    assert(group && address, 'the topology has a device alone in its group')
    assert.equal(put(address, 'vfio-pci'), 'vfio-pci')
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      [PROGRAM, address, String(group.group), backend],
      {
        encoding: 'utf8',
        env: { ...process.env, LD_PRELOAD: [process.env.LD_PRELOAD, preload].filter(Boolean).join(':') },
      },
    )
    put(address, 'host')
    assert.equal(status, 0, stderr)
    const said = JSON.parse(stdout) as Record<string, string>
    const expected: Record<string, RegExp> = {
      'create in another process': /^EIO .*another process created/,
      'create on no machine': /^ENOTTY .*no KVM machine/,
      'create on KVM itself': /^EINVAL .*no KVM machine/,
      'create on what is closed': /^EBADF .*closed/,
      'create twice': /^EBUSY .*VFIO device already/,
      add: /^ok$/,
      'add twice': /^EEXIST .*told of it already/,
      remove: /^ok$/,
      'remove twice': /^ENOENT .*not told/,
      'add again': /^ok$/,
      'add anew': /^ok$/,
      ...(backend === 'group' && {
        'add without a container': since(6, 1) ? /^ok$/ : /^EINVAL .*have a container/,
        'leave the container': since(6, 1) ? /^ok$/ : /^EBUSY .*KvmVfio\.remove/,
        'add a device': since(6, 6) ? /^ok$/ : /^EINVAL .*groups only/,
        'remove after the container': /^ENOENT /,
      }),
      // 6.1 has the change of 6.2 in its stable releases.
      'create anew': since(6, 1) ? /^ok$/ : /^EBUSY .*since Linux 6\.2/,
    }
    assert.deepEqual(Object.keys(said).sort(), Object.keys(expected).sort())
    for (const [what, pattern] of Object.entries(expected)) assert.match(said[what] ?? '', pattern, what)
  })
})
