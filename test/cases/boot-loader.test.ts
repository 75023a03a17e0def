import assert from 'node:assert/strict'
import { type BootLoaderName, detectBootLoader, Host, type PersistOptions, planPersistence } from 'vfio'
import {
  type HostDescription,
  makeHost,
  READY_MODULES,
  removeDirectories,
  temporaryDirectory,
} from '../fixtures/host.js'
import { Tree } from '../fixtures/tree.js'

type Files = Readonly<Record<string, string | Uint8Array>>

function loaderOf(files: Files) {
  const root = temporaryDirectory()
  const tree = new Tree(root)
  tree.directory('etc')
  for (const [path, content] of Object.entries(files)) tree.file(path, content)
  return detectBootLoader({ root })
}

const DEVICE = { address: '0000:01:00.0', vendor: 0x10de, device: 0x2504, driver: 'nouveau' } as const

/** An Intel host whose IOMMU nobody has switched on. */
function planWith(options: PersistOptions, host: HostDescription = {}) {
  const trees = makeHost({
    iommu: 'none',
    interruptRemapping: null,
    kernel: '6.12.0-amd64',
    commandLine: 'root=/dev/sda1 ro quiet',
    devices: [DEVICE],
    ...host,
  })
  new Tree(trees.proc).file('cpuinfo', 'vendor_id\t: GenuineIntel\nflags\t\t: vmx\n')
  return planPersistence(new Host(trees).snapshot(), ['01:00.0'], options)
}

const LOADER_INFO = 'sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f'
/** An EFI variable: four bytes of attributes, then UTF-16. */
const variable = (text: string) =>
  Buffer.concat([Buffer.from([6, 0, 0, 0]), Buffer.from(`${text}\0`, 'utf16le')])

