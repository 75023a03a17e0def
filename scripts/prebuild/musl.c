// What Debian's libstdc++ and libgcc ask of glibc and musl does not have: enough to run Bun on musl, for a check.
#include <locale.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/random.h>
#include <time.h>

char __libc_single_threaded;
unsigned __cpu_model[4];

void __cpu_indicator_init(void) {}

uint32_t arc4random(void) {
  uint32_t number = 0;
  return getrandom(&number, sizeof number, 0) == sizeof number ? number : 1;
}

size_t __strftime_l(char *to, size_t size, const char *format, const struct tm *time, locale_t locale) {
  return strftime_l(to, size, format, time, locale);
}

// What a thread of Bun has at its end ends with the process.
int __cxa_thread_atexit_impl(void (*end)(void *), void *object, void *library) {
  (void)end, (void)object, (void)library;
  return 0;
}

int _dl_find_object(void *address, void *result) {
  (void)address, (void)result;
  return -1;
}
