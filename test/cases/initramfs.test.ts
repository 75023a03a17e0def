import assert from 'node:assert/strict'
import { mkdirSync } from 'node:fs'
import {
  detectInitramfs,
  findModprobe,
  Host,
  type Initramfs,
  type PersistPlan,
  planPersistence,
  VfioError,
  writePersistence,
} from 'vfio'
import {
  type HostDescription,
  makeHost,
  READY_MODULES,
  removeDirectories,
  temporaryDirectory,
} from '../fixtures/host.js'
import { Tree } from '../fixtures/tree.js'

const GPU: HostDescription = {
  kernel: '6.8.12-4-pve',
  aliases: ['alias pci:v000010DEd*sv*sd*bc03sc00i00* nouveau'],
  devices: [
    {
      address: '0000:01:00.0',
      vendor: 0x10de,
      device: 0x2504,
      class: 0x030000,
      driver: 'nouveau',
      group: 2,
    },
  ],
}

type Files = Readonly<Record<string, string>>

function rootWith(files: Files): string {
  const root = temporaryDirectory()
  const tree = new Tree(root)
  tree.directory('etc')
  for (const [path, content] of Object.entries(files)) tree.file(path, content)
  return root
}

function planOn(files: Files, host: HostDescription = GPU): PersistPlan {
  const initramfs = detectInitramfs({ root: rootWith(files) })
  return planPersistence(new Host(makeHost(host)).snapshot(), ['01:00.0'], { initramfs })
}

