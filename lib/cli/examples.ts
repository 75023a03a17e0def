/** For the help and the manual of each command: what is typed, and what that does. */
export const EXAMPLES: Readonly<Record<string, readonly (readonly [command: string, does: string])[]>> = {
  list: [['vfio list', 'what there is, and what can be given away']],
  topology: [
    ['vfio topology', 'the tree: what can go, what only together, what would be lost'],
    ['vfio topology --html > host.html', 'the same to search and to click through'],
  ],
  show: [['vfio show 59:00.0', 'all that is known of one device']],
  check: [
    ['vfio check 59:00.0', 'can it be given away, and how is it reset?'],
    ['vfio check group:74', 'the same of each member of a group'],
  ],
  inventory: [
    ['vfio inventory', 'how many there are of each kind, and how many can be given away'],
    ['vfio inventory --json', 'for a database of many hosts'],
    ['vfio inventory --nfd --write', 'labels for the node of a Kubernetes cluster'],
  ],
  reset: [
    ['vfio reset 59:00.0', 'resets it through VFIO'],
    ['vfio reset 59:00.0 --method flr', 'by one method of the kernel: flr, af_flr, pm, bus, acpi, …'],
  ],
  rescan: [['vfio rescan 59:00.0', 'brings back a device that stopped answering']],
  bind: [
    ['vfio bind 59:00.0 --group --dry-run', 'shows what would be done, and does nothing'],
    ['vfio bind 59:00.0 --group', 'takes it with all that shares its group'],
    ['vfio bind 59:00.0 --force network', 'also where the host uses it so'],
  ],
  run: [
    ['vfio run 59:00.0 -- qemu-system-x86_64 -m 4G', 'a guest with it; the host has it back afterwards'],
    ['vfio run 59:00.0 --user alice --memory 4G -- qemu-system-x86_64 -m 4G', 'the same without privilege'],
    ['vfio run 59:00.0 -- ./driver {addresses}', 'any program'],
  ],
  release: [
    ['vfio release 59:00.0', 'gives it back as it was'],
    ['vfio release --all', 'gives back everything'],
  ],
  status: [['vfio status', 'what is assigned, and what is half done']],
  recover: [['vfio recover', 'after a crash: the host gets back what was its own']],
  grant: [
    ['vfio grant 59:00.0 --user alice --memory 16G', 'alice may start a VM with it'],
    ['vfio grant 59:00.0 --user alice --udev', 'prints the udev rule that makes it last'],
  ],
  revoke: [['vfio revoke 59:00.0', 'takes it back']],
  export: [
    ['qemu-system-x86_64 … $(vfio export qemu 59:00.0)', 'starts a guest with it'],
    ['vfio export libvirt 59:00.0 > device.xml', 'for virsh attach-device'],
    ['vfio export kubevirt 59:00.0 --resource example.com/gpu', 'for the configuration of KubeVirt'],
  ],
  cdi: [
    ['vfio cdi 59:00.0 --write', 'then: podman run --device vfio/pci=0000:59:00.0 …'],
    ['vfio cdi 59:00.0 --kind example.com/gpu --consumer kata', 'prints what Kata takes for a resource'],
    ['vfio cdi --remove', 'takes away what was written'],
  ],
  persist: [
    ['vfio persist 59:00.0', 'prints what would bind it at boot'],
    ['vfio persist 59:00.0 --write', 'writes that'],
    ['vfio persist --check', 'after boot: is it bound?'],
    ['vfio persist --remove', 'takes all of it away'],
  ],
  mdev: [
    ['vfio mdev list', 'what devices offer, and what there is'],
    ['vfio mdev create i915-GVTg_V5_4 00:02.0', 'makes one, and prints its UUID'],
    ['vfio mdev remove 6f0a3c1e-3a46-4b8f-8b6f-0d9f3c2b7a11', 'ends it'],
  ],
  vfs: [['vfio vfs 60:00.0 4', 'makes four virtual functions']],
  doctor: [['vfio doctor', 'is this host ready, and what to do where it is not?']],
  schema: [['vfio schema list', 'what "vfio list --json" looks like']],
  completion: [
    ['source <(vfio completion bash)', 'in ~/.bashrc'],
    ['source <(vfio completion zsh)', 'in ~/.zshrc, behind compinit'],
    ['vfio completion fish > ~/.config/fish/completions/vfio.fish', 'once'],
  ],
  help: [['vfio help bind', 'the help of one command']],
}
