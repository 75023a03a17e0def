// What could not be looked at makes nothing more permissive, in what is told beside the verdicts too.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Host, type Snapshot, survey } from 'vfio'
import { ModuleAliases } from '../../lib/sysfs/modules.js'
import { makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { present } from './support.js'

describe('what could not be looked at', () => {
  after(removeDirectories)

  it('promises no reset of what shares a bus', () => {
    const trees = makeHost({
      devices: [
        { address: '0000:00:01.0', headerType: 'bridge', class: 0x060400, secondaryBus: 1, group: 1 },
        { address: '0000:01:00.0', class: 0x030000, group: 2, driver: 'nouveau', resetMethod: 'bus' },
        { address: '0000:01:00.1', class: 0x040300, group: 2, driver: 'snd_hda_intel', resetMethod: 'bus' },
      ],
    })
    const promised = (host: Snapshot) =>
      present(survey(host).devices.find(({ address }) => address === '0000:01:00.0')).resetOnceBound
    assert.equal(promised(new Host(trees).snapshot()), 'hot')
    const config = join(trees.sysfs, 'bus/pci/devices/0000:00:01.0/config')
    rmSync(config)
    symlinkSync('config', config)
    const partly = new Host(trees).snapshot()
    assert.equal(partly.unseen.length, 1)
    assert.equal(promised(partly), undefined)
  })

  it('leaves it open whether there are variant drivers, and is asked again', () => {
    const directory = mkdtempSync(join(temporaryDirectory(), 'modules-'))
    writeFileSync(join(directory, 'modules.alias'), 'alias pci:v* e1000e\n')
    assert.equal(ModuleAliases.read(directory).isComplete, true)
    symlinkSync('modules.builtin.modinfo', join(directory, 'modules.builtin.modinfo'))
    assert.equal(ModuleAliases.read(directory).isComplete, false)
    assert.equal(ModuleAliases.read(null).isComplete, false)
  })
})
