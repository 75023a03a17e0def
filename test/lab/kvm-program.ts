// A VMM in miniature: it tells the KVM machine in $KVM_VM of a group and its device, or of a device by its own node, and prints what
// the kernel answered. Run by kvm.test.ts: node kvm-program.js ADDRESS GROUP BACKEND
import { spawnSync } from 'node:child_process'
import { openSync } from 'node:fs'
import { Iommufd, KvmVfio, VfioContainer, VfioDevice, VfioError, VfioGroup } from 'vfio'

const [address = '', number = '', backend = ''] = process.argv.slice(2)
const machine = Number(process.env.KVM_VM)

/** `ok`, or the code and the message of the error. */
function answer(call: () => unknown): string {
  try {
    call()
    return 'ok'
  } catch (error) {
    if (error instanceof VfioError) return `${error.code} ${error.message}`
    throw error
  }
}

const INHERITS = `
  import { KvmVfio } from 'vfio'
  try { KvmVfio.create(3); console.log('ok') } catch (error) { console.log(error.code, error.message) }`

const said: Record<string, string> = {}
const ask = (what: string, call: () => unknown) => {
  said[what] = answer(call)
}

/** What it is to any of them, whatever it is told of. */
function createMachine(): KvmVfio {
  const other = spawnSync(process.execPath, ['--input-type=module', '-e', INHERITS], {
    stdio: ['ignore', 'pipe', 'inherit', machine],
    encoding: 'utf8',
  })
  said['create in another process'] = other.stdout.trim()
  ask('create on no machine', () => KvmVfio.create(openSync('/dev/null', 'r+')))
  ask('create on KVM itself', () => KvmVfio.create(openSync('/dev/kvm', 'r+')))
  ask('create on what is closed', () => KvmVfio.create(999))
  const kvm = KvmVfio.create(machine)
  ask('create twice', () => KvmVfio.create(machine))
  return kvm
}

async function byNode(kvm: KvmVfio): Promise<void> {
  const open = async () => {
    const iommufd = Iommufd.open()
    const device = await VfioDevice.openCdev(address, { iommufd })
    await device.attach(iommufd.allocateIoas())
    return { iommufd, device }
  }
  const first = await open()
  ask('add', () => kvm.add(first.device))
  ask('add twice', () => kvm.add(first.device))
  ask('remove', () => kvm.remove(first.device))
  ask('remove twice', () => kvm.remove(first.device))
  ask('add again', () => kvm.add(first.device))
  // Closing removes it: else it could not be opened again.
  await first.iommufd.close()
  const second = await open()
  ask('add anew', () => kvm.add(second.device))
  await second.iommufd.close()
}

async function byGroup(kvm: KvmVfio): Promise<void> {
  const container = VfioContainer.open()
  let group = VfioGroup.open(Number(number))
  ask('add without a container', () => kvm.add(group))
  if (said['add without a container'] === 'ok') kvm.remove(group)
  group.setContainer(container)
  container.setIommu('type1v2')
  ask('add', () => kvm.add(group))
  ask('add twice', () => kvm.add(group))
  ask('leave the container', () => group.unsetContainer())
  if (said['leave the container'] === 'ok') {
    group.setContainer(container)
    container.setIommu('type1v2')
  }
  ask('remove', () => kvm.remove(group))
  ask('remove twice', () => kvm.remove(group))
  const device = await group.openDevice(address)
  ask('add a device', () => kvm.add(device))
  ask('add again', () => kvm.add(group))
  // Closing removes both: else the group could not be opened again.
  await group.close()
  group = VfioGroup.open(Number(number))
  group.setContainer(container)
  container.setIommu('type1v2')
  ask('add anew', () => kvm.add(group))
  await container.close()
  ask('remove after the container', () => kvm.remove(group))
  await group.close()
}

const kvm = createMachine()
await (backend === 'group' ? byGroup(kvm) : byNode(kvm))
await kvm.close()
ask('create anew', () => KvmVfio.create(machine))
console.log(JSON.stringify(said))