/** What rebuilds the initramfs: each distribution's own way, as its documentation has it. */
describe('the initramfs', () => {
  after(removeDirectories)

  const HOSTS: readonly [from: string, files: Files, tool: Initramfs, rebuild: string | null][] = [
    // update-initramfs(8): without -k only the newest kernel.
    ['Debian', { 'usr/sbin/mkinitramfs': '' }, 'initramfs-tools', 'update-initramfs -u -k all'],
    [
      'Proxmox VE with a pinned kernel (its documentation, "PCI Passthrough")',
      { 'usr/sbin/mkinitramfs': '', 'boot/initrd.img-6.8.12-4-pve': '', 'boot/initrd.img-6.14.0-2-pve': '' },
      'initramfs-tools',
      'update-initramfs -u -k all',
    ],
    [
      'Proxmox VE on ZFS, whose boot partitions are copies (its documentation, "Host Bootloader")',
      {
        'usr/sbin/mkinitramfs': '',
        'usr/sbin/proxmox-boot-tool': '',
        'etc/kernel/proxmox-boot-uuids': 'A1B2-C3D4\n',
      },
      'proxmox',
      'update-initramfs -u -k all && proxmox-boot-tool refresh',
    ],
    [
      'openSUSE whose entries have copies of the initramfs (sdbootutil)',
      {
        'usr/bin/dracut': '',
        'usr/bin/sdbootutil': '',
        'etc/kernel/cmdline': 'root=UUID=1',
        'etc/sysconfig/bootloader': 'LOADER_TYPE="systemd-boot"\n',
      },
      'sdbootutil',
      'sdbootutil mkinitrd',
    ],
    [
      'Gentoo, whose installkernel says dracut in a file of the system',
      {
        'usr/bin/dracut': '',
        'usr/bin/mkinitcpio': '',
        'etc/mkinitcpio.d/linux.preset': '',
        'usr/bin/kernel-install': '',
        'usr/lib/kernel/install.conf': 'layout=grub\ninitrd_generator=dracut\n',
      },
      'dracut',
      'dracut --regenerate-all --force',
    ],
    [
      'Gentoo with ugrd, where dracut is installed too (kernel-install(8))',
      {
        'usr/bin/dracut': '',
        'usr/bin/kernel-install': '',
        'usr/lib/kernel/install.conf': 'initrd_generator=dracut\n',
        'etc/kernel/install.conf.d/ugrd.conf': 'initrd_generator=ugrd\n',
      },
      'none',
      null,
    ],
    ['Fedora, RHEL, SUSE (dracut(8))', { 'usr/bin/dracut': '' }, 'dracut', 'dracut --regenerate-all --force'],
    [
      'Void, whose programs are all in one directory',
      { 'bin/dracut': '' },
      'dracut',
      'dracut --regenerate-all --force',
    ],
    [
      'Ubuntu 25.10 with dracut, and what is left of initramfs-tools',
      { 'usr/sbin/mkinitramfs': '', 'usr/bin/dracut': '', 'etc/kernel/postinst.d/dracut': '' },
      'dracut',
      'dracut --regenerate-all --force',
    ],
    [
      'Ubuntu with dracut and its own update-initramfs',
      { 'usr/sbin/update-initramfs': '', 'usr/bin/dracut': '' },
      'dracut',
      'dracut --regenerate-all --force',
    ],
    [
      'Debian, by its other program',
      { 'usr/sbin/update-initramfs': '' },
      'initramfs-tools',
      'update-initramfs -u -k all',
    ],
    [
      'Debian with initramfs-tools, and dracut-core beside it',
      { 'usr/sbin/mkinitramfs': '', 'usr/bin/dracut': '', 'etc/kernel/postinst.d/initramfs-tools': '' },
      'initramfs-tools',
      'update-initramfs -u -k all',
    ],
    [
      'EndeavourOS (its wiki, "Dracut")',
      { 'usr/bin/dracut': '', 'usr/bin/reinstall-kernels': '' },
      'reinstall-kernels',
      'reinstall-kernels',
    ],
    [
      'a Fedora whose kernels are unified images (kernel-install(8))',
      {
        'usr/bin/dracut': '',
        'usr/bin/kernel-install': '',
        'etc/kernel/install.conf': 'layout=uki\nuki_generator=ukify\n',
      },
      'dracut-uki',
      'kernel-install add-all',
    ],
    // ublue-os/hwe#249, ublue-os/bazzite#459: drop-ins for dracut, and rpm-ostree builds it.
    [
      'Fedora Silverblue',
      { 'usr/bin/dracut': '', 'usr/bin/rpm-ostree': '', 'run/ostree-booted': '' },
      'rpm-ostree',
      'rpm-ostree initramfs --enable',
    ],
    [
      'openSUSE MicroOS (transactional-update(8))',
      {
        'usr/bin/dracut': '',
        'usr/sbin/transactional-update': '',
        'etc/fstab': '# root\nUUID=1-2 / btrfs ro 0 0\nUUID=1-2 /var btrfs defaults 0 0\n',
      },
      'transactional-update',
      'transactional-update initrd',
    ],
    [
      'openSUSE Tumbleweed with the same program and a root that can be written',
      {
        'usr/bin/dracut': '',
        'usr/sbin/transactional-update': '',
        'etc/fstab': 'UUID=1-2 / btrfs defaults 0 0\n',
      },
      'dracut',
      'dracut --regenerate-all --force',
    ],
    [
      'Arch (mkinitcpio.conf(5))',
      { 'usr/bin/mkinitcpio': '#!/bin/bash\n_f_config_dir=/etc/mkinitcpio.conf.d\n' },
      'mkinitcpio',
      'mkinitcpio -P',
    ],
    [
      'Manjaro before drop-ins',
      { 'usr/bin/mkinitcpio': '#!/bin/bash\n_f_config=/etc/mkinitcpio.conf\n' },
      'mkinitcpio-single',
      'mkinitcpio -P',
    ],
    [
      'Arch with mkinitcpio beside dracut, which the hooks of pacman use',
      {
        'usr/bin/mkinitcpio': '',
        'usr/bin/dracut': '',
        'usr/share/libalpm/hooks/90-dracut-install.hook': '',
      },
      'dracut',
      'dracut --regenerate-all --force',
    ],
    [
      'kernel-install(8) that is told its generator',
      {
        'usr/bin/mkinitcpio': '',
        'usr/bin/dracut': '',
        'usr/lib/kernel/install.d/50-dracut.install': '',
        'etc/kernel/install.conf': 'layout=uki\ninitrd_generator=mkinitcpio\n',
      },
      'mkinitcpio',
      'mkinitcpio -P',
    ],
    // anatol/booster#20
    [
      'Arch with booster',
      { 'usr/bin/booster': '', 'etc/booster.yaml': '', 'usr/lib/booster/regenerate_images': '' },
      'booster-images',
      '/usr/lib/booster/regenerate_images',
    ],
    [
      'booster alone (booster(1))',
      { 'usr/bin/booster': '' },
      'booster',
      'booster build --force /boot/booster-linux.img',
    ],
    ['Alpine (its wiki, "KVM")', { 'sbin/mkinitfs': '' }, 'mkinitfs', 'mkinitfs'],
    // NixOS/nixpkgs#64737
    ['NixOS', { 'etc/NIXOS': '', 'run/current-system/sw/bin/modprobe': '' }, 'nixos', 'nixos-rebuild boot'],
    [
      'Guix',
      { 'etc/os-release': 'NAME="Guix System"\nID=guix\n' },
      'guix',
      'guix system reconfigure /etc/config.scm',
    ],
    ['Talos', { 'etc/os-release': 'NAME="Talos"\nID=talos\n' }, 'talos', 'talosctl apply-config'],
    ['Flatcar', { 'usr/lib/os-release': 'ID=flatcar\nID_LIKE=coreos\n' }, 'ignition', null],
    [
      'TrueNAS (its middleware writes /etc)',
      { 'usr/bin/midclt': '', 'usr/sbin/mkinitramfs': '', 'etc/kernel/postinst.d/initramfs-tools': '' },
      'truenas',
      null,
    ],
    ['Unraid (boot/config/vfio-pci.cfg)', { 'etc/unraid-version': '' }, 'unraid', null],
    [
      'a node of OpenShift (machine-config-operator)',
      {
        'run/ostree-booted': '',
        'usr/bin/rpm-ostree': '',
        'etc/os-release': 'ID="rhcos"\nID_LIKE="rhel fedora"\n',
      },
      'machine-config',
      'butane 100-worker-vfio-persist.bu | oc apply -f -',
    ],
    ['a bootc image without rpm-ostree', { 'run/ostree-booted': '', 'usr/bin/dracut': '' }, 'image', null],
    ['a live Fedora', { 'run/initramfs/live/LiveOS': '', 'usr/bin/dracut': '' }, 'volatile', null],
    [
      'a live Debian (live-boot(7))',
      { 'proc/cmdline': 'BOOT_IMAGE=/live/vmlinuz boot=live components quiet\n', 'usr/sbin/mkinitramfs': '' },
      'volatile',
      null,
    ],
    [
      'a host whose root is in memory, like Unraid',
      { 'proc/mounts': 'rootfs / rootfs rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n', 'usr/bin/dracut': '' },
      'volatile',
      null,
    ],
    [
      'a host with an overlay in memory over its /etc, like Kairos',
      {
        'proc/mounts':
          '/dev/sda3 / ext4 ro,relatime 0 0\ntmpfs /run tmpfs rw 0 0\noverlay /etc overlay rw,lowerdir=/etc,upperdir=/run/overlay/etc.upper,workdir=/run/overlay/etc.work 0 0\n',
        'usr/bin/dracut': '',
      },
      'volatile',
      null,
    ],
    [
      'a host with an overlay on its disk',
      {
        'proc/mounts':
          '/dev/sda3 / ext4 ro 0 0\n/dev/sda4 /var ext4 rw 0 0\noverlay /etc overlay rw,lowerdir=/etc,upperdir=/var/etc,workdir=/var/work 0 0\n',
        'usr/bin/dracut': '',
      },
      'dracut',
      'dracut --regenerate-all --force',
    ],
    ['Gentoo with ugrd, and whatever else nobody has heard of', { 'usr/bin/ugrd': '' }, 'none', null],
  ]
  for (const [from, files, tool, rebuild] of HOSTS) {
    it(`of ${from}: ${rebuild ?? 'nothing to run'}`, () => {
      const plan = planOn(files)
      assert.deepEqual([plan.initramfs, plan.rebuild], [tool, rebuild])
    })
  }

  it('that nobody knows is told of, since a driver inside of it comes first', () => {
    assert.match(planOn({}).warnings.join('\n'), /builds the initramfs .*a driver inside of it/)
    assert.doesNotMatch(planOn({ 'usr/bin/dracut': '' }).warnings.join('\n'), /initramfs/)
  })

  it('gets a drop-in where its tool reads them, and lines in the file where not', () => {
    const place = (files: Files) => planOn(files).files.find(({ path }) => path.includes('mkinitcpio'))
    assert.deepEqual(place({ 'usr/bin/mkinitcpio': '' })?.kind, 'file')
    const single = place({ 'usr/bin/mkinitcpio': '#!/bin/bash\n' })
    assert.deepEqual([single?.path, single?.kind], ['/etc/mkinitcpio.conf', 'block'])
  })

  it('of booster wants its key by hand, and ids', () => {
    const { byHand, files, warnings } = planOn({ 'usr/bin/booster': '' })
    assert.deepEqual(
      [byHand[0]?.path, byHand[0]?.content],
      ['/etc/booster.yaml', 'modules_force_load: vfio_pci,vfio,vfio_iommu_type1\n'],
    )
    assert.equal(
      files.some(({ path }) => path.includes('booster')),
      false,
    )
    assert.match(warnings.join('\n'), /--by ids/)
  })

  // truenas/middleware: system.advanced.update_gpu_pci_ids; unraid/webgui: SysDevs; Butane, "openshift".
  it('of a system that is set up elsewhere is told in the words of that', () => {
    const written = (files: Files) => {
      const { byHand, files: own } = planOn(files)
      assert.deepEqual(own, [])
      return byHand.map(({ path, content }) => `${path}\n${content}`).join('\n')
    }
    assert.match(
      written({ 'usr/bin/midclt': '' }),
      /midclt call system\.advanced\.update_gpu_pci_ids '\["0000:01:00\.0"\]'/,
    )
    assert.match(
      written({ 'etc/unraid-version': '' }),
      /^\/boot\/config\/vfio-pci\.cfg\nBIND=0000:01:00\.0\|10de:2504$/m,
    )
    const machine = written({ 'etc/machine-config-daemon/currentconfig': '{}', 'usr/bin/dracut': '' })
    assert.match(machine, /^variant: openshift$/m)
    assert.match(machine, /- path: \/etc\/modprobe\.d\/vfio-persist\.conf\n {6}mode: 0644/)
  })

  it('of Alpine gets a feature, ahead of the others', () => {
    const plan = planOn({ 'sbin/mkinitfs': '' })
    const content = Object.fromEntries(plan.files.map((file) => [file.path, file.content]))
    assert.equal(content['/etc/mkinitfs/features.d/vfio-persist.modules'], 'kernel/drivers/vfio\n')
    assert.match(content['/etc/mkinitfs/features.d/vfio-persist.files'] ?? '', /vfio-persist\.conf/)
    assert.equal(content['/etc/mkinitfs/mkinitfs.conf'], 'features="vfio-persist $features"\n')
    assert.match(plan.warnings.join('\n'), /modules=/)
  })

  describe('of a system that is made anew', () => {
    const MADE: readonly [from: string, files: Files, place: RegExp, has: readonly RegExp[]][] = [
      [
        'NixOS',
        { 'etc/NIXOS': '' },
        /configuration\.nix/,
        [
          /boot\.initrd\.kernelModules = \[ "vfio_pci" "vfio" "vfio_iommu_type1" \];/,
          /boot\.extraModprobeConfig = ''\n {2}install vfio-pci/,
          /services\.udev\.extraRules = ''\n {2}ACTION/,
        ],
      ],
      ['Guix', { 'etc/os-release': 'ID=guix\n' }, /config\.scm/, [/initrd-modules .*"vfio_pci"/]],
      [
        'Talos',
        { 'etc/os-release': 'ID=talos\n' },
        /machine configuration/,
        [
          /modules:\n {6}- name: vfio_pci/,
          /kind: PCIDriverRebindConfig\nname: 0000:01:00\.0\ntargetDriver: vfio-pci/,
        ],
      ],
      [
        'Flatcar',
        { 'etc/os-release': 'ID=flatcar\n' },
        /Butane/,
        [/- path: \/etc\/modprobe\.d\/vfio-persist\.conf\n {6}contents:\n {8}inline: \|\n {10}install/],
      ],
      ['a live image', { 'run/live/medium/x': '' }, /modprobe\.d/, [/^install vfio-pci/]],
    ]
    for (const [from, files, place, has] of MADE) {
      it(`says what belongs where, and writes nothing: ${from}`, async () => {
        const plan = planOn(files)
        assert.deepEqual(plan.files, [])
        assert.match(plan.byHand[0]?.path ?? '', place)
        for (const pattern of has) assert.match(plan.byHand[0]?.content ?? '', pattern)
        assert.match(plan.byHand[0]?.why ?? '', /vanishes/)
        const root = temporaryDirectory()
        mkdirSync(`${root}/etc`)
        await assert.rejects(
          writePersistence(plan, { root }),
          (error) => error instanceof VfioError && error.code === 'ERR_VFIO_BAD_FILE',
        )
      })
    }

    it('with the kernel parameters that are missing', () => {
      const [gpu] = GPU.devices ?? []
      const { group: _, ...alone } = gpu ?? { address: '' }
      const trees = makeHost({ ...GPU, iommu: 'none', interruptRemapping: null, devices: [alone] })
      new Tree(trees.proc).file('cpuinfo', 'vendor_id\t: GenuineIntel\nflags\t\t: vmx\n')
      const seen = new Host(trees).snapshot()
      for (const [files, has] of [
        [{ 'etc/NIXOS': '' }, /boot\.kernelParams = \[ "intel_iommu=on" \];/],
        [{ 'gnu/store/x': '', 'run/current-system/x': '' }, /kernel-arguments .*"intel_iommu=on"/],
        [{ 'etc/os-release': 'ID=talos' }, /extraKernelArgs:\n {6}- intel_iommu=on/],
        [{ 'etc/os-release': 'ID=flatcar' }, /should_exist:\n {4}- intel_iommu=on/],
      ] as const) {
        const initramfs = detectInitramfs({ root: rootWith(files) })
        const { byHand, commandLine } = planPersistence(seen, ['01:00.0'], { initramfs })
        assert.match(byHand[0]?.content ?? '', has)
        // Not into the entries of a boot loader, which are made anew as well.
        assert.match(commandLine?.how ?? '', /^add intel_iommu=on to .*config/i)
      }
    })
  })

  describe('gets only modules that this kernel has', () => {
    const modulesOf = (host: HostDescription) =>
      planPersistence(new Host(makeHost(host)).snapshot(), [host.devices?.[0]?.address ?? ''], {
        initramfs: 'initramfs-tools',
      })
        .files.find(({ path }) => path.endsWith('/modules'))
        ?.content.trim()
        .split('\n') ?? []
    const loadable = (...names: readonly string[]) =>
      Object.fromEntries(names.map((name) => [name, { state: 'loadable' as const }]))

    // stackhpc/stackhpc-kayobe-config#2435: "Failed to find module vfio_virqfd" on 5.14 with VFIO of 6.x.
    it('of RHEL 9, whose kernel is older than its VFIO', () => {
      const host = {
        ...GPU,
        kernel: '5.14.0-427.13.1.el9_4.x86_64',
        modules: loadable('vfio', 'vfio_iommu_type1', 'vfio_pci', 'vfio_pci_core', 'iommufd'),
      }
      assert.deepEqual(modulesOf(host), ['vfio_pci', 'vfio', 'vfio_iommu_type1'])
    })
    it('of Debian 12, which still has vfio_virqfd', () => {
      const host = {
        ...GPU,
        kernel: '6.1.0-18-amd64',
        modules: { ...READY_MODULES, ...loadable('vfio_virqfd') },
      }
      assert.deepEqual(modulesOf(host), ['vfio_pci', 'vfio', 'vfio_iommu_type1', 'vfio_virqfd'])
    })
    it('of Fedora, which has all but vfio-pci built in', () => {
      const modules = {
        vfio: { state: 'builtin' },
        vfio_iommu_type1: { state: 'builtin' },
        vfio_pci: { state: 'loadable' },
      } as const
      assert.deepEqual(modulesOf({ ...GPU, modules }), ['vfio_pci'])
    })
    // drivers/vfio/Kconfig: POWER has spapr, and cannot have type1. Host from 3mdeb/openpower-coreboot-docs.
    it('of POWER9', () => {
      const host: HostDescription = {
        kernel: '6.1.0-18-powerpc64le',
        iommu: 'none',
        interruptRemapping: null,
        modules: loadable('vfio', 'vfio_iommu_spapr_tce', 'vfio_pci'),
        devices: [{ address: '0031:01:00.0', driver: 'nvme', group: 5 }],
      }
      assert.deepEqual(modulesOf(host), ['vfio_pci', 'vfio', 'vfio_iommu_spapr_tce'])
    })
    it('of a kernel with iommufd alone', () => {
      const modules = loadable('vfio', 'vfio_pci', 'vfio_pci_core', 'iommufd')
      assert.deepEqual(modulesOf({ ...GPU, modules }), ['vfio_pci', 'vfio'])
    })
    it('and the usual ones where nothing lists its modules: not known is not absent', () => {
      const trees = makeHost(GPU)
      const seen = new Host({ sysfs: trees.sysfs }).snapshot()
      const plan = planPersistence(seen, ['01:00.0'], { initramfs: 'dracut' })
      assert.match(plan.files.at(-1)?.content ?? '', /^force_drivers\+=" [^"]*vfio_pci/)
    })
  })

  it('and the host have no program at a path where it is not', () => {
    for (const [files, path] of [
      [{ 'usr/sbin/modprobe': '' }, '/usr/sbin/modprobe'],
      [{ 'usr/bin/modprobe': '' }, '/usr/bin/modprobe'],
      [{ 'sbin/modprobe': '' }, '/sbin/modprobe'],
      [{}, 'modprobe'],
    ] as const) {
      const modprobe = findModprobe({ root: rootWith(files) })
      assert.equal(modprobe, path)
      const seen = new Host(makeHost(GPU)).snapshot()
      const [file] = planPersistence(seen, ['01:00.0'], { modprobe }).files
      assert.ok(file?.content.includes(`; ${path} --ignore-install vfio-pci`))
    }
    // Who does not say where it is leaves it to the shell to look for it.
    const [file] = planPersistence(new Host(makeHost(GPU)).snapshot(), ['01:00.0']).files
    assert.ok(file?.content.includes('; modprobe --ignore-install vfio-pci'))
  })
})
