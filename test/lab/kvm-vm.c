// Preloaded, it makes a KVM machine in the process, which is the only one that may use it, and leaves its descriptor
// in $KVM_VM. Without KVM it leaves nothing there. What inherits a machine keeps that one.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>

__attribute__((constructor)) static void make_machine(void) {
  if (getenv("KVM_VM")) return;
  int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  int machine = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);
  if (machine < 0) return;
  char number[16];
  snprintf(number, sizeof number, "%d", machine);
  setenv("KVM_VM", number, 1);
}
