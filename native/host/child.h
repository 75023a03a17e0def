#pragma once

#include <sys/types.h>

#include <cstddef>
#include <initializer_list>

namespace vfio {

/** Where the kernel finds the command line of this process. */
struct CommandLine {
  char* start = nullptr;
  size_t size = 0;
};

CommandLine FindCommandLine();

/**
 * fork(2). The new process has all signals blocked: until it has forgotten the handlers of this one, they would tell this
 * one of signals that it never got.
 */
pid_t Fork();

// For the new process: other threads may have had any lock when it was made, so only calls that are safe in a
// signal handler.

/** Each signal does what it does by default, but for those that are ignored. */
void ForgetSignals(std::initializer_list<int> ignored);
void UnblockSignals();
/** ps shows a name and what it does in place of the program that it was made from. */
void ShowAs(const CommandLine& line, const char* title, const char* what);
void CloseFrom(int first);
/** A mapping of a device holds it open; what does not need any lets all shared ones go, but for the one at `kept`. */
void UnmapShared(const void* kept = nullptr);
bool ReadAll(int socket, void* into, size_t size);
bool WriteAll(int socket, const void* from, size_t size);

}  // namespace vfio
