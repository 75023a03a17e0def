import { Argument, type Command, InvalidArgumentError, Option } from 'commander'
import { Host, type Snapshot, type SnapshotOptions, VfioError } from '../index.js'
import { EXPORT_FORMATS, type ExportFormat, type ExportOptions, exportTo } from './export.js'
import { type GrantCommandOptions, grantTo, revokeFrom } from './grant.js'
import { INITRAMFS_CHOICES, type PersistCommandOptions, persist } from './persist.js'
import { type VfsCommandOptions, vfs } from './vfs.js'

/** What every command is declared with. */
interface Parts {
  json(): Option
  sysfs(): Option
  journal(): Option
  timeout(): Option
  look(
    options: { readonly sysfs?: string },
    around?: Pick<SnapshotOptions, 'around'> & { readonly overrides?: boolean },
  ): Snapshot
  run<A extends readonly unknown[]>(
    command: (...args: A) => number | Promise<number>,
  ): (...args: A) => Promise<void>
}

function count(text: string): number {
  if (/^\d{1,4}$/.test(text) && Number(text) > 0) return Number(text)
  throw new InvalidArgumentError('expected a number, like 2.')
}

const collect = (value: string, earlier: string[] = []) => [...earlier, value]

/** Declares the commands that hand devices on: to users, to hypervisors, to the next boot. */
export function declareHandOn(vfio: Command, { json, sysfs, journal, timeout, look, run }: Parts): void {
  vfio
    .command('grant')
    .description('let a user open a device that is bound to VFIO')
    .argument('<address>', 'PCI address, like 59:00.0')
    .requiredOption('--user <name>', 'name or uid of the user')
    .option('--group <name>', 'name or gid of a group that may open it too')
    .option('--memory <size>', 'memory of the VM, like 16G: tells the limit on locked memory that it needs')
    .addOption(
      new Option(
        '--containers <count>',
        'how many containers map that memory: with a virtual IOMMU in the guest one for each group',
      ).argParser(count),
    )
    .option('--udev', 'print the udev rule that makes it last')
    .addOption(journal())
    .addOption(json())
    .action(
      run((address: string, options: GrantCommandOptions) =>
        grantTo(look({}, { around: [address] }), address, options),
      ),
    )
  vfio
    .command('revoke')
    .description('give the nodes of a device back to whom they belonged before the grant')
    .argument('<address>', 'PCI address, like 59:00.0')
    .addOption(journal())
    .addOption(json())
    .action(run(revokeFrom))
  vfio
    .command('export')
    .description('devices as the arguments of a hypervisor, or the XML of libvirt')
    .addArgument(new Argument('<format>', 'whom it is for').choices(EXPORT_FORMATS))
    .argument('<address...>', 'PCI addresses')
    .option('--iommufd', 'open the devices through /dev/iommu')
    .addOption(
      new Option('--managed <yes|no>', 'libvirt: it binds the devices itself').choices(['yes', 'no']),
    )
    .option('--guest-address <address>', 'where the first device goes in the guest, like 05:00.0')
    .option('--zpci <uid[,fid]>', 's390: ids of the first function')
    .option('--memory <size>', 'memory of the VM, like 16G: tells the limit on locked memory that it needs')
    .option('--machine <type>', 'machine type of the guest: q35, pc, virt, s390-ccw-virtio')
    .addOption(json())
    .addOption(sysfs())
    .action(
      run((format: ExportFormat, addresses: string[], options: ExportOptions & { sysfs?: string }) =>
        exportTo(look(options, { around: addresses }), format, addresses, options),
      ),
    )
  vfio
    .command('persist')
    .description('what binds devices to VFIO at every boot: print it, write it, take it away')
    .argument('[address...]', 'PCI addresses: all that are to last')
    .addOption(
      new Option('--by <what>', 'tell devices by address (default), or by ids').choices(['address', 'ids']),
    )
    .addOption(
      new Option('--initramfs <tool>', 'what builds the initramfs (default: auto)').choices(
        INITRAMFS_CHOICES,
      ),
    )
    .option('--group', 'take every device of their groups')
    .option('--force <kind>', 'let the next boot do without this kind of use (may be given again)', collect)
    .option('--option <name=value>', 'a parameter for the modules of VFIO (may be given again)', collect)
    .option('--write', 'write the files')
    .option('--remove', 'take away what was written, and put back what was there')
    .option('--check', 'after boot: is everything bound as it was persisted? Exit status 0 only then')
    .option('--root <dir>', 'another file tree in place of /')
    .addOption(json())
    .addOption(sysfs())
    .action(
      run((addresses: string[], options: PersistCommandOptions) => {
        if (options.sysfs !== undefined && options.write && options.root === undefined) {
          throw new VfioError(
            'ERR_VFIO_BAD_ARGUMENT',
            '--sysfs is another host: --write needs its --root too',
          )
        }
        const { paths } = options.sysfs === undefined ? new Host() : new Host({ sysfs: options.sysfs })
        return persist(() => look(options, { overrides: true }), paths, addresses, options)
      }),
    )
  vfio
    .command('vfs')
    .description('set the number of virtual functions of a device, and keep drivers from taking them')
    .argument('<address>', 'PCI address of the physical function')
    .argument('<count>', 'how many, 0 for none')
    .addOption(timeout())
    .addOption(json())
    .action(
      run((address: string, count: string, options: VfsCommandOptions) =>
        vfs(look({}, { around: [address] }), address, count, options),
      ),
    )
}
