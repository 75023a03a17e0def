// What `vfio persist` knows a distribution by, as its packages lay it down.

const PROGRAM = '#!/bin/sh\n'
const MODPROBE = { 'usr/sbin/modprobe': PROGRAM }

export const SYSTEMS = {
  debian: {
    ...MODPROBE,
    'etc/os-release': 'ID=debian\n',
    'usr/sbin/update-initramfs': PROGRAM,
    'usr/sbin/mkinitramfs': PROGRAM,
    'usr/sbin/update-grub': PROGRAM,
    'etc/kernel/postinst.d/initramfs-tools': PROGRAM,
    'etc/default/grub': 'GRUB_CMDLINE_LINUX=""\n',
  },
  proxmox: {
    ...MODPROBE,
    'etc/os-release': 'ID=debian\n',
    'usr/sbin/update-initramfs': PROGRAM,
    'usr/sbin/mkinitramfs': PROGRAM,
    'usr/sbin/proxmox-boot-tool': PROGRAM,
    'etc/kernel/postinst.d/initramfs-tools': PROGRAM,
    'etc/kernel/proxmox-boot-uuids': 'A1B2-C3D4\n',
    'etc/kernel/cmdline': 'root=ZFS=rpool/ROOT/pve-1 boot=zfs\n',
  },
  fedora: {
    ...MODPROBE,
    'etc/os-release': 'ID=fedora\n',
    'usr/bin/dracut': PROGRAM,
    'usr/sbin/grubby': PROGRAM,
    'usr/lib/kernel/install.d/50-dracut.install': PROGRAM,
    'etc/default/grub': 'GRUB_CMDLINE_LINUX=""\n',
  },
  ostree: {
    ...MODPROBE,
    'etc/os-release': 'ID=fedora\nVARIANT_ID=silverblue\n',
    'usr/bin/dracut': PROGRAM,
    'usr/bin/rpm-ostree': PROGRAM,
    'run/ostree-booted': '',
  },
  arch: {
    ...MODPROBE,
    'etc/os-release': 'ID=arch\n',
    'usr/bin/mkinitcpio': '#!/bin/bash\n# reads mkinitcpio.conf.d\n',
    'etc/mkinitcpio.d/linux.preset': '',
    'boot/loader/loader.conf': 'default arch\n',
    'boot/loader/entries/arch.conf': 'options root=/dev/nvme0n1p2\n',
  },
  nixos: {
    'etc/os-release': 'ID=nixos\n',
    'etc/NIXOS': '',
    'run/current-system/sw/bin/modprobe': PROGRAM,
  },
} as const satisfies Readonly<Record<string, Readonly<Record<string, string>>>>

export type SystemName = keyof typeof SYSTEMS