/** Where the kernel command line is kept, and what makes a change of it take effect: never applied. */
describe('the kernel command line', () => {
  after(removeDirectories)

  const HOSTS: readonly [
    from: string,
    files: Files,
    name: BootLoaderName,
    path: string | null,
    how: RegExp,
  ][] = [
    [
      'Debian, Ubuntu (grub-mkconfig(8), update-grub(8))',
      { 'etc/default/grub': '', 'usr/sbin/update-grub': '' },
      'grub',
      '/etc/default/grub',
      /add intel_iommu=on to .*GRUB_CMDLINE_LINUX.*\/etc\/default\/grub, then run: update-grub$/,
    ],
    [
      'Arch with GRUB (its wiki, "GRUB")',
      { 'etc/default/grub': '', 'usr/bin/grub-mkconfig': '', 'boot/grub/grub.cfg': '' },
      'grub',
      '/etc/default/grub',
      /grub-mkconfig -o \/boot\/grub\/grub\.cfg$/,
    ],
    [
      'openSUSE',
      { 'etc/default/grub': '', 'usr/sbin/grub2-mkconfig': '', 'boot/grub2/grub.cfg': '' },
      'grub',
      '/etc/default/grub',
      /grub2-mkconfig -o \/boot\/grub2\/grub\.cfg$/,
    ],
    [
      'openSUSE MicroOS (transactional-update(8))',
      {
        'etc/default/grub': '',
        'usr/sbin/grub2-mkconfig': '',
        'usr/sbin/transactional-update': '',
        'etc/fstab': 'LABEL=ROOT / btrfs ro 0 0\n',
      },
      'grub',
      '/etc/default/grub',
      /transactional-update grub\.cfg$/,
    ],
    [
      'openSUSE with entries of its own tool (sdbootutil)',
      {
        'etc/default/grub': '',
        'usr/bin/sdbootutil': '',
        'etc/kernel/cmdline': 'root=UUID=1 quiet',
        'boot/efi/loader/entries/opensuse.conf': '',
      },
      'sdbootutil',
      '/etc/kernel/cmdline',
      /the one line of \/etc\/kernel\/cmdline, then run: sdbootutil update-all-entries$/,
    ],
    [
      'openSUSE with that tool, and GRUB as it was',
      {
        'etc/default/grub': '',
        'usr/bin/sdbootutil': '',
        'etc/kernel/cmdline': 'root=UUID=1 quiet',
        'etc/sysconfig/bootloader': 'LOADER_TYPE="grub2-efi"\n',
        'boot/efi/loader/entries/opensuse.conf': '',
        'usr/sbin/grub2-mkconfig': '',
      },
      'grub',
      '/etc/default/grub',
      /grub2-mkconfig/,
    ],
    [
      'Proxmox VE on ZFS that GRUB boots: Secure Boot, or no UEFI (its documentation, "Host Bootloader")',
      {
        'etc/kernel/proxmox-boot-uuids': '',
        'etc/kernel/cmdline': 'root=ZFS=rpool/ROOT/pve-1 boot=zfs',
        'etc/default/grub': '',
        'proc/cmdline': 'BOOT_IMAGE=/ROOT/pve-1@/boot/vmlinuz-6.8.12-4-pve root=ZFS=/ROOT/pve-1 ro quiet',
      },
      'grub',
      '/etc/default/grub',
      /\/etc\/default\/grub, then run: proxmox-boot-tool refresh$/,
    ],
    [
      'Arch, booted by an entry of systemd-boot where GRUB left its files',
      {
        'etc/default/grub': '',
        'usr/bin/grub-mkconfig': '',
        'boot/loader/loader.conf': '',
        'boot/loader/entries/arch.conf': '',
        'proc/cmdline': 'initrd=\\initramfs-linux.img root=UUID=1 rw',
      },
      'systemd-boot',
      '/boot/loader/entries/*.conf',
      /the options line of each entry/,
    ],
    [
      'Arch, booted by the firmware itself where GRUB left its files',
      {
        'etc/default/grub': '',
        'usr/bin/grub-mkconfig': '',
        'proc/cmdline': 'root=UUID=1 rw initrd=\\initramfs-linux.img',
      },
      'unknown',
      null,
      /wherever the boot loader of this host keeps it/,
    ],
    [
      'Arch with a unified image and drop-ins (mkinitcpio(8))',
      {
        'usr/bin/mkinitcpio': '',
        'etc/cmdline.d/root.conf': 'root=UUID=1 rw',
        'efi/EFI/Linux/arch-linux.efi': '',
      },
      'uki',
      '/etc/cmdline.d/root.conf',
      /the one line of \/etc\/cmdline\.d\/root\.conf, then run: mkinitcpio -P$/,
    ],
    [
      'Arch, booted by rEFInd where GRUB left its files',
      {
        'etc/default/grub': '',
        'boot/refind_linux.conf': '',
        'proc/cmdline': 'root=UUID=1 rw initrd=boot\\initramfs-linux.img',
      },
      'refind',
      '/boot/refind_linux.conf',
      /the second quotes/,
    ],
    [
      'Fedora, RHEL (grubby(8))',
      {
        'etc/default/grub': '',
        'usr/sbin/grubby': '',
        'usr/sbin/grub2-mkconfig': '',
        'boot/loader/entries/a.conf': '',
      },
      'grubby',
      null,
      /^run: grubby --update-kernel=ALL --args="intel_iommu=on"$/,
    ],
    [
      'RHEL on IBM Z',
      { 'usr/sbin/grubby': '', 'boot/loader/entries/a.conf': '', 'etc/zipl.conf': '', 'usr/sbin/zipl': '' },
      'grubby',
      null,
      /grubby .* && zipl$/,
    ],
    [
      'Debian on IBM Z (zipl.conf(5))',
      { 'etc/zipl.conf': '', 'usr/sbin/zipl': '' },
      'zipl',
      '/etc/zipl.conf',
      /parameters= .*run: zipl$/,
    ],
    [
      'Fedora Silverblue (rpm-ostree(1), ublue-os/hwe#249)',
      { 'run/ostree-booted': '', 'usr/bin/rpm-ostree': '', 'etc/default/grub': '' },
      'rpm-ostree',
      null,
      /^run: rpm-ostree kargs --append-if-missing=intel_iommu=on$/,
    ],
    [
      'Proxmox VE on ZFS (its documentation, "Editing the Kernel Commandline")',
      {
        'etc/kernel/proxmox-boot-uuids': '',
        'usr/sbin/proxmox-boot-tool': '',
        'etc/kernel/cmdline': 'root=ZFS=rpool/ROOT/pve-1 boot=zfs\n',
        'etc/default/grub': '',
        'usr/sbin/update-grub': '',
      },
      'proxmox-boot-tool',
      '/etc/kernel/cmdline',
      /the one line of \/etc\/kernel\/cmdline, then run: proxmox-boot-tool refresh$/,
    ],
    [
      'Proxmox VE with GRUB on ext4',
      { 'usr/sbin/proxmox-boot-tool': '', 'etc/default/grub': '', 'usr/sbin/update-grub': '' },
      'grub',
      '/etc/default/grub',
      /update-grub$/,
    ],
    [
      'Pop!_OS (kernelstub(1))',
      { 'usr/bin/kernelstub': '', 'boot/efi/loader/loader.conf': '' },
      'kernelstub',
      null,
      /^run: kernelstub --add-options "intel_iommu=on"$/,
    ],
    [
      'systemd-boot whose entries are written by hand',
      { 'boot/loader/loader.conf': '', 'boot/loader/entries/arch.conf': '' },
      'systemd-boot',
      '/boot/loader/entries/*.conf',
      /options line of each entry, \/boot\/loader\/entries\/\*\.conf$/,
    ],
    [
      'systemd-boot with kernel-install(8)',
      {
        'efi/loader/loader.conf': '',
        'efi/loader/entries/x.conf': '',
        'etc/kernel/cmdline': '',
        'usr/bin/kernel-install': '',
      },
      'kernel-install',
      '/etc/kernel/cmdline',
      /kernel-install add-all$/,
    ],
    [
      'unified images of mkinitcpio',
      {
        'boot/EFI/Linux/arch-linux.efi': '',
        'boot/loader/loader.conf': '',
        'etc/kernel/cmdline': '',
        'usr/bin/mkinitcpio': '',
      },
      'uki',
      '/etc/kernel/cmdline',
      /mkinitcpio -P$/,
    ],
    [
      'unified images of dracut',
      {
        'efi/EFI/Linux/fedora.efi': '',
        'etc/kernel/cmdline': '',
        'etc/kernel/install.conf': 'layout=uki\n',
        'usr/bin/dracut': '',
        'usr/bin/kernel-install': '',
      },
      'uki',
      '/etc/kernel/cmdline',
      /kernel-install add-all$/,
    ],
    [
      'a host that boots by systemd-boot, with GRUB left from before',
      {
        [LOADER_INFO]: variable('systemd-boot 255.4-1'),
        'etc/default/grub': '',
        'usr/sbin/update-grub': '',
        'efi/loader/loader.conf': '',
        'efi/loader/entries/x.conf': '',
      },
      'systemd-boot',
      '/efi/loader/entries/*.conf',
      /options line/,
    ],
    [
      'CachyOS with Limine and its tools',
      { 'etc/default/limine': '', 'usr/bin/limine-update': '', 'boot/limine.conf': '' },
      'limine',
      '/etc/default/limine',
      /KERNEL_CMDLINE\[default\] .*limine-update$/,
    ],
    [
      'Limine alone (its CONFIG.md)',
      { 'boot/limine/limine.conf': '' },
      'limine-entries',
      '/boot/limine/limine.conf',
      /cmdline: line of each entry/,
    ],
    [
      'Alpine with extlinux (its wiki, "Bootloaders")',
      { 'etc/update-extlinux.conf': '', 'boot/extlinux.conf': '' },
      'update-extlinux',
      '/etc/update-extlinux.conf',
      /default_kernel_opts .*update-extlinux$/,
    ],
    [
      'a board with extlinux',
      { 'boot/extlinux/extlinux.conf': '' },
      'extlinux',
      '/boot/extlinux/extlinux.conf',
      /append line of each label/,
    ],
    [
      'Debian on a board (u-boot-update(8))',
      { 'usr/sbin/u-boot-update': '', 'boot/extlinux/extlinux.conf': '' },
      'u-boot-menu',
      '/etc/default/u-boot',
      /U_BOOT_PARAMETERS .*u-boot-update$/,
    ],
    ['rEFInd', { 'boot/refind_linux.conf': '' }, 'refind', '/boot/refind_linux.conf', /second quotes/],
    [
      'Raspberry Pi OS',
      { 'boot/firmware/cmdline.txt': '' },
      'raspberry-pi',
      '/boot/firmware/cmdline.txt',
      /the one line/,
    ],
    ['whatever nobody knows', {}, 'unknown', null, /wherever the boot loader of this host keeps it$/],
  ]
  for (const [from, files, name, path, how] of HOSTS) {
    it(`of ${from}`, () => {
      const bootLoader = loaderOf(files)
      assert.deepEqual([bootLoader.name, bootLoader.path], [name, path])
      const { commandLine } = planWith({ bootLoader })
      assert.match(commandLine?.how ?? '', how)
      assert.deepEqual(
        commandLine?.add.map(({ parameter }) => parameter),
        ['intel_iommu=on'],
      )
    })
  }

  it('is left alone where nothing is missing', () => {
    assert.equal(planWith({}, { iommu: 'intel', devices: [{ ...DEVICE, group: 2 }] }).commandLine, null)
  })

  it('loses what leaves the IOMMU off', () => {
    const { commandLine } = planWith(
      { bootLoader: loaderOf({ 'usr/sbin/grubby': '', 'boot/loader/entries/a.conf': '' }) },
      { commandLine: 'root=/dev/sda1 iommu=off' },
    )
    assert.match(commandLine?.how ?? '', /--remove-args="iommu=off"/)
    const { commandLine: kargs } = planWith(
      { bootLoader: { name: 'rpm-ostree', path: null, command: null } },
      { commandLine: 'root=/dev/sda1 iommu=off' },
    )
    assert.match(kargs?.how ?? '', /--delete-if-present=iommu=off/)
    const { commandLine: stub } = planWith(
      { bootLoader: { name: 'kernelstub', path: null, command: null } },
      { commandLine: 'root=/dev/sda1 iommu=off' },
    )
    assert.match(stub?.how ?? '', /kernelstub --delete-options "iommu=off"/)
    const { commandLine: grub } = planWith(
      { bootLoader: { name: 'grub', path: '/etc/default/grub', command: 'update-grub' } },
      { commandLine: 'root=/dev/sda1 iommu=off' },
    )
    assert.match(grub?.how ?? '', /take iommu=off out of the value of GRUB_CMDLINE_LINUX/)
  })

  // Fedora builds vfio and type1 in, some kernels vfio-pci too: a built-in module reads no modprobe.d.
  it('has what built-in modules are to have, and modprobe.d what others are', () => {
    const modules = {
      ...READY_MODULES,
      vfio: { state: 'builtin' },
      vfio_iommu_type1: { state: 'builtin', parameters: { allow_unsafe_interrupts: 'N' } },
      vfio_pci: { state: 'loaded', parameters: { disable_idle_d3: 'N', ids: '' } },
    } as const
    const ready = { iommu: 'intel', modules, devices: [{ ...DEVICE, group: 2 }] } as const
    const plan = planWith({ moduleOptions: ['disable_idle_d3', 'allow_unsafe_interrupts=1'] }, ready)
    assert.match(plan.files[0]?.content ?? '', /^options vfio-pci disable_idle_d3=1$/m)
    assert.doesNotMatch(plan.files[0]?.content ?? '', /allow_unsafe_interrupts/)
    assert.match(plan.commandLine?.how ?? '', /vfio_iommu_type1\.allow_unsafe_interrupts=1/)
    const builtin = { ...modules, vfio_pci: { state: 'builtin' } } as const
    const byIds = planWith({ by: 'ids' }, { ...ready, modules: builtin })
    assert.match(byIds.commandLine?.how ?? '', /vfio-pci\.ids=10de:2504/)
    const done = { ...ready, modules: builtin, commandLine: 'quiet vfio-pci.ids=10de:2504' }
    assert.equal(planWith({ by: 'ids' }, done).commandLine, null)
  })

  describe('and the options of modules', () => {
    const ready = { iommu: 'intel', devices: [{ ...DEVICE, group: 2 }] } as const
    const withOption = (option: string, host: HostDescription = {}) =>
      planWith({ moduleOptions: [option] }, { ...ready, ...host })
    const unloaded = { modules: { vfio: { state: 'loadable' }, vfio_pci: { state: 'loadable' } } } as const

    for (const [option, line, risk] of [
      ['disable_idle_d3=1', 'options vfio-pci disable_idle_d3=1', /D0/],
      ['disable_denylist=1', 'options vfio-pci disable_denylist=1', /hang the host/],
      ['allow_unsafe_interrupts=1', 'options vfio_iommu_type1 allow_unsafe_interrupts=1', /forge/],
      ['disable_hugepages', 'options vfio_iommu_type1 disable_hugepages=1', /more memory/],
      ['dma_entry_limit=1000000', 'options vfio_iommu_type1 dma_entry_limit=1000000', /limit/],
      ['enable_unsafe_noiommu_mode=1', 'options vfio enable_unsafe_noiommu_mode=1', /tainted/],
    ] as const) {
      it(`${option}, with its risk`, () => {
        const { files, warnings } = withOption(option)
        assert.ok(files[0]?.content.split('\n').includes(line), files[0]?.content)
        assert.match(warnings.join('\n'), risk)
      })
    }
    for (const [option, risk] of [
      ['disable_vga=1', /legacy VGA/],
      ['enable_sriov=1', /virtual functions/],
      ['nointxmask=1', /INTx/],
    ] as const) {
      it(`${option}, unchecked where the module is not loaded`, () => {
        const { warnings } = withOption(option, unloaded)
        assert.match(warnings.join('\n'), risk)
        assert.match(warnings.join('\n'), /is not known: it is not loaded/)
      })
    }

    it('of iommufd, where the kernel has no containers', () => {
      const modules = {
        vfio: { state: 'loaded' },
        vfio_pci: { state: 'loaded' },
        iommufd: { state: 'loaded', parameters: { allow_unsafe_interrupts: 'N' } },
      } as const
      const { files } = withOption('allow_unsafe_interrupts', { modules })
      assert.match(files[0]?.content ?? '', /^options iommufd allow_unsafe_interrupts=1$/m)
    })

    it('that only this kernel has', () => {
      const vfio_pci = { state: 'loaded', parameters: { ids: '', new_parameter: '0' } } as const
      const modules = { ...READY_MODULES, vfio_pci }
      const { files } = withOption('new_parameter=7', { modules })
      assert.match(files[0]?.content ?? '', /^options vfio-pci new_parameter=7$/m)
    })

    for (const [what, option, host, says] of [
      ['that the loaded module has not', 'disable_vga=1', {}, /has no parameter disable_vga: it has .*ids/],
      [
        'newer than the kernel',
        'enable_sriov=1',
        { ...unloaded, kernel: '5.4.0' },
        /no parameter enable_sriov/,
      ],
      ['that no module has', 'disable_everything=1', {}, /no module of VFIO is known to have/],
      ['with another value', 'disable_idle_d3=maybe', {}, /takes 0 or 1/],
      ['of no number', 'dma_entry_limit=y', {}, /takes a number/],
      ['ids', 'ids=10de:2504', {}, /--option|no option/],
      ['ids, as one word', 'ids=1', {}, /--by ids/],
      ['that would end the line', 'disable_vga=1 install x', {}, /is no option/],
    ] as const) {
      it(`but none ${what}`, () => assert.throws(() => withOption(option, host), says))
    }
  })
})
