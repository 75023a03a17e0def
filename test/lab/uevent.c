// Says what the kernel says of devices, but as a program: `uevent group MESSAGE COUNT` to all who listen to the kernel's group,
// `uevent kernel MESSAGE COUNT` through the kernel, which passes it on in its own name. A space of MESSAGE stands for the NUL after a
// line.
#include <errno.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **arguments) {
  if (count != 4) return 2;
  const int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
  struct sockaddr_nl to = {.nl_family = AF_NETLINK};
  char message[2048] = {0};
  size_t head = 0;
  if (strcmp(arguments[1], "group") == 0) {
    to.nl_groups = 1;
  } else {
    head = NLMSG_HDRLEN;
  }
  const size_t size = strlen(arguments[2]) + 1;
  if (head + size > sizeof message) return 2;
  memcpy(message + head, arguments[2], size);
  for (size_t i = head; i < head + size; i++)
    if (message[i] == ' ') message[i] = 0;
  if (head > 0) {
    struct nlmsghdr header = {.nlmsg_len = head + size, .nlmsg_type = NLMSG_MIN_TYPE, .nlmsg_flags = NLM_F_REQUEST};
    memcpy(message, &header, sizeof header);
  }
  for (int i = atoi(arguments[3]); i > 0; i--) {
    // Who does not listen is no reason to stop.
    if (sendto(fd, message, head + size, 0, (struct sockaddr *)&to, sizeof to) >= 0 || errno == ENOBUFS) continue;
    perror("sendto");
    return 1;
  }
  return 0;
}
