import { realpathSync, rmSync } from 'node:fs'
import { join, relative } from 'node:path'
import { VfioSystemError } from 'vfio'
import type { HostTrees } from '../fixtures/host.js'
import { Tree } from '../fixtures/tree.js'
import { journalOf } from './assign-hosts.js'

/** What the kernel does with the files of a tree when mediated devices are made and removed. */
export function kernelOf(trees: HostTrees, refuse: (name: string) => number | 'hang' | null = () => null) {
  const tree = new Tree(join(trees.sysfs, '..'))
  const writes: string[] = []
  const inTree = (path: string) => relative(realpathSync(tree.root), realpathSync(path))
  const kernel = {
    write(path: string, text: string): Promise<void> {
      const name = path.slice(path.lastIndexOf('/') + 1)
      writes.push(`${name}=${text.trim()}`)
      const errno = refuse(name)
      if (errno === 'hang') return new Promise(() => {})
      if (errno !== null) {
        return Promise.reject(new VfioSystemError({ errno, syscall: 'write', request: name, path }))
      }
      if (name === 'create') {
        const type = inTree(path).replace(/\/create$/, '')
        const device = `${type.replace(/\/mdev_supported_types\/.*/, '')}/${text.trim()}`
        tree.file(`${device}/remove`, '')
        tree.linkTo(`${device}/driver`, 'sys/bus/mdev/drivers/mtty')
        tree.linkTo(`${device}/iommu_group`, 'sys/kernel/iommu_groups/77')
        tree.linkTo(`${device}/mdev_type`, type)
        tree.linkTo(`sys/bus/mdev/devices/${text.trim()}`, device)
      } else if (name === 'remove') {
        const device = realpathSync(path.replace(/\/remove$/, ''))
        rmSync(path.replace(/\/remove$/, ''))
        rmSync(device, { recursive: true })
      }
      return Promise.resolve()
    },
    isOpen: () => false,
  }
  return { writes, kernel, options: Object.assign({ journal: journalOf(trees) }, { kernel }) }
}
