#!/bin/busybox sh
# First process of the guest: reaches the host's files and goes on with session.sh on top of them.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev

die() {
  echo "lab: $*" >/dev/console
  poweroff -f
}

while read -r module; do
  insmod "/modules/$module" || die "module $module does not load"
done </modules/boot

# Devices behind an IOMMU whose driver came only now got none of their own yet, and the kernel gives it to them at its leisure.
for device in /sys/bus/pci/devices/*; do
  echo "${device##*/}" >/sys/bus/pci/drivers_probe
done

# A private cache is right: nobody else's writes have to be seen while the guest lives.
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro lab_root /lower ||
  die 'the kernel cannot mount 9p over virtio (CONFIG_9P_FS, CONFIG_NET_9P_VIRTIO, CONFIG_VIRTIO_PCI)'
mount -t tmpfs -o mode=755 layer /layer
mkdir /layer/upper /layer/work
read -r root </root
mount -t overlay -o lowerdir="/lower$root",upperdir=/layer/upper,workdir=/layer/work,index=off,xino=off,metacopy=off \
  lab_root /newroot || die 'the kernel has no overlay file system (CONFIG_OVERLAY_FS)'

for directory in proc sys dev; do
  mount -o move "/$directory" "/newroot/$directory"
done
mkdir -p /newroot/dev/pts /newroot/dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /newroot/dev/pts
mount -t tmpfs -o mode=1777 shm /newroot/dev/shm
mount -t tmpfs -o mode=755 run /newroot/run
mkdir -p /newroot/run/lock /newroot/run/lab/host
# Kept in sight, so that the device below the root file system can be seen to be in use.
mount -o move /lower /newroot/run/lab/host
cp -r /bin/busybox /session.sh /modules /newroot/run/lab/
exec switch_root /newroot /run/lab/busybox sh /run/lab/session.sh
