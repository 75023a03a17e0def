// The peer of bind.ts: writes values to files of sysfs, as a shell script would. Prints how long that took, in
// nanoseconds. Arguments: path, value, path, value, …
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

static void put(const char* path, const char* value) {
  char line[256];
  int length = snprintf(line, sizeof line, "%s\n", value);
  int file = open(path, O_WRONLY | O_CLOEXEC);
  if (file < 0 || write(file, line, length) != length) {
    perror(path);
    exit(1);
  }
  close(file);
}

int main(int argc, char** argv) {
  double start = now();
  for (int i = 1; i + 1 < argc; i += 2) put(argv[i], argv[i + 1]);
  printf("%.0f\n", now() - start);
  return 0;
}
